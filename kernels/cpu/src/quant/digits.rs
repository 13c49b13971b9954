//! Activations as integers of 16 bits within their chunk, or of 8, and the sums of their products with codes.
//!
//! In 16 bits: for each row and chunk of 32 inputs: `m` is the largest magnitude, `2^e` with `e >= -111` the smallest power of two
//! with `m <= 32639 · 2^e`, and an input is `a · 2^e` with `a` rounded to the nearest even integer. An integer is two
//! digits, `256 · high + low`, both signed bytes. A chunk of zeros has the scale 0.
//!
//! In 8 bits: an input is `a · m / 127`, and `a = round(x · (127 / m))` one signed byte.

use super::CHUNK;
use super::form::{QuantFormat, QuantOffset};
use super::words::Lookup;

/// The largest magnitude of an integer: both digits are at most 127.
pub(crate) const MOST: u32 = 32639;

/// What is added to the bits of a chunk's largest magnitude, so that a mantissa beyond [`MOST`]'s raises the exponent.
pub(crate) const RAISE: u32 = 0x0080_0000 - ((MOST << 9 & 0x007f_ffff) + 1);

/// The largest magnitude of an integer of 8 bits.
pub(crate) const MOST_BYTE: f32 = 127.0;

/// How far the exponent of a scale lies below that, and the least that it may be, both as they stand in an f32.
pub(crate) const BELOW: u32 = 14;
/// See [`BELOW`].
pub(crate) const LEAST: u32 = 127 - 126 + 15;

/// The bits of 2^64: a row that holds such a magnitude takes no integers.
pub(crate) const TOO_LARGE: u32 = (127 + 64) << 23;

/// Whether the scale of a chunk whose largest magnitude has these bits would have to be less than the least: its inputs
/// would lose digits, so a row with such a chunk takes no integers.
const fn too_small(largest: u32) -> bool {
    largest != 0 && (largest + RAISE) >> 23 < LEAST + BELOW
}

/// Rows of activations as integers, for adjacent chunks. A row of a chunk has 64 bytes, in the order of
/// [`QuantFormat::order`] and the way of the tier: 32 high digits, then 32 low ones; 32 integers of 16 bits; 32 bytes.
#[derive(Clone, Copy, Debug)]
pub struct IntegerRows<'a> {
    /// How many rows: one of the kernel's [`heights`](crate::QuantKernel::heights).
    pub rows: usize,
    /// `[chunks][rows][64]`.
    pub digits: &'a [u8],
    /// What a step of the integers is worth, times the format's unit, `[chunks][rows]`.
    pub scales: &'a [f32],
    /// What the sum of products starts from: minus the format's bias times the sum of the integers,
    /// `[chunks · scales_per_chunk][rows]`.
    pub starts: &'a [i32],
    /// `[chunks · scales_per_chunk][rows]`: with minima the sum of the integers times their scale, with zeros minus that sum
    /// over the unit; unused with neither.
    pub sums: &'a [f32],
}

/// [`IntegerRows`] while they are packed.
#[derive(Debug)]
pub struct IntegerRowsMut<'a> {
    /// How many rows.
    pub rows: usize,
    /// As in [`IntegerRows`].
    pub digits: &'a mut [u8],
    /// As in [`IntegerRows`].
    pub scales: &'a mut [f32],
    /// As in [`IntegerRows`].
    pub starts: &'a mut [i32],
    /// As in [`IntegerRows`].
    pub sums: &'a mut [f32],
}

/// Packs one row of activations, whole chunks of them: `(to, row, format, zeros, x)`. Gives whether the row can be
/// multiplied as integers: all of it is finite and smaller than 2^64, and each chunk has a magnitude of about 2^-97 or
/// more, or nothing but zeros. What else it writes is of no use then.
pub type PackIntegers =
    fn(to: &mut IntegerRowsMut<'_>, row: usize, format: QuantFormat, zeros: bool, x: &[f32]) -> bool;

/// How a tier multiplies integers by codes.
pub(crate) trait Digits<S: Lookup>: Copy {
    /// Sums of products in the lanes of one vector.
    type Sum: Copy;

    /// Sums that start from a number.
    fn start(s: S, at: i32) -> Self::Sum;

    /// Adds the products of the bytes of vector `v` with the integers of a row of a chunk.
    ///
    /// # Safety
    /// The row's 64 bytes are readable at `x`.
    unsafe fn add(s: S, sum: Self::Sum, bytes: S::I, x: *const u8, v: usize) -> Self::Sum;

    /// The sums as f32, to nearest even.
    fn end(s: S, sum: Self::Sum) -> S::V;
}

/// Integers as they are, in pairs: `[8][4]` i16, of four inputs in the order of bytes 0, 2, 1, 3.
#[derive(Clone, Copy)]
pub(crate) struct Pairs;

impl<S: Lookup> Digits<S> for Pairs {
    type Sum = S::I;

    #[inline(always)]
    fn start(s: S, at: i32) -> S::I {
        s.words(at)
    }

    #[inline(always)]
    unsafe fn add(s: S, sum: S::I, bytes: S::I, x: *const u8, v: usize) -> S::I {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { s.add_products(sum, bytes, x.cast::<i16>().add(4 * v)) }
    }

    #[inline(always)]
    fn end(s: S, sum: S::I) -> S::V {
        s.number(sum)
    }
}

/// Where the row of one chunk goes.
pub(crate) struct Place<'a> {
    /// The row's 64 bytes.
    pub(crate) digits: &'a mut [u8; 64],
    scale: &'a mut f32,
    starts: &'a mut [i32],
    sums: &'a mut [f32],
    rows: usize,
    format: QuantFormat,
    offset: QuantOffset,
}

impl Place<'_> {
    /// Writes what stands beside the integers: their scale, and the sums of both halves.
    #[inline(always)]
    pub(crate) fn beside(&mut self, scale: f32, halves: [i32; 2]) {
        *self.scale = scale * self.format.unit();
        let per_chunk = self.format.scales_per_chunk();
        let each = if per_chunk == 1 { [halves[0] + halves[1], 0] } else { halves };
        for (i, sum) in each.into_iter().enumerate().take(per_chunk) {
            self.starts[i * self.rows] = -self.format.bias() * sum;
            match self.offset {
                QuantOffset::None => {}
                QuantOffset::Min => self.sums[i * self.rows] = sum as f32 * scale,
                QuantOffset::Zero => self.sums[i * self.rows] = -(sum as f32) / self.format.unit(),
            }
        }
    }
}

/// Calls `f` for each chunk of a row, with its inputs and where they go; gives whether all of `f`'s answers, the bits of
/// the chunk's largest magnitude, allow for integers.
#[inline(always)]
pub(crate) fn pack(
    to: &mut IntegerRowsMut<'_>,
    row: usize,
    format: QuantFormat,
    zeros: bool,
    x: &[f32],
    mut f: impl FnMut(&[f32; CHUNK], &mut Place<'_>) -> u32,
) -> bool {
    let (x, rest) = x.as_chunks::<CHUNK>();
    let (rows, per_chunk, offset) = (to.rows, format.scales_per_chunk(), format.offset(zeros));
    assert!(rest.is_empty() && row < rows, "whole chunks of a row");
    let (digits, _) = to.digits.as_chunks_mut::<64>();
    assert!(digits.len() >= x.len() * rows && to.scales.len() >= x.len() * rows, "digits are too short");
    assert!(to.starts.len() >= x.len() * rows * per_chunk, "starts are too short");
    assert!(offset == QuantOffset::None || to.sums.len() >= x.len() * rows * per_chunk, "sums are too short");
    let (mut largest, mut fits) = (0, true);
    for (chunk, x) in x.iter().enumerate() {
        let (at, beside) = (chunk * rows + row, chunk * per_chunk * rows + row);
        let mut place = Place {
            digits: &mut digits[at],
            scale: &mut to.scales[at],
            starts: &mut to.starts[beside..],
            sums: if offset == QuantOffset::None { &mut [] } else { &mut to.sums[beside..] },
            rows,
            format,
            offset,
        };
        let magnitude = f(x, &mut place);
        fits &= !too_small(magnitude);
        largest = largest.max(magnitude);
    }
    fits && largest < TOO_LARGE
}

/// Rounds a number of less than 2^22 to the nearest even integer.
#[inline(always)]
fn round(x: f32) -> i16 {
    /// Added to such a number it leaves the integer in the lowest bits.
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits()) as i16
}

/// The bits of the largest magnitude of a chunk.
#[inline(always)]
fn largest(x: &[f32; CHUNK]) -> u32 {
    x.iter().fold(0, |most: u32, x| most.max(x.to_bits() & 0x7fff_ffff))
}

/// The integers of a chunk in 16 bits, their scale and the bits of the largest magnitude.
#[inline(always)]
fn integers(x: &[f32; CHUNK]) -> ([i16; CHUNK], f32, u32) {
    let largest = largest(x);
    let exponent = (((largest + RAISE) >> 23).max(LEAST + BELOW) - BELOW).min(253);
    let (scale, inverse) = (f32::from_bits(exponent << 23), f32::from_bits((254 - exponent) << 23));
    (x.map(|x| round(x * inverse)), if largest == 0 { 0.0 } else { scale }, largest)
}

/// As [`integers`], in 8 bits.
#[inline(always)]
fn bytes(x: &[f32; CHUNK]) -> ([i16; CHUNK], f32, u32) {
    let largest = largest(x);
    let most = f32::from_bits(largest);
    let inverse = if largest == 0 { 0.0 } else { MOST_BYTE / most };
    (x.map(|x| round(x * inverse)), most / MOST_BYTE, largest)
}

/// See [`PackIntegers`]: for [`Pairs`], in 16 bits.
#[inline(always)]
pub(crate) fn pack_pairs(to: &mut IntegerRowsMut<'_>, row: usize, format: QuantFormat, zeros: bool, x: &[f32]) -> bool {
    pack_pairs_of(to, row, format, zeros, x, integers)
}

/// As [`pack_pairs`], in 8 bits.
#[inline(always)]
pub(crate) fn pack_byte_pairs(
    to: &mut IntegerRowsMut<'_>,
    row: usize,
    format: QuantFormat,
    zeros: bool,
    x: &[f32],
) -> bool {
    pack_pairs_of(to, row, format, zeros, x, bytes)
}

/// Packs the integers that `of` makes of each chunk, with their scale and the bits of its largest magnitude.
#[inline(always)]
fn pack_pairs_of(
    to: &mut IntegerRowsMut<'_>,
    row: usize,
    format: QuantFormat,
    zeros: bool,
    x: &[f32],
    of: impl Fn(&[f32; CHUNK]) -> ([i16; CHUNK], f32, u32),
) -> bool {
    let order = format.order();
    pack(
        to,
        row,
        format,
        zeros,
        x,
        #[inline(always)]
        |x, place| {
            let (a, scale, largest) = of(x);
            for (i, to) in place.digits.chunks_exact_mut(2).enumerate() {
                let at = i / 4 * 4 + [0, 2, 1, 3][i % 4];
                to.copy_from_slice(&a[usize::from(order[at])].to_ne_bytes());
            }
            let sum = |half: &[i16]| half.iter().map(|a| i32::from(*a)).sum();
            place.beside(scale, [sum(&a[..CHUNK / 2]), sum(&a[CHUNK / 2..])]);
            largest
        },
    )
}
