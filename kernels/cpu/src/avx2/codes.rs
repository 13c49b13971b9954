//! Codes with AVX2.

use std::arch::x86_64::*;

use super::Avx2;
use crate::quant::Lookup;

impl Lookup for Avx2 {
    type I = __m256i;
    type T = __m256i;

    #[inline(always)]
    fn table(self, table: &[u8; 16]) -> __m256i {
        // SAFETY: the token proves AVX2; the array holds 16 bytes.
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn load_words(self, p: *const u8) -> __m256i {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }

    #[inline(always)]
    fn words(self, x: i32) -> __m256i {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_set1_epi32(x) }
    }

    #[inline(always)]
    fn lookup(self, table: __m256i, words: __m256i) -> __m256i {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_shuffle_epi8(table, words) }
    }

    #[inline(always)]
    fn down<const N: u32>(self, words: __m256i) -> __m256i {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_srl_epi32(words, _mm_cvtsi32_si128(N as i32)) }
    }

    #[inline(always)]
    fn up<const N: u32>(self, words: __m256i) -> __m256i {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_sll_epi32(words, _mm_cvtsi32_si128(N as i32)) }
    }

    #[inline(always)]
    fn with(self, a: __m256i, mask: u32, b: __m256i) -> __m256i {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_or_si256(a, _mm256_and_si256(_mm256_set1_epi32(mask as i32), b)) }
    }

    #[inline(always)]
    fn keep(self, mask: u32, words: __m256i) -> __m256i {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_and_si256(words, _mm256_set1_epi32(mask as i32)) }
    }

    #[inline(always)]
    unsafe fn add_products(self, sum: __m256i, words: __m256i, x: *const i16) -> __m256i {
        // SAFETY: the token proves AVX2, the caller vouches for four integers. A pair of products is less than 2^25.
        unsafe {
            let [low, high] = [0, 1].map(|i| _mm256_set1_epi32(x.cast::<i32>().add(i).read_unaligned()));
            let even = _mm256_and_si256(words, _mm256_set1_epi16(0x00ff));
            let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, low));
            _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16::<8>(words), high))
        }
    }

    #[inline(always)]
    fn number(self, words: __m256i) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_cvtepi32_ps(words) }
    }

    #[inline(always)]
    fn fused(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn byte<const N: u32>(self, words: __m256i) -> __m256 {
        // SAFETY: the token proves AVX2. A shuffle puts zeros where its index has the highest bit.
        unsafe {
            let at = |lane: u32| (0x8080_8000 | (4 * lane + N)) as i32;
            let order = _mm256_broadcastsi128_si256(_mm_setr_epi32(at(0), at(1), at(2), at(3)));
            _mm256_cvtepi32_ps(_mm256_shuffle_epi8(words, order))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> __m256 {
        // SAFETY: the caller vouches for 8 bytes.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m256 {
        // SAFETY: the caller vouches for 8 bytes.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> __m256 {
        // The bits of an f16 whose exponent lacks 8; NaN is the largest magnitude.
        // SAFETY: the caller vouches for 8 bytes; the rest is arithmetic.
        unsafe {
            let x = _mm_slli_epi16(_mm_cvtepu8_epi16(_mm_loadl_epi64(p.cast())), 8);
            let most = _mm_set1_epi16(0x7f00);
            let magnitude = _mm_and_si128(x, most);
            let nan = _mm256_castsi256_ps(_mm256_cvtepi16_epi32(_mm_cmpeq_epi16(magnitude, most)));
            let sign = _mm_andnot_si128(_mm_set1_epi16(0x7fff), x);
            let small = _mm256_cvtph_ps(_mm_or_si128(sign, _mm_srli_epi16(magnitude, 1)));
            _mm256_or_ps(_mm256_mul_ps(small, _mm256_set1_ps(256.0)), nan)
        }
    }

    #[inline(always)]
    unsafe fn load_e5m2(self, p: *const u8) -> __m256 {
        // The upper half of an f16.
        // SAFETY: the caller vouches for 8 bytes.
        unsafe { _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(_mm_loadl_epi64(p.cast())), 8)) }
    }
}
