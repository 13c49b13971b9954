//! bf16 by bf16 with `vdpbf16ps`, for processors where it is faster than widening to f32.

use std::arch::x86_64::*;

use half::bf16;

use crate::gemm::{AHEAD, GemmBlock, KC, SHORT_PANEL};
use crate::isa::Features;
use crate::layout::NR;
use crate::simd::{prefetch, prefetch_line};
use crate::table::{Entry, Gemm, GemvDot};

/// Rows of the tile.
const MR: usize = 12;

/// The mask of a panel whose columns all exist.
const ALL: __mmask16 = 0xffff;

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
    let side_by_side = 2 * panel_stride >= SHORT_PANEL;
    let mut panel = 0;
    while panel < panels {
        // SAFETY: the slices were held to the counts; y is borrowed for writing, and columns stay within it.
        unsafe {
            if side_by_side && panel + 4 <= panels {
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
    // SAFETY: check() held the slices to the counts and m to MR; C is the caller's word.
    unsafe {
        match block.m {
            0 => {}
            1 => rows::<1, 4>(block),
            2 => rows::<2, 4>(block),
            3 | 4 => rows::<4, 4>(block),
            5 | 6 => rows::<6, 4>(block),
            7 | 8 => rows::<8, 2>(block),
            9 | 10 => rows::<10, 2>(block),
            _ => rows::<MR, 2>(block),
        }
    }
}

/// All panels of a block, `P` at a time and then one at a time. Few rows take more panels together, so that there
/// are sums enough to keep the multipliers busy.
///
/// # Safety
/// As for [`gemm`], after the check; `R <= MR`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn rows<const R: usize, const P: usize>(block: &GemmBlock<'_, bf16, bf16, f32>) {
    let mut panel = 0;
    while panel < block.panels {
        // SAFETY: the panels exist; the rest is the caller's word.
        unsafe {
            if panel + P <= block.panels {
                tile::<MR, R, P>(block, panel);
                panel += P;
            } else {
                tile::<MR, R, 1>(block, panel);
                panel += 1;
            }
        }
    }
}

/// `R` rows by `P` panels; a pair of inputs of the micro-panel has `HEIGHT` rows.
///
/// # Safety
/// As for [`rows`]; `R <= HEIGHT`; panels `panel .. panel + P` exist.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn tile<const HEIGHT: usize, const R: usize, const P: usize>(
    block: &GemmBlock<'_, bf16, bf16, f32>,
    panel: usize,
) {
    let mut acc = [[_mm512_setzero_ps(); P]; R];
    if block.accumulate {
        for (row, acc) in acc.iter_mut().enumerate().take(block.m) {
            // What the next tile of these rows adds to.
            let next = block.c.wrapping_add(row * block.ldc + (panel + P) * NR);
            prefetch(next.cast(), P * NR * 4);
            for (p, acc) in acc.iter_mut().enumerate() {
                let (c, mask) = columns(block, row, panel + p);
                // SAFETY: row < m, and the mask stays below `columns`.
                *acc = unsafe { if mask == ALL { _mm512_loadu_ps(c) } else { _mm512_maskz_loadu_ps(mask, c) } };
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
            if R >= 10 {
                prefetch_line(w.cast::<u8>().wrapping_add(AHEAD));
            }
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
            unsafe {
                if mask == ALL {
                    _mm512_storeu_ps(c, *acc);
                } else {
                    _mm512_mask_storeu_ps(c, mask, *acc);
                }
            }
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
