//! The AVX2 tier, with FMA and F16C: eight f32 to a vector.

mod attention;
mod codes;
mod int8;

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::attention::{AttentionDigits, AttentionPairs};
use crate::isa::Features;
use crate::simd::Simd;
use crate::table::{Entry, Gemm, GemvDot, IntegerKernels, Kernels};

pub(crate) use int8::{int8, quantize_row_i8};

crate::entry::entry_points! {
    token: Avx2, isa: Avx2 "avx2", features: [#[target_feature(enable = "avx2,fma,f16c")]],
    tile: 6 x 16 (2, 2), few: 4, gemv: 64 (8), qk: 6 x 2, pv: 6 x 2, digits: 4
}

/// No dot products of bf16 here: widening them is as good.
fn gemm_bf16_dot(_: &Features) -> Option<Gemm<bf16, bf16, f32>> {
    None
}

/// See [`gemm_bf16_dot`].
fn gemv_bf16_dot(_: &Features) -> Option<Entry<GemvDot>> {
    None
}

/// See [`gemm_bf16_dot`].
fn attention_pairs(_: &Features) -> Option<AttentionPairs> {
    None
}

/// No sums of products of bytes here that do not saturate: widening is as good.
fn attention_digits(_: &Features) -> Option<AttentionDigits> {
    None
}

/// No other products of digits than those of pairs.
fn digits(_: &Features) -> Option<IntegerKernels> {
    None
}

/// No other products of bytes than those of pairs.
fn bytes(_: &Features) -> Option<IntegerKernels> {
    None
}

/// All of the table is as shared algorithms have it.
fn refine(_: &mut Kernels, _: &Features) {}

/// The token of the AVX2 tier.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Methods that are one expression of intrinsics without memory operands.
macro_rules! lanes {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $e:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $ret {
            // SAFETY: the token proves AVX2, FMA and F16C.
            unsafe { $e }
        }
    )+};
}

impl Avx2 {
    /// bf16 of a vector, to nearest even.
    #[inline(always)]
    fn to_bf16(self, v: __m256) -> __m128i {
        // SAFETY: the token proves AVX2.
        unsafe {
            let bits = _mm256_castps_si256(v);
            let upper = _mm256_srli_epi32(bits, 16);
            let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
            let bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
            let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
            let nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
            let wide = _mm256_blendv_epi8(rounded, quiet, nan);
            _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1))
        }
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    type V = __m256;
    type D = [__m256d; 2];

    #[inline(always)]
    unsafe fn new() -> Self {
        Avx2(())
    }

    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> __m256 {
        // SAFETY: the caller vouches for 8 elements.
        unsafe { _mm256_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller vouches for 8 elements.
        unsafe { _mm256_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn load_f16_ptr(self, p: *const f16) -> __m256 {
        // SAFETY: the caller vouches for 8 elements.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16_ptr(self, p: *const bf16) -> __m256 {
        // SAFETY: the caller vouches for 8 elements.
        unsafe {
            let x = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32(x, 16))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_first(self, p: *const bf16) -> __m256 {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(p.cast()), 16)) }
    }

    #[inline(always)]
    unsafe fn load_bf16_second(self, p: *const bf16) -> __m256 {
        // SAFETY: the caller vouches for 16 elements; the assembly is empty.
        unsafe {
            // With sixteen registers, the pairs are better read from the cache again than held:
            // hiding the address keeps the compiler from joining this load with that of the first.
            let mut p = p;
            std::arch::asm!("/* {0} */", inout(reg) p, options(readonly, nostack, preserves_flags));
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(p.cast()), upper))
        }
    }

    #[inline(always)]
    unsafe fn store_f16_ptr(self, p: *mut f16, v: __m256) {
        // SAFETY: the caller vouches for 8 elements.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)) }
    }

    #[inline(always)]
    unsafe fn store_bf16_ptr(self, p: *mut bf16, v: __m256) {
        // SAFETY: the caller vouches for 8 elements.
        unsafe { _mm_storeu_si128(p.cast(), self.to_bf16(v)) }
    }

    #[inline(always)]
    unsafe fn stream_ptr(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller vouches for 8 elements and for the address.
        unsafe { _mm256_stream_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn stream_f16_ptr(self, p: *mut f16, v: __m256) {
        // SAFETY: the caller vouches for 8 elements and for the address.
        unsafe { _mm_stream_si128(p.cast(), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)) }
    }

    #[inline(always)]
    unsafe fn stream_bf16_ptr(self, p: *mut bf16, v: __m256) {
        // SAFETY: the caller vouches for 8 elements and for the address.
        unsafe { _mm_stream_si128(p.cast(), self.to_bf16(v)) }
    }

    #[inline(always)]
    unsafe fn store_columns(self, rows: [__m256; 4], out: *mut f32, pitch: usize, width: usize) {
        // SAFETY: the token proves AVX2; the caller vouches for the memory.
        unsafe {
            let [a, b, c, d] = rows;
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (ef, gh) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            let quads = [
                _mm256_shuffle_ps(ab, cd, 0x44),
                _mm256_shuffle_ps(ab, cd, 0xee),
                _mm256_shuffle_ps(ef, gh, 0x44),
                _mm256_shuffle_ps(ef, gh, 0xee),
            ];
            for (j, quad) in quads.into_iter().enumerate() {
                for (k, four) in [(j, _mm256_castps256_ps128(quad)), (4 + j, _mm256_extractf128_ps(quad, 1))] {
                    if width == 4 {
                        _mm_storeu_ps(out.add(k * pitch), four);
                    } else {
                        _mm_storel_pd(out.add(k * pitch).cast(), _mm_castps_pd(four));
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn settle(self, v: __m256) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { settle(v) }
    }

    #[inline(always)]
    fn sum_lanes(self, v: __m256) -> f32 {
        // SAFETY: the token proves AVX2.
        unsafe { sum_lanes_128(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1))) }
    }

    #[inline(always)]
    fn sum_lanes_of_four(self, v: [__m256; 4]) -> [f32; 4] {
        // The same halves as in sum_lanes, two vectors side by side, then four.
        // SAFETY: the token proves AVX2.
        unsafe {
            let [a, b, c, d] = v;
            let ab = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
            let cd = _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
            let two = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
            let one = _mm256_add_ps(two, _mm256_movehdup_ps(two));
            let mut sums = [0.0; 8];
            _mm256_storeu_ps(sums.as_mut_ptr(), one);
            [sums[0], sums[4], sums[2], sums[6]]
        }
    }

    lanes! {
        splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        madd(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        max_nan(a: __m256, b: __m256) -> __m256 =
            _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
        pow2(bits: __m256) -> __m256 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(bits), 23));
        abs(a: __m256) -> __m256 = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        widen(v: __m256) -> [__m256d; 2] = [
            _mm256_cvtps_pd(_mm256_castps256_ps128(v)),
            _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)),
        ];
        narrow(d: [__m256d; 2]) -> __m256 =
            _mm256_set_m128(_mm256_cvtpd_ps(d[1]), _mm256_cvtpd_ps(d[0]));
        d_splat(x: f64) -> [__m256d; 2] = [_mm256_set1_pd(x); 2];
        d_add(a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] =
            [_mm256_add_pd(a[0], b[0]), _mm256_add_pd(a[1], b[1])];
        d_sub(a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] =
            [_mm256_sub_pd(a[0], b[0]), _mm256_sub_pd(a[1], b[1])];
        d_mul(a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] =
            [_mm256_mul_pd(a[0], b[0]), _mm256_mul_pd(a[1], b[1])];
        d_div(a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] =
            [_mm256_div_pd(a[0], b[0]), _mm256_div_pd(a[1], b[1])];
        d_madd(a: [__m256d; 2], b: [__m256d; 2], c: [__m256d; 2]) -> [__m256d; 2] =
            [_mm256_fmadd_pd(a[0], b[0], c[0]), _mm256_fmadd_pd(a[1], b[1], c[1])];
        d_max(a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] =
            [_mm256_max_pd(a[0], b[0]), _mm256_max_pd(a[1], b[1])];
        d_min(a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] =
            [_mm256_min_pd(a[0], b[0]), _mm256_min_pd(a[1], b[1])];
        d_if_negative(x: [__m256d; 2], yes: [__m256d; 2], no: [__m256d; 2]) -> [__m256d; 2] = [
            _mm256_blendv_pd(no[0], yes[0], x[0]),
            _mm256_blendv_pd(no[1], yes[1], x[1]),
        ];
        d_pow2(bits: [__m256d; 2]) -> [__m256d; 2] = [pow2(bits[0]), pow2(bits[1])];
    }
}

/// The same vector, through empty assembly that the compiler keeps in its place.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn settle(v: __m256) -> __m256 {
    let mut v = v;
    // SAFETY: the assembly is empty.
    unsafe {
        std::arch::asm!("/* {0} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags));
    }
    v
}

/// The balanced tree of halves over four lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(crate) unsafe fn sum_lanes_128(v: __m128) -> f32 {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let two = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// `2^n` from the low bits of each lane.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn pow2(bits: __m256d) -> __m256d {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let biased = _mm256_add_epi64(_mm256_castpd_si256(bits), _mm256_set1_epi64x(1023));
        _mm256_castsi256_pd(_mm256_slli_epi64(biased, 52))
    }
}
