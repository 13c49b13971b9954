//! Products of activations in f32 with a panel of fp8, and its decoding.

use super::CHUNK;
use super::block::{FloatRows, NONE, QuantBlock};
use super::words::Lookup;
use crate::layout::NR;
use crate::simd::prefetch;

/// How the codes of an input are read.
pub(crate) trait Float: Copy {
    /// The numbers of as many outputs as a vector has lanes.
    ///
    /// # Safety
    /// As many bytes are readable at `p`.
    unsafe fn load<S: Lookup>(s: S, p: *const u8) -> S::V;
}

/// fp8 1-4-3.
#[derive(Clone, Copy)]
pub(crate) struct E4m3;

impl Float for E4m3 {
    #[inline(always)]
    unsafe fn load<S: Lookup>(s: S, p: *const u8) -> S::V {
        // SAFETY: as the caller vouches.
        unsafe { s.load_e4m3(p) }
    }
}

/// fp8 1-5-2.
#[derive(Clone, Copy)]
pub(crate) struct E5m2;

impl Float for E5m2 {
    #[inline(always)]
    unsafe fn load<S: Lookup>(s: S, p: *const u8) -> S::V {
        // SAFETY: as the caller vouches.
        unsafe { s.load_e5m2(p) }
    }
}

/// Bytes of a chunk.
const BYTES: usize = CHUNK * NR;

/// See [`QuantDot`](super::QuantDot); `MR` is the most rows of the tier.
#[inline(always)]
pub(crate) fn dot<S: Lookup, C: Float, const NV: usize, const MR: usize>(
    s: S,
    y: &mut [f32],
    stride: usize,
    rows: &FloatRows<'_>,
    block: &QuantBlock<'_>,
) {
    block.check(BYTES, 1, NONE);
    let count = rows.rows;
    assert!(y.len() >= count.saturating_sub(1) * stride + NR, "results are too short");
    assert!(rows.x.len() >= block.chunks * CHUNK * count, "activations are too short");
    // SAFETY: the slices were held to the counts.
    unsafe {
        match count {
            1 if S::LANES == 16 => tile::<S, C, NV, 1, 4>(s, y, stride, rows, block),
            2 if S::LANES == 16 => tile::<S, C, NV, 2, 2>(s, y, stride, rows, block),
            1 => tile::<S, C, NV, 1, 2>(s, y, stride, rows, block),
            2 => tile::<S, C, NV, 2, 1>(s, y, stride, rows, block),
            3 if MR >= 6 => tile::<S, C, NV, 3, 1>(s, y, stride, rows, block),
            4 => tile::<S, C, NV, 4, 1>(s, y, stride, rows, block),
            6 if MR >= 6 => tile::<S, C, NV, 6, 1>(s, y, stride, rows, block),
            8 if MR >= 8 => tile::<S, C, NV, 8, 1>(s, y, stride, rows, block),
            12 if MR >= 12 => tile::<S, C, NV, 12, 1>(s, y, stride, rows, block),
            _ => panic!("{count} rows are not multiplied together"),
        }
    }
}

/// `R` rows; `P` chunks at a time keep the multiply-adds busy where rows are few.
///
/// # Safety
/// The slices hold what [`dot`] checks, and there are `R` rows.
#[inline(always)]
unsafe fn tile<S: Lookup, C: Float, const NV: usize, const R: usize, const P: usize>(
    s: S,
    y: &mut [f32],
    stride: usize,
    rows: &FloatRows<'_>,
    block: &QuantBlock<'_>,
) {
    let y = y.as_mut_ptr();
    let mut total = [[s.splat(0.0); NV]; R];
    // SAFETY: the caller vouches for all rows of y and all chunks.
    unsafe {
        for (r, total) in total.iter_mut().enumerate() {
            for (v, total) in total.iter_mut().enumerate() {
                *total = s.load_ptr(y.add(r * stride + v * S::LANES));
            }
        }
        let mut chunk = 0;
        while chunk + P <= block.chunks {
            some::<S, C, NV, R, P>(s, &mut total, rows, block, chunk);
            chunk += P;
        }
        while P > 1 && chunk < block.chunks {
            some::<S, C, NV, R, 1>(s, &mut total, rows, block, chunk);
            chunk += 1;
        }
        for (r, total) in total.iter().enumerate() {
            for (v, total) in total.iter().enumerate() {
                s.store_ptr(y.add(r * stride + v * S::LANES), *total);
            }
        }
    }
}

/// Adds the products of `P` chunks from `chunk` on to the totals.
///
/// # Safety
/// As [`tile`], and the chunks exist.
#[inline(always)]
unsafe fn some<S: Lookup, C: Float, const NV: usize, const R: usize, const P: usize>(
    s: S,
    total: &mut [[S::V; NV]; R],
    rows: &FloatRows<'_>,
    block: &QuantBlock<'_>,
    chunk: usize,
) {
    let mut sums = [[[s.splat(0.0); NV]; P]; R];
    // SAFETY: as the caller vouches.
    unsafe {
        let codes = block.codes.as_ptr().add(chunk * BYTES);
        let x = rows.x.as_ptr().add(chunk * CHUNK * R);
        let ahead = block.codes.as_ptr().wrapping_add(block.ahead.0 + chunk * block.ahead.1);
        for k in 0..CHUNK {
            // One line after the other: a burst of them would make the processor wait.
            prefetch(ahead.wrapping_add(k * P * BYTES / CHUNK / 64 * 64), 64);
            for p in 0..P {
                for v in 0..NV {
                    let code = C::load(s, codes.add(p * BYTES + k * NR + v * S::LANES));
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = s.splat(*x.add((p * CHUNK + k) * R + r));
                        sums[p][v] = s.madd(x, code, sums[p][v]);
                    }
                }
            }
        }
        for p in 0..P {
            for v in 0..NV {
                let scale = s.load_ptr(block.scales.as_ptr().add((chunk + p) * NR + v * S::LANES));
                for (total, sums) in total.iter_mut().zip(&sums) {
                    total[v] = s.madd(scale, sums[p][v], total[v]);
                }
            }
        }
    }
}

/// See [`QuantDecode`](super::QuantDecode).
#[inline(always)]
pub(crate) fn decode<S: Lookup, C: Float, const NV: usize>(s: S, out: &mut [f32], block: &QuantBlock<'_>) {
    block.check(BYTES, 1, NONE);
    block.check_decoded(out);
    for chunk in 0..block.chunks {
        for v in 0..NV {
            // SAFETY: the slices were held to the counts.
            unsafe {
                let scale = s.load_ptr(block.scales.as_ptr().add(chunk * NR + v * S::LANES));
                for k in chunk * CHUNK..(chunk + 1) * CHUNK {
                    let code = C::load(s, block.codes.as_ptr().add(k * NR + v * S::LANES));
                    s.store_ptr(out.as_mut_ptr().add(k * NR + v * S::LANES), s.mul(scale, code));
                }
            }
        }
    }
}
