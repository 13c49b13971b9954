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

/// Rows that two panels meet together: one load of an activation serves both.
const PAIRED: usize = 4;

/// See [`QuantDot`](super::QuantDot); `MR` is the most rows of the tier, `PAIRS` whether it has the registers for two panels.
#[inline(always)]
pub(crate) fn dot<
    S: Lookup,
    D: Digits<S>,
    C: Code,
    const NV: usize,
    const MR: usize,
    const PAIRS: bool,
    const MODE: u8,
>(
    s: S,
    _: D,
    y: &mut [f32],
    stride: usize,
    rows: &IntegerRows<'_>,
    blocks: &[QuantBlock<'_>],
) {
    let Some(first) = blocks.first() else { return };
    let (count, cells) = (rows.rows, first.chunks * rows.rows);
    assert!(y.len() >= count.saturating_sub(1) * stride + blocks.len() * NR, "results are too short");
    assert!(rows.digits.len() >= 64 * cells && rows.scales.len() >= cells, "digits are too short");
    assert!(rows.starts.len() >= per_chunk::<C>() * cells, "starts are too short");
    assert!(MODE == NONE || rows.sums.len() >= per_chunk::<C>() * cells, "sums are too short");
    for block in blocks {
        block.check(C::BYTES, per_chunk::<C>(), MODE);
        assert!(block.chunks == first.chunks, "panels of one length");
    }
    let y = y.as_mut_ptr();
    // SAFETY: the slices were held to the counts.
    unsafe {
        for (i, blocks) in blocks.chunks(2).enumerate() {
            let y = y.add(2 * i * NR);
            if let (true, [a, b]) = (PAIRS && C::CHEAP && (count == PAIRED || count == 2 * PAIRED), blocks) {
                for first in (0..count).step_by(PAIRED) {
                    tile::<S, D, C, NV, PAIRED, 2, MODE>(s, y, stride, rows, [a, b], first);
                }
                continue;
            }
            for (j, block) in blocks.iter().enumerate() {
                let (y, block) = (y.add(j * NR), [block]);
                match count {
                    1 => tile::<S, D, C, NV, 1, 1, MODE>(s, y, stride, rows, block, 0),
                    2 => tile::<S, D, C, NV, 2, 1, MODE>(s, y, stride, rows, block, 0),
                    3 if MR >= 6 => tile::<S, D, C, NV, 3, 1, MODE>(s, y, stride, rows, block, 0),
                    4 if MR >= 4 => tile::<S, D, C, NV, 4, 1, MODE>(s, y, stride, rows, block, 0),
                    6 if MR >= 6 => tile::<S, D, C, NV, 6, 1, MODE>(s, y, stride, rows, block, 0),
                    8 if MR >= 8 => tile::<S, D, C, NV, 8, 1, MODE>(s, y, stride, rows, block, 0),
                    _ => panic!("{count} rows are not multiplied together"),
                }
            }
        }
    }
}

/// `R` rows from row `first` on, and `P` panels; all rows where there is one panel.
///
/// # Safety
/// The slices hold what [`dot`] checks, `y` is where the first panel's results of the first of all rows lie, and there are these
/// rows.
#[inline(always)]
unsafe fn tile<S: Lookup, D: Digits<S>, C: Code, const NV: usize, const R: usize, const P: usize, const MODE: u8>(
    s: S,
    y: *mut f32,
    stride: usize,
    rows: &IntegerRows<'_>,
    blocks: [&QuantBlock<'_>; P],
    first: usize,
) {
    let table = s.table(blocks[0].format.table());
    let at = Part { first, all: if P == 1 { R } else { rows.rows } };
    let mut total = [[[s.splat(0.0); NV]; R]; P];
    // SAFETY: the caller vouches for all rows of y and all chunks.
    unsafe {
        for (p, total) in total.iter_mut().enumerate() {
            for (r, total) in total.iter_mut().enumerate() {
                for (v, total) in total.iter_mut().enumerate() {
                    *total = s.load_ptr(y.add((first + r) * stride + p * NR + v * S::LANES));
                }
            }
        }
        for chunk in 0..blocks[0].chunks {
            let mut codes = [std::ptr::null(); P];
            for (codes, block) in codes.iter_mut().zip(blocks) {
                *codes = block.codes.as_ptr().add(chunk * C::BYTES);
            }
            for block in blocks {
                let ahead = block.codes.as_ptr().wrapping_add(block.ahead.0 + chunk * block.ahead.1);
                prefetch(ahead, C::BYTES + 64);
            }
            let scale = chunk * per_chunk::<C>();
            let mut sums = start::<S, D, NV, R, P>(s, rows, at, scale);
            half::<S, D, C, NV, R, P>(s, &mut sums, table, rows, at, codes, chunk, false);
            if C::HALVES {
                add_scaled::<S, D, NV, R, P, MODE>(s, &mut total, &sums, rows, at, blocks, chunk, scale);
                sums = start::<S, D, NV, R, P>(s, rows, at, scale + 1);
            }
            half::<S, D, C, NV, R, P>(s, &mut sums, table, rows, at, codes, chunk, true);
            let scale = scale + per_chunk::<C>() - 1;
            add_scaled::<S, D, NV, R, P, MODE>(s, &mut total, &sums, rows, at, blocks, chunk, scale);
        }
        for (p, total) in total.iter().enumerate() {
            for (r, total) in total.iter().enumerate() {
                for (v, total) in total.iter().enumerate() {
                    s.store_ptr(y.add((first + r) * stride + p * NR + v * S::LANES), *total);
                }
            }
        }
    }
}

/// The part of the rows that a tile has: where it starts, and how many rows there are.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    all: usize,
}

impl Part {
    /// Where row `r` of the tile stands in cell `cell` of a list.
    #[inline(always)]
    fn of(self, cell: usize, r: usize) -> usize {
        cell * self.all + self.first + r
    }
}

/// What the sums of scale `scale` start from.
///
/// # Safety
/// The rows have it.
#[inline(always)]
unsafe fn start<S: Lookup, D: Digits<S>, const NV: usize, const R: usize, const P: usize>(
    s: S,
    rows: &IntegerRows<'_>,
    at: Part,
    scale: usize,
) -> [[[D::Sum; NV]; R]; P] {
    let mut sums = [[D::start(s, 0); NV]; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as the caller vouches.
        *sums = [D::start(s, unsafe { *rows.starts.as_ptr().add(at.of(scale, r)) }); NV];
    }
    [sums; P]
}

/// Adds the products of 16 inputs of a chunk to the sums of `R` rows.
///
/// # Safety
/// As [`tile`]; the chunk exists, and its codes lie at `codes`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "rows, panels and where both are")]
unsafe fn half<S: Lookup, D: Digits<S>, C: Code, const NV: usize, const R: usize, const P: usize>(
    s: S,
    sums: &mut [[[D::Sum; NV]; R]; P],
    table: S::T,
    rows: &IntegerRows<'_>,
    at: Part,
    codes: [*const u8; P],
    chunk: usize,
    second: bool,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let x = rows.digits.as_ptr().add(at.of(chunk, 0) * 64);
        if P == 1 {
            return C::half::<S, NV>(
                s,
                table,
                codes[0],
                second,
                #[inline(always)]
                |v, bytes| {
                    for (r, sums) in sums[0].iter_mut().enumerate() {
                        for (sum, bytes) in sums.iter_mut().zip(bytes) {
                            *sum = D::add(s, *sum, bytes, x.add(r * 64), v);
                        }
                    }
                },
            );
        }
        let mut words = [[[s.words(0); NV]; P]; 4];
        for (p, codes) in codes.into_iter().enumerate() {
            C::half::<S, NV>(
                s,
                table,
                codes,
                second,
                #[inline(always)]
                |v, bytes| words[v % 4][p] = bytes,
            );
        }
        for (v, words) in words.into_iter().enumerate() {
            let v = if second { v + 4 } else { v };
            for r in 0..R {
                for (sums, bytes) in sums.iter_mut().zip(words) {
                    for (sum, bytes) in sums[r].iter_mut().zip(bytes) {
                        *sum = D::add(s, *sum, bytes, x.add(r * 64), v);
                    }
                }
            }
        }
    }
}

/// Adds the scaled sums of `R` rows, and their minima, to the totals.
///
/// # Safety
/// The blocks have a scale at `scale`, and the rows what stands beside it.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "rows, panels and where both are")]
unsafe fn add_scaled<S: Lookup, D: Digits<S>, const NV: usize, const R: usize, const P: usize, const MODE: u8>(
    s: S,
    total: &mut [[[S::V; NV]; R]; P],
    sums: &[[[D::Sum; NV]; R]; P],
    rows: &IntegerRows<'_>,
    at: Part,
    blocks: [&QuantBlock<'_>; P],
    chunk: usize,
    scale: usize,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        for ((total, sums), block) in total.iter_mut().zip(sums).zip(blocks) {
            for v in 0..NV {
                let beside = scale * NR + v * S::LANES;
                let factor = s.load_ptr(block.scales.as_ptr().add(beside));
                let offset = if MODE == NONE { factor } else { s.load_ptr(block.offsets.as_ptr().add(beside)) };
                for r in 0..R {
                    let mut sum = D::end(s, sums[r][v]);
                    if MODE == ZERO {
                        let inputs = s.splat(*rows.sums.as_ptr().add(at.of(scale, r)));
                        sum = s.fused(offset, inputs, sum);
                    }
                    sum = s.mul(sum, s.splat(*rows.scales.as_ptr().add(at.of(chunk, r))));
                    total[r][v] = s.fused(factor, sum, total[r][v]);
                    if MODE == MIN {
                        let inputs = s.splat(*rows.sums.as_ptr().add(at.of(scale, r)));
                        total[r][v] = s.fused(offset, inputs, total[r][v]);
                    }
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
