//! Codes with AVX-512.

use std::arch::x86_64::*;

use super::Avx512;
use crate::quant::Lookup;

impl Lookup for Avx512 {
    type I = __m512i;
    type T = __m512i;

    #[inline(always)]
    fn table(self, table: &[u8; 16]) -> __m512i {
        // SAFETY: the token proves AVX-512; the array holds 16 bytes.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn load_words(self, p: *const u8) -> __m512i {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    fn words(self, x: i32) -> __m512i {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    fn lookup(self, table: __m512i, words: __m512i) -> __m512i {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_shuffle_epi8(table, words) }
    }

    #[inline(always)]
    fn down<const N: u32>(self, words: __m512i) -> __m512i {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_srli_epi32::<N>(words) }
    }

    #[inline(always)]
    fn up<const N: u32>(self, words: __m512i) -> __m512i {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_slli_epi32::<N>(words) }
    }

    #[inline(always)]
    fn with(self, a: __m512i, mask: u32, b: __m512i) -> __m512i {
        // SAFETY: the token proves AVX-512. 0xf8 is `first | second & third`.
        unsafe { _mm512_ternarylogic_epi32::<0xf8>(a, _mm512_set1_epi32(mask as i32), b) }
    }

    #[inline(always)]
    fn keep(self, mask: u32, words: __m512i) -> __m512i {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_and_si512(words, _mm512_set1_epi32(mask as i32)) }
    }

    #[inline(always)]
    unsafe fn add_products(self, sum: __m512i, words: __m512i, x: *const i16) -> __m512i {
        // SAFETY: the token proves AVX-512, the caller vouches for four integers. A pair of products is less than 2^25.
        unsafe {
            let [low, high] = [0, 1].map(|i| _mm512_set1_epi32(x.cast::<i32>().add(i).read_unaligned()));
            let even = _mm512_and_si512(words, _mm512_set1_epi16(0x00ff));
            let sum = _mm512_add_epi32(sum, _mm512_madd_epi16(even, low));
            _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_srli_epi16::<8>(words), high))
        }
    }

    #[inline(always)]
    fn number(self, words: __m512i) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_cvtepi32_ps(words) }
    }

    #[inline(always)]
    fn fused(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn byte<const N: u32>(self, words: __m512i) -> __m512 {
        // SAFETY: the token proves AVX-512. A shuffle puts zeros where its index has the highest bit.
        unsafe {
            let at = |lane: u32| (0x8080_8000 | (4 * lane + N)) as i32;
            let order = _mm512_broadcast_i32x4(_mm_setr_epi32(at(0), at(1), at(2), at(3)));
            _mm512_cvtepi32_ps(_mm512_shuffle_epi8(words, order))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> __m512 {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m512 {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> __m512 {
        // The bits of an f16 whose exponent lacks 8; NaN is the largest magnitude.
        // SAFETY: the caller vouches for 16 bytes; the rest is arithmetic.
        unsafe {
            let x = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast())), 8);
            let most = _mm256_set1_epi16(0x7f00);
            let magnitude = _mm256_and_si256(x, most);
            let nan = _mm256_cmpeq_epi16_mask(magnitude, most);
            let sign = _mm256_andnot_si256(_mm256_set1_epi16(0x7fff), x);
            let small = _mm512_cvtph_ps(_mm256_or_si256(sign, _mm256_srli_epi16(magnitude, 1)));
            _mm512_mask_mov_ps(_mm512_mul_ps(small, _mm512_set1_ps(256.0)), nan, _mm512_set1_ps(f32::NAN))
        }
    }

    #[inline(always)]
    unsafe fn load_e5m2(self, p: *const u8) -> __m512 {
        // The upper half of an f16.
        // SAFETY: the caller vouches for 16 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast())), 8)) }
    }
}
