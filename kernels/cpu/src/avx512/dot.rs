//! bf16 by bf16 with `vdpbf16ps`, for processors where it is faster than widening to f32.

use std::arch::x86_64::*;

use half::bf16;

use crate::gemm::{GemmBlock, KC};
use crate::isa::Features;
use crate::layout::NR;
use crate::table::{Entry, Gemm, GemvDot};

/// Rows of the tile.
const MR: usize = 12;

/// The product of one row, where [`gemm_bf16_dot`] exists.
pub(super) fn gemv_bf16_dot(features: &Features) -> Option<Entry<GemvDot>> {
    // SAFETY: only handed out where `gemm_bf16_dot` finds the instructions that the function needs.
    let run: GemvDot = |y, x, w, stride, accumulate| unsafe { gemv(y, x, w, stride, accumulate) };
    gemm_bf16_dot(features).map(|_| Entry { name: "gemv_bf16_dot_1x64.avx512", run })
}

/// One row. See [`crate::Kernels::gemv_bf16_dot`].
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn gemv(y: &mut [f32], x: &[bf16], w: &[bf16], panel_stride: usize, accumulate: bool) {
    assert!(x.len().is_multiple_of(2), "a row of {} inputs lacks half a pair", x.len());
    let panels = y.len().div_ceil(NR);
    let last = panels.saturating_sub(1) * panel_stride;
    assert!(panels == 0 || w.len() >= last + x.len() * NR, "weight panels are too short");
    let (c, columns) = (y.as_mut_ptr(), y.len());
    let block = GemmBlock { m: 1, kc: x.len(), a: x, w, panel_stride, panels, c, ldc: columns, columns, accumulate };
    let mut panel = 0;
    while panel < panels {
        // SAFETY: the slices were held to the counts; y is borrowed for writing, and columns stay within it.
        unsafe {
            if panel + 4 <= panels {
                tile::<1, 1, 4>(&block, panel);
                panel += 4;
            } else {
                tile::<1, 1, 1>(&block, panel);
                panel += 1;
            }
        }
    }
}

/// The kernel of this tier, where it exists and is worth it.
pub(super) fn gemm_bf16_dot(features: &Features) -> Option<Gemm<bf16, bf16, f32>> {
    (features.avx512_bf16 && features.bf16_dot_is_fast).then_some(Gemm {
        name: "gemm_bf16_dot_12x32.avx512",
        mr: MR,
        nr: 2 * NR,
        kc: 2 * KC,
        run: gemm,
    })
}

/// `C = A·Wᵀ`. See [`crate::Kernels::gemm_bf16_dot`].
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and BF16. Each of the block's `m` rows of C has
/// `columns` writable elements that nobody else touches.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn gemm(block: &GemmBlock<'_, bf16, bf16, f32>) {
    block.check(MR, 2);
    let mut panel = 0;
    while panel < block.panels {
        // SAFETY: check() held the slices to the counts; C is the caller's word.
        unsafe {
            if panel + 2 <= block.panels {
                rows::<2>(block, panel);
                panel += 2;
            } else {
                rows::<1>(block, panel);
                panel += 1;
            }
        }
    }
}

/// Picks the tile height: the smallest that holds the rows.
///
/// # Safety
/// As for [`gemm`], after the check; panels `panel .. panel + P` exist.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn rows<const P: usize>(block: &GemmBlock<'_, bf16, bf16, f32>, panel: usize) {
    // SAFETY: the heights are at most MR; the rest is the caller's word.
    unsafe {
        match block.m {
            0 => {}
            1 => tile::<MR, 1, P>(block, panel),
            2 => tile::<MR, 2, P>(block, panel),
            3 | 4 => tile::<MR, 4, P>(block, panel),
            5..=8 => tile::<MR, 8, P>(block, panel),
            _ => tile::<MR, MR, P>(block, panel),
        }
    }
}

/// `R` rows by `P` panels; a pair of inputs of the micro-panel has `HEIGHT` rows.
///
/// # Safety
/// As for [`rows`]; `R <= HEIGHT`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn tile<const HEIGHT: usize, const R: usize, const P: usize>(
    block: &GemmBlock<'_, bf16, bf16, f32>,
    panel: usize,
) {
    let mut acc = [[_mm512_setzero_ps(); P]; R];
    if block.accumulate {
        for (row, acc) in acc.iter_mut().enumerate().take(block.m) {
            for (p, acc) in acc.iter_mut().enumerate() {
                let (c, mask) = columns(block, row, panel + p);
                // SAFETY: row < m, and the mask stays below `columns`.
                *acc = unsafe { _mm512_maskz_loadu_ps(mask, c) };
            }
        }
    }
    let mut w: [*const bf16; P] =
        std::array::from_fn(|p| block.w.as_ptr().wrapping_add((panel + p) * block.panel_stride));
    let mut a = block.a.as_ptr().cast::<i32>();
    for _ in 0..block.kc.div_ceil(2) {
        let mut weights = [_mm512_setzero_si512(); P];
        for (weights, w) in weights.iter_mut().zip(&mut w) {
            // SAFETY: check() held the panels to a whole number of pairs.
            *weights = unsafe { _mm512_loadu_si512(w.cast()) };
            *w = w.wrapping_add(2 * NR);
        }
        for (row, acc) in acc.iter_mut().enumerate() {
            // SAFETY: a pair of a micro-panel has HEIGHT rows of 4 bytes.
            let x = _mm512_set1_epi32(unsafe { a.add(row).read_unaligned() });
            for (acc, weights) in acc.iter_mut().zip(&weights) {
                // SAFETY: both types are 512 bits without invalid values.
                let (x, w) = unsafe { (as_bf16(x), as_bf16(*weights)) };
                *acc = _mm512_dpbf16_ps(*acc, x, w);
            }
        }
        a = a.wrapping_add(HEIGHT);
    }
    for (row, acc) in acc.iter().enumerate().take(block.m) {
        for (p, acc) in acc.iter().enumerate() {
            let (c, mask) = columns(block, row, panel + p);
            // SAFETY: row < m, and the mask stays below `columns`.
            unsafe { _mm512_mask_storeu_ps(c, mask, *acc) };
        }
    }
}

/// The same bits, typed as bf16.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn as_bf16(x: __m512i) -> __m512bh {
    // SAFETY: both types are 512 bits, and any bits are a value of either.
    unsafe { std::mem::transmute(x) }
}

/// Where a row of a panel goes, and which of its columns exist.
#[inline(always)]
fn columns(block: &GemmBlock<'_, bf16, bf16, f32>, row: usize, panel: usize) -> (*mut f32, __mmask16) {
    let width = NR.min(block.columns - panel * NR);
    let c = block.c.wrapping_add(row * block.ldc + panel * NR);
    (c, ((1u32 << width) - 1) as __mmask16)
}
