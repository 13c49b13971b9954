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
    /// How many rows: one of [`QUANT_HEIGHTS`], at most [`Kernels::quant_rows`](crate::Kernels::quant_rows).
    pub rows: usize,
    /// `[chunks · 32][rows]`.
    pub x: &'a [f32],
    /// The sum of the inputs of every scale, `[chunks · scales_per_chunk][rows]`; used where the kernel adds minima.
    pub sums: &'a [f32],
}

/// The numbers of rows that are multiplied together, as far as a tier has registers for them.
pub const QUANT_HEIGHTS: [usize; 6] = [1, 2, 4, 6, 8, 12];

/// `y[row · stride + j] += Σ x[row][k]·w[j][k]` for the 16 outputs of a panel: `(y, stride, rows, block)`.
///
/// For each scale the products of codes are one chain of multiply-adds in an order of its inputs that never changes; the
/// scaled sums, each with its minimum behind it, are added one after the other. So a row depends neither on the rows
/// beside it nor on how the chunks are cut into blocks.
pub type QuantDot = fn(y: &mut [f32], stride: usize, rows: &QuantRows<'_>, block: &QuantBlock<'_>);

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

/// See [`QuantDot`]; `MR` is the most rows of the tier.
#[inline(always)]
pub(crate) fn dot<S: Lookup, C: Code, const NV: usize, const MR: usize, const HALVES: bool, const MODE: u8>(
    s: S,
    y: &mut [f32],
    stride: usize,
    rows: &QuantRows<'_>,
    block: &QuantBlock<'_>,
) {
    check::<C>(block, HALVES, MODE);
    let count = rows.rows;
    assert!(count <= MR && QUANT_HEIGHTS.contains(&count), "{count} rows are not multiplied together");
    assert!(y.len() >= (count - 1) * stride + NR, "results are too short");
    assert!(rows.x.len() >= block.chunks * CHUNK * count, "activations are too short");
    assert!(MODE != MIN || rows.sums.len() >= block.chunks * per_chunk(HALVES) * count, "sums are too short");
    // SAFETY: the slices were held to the counts.
    unsafe {
        match count {
            1 if S::LANES == 16 && C::SMALL => tile::<S, C, NV, 1, 4, HALVES, MODE>(s, y, stride, rows, block),
            2 if S::LANES == 16 => tile::<S, C, NV, 2, 2, HALVES, MODE>(s, y, stride, rows, block),
            1 => tile::<S, C, NV, 1, 2, HALVES, MODE>(s, y, stride, rows, block),
            2 => tile::<S, C, NV, 2, 1, HALVES, MODE>(s, y, stride, rows, block),
            4 => tile::<S, C, NV, 4, 1, HALVES, MODE>(s, y, stride, rows, block),
            6 if MR >= 6 => tile::<S, C, NV, 6, 1, HALVES, MODE>(s, y, stride, rows, block),
            8 if MR >= 8 => tile::<S, C, NV, 8, 1, HALVES, MODE>(s, y, stride, rows, block),
            _ if MR >= 12 => tile::<S, C, NV, 12, 1, HALVES, MODE>(s, y, stride, rows, block),
            _ => {}
        }
    }
}

/// How far ahead of their use codes are asked for, in bytes. A panel with its scales is no single stream, and short: left to
/// themselves the processor's prefetchers begin anew with each.
const AHEAD: usize = 4096;

/// Sums of `R` rows for the outputs of each of `P` chunks.
type Sums<V, const NV: usize, const P: usize, const R: usize> = [[[V; NV]; P]; R];

/// `R` rows; `P` chunks at a time keep the multiply-adds busy where rows are few.
///
/// # Safety
/// The slices hold what [`dot`] checks, and there are `R` rows.
#[inline(always)]
unsafe fn tile<
    S: Lookup,
    C: Code,
    const NV: usize,
    const R: usize,
    const P: usize,
    const HALVES: bool,
    const MODE: u8,
>(
    s: S,
    y: &mut [f32],
    stride: usize,
    rows: &QuantRows<'_>,
    block: &QuantBlock<'_>,
) {
    let tables = [s.table(&block.tables.0), s.table(&block.tables.1)];
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
            some::<S, C, NV, R, P, HALVES, MODE>(s, &mut total, tables, rows, block, chunk);
            chunk += P;
        }
        while P > 1 && chunk < block.chunks {
            some::<S, C, NV, R, 1, HALVES, MODE>(s, &mut total, tables, rows, block, chunk);
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
unsafe fn some<
    S: Lookup,
    C: Code,
    const NV: usize,
    const R: usize,
    const P: usize,
    const HALVES: bool,
    const MODE: u8,
>(
    s: S,
    total: &mut [[S::V; NV]; R],
    tables: [S::T; 2],
    rows: &QuantRows<'_>,
    block: &QuantBlock<'_>,
    chunk: usize,
) {
    let at = chunk * per_chunk(HALVES);
    let zeros = [[[s.splat(0.0); NV]; P]; R];
    // SAFETY: as the caller vouches.
    unsafe {
        let mut sums = zeros;
        half::<S, C, NV, R, P, MODE>(s, &mut sums, tables, rows, block, chunk, false);
        let first = sums;
        if HALVES {
            if P == 1 {
                add_scaled::<S, NV, R, P, MODE>(s, total, &first, rows, block, 0, at);
            }
            sums = zeros;
        }
        half::<S, C, NV, R, P, MODE>(s, &mut sums, tables, rows, block, chunk, true);
        for p in 0..P {
            let at = at + p * per_chunk(HALVES);
            if HALVES && P > 1 {
                add_scaled::<S, NV, R, P, MODE>(s, total, &first, rows, block, p, at);
            }
            add_scaled::<S, NV, R, P, MODE>(s, total, &sums, rows, block, p, at + per_chunk(HALVES) - 1);
        }
    }
}

/// Adds the products of 16 inputs of each chunk to the chains of `R` rows.
///
/// # Safety
/// As [`some`].
#[inline(always)]
unsafe fn half<S: Lookup, C: Code, const NV: usize, const R: usize, const P: usize, const MODE: u8>(
    s: S,
    sums: &mut Sums<S::V, NV, P, R>,
    tables: [S::T; 2],
    rows: &QuantRows<'_>,
    block: &QuantBlock<'_>,
    chunk: usize,
    second: bool,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut zero = [[s.splat(0.0); NV]; P];
        for (p, zero) in zero.iter_mut().enumerate() {
            *zero = offset::<S, NV>(s, block, chunk + p, MODE == ZERO);
        }
        let x = rows.x.as_ptr().add((chunk * CHUNK + if second { 16 } else { 0 }) * R);
        let mut codes = [block.codes.as_ptr(); P];
        for (p, codes) in codes.iter_mut().enumerate() {
            *codes = codes.add((chunk + p) * C::BYTES);
        }
        // One line after the other, spread over the inputs: a burst of them would make the processor wait.
        let lines = P * C::BYTES / 2 / 64;
        let ahead = codes[0].wrapping_add(AHEAD + if second { 64 * lines } else { 0 });
        let mut step = 0;
        C::half::<S, NV, P>(
            s,
            tables,
            codes,
            second,
            #[inline(always)]
            |k, mut codes| {
                prefetch(ahead.wrapping_add(step * lines / 16 * 64), 64);
                step += 1;
                if MODE == ZERO {
                    for (code, zero) in codes.as_flattened_mut().iter_mut().zip(zero.as_flattened()) {
                        *code = s.sub(*code, *zero);
                    }
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (p, sums) in sums.iter_mut().enumerate() {
                        let x = s.splat(*x.add((p * CHUNK + k) * R + r));
                        for (sum, code) in sums.iter_mut().zip(&codes[p]) {
                            *sum = s.madd(x, *code, *sum);
                        }
                    }
                }
            },
        );
    }
}

/// Adds the scaled sums of `R` rows of chunk `p`, and their minima, to the totals.
///
/// # Safety
/// The block has a scale at `at`, and the rows a sum there where there are minima.
#[inline(always)]
unsafe fn add_scaled<S: Lookup, const NV: usize, const R: usize, const P: usize, const MODE: u8>(
    s: S,
    total: &mut [[S::V; NV]; R],
    sums: &Sums<S::V, NV, P, R>,
    rows: &QuantRows<'_>,
    block: &QuantBlock<'_>,
    p: usize,
    at: usize,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let min = offset::<S, NV>(s, block, at, MODE == MIN);
        for v in 0..NV {
            let scale = s.load_ptr(block.scales.as_ptr().add(at * NR + v * S::LANES));
            for r in 0..R {
                total[r][v] = s.madd(scale, sums[r][p][v], total[r][v]);
                if MODE == MIN {
                    let inputs = s.splat(*rows.sums.as_ptr().add(at * R + r));
                    total[r][v] = s.madd(min[v], inputs, total[r][v]);
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
                C::half::<S, NV, 1>(
                    s,
                    tables,
                    [codes],
                    second,
                    #[inline(always)]
                    |k, [codes]| {
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
