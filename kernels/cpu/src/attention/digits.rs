//! What attention on i8 caches takes: queries and weights become whole numbers of 16 bits, so that products with keys and
//! values are sums of integers, which no order changes.
//!
//! A row x of floats has a unit, a power of two; its numbers are `a = round(x / unit)`, at most 32639 in magnitude, and each is two
//! digits: `a = 256·high + low`, both i8. Words hold four digits of neighbouring numbers, the first in the lowest byte, 0 past
//! the row's end: first the high digits of a row, then the low ones. Codes of keys and values are raised by 128, which is taken
//! off again with the sum of a row's numbers.

use super::{Ahead, PackKeys};
use crate::table::Entry;

/// The most elements of a key or a value whose products stay below 2^31.
pub const DIGIT_DIM: usize = 512;

/// The largest number: both of its digits are i8.
pub(crate) const LARGEST: f32 = 32639.0;

/// What the numbers of a row mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DigitUnit {
    /// The power of two that 1 stands for; NaN for a row that holds what is not finite, whose numbers are all 0.
    pub unit: f32,
    /// The sum of the row's numbers.
    pub sum: i32,
}

/// Rows of digits.
#[derive(Clone, Copy, Debug)]
pub struct DigitRows<'a> {
    /// The digits of each row, `2 · ⌈n/4⌉` words of n numbers.
    pub words: &'a [u32],
    /// The unit and the sum of each row.
    pub units: &'a [DigitUnit],
}

/// Splits a row of floats into digits: `(out, x)`; what lies outside `first..end` counts as 0.
pub type SplitDigits = fn(out: &mut [u32], x: &[f32], first: usize, end: usize) -> DigitUnit;

/// `out[w * KEY_BLOCK + j]` = elements `4w` to `4w + 3` of key j, raised by 128; 128 past the key's end, or 0.
///
/// # Safety
/// Each of the keys holds `dim` elements.
pub type PackDigits = unsafe fn(out: &mut [u32], keys: &PackKeys<'_, i8>);

/// `scores[r * KEYS + j] = unit[r]·Σ_d a[r][d]·k[j][d]` for a block of keys of `words` words each, the sum exact and rounded once.
pub type QkDigits = fn(scores: &mut [f32], q: &DigitRows<'_>, k: &[u32], words: usize, ahead: Ahead<'_>);

/// Adds up weighted values.
///
/// # Safety
/// Each of [`KEYS`](super::KEYS) values holds `dim` elements.
pub type PvDigits = unsafe fn(values: &mut WeighDigits<'_>);

/// Weighted values to add up: `acc[r] = alpha[r]·acc[r] + unit[r]·Σ_j a[r][j]·v[j]` over the tokens of a chunk, the sum exact and
/// rounded once.
#[derive(Debug)]
pub struct WeighDigits<'a> {
    /// `[rows, dim]`; read and written.
    pub acc: &'a mut [f32],
    /// One factor a row.
    pub alpha: &'a [f32],
    /// Weights, a row of [`KEYS`](super::KEYS) numbers for each factor.
    pub p: DigitRows<'a>,
    /// Where each of [`KEYS`](super::KEYS) values starts. All are read.
    pub values: &'a [*const i8],
    /// The tokens that count: the numbers of others are 0.
    pub first: usize,
    /// The token after the last that counts.
    pub end: usize,
    /// Elements of a value.
    pub dim: usize,
    /// What is asked for on the way.
    pub ahead: Ahead<'a>,
}

/// The kernels of attention on digits, which go together.
#[derive(Clone, Copy, Debug)]
pub struct AttentionDigits {
    /// Floats to digits.
    pub split: Entry<SplitDigits>,
    /// Turns keys around.
    pub pack_keys: Entry<PackDigits>,
    /// Scores.
    pub qk: Entry<QkDigits>,
    /// Weighted values.
    pub pv: Entry<PvDigits>,
}

/// The power of two for a row whose largest magnitude has these bits; `None` where that is not finite, or 0.
///
/// It is the smallest, not below 2^-126, with which no number is larger than [`LARGEST`].
#[inline(always)]
pub(crate) fn digit_unit(largest: u32) -> Option<f32> {
    const MANTISSA: u32 = 0x7f_ffff;
    let within = largest & MANTISSA <= LARGEST.to_bits() & MANTISSA;
    let exponent = (largest >> 23) as i32 - 14 + i32::from(!within);
    (largest != 0 && largest < f32::INFINITY.to_bits()).then(|| f32::from_bits((exponent.max(1) as u32) << 23))
}

/// Checks what is to be weighed.
pub(crate) fn check_digits(b: &WeighDigits<'_>) {
    let rows = b.alpha.len();
    assert!(b.acc.len() >= rows * b.dim && b.dim <= DIGIT_DIM, "{rows} rows of {} elements", b.dim);
    assert!(b.p.units.len() >= rows && b.p.words.len() >= rows * super::KEYS / 2, "{rows} rows of weights");
    assert!(b.first <= b.end && b.end <= super::KEYS && b.values.len() >= super::KEYS, "tokens of a chunk");
}
