//! A stretch of a panel of quantised weights, and the kernels that multiply or decode it.

use super::CHUNK;
use super::digits::IntegerRows;
use super::form::QuantFormat;
use crate::layout::NR;

/// A weight is `scale · code`.
pub(crate) const NONE: u8 = 0;
/// A weight is `scale · code + offset`.
pub(crate) const MIN: u8 = 1;
/// A weight is `(code − offset) · scale`.
pub(crate) const ZERO: u8 = 2;

/// Adjacent chunks of one panel, with their scales as f32.
#[derive(Clone, Copy, Debug)]
pub struct QuantBlock<'a> {
    /// What the codes stand for.
    pub format: QuantFormat,
    /// The codes of `chunks` chunks.
    pub codes: &'a [u8],
    /// How many chunks.
    pub chunks: usize,
    /// `[chunks · scales_per_chunk][16]`.
    pub scales: &'a [f32],
    /// As many offsets; unused where the kernel has none.
    pub offsets: &'a [f32],
    /// How far behind the codes the memory lies that is asked for ahead of its use, and how much of it belongs to each chunk, in
    /// bytes. A panel with its scales is no single stream, and short: left to themselves the processor's prefetchers begin
    /// anew with each.
    pub ahead: (usize, usize),
}

/// Rows of activations in f32, for the inputs of a [`QuantBlock`].
#[derive(Clone, Copy, Debug)]
pub struct FloatRows<'a> {
    /// How many rows: one of the kernel's [`heights`](QuantKernel::heights).
    pub rows: usize,
    /// `[chunks · 32][rows]`.
    pub x: &'a [f32],
}

/// `y[row · stride + j] += Σ x[row][k]·w[j][k]` for the 16 outputs of a panel: `(y, stride, rows, block)`. Integers take several
/// panels, of as many chunks each, whose results lie side by side.
///
/// A row depends neither on the rows beside it nor on how the chunks are cut into blocks.
#[derive(Clone, Copy, Debug)]
pub enum QuantDot {
    /// Activations as integers, where codes are integers; the same bits on every tier. For each scale the sum of products is
    /// exact and rounded once to f32; with zeros `fma(-zero, sum of integers, it)`; it is multiplied by the scale of the
    /// integers, and the total is `fma(scale, it, total)`; with minima then `fma(minimum, scaled sum of integers, total)`.
    Integers(fn(y: &mut [f32], stride: usize, rows: &IntegerRows<'_>, blocks: &[QuantBlock<'_>])),
    /// Activations in f32: for each scale one chain of multiply-adds in the order of inputs, scaled and added to the total.
    Floats(fn(y: &mut [f32], stride: usize, rows: &FloatRows<'_>, block: &QuantBlock<'_>)),
}

/// The weights of a block as f32, `[chunks · 32][16]`: `(out, block)`.
pub type QuantDecode = fn(out: &mut [f32], block: &QuantBlock<'_>);

/// The kernels for one kind of codes and offsets.
#[derive(Clone, Copy, Debug)]
pub struct QuantKernel {
    /// For example `gemv_q4_min.avx512`.
    pub name: &'static str,
    /// The numbers of rows that are multiplied together, ascending from 1.
    pub heights: &'static [usize],
    /// The product.
    pub dot: QuantDot,
    /// The decoding.
    pub decode: QuantDecode,
}

impl QuantKernel {
    /// The smallest of the heights that holds `rows` rows, or the largest.
    pub fn height(&self, rows: usize) -> usize {
        self.heights.iter().copied().find(|&height| height >= rows).unwrap_or(self.most())
    }

    /// The most rows that are multiplied together.
    pub fn most(&self) -> usize {
        self.heights.last().copied().unwrap_or(1)
    }
}

impl QuantBlock<'_> {
    /// Holds the slices to the count of chunks, of `bytes` bytes and `per_chunk` scales each.
    #[inline(always)]
    pub(crate) fn check(&self, bytes: usize, per_chunk: usize, mode: u8) {
        let scales = self.chunks * per_chunk * NR;
        assert!(self.codes.len() >= self.chunks * bytes, "codes are too short");
        assert!(self.scales.len() >= scales, "scales are too short");
        assert!(mode == NONE || self.offsets.len() >= scales, "offsets are too short");
    }

    /// Holds a buffer of decoded weights to the count of chunks.
    #[inline(always)]
    pub(crate) fn check_decoded(&self, out: &[f32]) {
        assert!(out.len() >= self.chunks * CHUNK * NR, "decoded weights are too short");
    }
}

/// The heights of kernels that multiply so many rows together.
pub(crate) const fn heights(most: usize) -> &'static [usize] {
    match most {
        2 => &[1, 2],
        4 => &[1, 2, 4],
        6 => &[1, 2, 3, 4, 6],
        8 => &[1, 2, 3, 4, 6, 8],
        12 => &[1, 2, 3, 4, 6, 8, 12],
        _ => panic!("no kernels multiply so many rows together"),
    }
}
