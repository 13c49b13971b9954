//! The AVX-512 tier (F, BW, DQ, VL): sixteen f32 to a vector.

mod attention;
mod attention_digits;
mod codes;
mod digits;
mod dot;
mod exp;
mod fp8;
mod int8;
mod pairs;
mod rounding;

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::simd::Simd;

use crate::avx2::{quantize_row_i8, sum_lanes_128};
use attention_digits::attention_digits;
pub(crate) use digits::{BYTES, DIGITS};
use digits::{bytes, digits};
use dot::{gemm_bf16_dot, gemv_bf16_dot};
use int8::int8;
use pairs::attention_pairs;

crate::entry::entry_points! {
    token: Avx512, isa: Avx512 "avx512",
    features: [#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]],
    tile: 12 x 32 (2, 1), few: 4, gemv: 64 (4), qk: 8 x 2, pv: 7 x 4, digits: 4
}

/// What a processor has beyond the tier's own instructions.
fn refine(table: &mut crate::table::Kernels, features: &crate::isa::Features) {
    fp8::refine(table, features);
    rounding::refine(table, features);
}

/// The token of the AVX-512 tier; `BF16` where the processor rounds to bf16 itself.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool = false>(());

/// Methods that are one expression of intrinsics without memory operands.
macro_rules! lanes {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $e:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $ret {
            // SAFETY: the token proves AVX-512 F, BW, DQ and VL.
            unsafe { $e }
        }
    )+};
}

impl<const BF16: bool> Avx512<BF16> {
    /// bf16 of a vector, to nearest even, in integers: vcvtneps2bf16 flushes subnormals.
    #[inline(always)]
    fn to_bf16(self, v: __m512) -> __m256i {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let upper = _mm512_srli_epi32(bits, 16);
            let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
            let bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
            let quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
            let nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
            _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet))
        }
    }

    /// bf16 of two vectors, to nearest even.
    #[inline(always)]
    fn two_to_bf16(self, a: __m512, b: __m512) -> __m512i {
        if BF16 {
            // SAFETY: the token proves AVX-512 with BF16.
            return unsafe { rounding::two(a, b) };
        }
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_inserti64x4(_mm512_castsi256_si512(self.to_bf16(a)), self.to_bf16(b), 1) }
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    const LANES: usize = 16;
    type V = __m512;
    type D = [__m512d; 2];

    #[inline(always)]
    unsafe fn new() -> Self {
        Avx512(())
    }

    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> __m512 {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { _mm512_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn load_f16_ptr(self, p: *const f16) -> __m512 {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16_ptr(self, p: *const bf16) -> __m512 {
        // SAFETY: the caller vouches for 16 elements.
        unsafe {
            let x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32(x, 16))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_two(self, p: *const bf16) -> [__m512; 2] {
        // SAFETY: the caller vouches for 32 elements.
        unsafe {
            // Fours of elements, so that those of each half of the line meet zeros in their order.
            let order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
            let x = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(p.cast()));
            let zero = _mm512_setzero_si512();
            [_mm512_unpacklo_epi16(zero, x), _mm512_unpackhi_epi16(zero, x)].map(
                #[inline(always)]
                |x| _mm512_castsi512_ps(x),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_first(self, p: *const bf16) -> __m512 {
        // SAFETY: the caller vouches for 32 elements.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p.cast()), 16)) }
    }

    #[inline(always)]
    unsafe fn load_bf16_second(self, p: *const bf16) -> __m512 {
        // SAFETY: the caller vouches for 32 elements.
        unsafe {
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p.cast()), upper))
        }
    }

    #[inline(always)]
    unsafe fn store_f16_ptr(self, p: *mut f16, v: __m512) {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)) }
    }

    #[inline(always)]
    unsafe fn store_bf16_ptr(self, p: *mut bf16, v: __m512) {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { _mm256_storeu_si256(p.cast(), self.to_bf16(v)) }
    }

    #[inline(always)]
    unsafe fn stream_ptr(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller vouches for 16 elements and for the address.
        unsafe { _mm512_stream_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn stream_f16_ptr(self, p: *mut f16, v: __m512) {
        // SAFETY: the caller vouches for 16 elements and for the address.
        unsafe { _mm256_stream_si256(p.cast(), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)) }
    }

    #[inline(always)]
    unsafe fn stream_bf16_ptr(self, p: *mut bf16, v: __m512) {
        // SAFETY: the caller vouches for 16 elements and for the address.
        unsafe { _mm256_stream_si256(p.cast(), self.to_bf16(v)) }
    }

    #[inline(always)]
    unsafe fn store_bf16_two(self, p: *mut bf16, [a, b]: [__m512; 2]) {
        // SAFETY: the caller vouches for 32 elements.
        unsafe { _mm512_storeu_si512(p.cast(), self.two_to_bf16(a, b)) }
    }

    #[inline(always)]
    unsafe fn stream_f16_two(self, p: *mut f16, v: [__m512; 2]) {
        // SAFETY: the caller vouches for 32 elements and for the address.
        unsafe {
            let [a, b] = v.map(
                #[inline(always)]
                |v| _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT),
            );
            _mm512_stream_si512(p.cast(), _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1));
        }
    }

    #[inline(always)]
    unsafe fn stream_bf16_two(self, p: *mut bf16, [a, b]: [__m512; 2]) {
        // SAFETY: the caller vouches for 32 elements and for the address.
        unsafe { _mm512_stream_si512(p.cast(), self.two_to_bf16(a, b)) }
    }

    #[inline(always)]
    unsafe fn store_columns(self, rows: [__m512; 4], out: *mut f32, pitch: usize, width: usize) {
        debug_assert!(width == 4, "tiles of this tier have whole fours of rows");
        // SAFETY: the token proves AVX-512; the caller vouches for the memory.
        unsafe {
            let [a, b, c, d] = rows;
            let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
            let (ef, gh) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
            let quads = [
                _mm512_shuffle_ps(ab, cd, 0x44),
                _mm512_shuffle_ps(ab, cd, 0xee),
                _mm512_shuffle_ps(ef, gh, 0x44),
                _mm512_shuffle_ps(ef, gh, 0xee),
            ];
            for (j, quad) in quads.into_iter().enumerate() {
                _mm_storeu_ps(out.add(j * pitch), _mm512_castps512_ps128(quad));
                _mm_storeu_ps(out.add((4 + j) * pitch), _mm512_extractf32x4_ps(quad, 1));
                _mm_storeu_ps(out.add((8 + j) * pitch), _mm512_extractf32x4_ps(quad, 2));
                _mm_storeu_ps(out.add((12 + j) * pitch), _mm512_extractf32x4_ps(quad, 3));
            }
        }
    }

    #[inline(always)]
    fn load_tail(self, x: &[f32], fill: f32) -> __m512 {
        assert!(x.len() <= 16);
        // SAFETY: the mask admits as many lanes as the slice has elements.
        unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), mask(x.len()), x.as_ptr()) }
    }

    #[inline(always)]
    fn store_tail(self, out: &mut [f32], v: __m512) {
        assert!(out.len() <= 16);
        // SAFETY: the mask admits as many lanes as the slice has elements.
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask(out.len()), v) }
    }

    #[inline(always)]
    fn exp_below(self, x: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { exp::exp_below(x) }
    }

    #[inline(always)]
    fn sum_lanes(self, v: __m512) -> f32 {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let high = _mm512_extractf32x8_ps(v, 1);
            let eight = _mm256_add_ps(_mm512_castps512_ps256(v), high);
            sum_lanes_128(_mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)))
        }
    }

    #[inline(always)]
    fn sum_lanes_of_four(self, v: [__m512; 4]) -> [f32; 4] {
        // The same halves as in sum_lanes, two vectors side by side, then four.
        // SAFETY: the token proves AVX-512.
        unsafe {
            let [a, b, c, d] = v;
            let ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
            let cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
            let four = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
            let two = _mm512_add_ps(four, _mm512_shuffle_ps(four, four, 0xee));
            let one = _mm512_add_ps(two, _mm512_movehdup_ps(two));
            let firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let mut sums = [0.0; 4];
            let packed = _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, one));
            _mm_storeu_ps(sums.as_mut_ptr(), packed);
            sums
        }
    }

    lanes! {
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        madd(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        max_nan(a: __m512, b: __m512) -> __m512 = _mm512_mask_mov_ps(
            _mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
        pow2(bits: __m512) -> __m512 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(bits), 23));
        abs(a: __m512) -> __m512 = _mm512_abs_ps(a);
        widen(v: __m512) -> [__m512d; 2] = [
            _mm512_cvtps_pd(_mm512_castps512_ps256(v)),
            _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)),
        ];
        narrow(d: [__m512d; 2]) -> __m512 = _mm512_insertf32x8(
            _mm512_castps256_ps512(_mm512_cvtpd_ps(d[0])), _mm512_cvtpd_ps(d[1]), 1);
        d_splat(x: f64) -> [__m512d; 2] = [_mm512_set1_pd(x); 2];
        d_add(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] =
            [_mm512_add_pd(a[0], b[0]), _mm512_add_pd(a[1], b[1])];
        d_sub(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] =
            [_mm512_sub_pd(a[0], b[0]), _mm512_sub_pd(a[1], b[1])];
        d_mul(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] =
            [_mm512_mul_pd(a[0], b[0]), _mm512_mul_pd(a[1], b[1])];
        d_div(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] =
            [_mm512_div_pd(a[0], b[0]), _mm512_div_pd(a[1], b[1])];
        d_madd(a: [__m512d; 2], b: [__m512d; 2], c: [__m512d; 2]) -> [__m512d; 2] =
            [_mm512_fmadd_pd(a[0], b[0], c[0]), _mm512_fmadd_pd(a[1], b[1], c[1])];
        d_max(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] =
            [_mm512_max_pd(a[0], b[0]), _mm512_max_pd(a[1], b[1])];
        d_min(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] =
            [_mm512_min_pd(a[0], b[0]), _mm512_min_pd(a[1], b[1])];
        d_if_negative(x: [__m512d; 2], yes: [__m512d; 2], no: [__m512d; 2]) -> [__m512d; 2] = [
            _mm512_mask_mov_pd(no[0], _mm512_movepi64_mask(_mm512_castpd_si512(x[0])), yes[0]),
            _mm512_mask_mov_pd(no[1], _mm512_movepi64_mask(_mm512_castpd_si512(x[1])), yes[1]),
        ];
        d_pow2(bits: [__m512d; 2]) -> [__m512d; 2] = [pow2(bits[0]), pow2(bits[1])];
    }
}

/// A mask of the first `len` lanes, at most 16.
#[inline(always)]
fn mask(len: usize) -> __mmask16 {
    ((1u32 << len) - 1) as __mmask16
}

/// `2^n` from the low bits of each lane.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn pow2(bits: __m512d) -> __m512d {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let biased = _mm512_add_epi64(_mm512_castpd_si512(bits), _mm512_set1_epi64(1023));
        _mm512_castsi512_pd(_mm512_slli_epi64(biased, 52))
    }
}
