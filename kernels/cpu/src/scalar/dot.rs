//! bf16 by bf16 in portable Rust.

use half::bf16;

use crate::gemm::{GemmBlock, KC};
use crate::isa::Features;
use crate::layout::{NR, bf16_to_f32};
use crate::table::{Entry, Gemm, GemvDot};

/// Rows of the tile.
const MR: usize = 4;

/// The kernel of this tier.
pub(super) fn gemm_bf16_dot(_: &Features) -> Option<Gemm<bf16, bf16, f32>> {
    Some(Gemm { name: "gemm_bf16_dot_4x16.scalar", mr: MR, nr: NR, kc: KC, run: gemm })
}

/// The product of one row of this tier.
pub(super) fn gemv_bf16_dot(_: &Features) -> Option<Entry<GemvDot>> {
    Some(Entry { name: "gemv_bf16_dot_1x16.scalar", run: gemv })
}

/// One row: the sums of [`gemm`].
fn gemv(y: &mut [f32], x: &[bf16], w: &[bf16], panel_stride: usize, accumulate: bool) {
    assert!(x.len().is_multiple_of(2), "a row of {} inputs lacks half a pair", x.len());
    for (panel, y) in y.chunks_mut(NR).enumerate() {
        let mut acc = [0.0; NR];
        if accumulate {
            acc[..y.len()].copy_from_slice(y);
        }
        let w = &w[panel * panel_stride..][..x.len() * NR];
        for (a, w) in x.chunks_exact(2).zip(w.chunks_exact(2 * NR)) {
            add_pairs(&mut acc, a, w);
        }
        y.copy_from_slice(&acc[..y.len()]);
    }
}

/// Adds the products of a pair of inputs with a panel's pairs.
#[inline(always)]
fn add_pairs(acc: &mut [f32; NR], a: &[bf16], w: &[bf16]) {
    for (acc, w) in acc.iter_mut().zip(w.chunks_exact(2)) {
        *acc += bf16_to_f32(a[0]) * bf16_to_f32(w[0]);
        *acc += bf16_to_f32(a[1]) * bf16_to_f32(w[1]);
    }
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
                add_pairs(&mut acc, a, &w[pair * 2 * NR..][..2 * NR]);
            }
            // SAFETY: row < m; the caller vouches for C.
            unsafe { block.write(row, panel, &acc) };
        }
    }
}
