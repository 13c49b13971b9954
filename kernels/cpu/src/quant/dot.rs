//! Products with a panel of quantised weights, and its decoding.

use super::CHUNK;
use super::chunk::{Code, Lookup};
use crate::layout::NR;
use crate::simd::prefetch;

/// A weight is `scale · code`.
pub(crate) const NONE: u8 = 0;
/// A weight is `scale · code + offset`.
pub(crate) const MIN: u8 = 1;
/// A weight is `(code − offset) · scale`.
pub(crate) const ZERO: u8 = 2;

/// Adjacent chunks of one panel, with their scales as f32.
#[derive(Clone, Copy, Debug)]
pub struct QuantBlock<'a> {
    /// The codes of `chunks` chunks.
    pub codes: &'a [u8],
    /// How many chunks.
    pub chunks: usize,
    /// What the low and the high bits of a code stand for: [`QuantFormat::tables`](crate::QuantFormat::tables).
    pub tables: &'a ([f32; 16], [f32; 16]),
    /// `[chunks · scales_per_chunk][16]`.
    pub scales: &'a [f32],
    /// As many offsets; unused where the kernel has none.
    pub offsets: &'a [f32],
}

/// Rows of activations for the inputs of a [`QuantBlock`].
#[derive(Clone, Copy, Debug)]
pub struct QuantRows<'a> {
    /// How many rows.
    pub rows: usize,
    /// The first input of the first row; each row has 32 for every chunk.
    pub x: &'a [f32],
    /// Elements from row to row.
    pub stride: usize,
    /// The sum of the inputs of every scale, used where the kernel adds minima.
    pub sums: &'a [f32],
    /// Sums from row to row.
    pub sums_stride: usize,
}

/// `y[row][j] += Σ x[row][k]·w[j][k]` for the 16 outputs of a panel: `(y, rows, block)`.
pub type QuantDot = fn(y: &mut [f32], rows: &QuantRows<'_>, block: &QuantBlock<'_>);

/// The weights of a block as f32, `[chunks · 32][16]`: `(out, block)`.
pub type QuantDecode = fn(out: &mut [f32], block: &QuantBlock<'_>);

/// The kernels for one kind of codes and offsets.
#[derive(Clone, Copy, Debug)]
pub struct QuantKernel {
    /// For example `gemv_q4_min.avx512`.
    pub name: &'static str,
    /// The product.
    pub dot: QuantDot,
    /// The decoding.
    pub decode: QuantDecode,
}

/// Scales for each chunk.
const fn per_chunk(halves: bool) -> usize {
    if halves { 2 } else { 1 }
}

/// Holds the slices of a block to its count.
#[inline(always)]
fn check<C: Code>(block: &QuantBlock<'_>, halves: bool, mode: u8) {
    let scales = block.chunks * per_chunk(halves) * NR;
    assert!(block.codes.len() >= block.chunks * C::BYTES, "codes are too short");
    assert!(block.scales.len() >= scales, "scales are too short");
    assert!(mode == NONE || block.offsets.len() >= scales, "offsets are too short");
}

/// See [`QuantDot`].
#[inline(always)]
pub(crate) fn dot<S: Lookup, C: Code, const NV: usize, const HALVES: bool, const MODE: u8>(
    s: S,
    y: &mut [f32],
    rows: &QuantRows<'_>,
    block: &QuantBlock<'_>,
) {
    check::<C>(block, HALVES, MODE);
    if rows.rows == 0 {
        return;
    }
    let last = rows.rows - 1;
    assert!(y.len() >= rows.rows * NR, "results are too short");
    assert!(rows.x.len() >= last * rows.stride + block.chunks * CHUNK, "activations are too short");
    let sums = last * rows.sums_stride + block.chunks * per_chunk(HALVES);
    assert!(MODE != MIN || rows.sums.len() >= sums, "sums are too short");
    let mut row = 0;
    while row < rows.rows {
        // SAFETY: the slices were held to the counts, and each call stays within the rows.
        unsafe {
            row += match rows.rows - row {
                1 => some::<S, C, NV, 1, 4, HALVES, MODE>(s, y, rows, block, row),
                2 | 3 => some::<S, C, NV, 2, 2, HALVES, MODE>(s, y, rows, block, row),
                _ => some::<S, C, NV, 4, 1, HALVES, MODE>(s, y, rows, block, row),
            };
        }
    }
}

/// How far ahead of their use codes are asked for, in bytes. A panel with its scales is no single stream, and short: left to
/// themselves the processor's prefetchers begin anew with each.
const AHEAD: usize = 4096;

/// `R` rows from `row` on, each with `PARTS` chains of multiply-adds for every scale; gives `R`.
///
/// # Safety
/// The slices hold what [`dot`] checks, and rows `row .. row + R` exist.
#[inline(always)]
unsafe fn some<
    S: Lookup,
    C: Code,
    const NV: usize,
    const R: usize,
    const PARTS: usize,
    const HALVES: bool,
    const MODE: u8,
>(
    s: S,
    y: &mut [f32],
    rows: &QuantRows<'_>,
    block: &QuantBlock<'_>,
    row: usize,
) -> usize {
    let tables = [s.table(&block.tables.0), s.table(&block.tables.1)];
    // SAFETY: the caller vouches for all pointers that are made here.
    unsafe {
        let y = y.as_mut_ptr().add(row * NR);
        let x = rows.x.as_ptr().add(row * rows.stride);
        let sums = rows.sums.as_ptr().wrapping_add(row * rows.sums_stride);
        let mut total = [[s.splat(0.0); NV]; R];
        for (r, total) in total.iter_mut().enumerate() {
            for (v, total) in total.iter_mut().enumerate() {
                *total = s.load_ptr(y.add(r * NR + v * S::LANES));
            }
        }
        for chunk in 0..block.chunks {
            prefetch(block.codes.as_ptr().wrapping_add(chunk * C::BYTES + AHEAD), C::BYTES);
            let mut acc = [[[s.splat(0.0); NV]; PARTS]; R];
            half::<S, C, NV, R, PARTS, MODE>(s, &mut acc, tables, block, chunk, false, x, rows.stride);
            if HALVES {
                let at = 2 * chunk;
                add_scaled::<S, NV, R, PARTS, MODE>(s, &mut total, &acc, block, at, sums, rows.sums_stride);
                acc = [[[s.splat(0.0); NV]; PARTS]; R];
            }
            half::<S, C, NV, R, PARTS, MODE>(s, &mut acc, tables, block, chunk, true, x, rows.stride);
            let at = if HALVES { 2 * chunk + 1 } else { chunk };
            add_scaled::<S, NV, R, PARTS, MODE>(s, &mut total, &acc, block, at, sums, rows.sums_stride);
        }
        for (r, total) in total.iter().enumerate() {
            for (v, total) in total.iter().enumerate() {
                s.store_ptr(y.add(r * NR + v * S::LANES), *total);
            }
        }
    }
    R
}

/// Adds the products of 16 inputs of a chunk to the chains of `R` rows.
///
/// # Safety
/// The block holds the chunk, and the rows at `x` all its inputs.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a step of one kernel")]
unsafe fn half<S: Lookup, C: Code, const NV: usize, const R: usize, const PARTS: usize, const MODE: u8>(
    s: S,
    acc: &mut [[[S::V; NV]; PARTS]; R],
    tables: [S::T; 2],
    block: &QuantBlock<'_>,
    chunk: usize,
    second: bool,
    x: *const f32,
    stride: usize,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let zero = offset::<S, NV>(s, block, chunk, MODE == ZERO);
        let x = x.add(chunk * CHUNK + if second { 16 } else { 0 });
        let codes = block.codes.as_ptr().add(chunk * C::BYTES);
        C::half::<S, NV>(
            s,
            tables,
            codes,
            second,
            #[inline(always)]
            |k, part, mut codes| {
                for v in 0..NV {
                    if MODE == ZERO {
                        codes[v] = s.sub(codes[v], zero[v]);
                    }
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = s.splat(*x.add(r * stride + k));
                    for v in 0..NV {
                        acc[part % PARTS][v] = s.madd(x, codes[v], acc[part % PARTS][v]);
                    }
                }
            },
        );
    }
}

/// Adds the scaled sums of `R` rows, and their minima, to the totals.
///
/// # Safety
/// The block has a scale at `at`, and `sums` a sum for each row where there are minima.
#[inline(always)]
unsafe fn add_scaled<S: Lookup, const NV: usize, const R: usize, const PARTS: usize, const MODE: u8>(
    s: S,
    total: &mut [[S::V; NV]; R],
    acc: &[[[S::V; NV]; PARTS]; R],
    block: &QuantBlock<'_>,
    at: usize,
    sums: *const f32,
    sums_stride: usize,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let min = offset::<S, NV>(s, block, at, MODE == MIN);
        for v in 0..NV {
            let scale = s.load_ptr(block.scales.as_ptr().add(at * NR + v * S::LANES));
            for r in 0..R {
                let mut sum = acc[r][0][v];
                for part in &acc[r][1..] {
                    sum = s.add(sum, part[v]);
                }
                total[r][v] = s.madd(scale, sum, total[r][v]);
                if MODE == MIN {
                    total[r][v] = s.madd(min[v], s.splat(*sums.add(r * sums_stride + at)), total[r][v]);
                }
            }
        }
    }
}

/// The offsets of a scale where they are wanted, else zeros.
///
/// # Safety
/// They lie in the block where they are wanted.
#[inline(always)]
unsafe fn offset<S: Lookup, const NV: usize>(s: S, block: &QuantBlock<'_>, at: usize, wanted: bool) -> [S::V; NV] {
    let mut out = [s.splat(0.0); NV];
    if wanted {
        for (v, out) in out.iter_mut().enumerate() {
            // SAFETY: as the caller vouches.
            *out = unsafe { s.load_ptr(block.offsets.as_ptr().add(at * NR + v * S::LANES)) };
        }
    }
    out
}

/// See [`QuantDecode`].
#[inline(always)]
pub(crate) fn decode<S: Lookup, C: Code, const NV: usize, const HALVES: bool, const MODE: u8>(
    s: S,
    out: &mut [f32],
    block: &QuantBlock<'_>,
) {
    check::<C>(block, HALVES, MODE);
    assert!(out.len() >= block.chunks * CHUNK * NR, "decoded weights are too short");
    let tables = [s.table(&block.tables.0), s.table(&block.tables.1)];
    for chunk in 0..block.chunks {
        for second in [false, true] {
            let at = chunk * per_chunk(HALVES) + if HALVES && second { 1 } else { 0 };
            // SAFETY: the slices were held to the counts.
            unsafe {
                let offset = offset::<S, NV>(s, block, at, MODE != NONE);
                let mut scale = [s.splat(0.0); NV];
                for (v, scale) in scale.iter_mut().enumerate() {
                    *scale = s.load_ptr(block.scales.as_ptr().add(at * NR + v * S::LANES));
                }
                let to = out.as_mut_ptr().add((chunk * CHUNK + if second { 16 } else { 0 }) * NR);
                let codes = block.codes.as_ptr().add(chunk * C::BYTES);
                C::half::<S, NV>(
                    s,
                    tables,
                    codes,
                    second,
                    #[inline(always)]
                    |k, _, codes| {
                        for (v, code) in codes.into_iter().enumerate() {
                            let weight = match MODE {
                                MIN => s.madd(scale[v], code, offset[v]),
                                ZERO => s.mul(s.sub(code, offset[v]), scale[v]),
                                _ => s.mul(scale[v], code),
                            };
                            s.store_ptr(to.add(k * NR + v * S::LANES), weight);
                        }
                    },
                );
            }
        }
    }
}
