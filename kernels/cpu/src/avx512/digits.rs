//! Digits with `vpdpbusd`: unsigned codes by signed digits, the high and the low ones apart; and integers of 8 bits, which are
//! one digit.

use std::arch::x86_64::*;

use crate::isa::Features;
use crate::quant::{
    BELOW, Digits, IntegerRowsMut, LEAST, MOST_BYTE, PackIntegers, Place, QuantFormat, QuantKernel, RAISE,
};
use crate::table::{Entry, IntegerKernels};

use super::{Avx512, f8_e4m3, f8_e5m2, quant_decoders};

crate::quant::quant_kernels!(
    quant_digits, Avx512,
    [#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]], 1, Vnni, 8, true, "avx512"
);

crate::quant::quant_kernels!(
    quant_bytes, Avx512,
    [#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]], 1, OneByte, 8, true, "avx512"
);

/// One kernel for every row of the list; only used where VNNI is there.
pub(crate) const DIGITS: &[QuantKernel] = quant_digits::KERNELS;

/// As [`DIGITS`], for integers of 8 bits.
pub(crate) const BYTES: &[QuantKernel] = quant_bytes::KERNELS;

/// The packing and the kernels of digits, where VNNI is there.
pub(super) fn digits(features: &Features) -> Option<IntegerKernels> {
    let pack: Entry<PackIntegers> = Entry { name: "pack_integers.avx512", run: pack_integers };
    features.avx512_vnni.then_some((pack, quant_digits::KERNELS))
}

/// As [`digits`], for integers of 8 bits.
pub(super) fn bytes(features: &Features) -> Option<IntegerKernels> {
    let pack: Entry<PackIntegers> = Entry { name: "pack_bytes.avx512", run: pack_bytes };
    features.avx512_vnni.then_some((pack, quant_bytes::KERNELS))
}

/// 32 high digits, then 32 low ones; only used where VNNI is there.
#[derive(Clone, Copy)]
pub(crate) struct Vnni;

impl Digits<Avx512> for Vnni {
    type Sum = [__m512i; 2];

    #[inline(always)]
    fn start(_: Avx512, at: i32) -> [__m512i; 2] {
        // SAFETY: the token proves AVX-512.
        unsafe { [_mm512_setzero_si512(), _mm512_set1_epi32(at)] }
    }

    #[inline(always)]
    unsafe fn add(_: Avx512, [high, low]: [__m512i; 2], bytes: __m512i, x: *const u8, v: usize) -> [__m512i; 2] {
        // SAFETY: the caller vouches for 64 bytes; the entry points of this tier enable VNNI.
        unsafe {
            [_mm512_dpbusd_epi32(high, bytes, four(x, 4 * v)), _mm512_dpbusd_epi32(low, bytes, four(x, 32 + 4 * v))]
        }
    }

    #[inline(always)]
    fn end(_: Avx512, [high, low]: [__m512i; 2]) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(high), low)) }
    }
}

/// 32 integers of 8 bits; only used where VNNI is there.
#[derive(Clone, Copy)]
pub(crate) struct OneByte;

impl Digits<Avx512> for OneByte {
    type Sum = __m512i;

    #[inline(always)]
    fn start(_: Avx512, at: i32) -> __m512i {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_set1_epi32(at) }
    }

    #[inline(always)]
    unsafe fn add(_: Avx512, sum: __m512i, bytes: __m512i, x: *const u8, v: usize) -> __m512i {
        // SAFETY: the caller vouches for 64 bytes; the entry points of this tier enable VNNI.
        unsafe { _mm512_dpbusd_epi32(sum, bytes, four(x, 4 * v)) }
    }

    #[inline(always)]
    fn end(_: Avx512, sum: __m512i) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_cvtepi32_ps(sum) }
    }
}

/// Four digits in every lane.
///
/// # Safety
/// They lie `at` bytes behind `x`; the processor has AVX-512 F.
#[inline(always)]
unsafe fn four(x: *const u8, at: usize) -> __m512i {
    // SAFETY: as the caller vouches.
    unsafe { _mm512_set1_epi32(x.add(at).cast::<i32>().read_unaligned()) }
}

/// See [`crate::quant::PackIntegers`].
fn pack_integers(to: &mut IntegerRowsMut<'_>, row: usize, format: QuantFormat, zeros: bool, x: &[f32]) -> bool {
    // SAFETY: the table is only handed out on machines that have the tier.
    unsafe { pack::<false>(to, row, format, zeros, x) }
}

/// As [`pack_integers`], in 8 bits.
fn pack_bytes(to: &mut IntegerRowsMut<'_>, row: usize, format: QuantFormat, zeros: bool, x: &[f32]) -> bool {
    // SAFETY: as above.
    unsafe { pack::<true>(to, row, format, zeros, x) }
}

/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pack<const BYTES: bool>(
    to: &mut IntegerRowsMut<'_>,
    row: usize,
    format: QuantFormat,
    zeros: bool,
    x: &[f32],
) -> bool {
    let order = format.order();
    // The order of the first 16 inputs; the others follow in the same one.
    // SAFETY: an order holds 32 bytes.
    let order = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(order.as_ptr().cast()) });
    crate::quant::pack(
        to,
        row,
        format,
        zeros,
        x,
        #[inline(always)]
        // SAFETY: as this function.
        |x, place| unsafe { chunk::<BYTES>(x, order, place) },
    )
}

/// Packs one chunk; gives the bits of its largest magnitude.
///
/// # Safety
/// As [`pack`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn chunk<const BYTES: bool>(x: &[f32; 32], order: __m256i, place: &mut Place<'_>) -> u32 {
    // SAFETY: the chunk holds two vectors of f32, and its place 64 bytes.
    unsafe {
        let x = [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))];
        let all_but_sign = _mm512_set1_epi32(0x7fff_ffff);
        let magnitudes = [
            _mm512_and_si512(_mm512_castps_si512(x[0]), all_but_sign),
            _mm512_and_si512(_mm512_castps_si512(x[1]), all_but_sign),
        ];
        // Every lane gets the largest, by a rotation of quarters, then of the words in each.
        let most = _mm512_max_epu32(magnitudes[0], magnitudes[1]);
        let most = _mm512_max_epu32(most, _mm512_shuffle_i32x4::<0x4e>(most, most));
        let most = _mm512_max_epu32(most, _mm512_shuffle_i32x4::<0xb1>(most, most));
        let most = _mm512_max_epu32(most, _mm512_shuffle_epi32::<0x4e>(most));
        let most = _mm512_max_epu32(most, _mm512_shuffle_epi32::<0xb1>(most));
        let largest = _mm_cvtsi128_si32(_mm512_castsi512_si128(most)) as u32;
        let (scale, inverse) = if BYTES {
            let inverse = _mm512_div_ps(_mm512_set1_ps(MOST_BYTE), _mm512_castsi512_ps(most));
            let inverse = _mm512_maskz_mov_ps(_mm512_test_epi32_mask(most, most), inverse);
            (f32::from_bits(largest) / MOST_BYTE, inverse)
        } else {
            let raised = _mm512_srli_epi32::<23>(_mm512_add_epi32(most, _mm512_set1_epi32(RAISE as i32)));
            let least = _mm512_max_epu32(raised, _mm512_set1_epi32((LEAST + BELOW) as i32));
            let exponent = _mm512_sub_epi32(least, _mm512_set1_epi32(BELOW as i32));
            let inverse = _mm512_slli_epi32::<23>(_mm512_sub_epi32(_mm512_set1_epi32(254), exponent));
            let exponent = _mm_cvtsi128_si32(_mm512_castsi512_si128(exponent)) as u32;
            (if largest == 0 { 0.0 } else { f32::from_bits(exponent << 23) }, _mm512_castsi512_ps(inverse))
        };
        let a = [_mm512_cvtps_epi32(_mm512_mul_ps(x[0], inverse)), _mm512_cvtps_epi32(_mm512_mul_ps(x[1], inverse))];
        let a = [_mm512_cvtepi32_epi16(a[0]), _mm512_cvtepi32_epi16(a[1])];
        let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a[0]), a[1]);
        let low = _mm512_cvtepi16_epi8(both);
        let to = place.digits.as_mut_ptr();
        if BYTES {
            _mm256_storeu_si256(to.cast(), _mm256_shuffle_epi8(low, order));
        } else {
            let high = _mm512_srai_epi16::<8>(_mm512_add_epi16(both, _mm512_set1_epi16(128)));
            let high = _mm512_cvtepi16_epi8(high);
            _mm256_storeu_si256(to.cast(), _mm256_shuffle_epi8(high, order));
            _mm256_storeu_si256(to.add(32).cast(), _mm256_shuffle_epi8(low, order));
        }
        // Sums of pairs, then of those of each half.
        let one = _mm256_set1_epi16(1);
        let pairs = [_mm256_madd_epi16(a[0], one), _mm256_madd_epi16(a[1], one)];
        let quads = _mm256_hadd_epi32(pairs[0], pairs[1]);
        let eights = _mm256_hadd_epi32(quads, quads);
        let halves = _mm_add_epi32(_mm256_castsi256_si128(eights), _mm256_extracti128_si256::<1>(eights));
        place.beside(scale, [_mm_cvtsi128_si32(halves), _mm_extract_epi32::<1>(halves)]);
        largest
    }
}
