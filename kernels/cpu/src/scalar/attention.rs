//! What attention asks of the portable tier.

use half::bf16;

use super::{N, Scalar};
use crate::attention::Lanes;
use crate::layout;
use crate::simd::MAX_LANES;

impl Lanes for Scalar {
    #[inline(always)]
    fn transpose(self, m: &mut [[f32; N]; MAX_LANES]) {
        let turned: [[f32; N]; N] = std::array::from_fn(|i| std::array::from_fn(|j| m[j][i]));
        m[..N].copy_from_slice(&turned);
    }

    #[inline(always)]
    fn bf16_pairs(self, words: [f32; N]) -> [[f32; N]; 2] {
        // The bytes of the first lie before those of the second.
        let half = |i: usize, at: usize| {
            let bytes = words[i].to_ne_bytes();
            layout::bf16_to_f32(bf16::from_ne_bytes([bytes[at], bytes[at + 1]]))
        };
        [std::array::from_fn(|i| half(i, 0)), std::array::from_fn(|i| half(i, 2))]
    }
}
