//! int8 in portable Rust.

use crate::gemm::{GemmBlock, KC, pack_a_groups};
use crate::isa::Features;
use crate::layout::NR;
use crate::table::{Entry, Gemm, Int8};

/// Rows of the tile.
const MR: usize = 4;

/// The packing and the kernel of this tier.
pub(super) fn int8(_: &Features) -> Int8 {
    (
        Entry { name: "pack_a_i8.scalar", run: pack_a_groups::<i8, MR, 4> },
        Gemm { name: "gemm_i8_4x16.scalar", mr: MR, nr: NR, kc: KC, run: gemm },
    )
}

/// `C = A·Wᵀ` in i32, exact. See [`crate::Kernels::gemm_i8`].
///
/// # Safety
/// The block's pointers and lengths hold what [`GemmBlock`] says.
unsafe fn gemm(block: &GemmBlock<'_, i8, i8, i32>) {
    block.check(MR, 4);
    for panel in 0..block.panels {
        let w = &block.w[panel * block.panel_stride..];
        for i in 0..block.m {
            // SAFETY: i < m; the caller vouches for C.
            let mut acc = unsafe { block.read(i, panel) };
            for group in 0..block.kc.div_ceil(4) {
                let a = &block.a[(group * MR + i) * 4..][..4];
                for (acc, w) in acc.iter_mut().zip(w[group * 64..][..64].chunks_exact(4)) {
                    for (a, w) in a.iter().zip(w) {
                        *acc = acc.wrapping_add(i32::from(*a) * i32::from(*w));
                    }
                }
            }
            // SAFETY: i < m; the caller vouches for C.
            unsafe { block.write(i, panel, &acc) };
        }
    }
}

/// The larger of a magnitude and that of `x`; NaN once there is one.
pub(crate) fn larger(magnitude: f32, x: &f32) -> f32 {
    if magnitude.is_nan() || x.abs() <= magnitude { magnitude } else { x.abs() }
}

/// Quantises one row. See [`crate::Kernels::quantize_row_i8`].
pub(crate) fn quantize_row_i8(out: &mut [i8], x: &[f32]) -> f32 {
    assert_eq!(out.len(), x.len(), "quantize_row_i8: lengths of output and row");
    let scale = x.iter().fold(0.0, larger) / 127.0;
    if scale == 0.0 {
        out.fill(0);
        return 0.0;
    }
    for (q, x) in out.iter_mut().zip(x) {
        // The cast saturates and sends NaN to zero.
        *q = (x / scale).round_ties_even() as i8;
    }
    scale
}
