//! What attention asks of the AVX2 tier.

use std::arch::x86_64::*;

use super::Avx2;
use crate::attention::Lanes;
use crate::simd::MAX_LANES;

impl Lanes for Avx2 {
    #[inline(always)]
    fn transpose(self, m: &mut [__m256; MAX_LANES]) {
        // SAFETY: the token proves AVX2.
        unsafe {
            // Four rows at a time: vector c holds columns c and 4 + c of them, one in each half.
            for i in [0, 4] {
                let (a, b) = (_mm256_unpacklo_ps(m[i], m[i + 1]), _mm256_unpackhi_ps(m[i], m[i + 1]));
                let (c, d) = (_mm256_unpacklo_ps(m[i + 2], m[i + 3]), _mm256_unpackhi_ps(m[i + 2], m[i + 3]));
                m[i] = _mm256_shuffle_ps(a, c, 0x44);
                m[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
                m[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
                m[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
            }
            for c in 0..4 {
                let (top, low) = (m[c], m[4 + c]);
                m[c] = _mm256_permute2f128_ps(top, low, 0x20);
                m[4 + c] = _mm256_permute2f128_ps(top, low, 0x31);
            }
        }
    }

    #[inline(always)]
    fn max_lanes(self, v: __m256) -> f32 {
        // SAFETY: the token proves AVX2.
        unsafe {
            if _mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)) != 0 {
                return f32::NAN;
            }
            let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn bf16_pairs(self, words: __m256) -> [__m256; 2] {
        // SAFETY: the token proves AVX2.
        unsafe {
            let words = _mm256_castps_si256(words);
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            [_mm256_castsi256_ps(_mm256_slli_epi32(words, 16)), _mm256_castsi256_ps(_mm256_and_si256(words, upper))]
        }
    }
}
