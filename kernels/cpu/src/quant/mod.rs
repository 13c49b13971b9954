//! Quantised weights in panels, and products with them.
//!
//! - A panel holds 16 output features. Its codes come in chunks of 32 inputs, then the scales that the format carries.
//! - Codes of 2 to 6 bits lie in one or two planes of 32-bit words, a word for each output: the low bits of 8 or 16
//!   inputs in a word, the high bits of 16 or 32. A table of 16 numbers turns the lowest bits of a word into an f32, so
//!   that decoding takes a shift and a lookup and no mask; codes of 5 and 6 bits are put together four at a time, in the
//!   bytes of a word, and converted. Codes of 8 bits lie input by input.
//! - Scales stay what they are, f16 with integers below or exponents; [`QuantScales`] makes f32 of them for a stretch of
//!   chunks. Where scales lie beside the codes the caller does.
//! - The products of one scale are summed as small exact codes; the scale is applied to the sum. A minimum is applied to
//!   the sum of activations, a zero to each code.
//! - One row or many: codes are decoded in registers, for all rows of a tile at once, and every row takes the same sums
//!   in the same order as it does alone.

mod blocks;
mod chunk;
mod dot;
mod entry;
mod form;
mod pack;
mod scales;

pub(crate) use chunk::{Bits, E4m3, E5m2, Int8, Lookup, Uint8};
pub(crate) use dot::{MIN, NONE, ZERO, decode, dot};
pub use dot::{QUANT_HEIGHTS, QuantBlock, QuantDecode, QuantDot, QuantKernel, QuantRows};
pub(crate) use entry::quant_entry_points;
pub use form::{QuantCodes, QuantFormat, QuantOffset};
pub use pack::pack_quant_panel;
pub use scales::QuantScales;
pub(crate) use scales::expand;

/// Inputs of a chunk.
pub const CHUNK: usize = 32;
