//! What attention asks of the AVX-512 tier.

use std::arch::x86_64::*;

use half::bf16;

use super::Avx512;
use crate::attention::Lanes;
use crate::simd::MAX_LANES;

/// Turns the square of the quarters of four vectors around.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn turn_quarters(m: [__m512; 4]) -> [__m512; 4] {
    let (a, b) = (_mm512_shuffle_f32x4(m[0], m[1], 0x44), _mm512_shuffle_f32x4(m[2], m[3], 0x44));
    let (c, d) = (_mm512_shuffle_f32x4(m[0], m[1], 0xee), _mm512_shuffle_f32x4(m[2], m[3], 0xee));
    [
        _mm512_shuffle_f32x4(a, b, 0x88),
        _mm512_shuffle_f32x4(a, b, 0xdd),
        _mm512_shuffle_f32x4(c, d, 0x88),
        _mm512_shuffle_f32x4(c, d, 0xdd),
    ]
}

impl Lanes for Avx512 {
    #[inline(always)]
    fn transpose(self, m: &mut [__m512; MAX_LANES]) {
        // SAFETY: the token proves AVX-512.
        unsafe {
            // Four rows at a time: vector c holds columns c, 4 + c, 8 + c and 12 + c of them, one in each quarter.
            for i in [0, 4, 8, 12] {
                let (a, b) = (_mm512_unpacklo_ps(m[i], m[i + 1]), _mm512_unpackhi_ps(m[i], m[i + 1]));
                let (c, d) = (_mm512_unpacklo_ps(m[i + 2], m[i + 3]), _mm512_unpackhi_ps(m[i + 2], m[i + 3]));
                m[i] = _mm512_shuffle_ps(a, c, 0x44);
                m[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
                m[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
                m[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
            }
            for c in 0..4 {
                let (e, g) = (_mm512_shuffle_f32x4(m[c], m[4 + c], 0x88), _mm512_shuffle_f32x4(m[c], m[4 + c], 0xdd));
                let (f, h) =
                    (_mm512_shuffle_f32x4(m[8 + c], m[12 + c], 0x88), _mm512_shuffle_f32x4(m[8 + c], m[12 + c], 0xdd));
                m[c] = _mm512_shuffle_f32x4(e, f, 0x88);
                m[4 + c] = _mm512_shuffle_f32x4(g, h, 0x88);
                m[8 + c] = _mm512_shuffle_f32x4(e, f, 0xdd);
                m[12 + c] = _mm512_shuffle_f32x4(g, h, 0xdd);
            }
        }
    }

    #[inline(always)]
    fn max_lanes(self, v: __m512) -> f32 {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
            if nan == 0 { _mm512_reduce_max_ps(v) } else { f32::NAN }
        }
    }

    #[inline(always)]
    fn bf16_pairs(self, words: __m512) -> [__m512; 2] {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let words = _mm512_castps_si512(words);
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            [_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)), _mm512_castsi512_ps(_mm512_and_si512(words, upper))]
        }
    }

    #[inline(always)]
    unsafe fn load_two_bf16(self, p: *const bf16) -> [__m512; 2] {
        // The first of each pair, then the second.
        // SAFETY: the caller vouches for 32 elements, as long as 16 words.
        self.bf16_pairs(unsafe { _mm512_loadu_ps(p.cast()) })
    }

    #[inline(always)]
    fn out_of_order(self, [a, b]: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let first = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let second = _mm512_add_epi32(first, _mm512_set1_epi32(1));
            [_mm512_permutex2var_ps(a, first, b), _mm512_permutex2var_ps(a, second, b)]
        }
    }

    #[inline(always)]
    fn in_order(self, [first, second]: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            [_mm512_permutex2var_ps(first, low, second), _mm512_permutex2var_ps(first, high, second)]
        }
    }
}
