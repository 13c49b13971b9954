//! bf16 by bf16 in portable Rust.

use half::bf16;

use crate::gemm::{GemmBlock, KC};
use crate::isa::Features;
use crate::layout::{NR, bf16_to_f32};
use crate::table::Gemm;

/// Rows of the tile.
const MR: usize = 4;

/// The kernel of this tier.
pub(super) fn gemm_bf16_dot(_: &Features) -> Option<Gemm<bf16, bf16, f32>> {
    Some(Gemm { name: "gemm_bf16_dot_4x16.scalar", mr: MR, nr: NR, kc: KC, run: gemm })
}

/// `C = A·Wᵀ`: products of bf16 are exact in f32, sums are f32.
///
/// # Safety
/// Each of the block's `m` rows of C has `columns` writable elements that nobody else touches.
unsafe fn gemm(block: &GemmBlock<'_, bf16, bf16, f32>) {
    block.check(MR, 2);
    for panel in 0..block.panels {
        let w = &block.w[panel * block.panel_stride..];
        for row in 0..block.m {
            // SAFETY: row < m; the caller vouches for C.
            let mut acc = unsafe { block.read(row, panel) };
            for pair in 0..block.kc.div_ceil(2) {
                let a = &block.a[(pair * MR + row) * 2..][..2];
                for (acc, w) in acc.iter_mut().zip(w[pair * 2 * NR..][..2 * NR].chunks_exact(2)) {
                    *acc += bf16_to_f32(a[0]) * bf16_to_f32(w[0]);
                    *acc += bf16_to_f32(a[1]) * bf16_to_f32(w[1]);
                }
            }
            // SAFETY: row < m; the caller vouches for C.
            unsafe { block.write(row, panel, &acc) };
        }
    }
}
