//! Products of activations as integers with a panel of quantised weights, and its decoding.

use super::CHUNK;
use super::block::{MIN, NONE, QuantBlock, ZERO};
use super::codes::Code;
use super::digits::{Digits, IntegerRows};
use super::words::Lookup;
use crate::layout::NR;
use crate::simd::prefetch;

/// Scales for each chunk.
const fn per_chunk<C: Code>() -> usize {
    if C::HALVES { 2 } else { 1 }
}

/// See [`QuantDot`](super::QuantDot); `MR` is the most rows of the tier.
#[inline(always)]
pub(crate) fn dot<S: Lookup, D: Digits<S>, C: Code, const NV: usize, const MR: usize, const MODE: u8>(
    s: S,
    _: D,
    y: &mut [f32],
    stride: usize,
    rows: &IntegerRows<'_>,
    block: &QuantBlock<'_>,
) {
    block.check(C::BYTES, per_chunk::<C>(), MODE);
    let (count, cells) = (rows.rows, block.chunks * rows.rows);
    assert!(y.len() >= count.saturating_sub(1) * stride + NR, "results are too short");
    assert!(rows.digits.len() >= 64 * cells && rows.scales.len() >= cells, "digits are too short");
    assert!(rows.starts.len() >= per_chunk::<C>() * cells, "starts are too short");
    assert!(MODE == NONE || rows.sums.len() >= per_chunk::<C>() * cells, "sums are too short");
    // SAFETY: the slices were held to the counts.
    unsafe {
        match count {
            1 => tile::<S, D, C, NV, 1, MODE>(s, y, stride, rows, block),
            2 => tile::<S, D, C, NV, 2, MODE>(s, y, stride, rows, block),
            3 if MR >= 6 => tile::<S, D, C, NV, 3, MODE>(s, y, stride, rows, block),
            4 if MR >= 4 => tile::<S, D, C, NV, 4, MODE>(s, y, stride, rows, block),
            6 if MR >= 6 => tile::<S, D, C, NV, 6, MODE>(s, y, stride, rows, block),
            8 if MR >= 8 => tile::<S, D, C, NV, 8, MODE>(s, y, stride, rows, block),
            _ => panic!("{count} rows are not multiplied together"),
        }
    }
}

/// `R` rows.
///
/// # Safety
/// The slices hold what [`dot`] checks, and there are `R` rows.
#[inline(always)]
unsafe fn tile<S: Lookup, D: Digits<S>, C: Code, const NV: usize, const R: usize, const MODE: u8>(
    s: S,
    y: &mut [f32],
    stride: usize,
    rows: &IntegerRows<'_>,
    block: &QuantBlock<'_>,
) {
    let table = s.table(block.format.table());
    let y = y.as_mut_ptr();
    let mut total = [[s.splat(0.0); NV]; R];
    // SAFETY: the caller vouches for all rows of y and all chunks.
    unsafe {
        for (r, total) in total.iter_mut().enumerate() {
            for (v, total) in total.iter_mut().enumerate() {
                *total = s.load_ptr(y.add(r * stride + v * S::LANES));
            }
        }
        for chunk in 0..block.chunks {
            let codes = block.codes.as_ptr().add(chunk * C::BYTES);
            let ahead = block.codes.as_ptr().wrapping_add(block.ahead.0 + chunk * block.ahead.1);
            prefetch(ahead, C::BYTES + 64);
            let at = chunk * per_chunk::<C>();
            let mut sums = start::<S, D, NV, R>(s, rows, at);
            half::<S, D, C, NV, R>(s, &mut sums, table, rows, codes, chunk, false);
            if C::HALVES {
                add_scaled::<S, D, NV, R, MODE>(s, &mut total, &sums, rows, block, chunk, at);
                sums = start::<S, D, NV, R>(s, rows, at + 1);
            }
            half::<S, D, C, NV, R>(s, &mut sums, table, rows, codes, chunk, true);
            add_scaled::<S, D, NV, R, MODE>(s, &mut total, &sums, rows, block, chunk, at + per_chunk::<C>() - 1);
        }
        for (r, total) in total.iter().enumerate() {
            for (v, total) in total.iter().enumerate() {
                s.store_ptr(y.add(r * stride + v * S::LANES), *total);
            }
        }
    }
}

/// What the sums of scale `at` start from.
///
/// # Safety
/// The rows have it.
#[inline(always)]
unsafe fn start<S: Lookup, D: Digits<S>, const NV: usize, const R: usize>(
    s: S,
    rows: &IntegerRows<'_>,
    at: usize,
) -> [[D::Sum; NV]; R] {
    let mut sums = [[D::start(s, 0); NV]; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as the caller vouches.
        *sums = [D::start(s, unsafe { *rows.starts.as_ptr().add(at * R + r) }); NV];
    }
    sums
}

/// Adds the products of 16 inputs of a chunk to the sums of `R` rows.
///
/// # Safety
/// As [`tile`]; the chunk exists, and its codes lie at `codes`.
#[inline(always)]
unsafe fn half<S: Lookup, D: Digits<S>, C: Code, const NV: usize, const R: usize>(
    s: S,
    sums: &mut [[D::Sum; NV]; R],
    table: S::T,
    rows: &IntegerRows<'_>,
    codes: *const u8,
    chunk: usize,
    second: bool,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let x = rows.digits.as_ptr().add(chunk * R * 64);
        C::half::<S, NV>(
            s,
            table,
            codes,
            second,
            #[inline(always)]
            |v, bytes| {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (sum, bytes) in sums.iter_mut().zip(bytes) {
                        *sum = D::add(s, *sum, bytes, x.add(r * 64), v);
                    }
                }
            },
        );
    }
}

/// Adds the scaled sums of `R` rows, and their minima, to the totals.
///
/// # Safety
/// The block has a scale at `at`, and the rows what stands beside it.
#[inline(always)]
unsafe fn add_scaled<S: Lookup, D: Digits<S>, const NV: usize, const R: usize, const MODE: u8>(
    s: S,
    total: &mut [[S::V; NV]; R],
    sums: &[[D::Sum; NV]; R],
    rows: &IntegerRows<'_>,
    block: &QuantBlock<'_>,
    chunk: usize,
    at: usize,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        for v in 0..NV {
            let scale = s.load_ptr(block.scales.as_ptr().add(at * NR + v * S::LANES));
            let offset =
                if MODE == NONE { scale } else { s.load_ptr(block.offsets.as_ptr().add(at * NR + v * S::LANES)) };
            for r in 0..R {
                let mut sum = D::end(s, sums[r][v]);
                if MODE == ZERO {
                    let inputs = s.splat(*rows.sums.as_ptr().add(at * R + r));
                    sum = s.fused(offset, inputs, sum);
                }
                sum = s.mul(sum, s.splat(*rows.scales.as_ptr().add(chunk * R + r)));
                total[r][v] = s.fused(scale, sum, total[r][v]);
                if MODE == MIN {
                    let inputs = s.splat(*rows.sums.as_ptr().add(at * R + r));
                    total[r][v] = s.fused(offset, inputs, total[r][v]);
                }
            }
        }
    }
}

/// See [`QuantDecode`](super::QuantDecode).
#[inline(always)]
pub(crate) fn decode<S: Lookup, C: Code, const NV: usize, const MODE: u8>(
    s: S,
    out: &mut [f32],
    block: &QuantBlock<'_>,
) {
    block.check(C::BYTES, per_chunk::<C>(), MODE);
    block.check_decoded(out);
    let (table, order) = (s.table(block.format.table()), block.format.order());
    let (bias, unit) = (s.splat(block.format.bias() as f32), s.splat(block.format.unit()));
    for chunk in 0..block.chunks {
        for second in [false, true] {
            let at = chunk * per_chunk::<C>() + usize::from(C::HALVES && second);
            // SAFETY: the slices were held to the counts; an order names inputs of a chunk.
            unsafe {
                let (mut scale, mut offset) = ([s.splat(0.0); NV], [s.splat(0.0); NV]);
                for v in 0..NV {
                    scale[v] = s.load_ptr(block.scales.as_ptr().add(at * NR + v * S::LANES));
                    if MODE != NONE {
                        offset[v] = s.load_ptr(block.offsets.as_ptr().add(at * NR + v * S::LANES));
                    }
                }
                let to = out.as_mut_ptr().add(chunk * CHUNK * NR);
                let codes = block.codes.as_ptr().add(chunk * C::BYTES);
                C::half::<S, NV>(
                    s,
                    table,
                    codes,
                    second,
                    #[inline(always)]
                    |v, bytes| {
                        for (i, bytes) in bytes.into_iter().enumerate() {
                            let each = [s.byte::<0>(bytes), s.byte::<1>(bytes), s.byte::<2>(bytes), s.byte::<3>(bytes)];
                            for (b, code) in each.into_iter().enumerate() {
                                let code = s.mul(s.sub(code, bias), unit);
                                let weight = match MODE {
                                    MIN => s.madd(scale[i], code, offset[i]),
                                    ZERO => s.mul(s.sub(code, offset[i]), scale[i]),
                                    _ => s.mul(scale[i], code),
                                };
                                s.store_ptr(to.add(usize::from(order[4 * v + b]) * NR + i * S::LANES), weight);
                            }
                        }
                    },
                );
            }
        }
    }
}
