//! int8 with `vpdpbusd`, whose left operand is unsigned: activations are raised by 128, and
//! `128 · Σ w` of each column, from the sums behind the panel, is taken off where a chain starts.

use std::arch::x86_64::*;

use crate::gemm::{GemmBlock, KC, pack_a_groups};
use crate::isa::Features;
use crate::layout::NR;
use crate::table::{Entry, Gemm, Int8};

/// Rows of the tile.
const MR: usize = 12;

/// The packing and the kernel of this tier; that of AVX2 where VNNI is missing.
pub(super) fn int8(features: &Features) -> Int8 {
    if !features.avx512_vnni {
        return crate::avx2::int8(features);
    }
    (
        Entry { name: "pack_a_i8.avx512", run: pack_a_groups::<i8, MR, 4> },
        Gemm { name: "gemm_i8_12x32.avx512", mr: MR, nr: 2 * NR, kc: 4 * KC, run: gemm },
    )
}

/// `C = A·Wᵀ` in i32. See [`crate::Kernels::gemm_i8`].
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and VNNI. Each of the block's `m` rows of C has
/// `columns` writable elements that nobody else touches.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn gemm(block: &GemmBlock<'_, i8, i8, i32>) {
    block.check(MR, 4);
    let sums_end = block.panels * block.panel_stride;
    assert!(
        block.accumulate || block.w.len() >= sums_end,
        "the first block of K needs whole panels, with their column sums"
    );
    let mut panel = 0;
    while panel < block.panels {
        // SAFETY: the slices were held to the counts; C is the caller's word.
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
/// As for [`gemm`], after the checks; panels `panel .. panel + P` exist.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn rows<const P: usize>(block: &GemmBlock<'_, i8, i8, i32>, panel: usize) {
    // SAFETY: the heights are at most MR; the rest is the caller's word.
    unsafe {
        match block.m {
            0 => {}
            1 => tile::<1, P>(block, panel),
            2..=4 => tile::<4, P>(block, panel),
            5..=8 => tile::<8, P>(block, panel),
            _ => tile::<MR, P>(block, panel),
        }
    }
}

/// `R` rows by `P` panels.
///
/// # Safety
/// As for [`rows`]; `R <= MR`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile<const R: usize, const P: usize>(block: &GemmBlock<'_, i8, i8, i32>, panel: usize) {
    let mut acc = [[_mm512_setzero_si512(); P]; R];
    let mut w: [*const i8; P] =
        std::array::from_fn(|p| block.w.as_ptr().wrapping_add((panel + p) * block.panel_stride));
    for p in 0..P {
        // SAFETY: the sums are the last 64 bytes of the panel, which gemm() checked to be there
        // where they are needed; row < m and the mask keep within C.
        unsafe {
            let mut start = _mm512_setzero_si512();
            if !block.accumulate {
                let sums = _mm512_loadu_si512(w[p].add(block.panel_stride - 4 * NR).cast());
                start = _mm512_sub_epi32(start, _mm512_slli_epi32(sums, 7));
            }
            for (row, acc) in acc.iter_mut().enumerate().take(block.m) {
                let (c, mask) = columns(block, row, panel + p);
                acc[p] = if block.accumulate { _mm512_maskz_loadu_epi32(mask, c) } else { start };
            }
        }
    }
    let raise = _mm512_set1_epi8(-128);
    let mut a = block.a.as_ptr().cast::<i32>();
    for _ in 0..block.kc.div_ceil(4) {
        let mut weights = [_mm512_setzero_si512(); P];
        for (weights, w) in weights.iter_mut().zip(&mut w) {
            // SAFETY: check() held the panels to a whole number of groups.
            *weights = unsafe { _mm512_loadu_si512(w.cast()) };
            *w = w.wrapping_add(4 * NR);
        }
        for (row, acc) in acc.iter_mut().enumerate() {
            // SAFETY: a group of a micro-panel has MR rows of 4 bytes.
            let x = _mm512_set1_epi32(unsafe { a.add(row).read_unaligned() });
            let x = _mm512_xor_si512(x, raise);
            for (acc, weights) in acc.iter_mut().zip(&weights) {
                *acc = _mm512_dpbusd_epi32(*acc, x, *weights);
            }
        }
        a = a.wrapping_add(MR);
    }
    for (row, acc) in acc.iter().enumerate().take(block.m) {
        for (p, acc) in acc.iter().enumerate() {
            let (c, mask) = columns(block, row, panel + p);
            // SAFETY: row < m, and the mask stays below `columns`.
            unsafe { _mm512_mask_storeu_epi32(c, mask, *acc) };
        }
    }
}

/// Where a row of a panel goes, and which of its columns exist.
#[inline(always)]
fn columns(block: &GemmBlock<'_, i8, i8, i32>, row: usize, panel: usize) -> (*mut i32, __mmask16) {
    let width = NR.min(block.columns - panel * NR);
    let c = block.c.wrapping_add(row * block.ldc + panel * NR);
    (c, ((1u32 << width) - 1) as __mmask16)
}
