//! int8 with AVX2: weights and activations widened to i16, pairs multiplied and added by
//! `vpmaddwd`, which cannot overflow here (2 · 128 · 128 < 2^31).

use std::arch::x86_64::*;

use crate::gemm::{GemmBlock, KC, pack_a_groups};
use crate::isa::Features;
use crate::layout::NR;
use crate::scalar::larger;
use crate::table::{Entry, Gemm, Int8};

/// Rows of the tile.
const MR: usize = 3;

/// The packing and the kernel of this tier.
pub(crate) fn int8(_: &Features) -> Int8 {
    (
        Entry { name: "pack_a_i8.avx2", run: pack_a_groups::<i8, MR, 4> },
        Gemm { name: "gemm_i8_3x16.avx2", mr: MR, nr: NR, kc: KC, run: gemm },
    )
}

/// `C = A·Wᵀ` in i32. See [`crate::Kernels::gemm_i8`].
///
/// # Safety
/// The processor has AVX2. Each of the block's `m` rows of C has `columns` writable elements that
/// nobody else touches.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemm(block: &GemmBlock<'_, i8, i8, i32>) {
    block.check(MR, 4);
    for panel in 0..block.panels {
        // SAFETY: check() held the slices to the counts; C is the caller's word.
        unsafe {
            match block.m {
                0 => {}
                1 => tile::<1>(block, panel),
                _ => tile::<MR>(block, panel),
            }
        }
    }
}

/// `R` rows of one panel.
///
/// An accumulator holds four columns as two partial sums each.
///
/// # Safety
/// As for [`gemm`], after the check; `R <= MR`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const R: usize>(block: &GemmBlock<'_, i8, i8, i32>, panel: usize) {
    let mut acc = [[_mm256_setzero_si256(); 4]; R];
    let w = block.w.as_ptr().wrapping_add(panel * block.panel_stride);
    let a = block.a.as_ptr();
    for group in 0..block.kc.div_ceil(4) {
        let mut weights = [_mm256_setzero_si256(); 4];
        for (quarter, weights) in weights.iter_mut().enumerate() {
            // SAFETY: a group of a panel has 64 weights.
            let bytes = unsafe { _mm_loadu_si128(w.add(group * 64 + quarter * 16).cast()) };
            *weights = _mm256_cvtepi8_epi16(bytes);
        }
        for (row, acc) in acc.iter_mut().enumerate() {
            // SAFETY: a group of a micro-panel has four bytes for each of MR rows.
            let four = unsafe { a.add((group * MR + row) * 4).cast::<i32>().read_unaligned() };
            let x = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four)));
            for (acc, weights) in acc.iter_mut().zip(&weights) {
                *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(x, *weights));
            }
        }
    }
    for (row, acc) in acc.iter().enumerate().take(block.m) {
        // SAFETY: row < m; the caller vouches for C.
        let mut out = unsafe { block.read(row, panel) };
        for (quarter, acc) in acc.iter().enumerate() {
            let mut parts = [0i32; 8];
            // SAFETY: the array has the size of the vector.
            unsafe { _mm256_storeu_si256(parts.as_mut_ptr().cast(), *acc) };
            for column in 0..4 {
                let sum = parts[2 * column].wrapping_add(parts[2 * column + 1]);
                let out = &mut out[quarter * 4 + column];
                *out = out.wrapping_add(sum);
            }
        }
        // SAFETY: row < m; the caller vouches for C.
        unsafe { block.write(row, panel, &out) };
    }
}

/// Quantises one row. See [`crate::Kernels::quantize_row_i8`].
pub(crate) fn quantize_row_i8(out: &mut [i8], x: &[f32]) -> f32 {
    // SAFETY: the table is only handed out on machines that have the tier.
    unsafe { quantize(out, x) }
}

/// The largest magnitude of a row; NaN where there is one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn largest(x: &[f32]) -> f32 {
    let sign = _mm256_set1_ps(-0.0);
    let mut most = _mm256_setzero_ps();
    let mut nan = _mm256_setzero_ps();
    let chunks = x.chunks_exact(8);
    let rest = chunks.remainder();
    for x in chunks {
        // SAFETY: a chunk has eight elements.
        let v = unsafe { _mm256_loadu_ps(x.as_ptr()) };
        most = _mm256_max_ps(_mm256_andnot_ps(sign, v), most);
        nan = _mm256_or_ps(nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    }
    if _mm256_movemask_ps(nan) != 0 {
        return f32::NAN;
    }
    let mut lanes = [0f32; 8];
    // SAFETY: the array has the size of the vector.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), most) };
    lanes.iter().chain(rest).fold(0.0, larger)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize(out: &mut [i8], x: &[f32]) -> f32 {
    assert_eq!(out.len(), x.len(), "quantize_row_i8: lengths of output and row");
    let scale = largest(x) / 127.0;
    if scale == 0.0 {
        out.fill(0);
        return 0.0;
    }
    let divisor = _mm256_set1_ps(scale);
    let limit = _mm256_set1_ps(127.0);
    let mut to = out.chunks_exact_mut(8);
    let from = x.chunks_exact(8);
    let rest = from.remainder();
    for (to, from) in to.by_ref().zip(from) {
        // SAFETY: both chunks have eight elements.
        unsafe {
            let v = _mm256_div_ps(_mm256_loadu_ps(from.as_ptr()), divisor);
            let number = _mm256_and_ps(v, _mm256_cmp_ps(v, v, _CMP_ORD_Q));
            let held = _mm256_min_ps(_mm256_max_ps(number, _mm256_set1_ps(-128.0)), limit);
            let wide = _mm256_cvtps_epi32(held);
            let words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
            _mm_storel_epi64(to.as_mut_ptr().cast(), _mm_packs_epi16(words, words));
        }
    }
    for (q, x) in to.into_remainder().iter_mut().zip(rest) {
        *q = (x / scale).round_ties_even() as i8;
    }
    scale
}
