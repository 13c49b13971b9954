//! Quantised weights in panels, and products with them.
//!
//! - A panel holds 16 output features. Its codes come in chunks of 32 inputs, then the scales that the format carries.
//! - Codes of 2 to 6 bits lie in one or two planes of 32-bit words, a word for each output: the low bits of 8 or 16
//!   inputs in a word, the high bits of 16 or 32. A shift and a mask make a vector of bytes of them, four inputs for each
//!   output. Codes of 8 bits are such bytes as they lie.
//! - The bytes are unsigned: a format's bias is taken off the sums of products, not off each code.
//! - Activations are integers of 16 bits within their chunk of a row, or of 8 where that was asked for; their products with the bytes add up exactly. The sum
//!   of each scale is rounded to f32 once and scaled. A minimum is applied to the sum of activations, a zero too.
//! - fp8 has no such integers: its codes are multiplied in f32.
//! - Scales stay what they are, f16 with integers below or exponents; [`QuantScales`] makes f32 of them for a stretch of
//!   chunks. Where scales lie beside the codes the caller does.
//! - One row or many: codes are unpacked in registers, for all rows of a tile at once, and every row takes the same sums
//!   in the same order as it does alone.

mod words;

mod form;

mod blocks;
mod codes;
mod digits;
mod pack;
mod scales;

mod block;
mod dot;
mod floats;

mod entry;

pub use block::{FloatRows, QuantBlock, QuantDecode, QuantDot, QuantKernel};
pub(crate) use block::{MIN, NONE, ZERO, heights};
pub(crate) use codes::{Code, Eight, Five, Four, Six, Three, Two};
pub(crate) use digits::{BELOW, Digits, LEAST, MOST_BYTE, Pairs, Place, RAISE, pack, pack_byte_pairs, pack_pairs};
pub use digits::{IntegerRows, IntegerRowsMut, PackIntegers};
pub(crate) use dot::{decode, dot};
pub(crate) use entry::{quant_decoders, quant_entry_points, quant_kernels};
pub(crate) use floats::{E4m3, E5m2, decode as float_decode, dot as float_dot};
pub use form::{QuantCodes, QuantFormat, QuantOffset};
pub use pack::pack_quant_panel;
pub use scales::QuantScales;
pub(crate) use scales::expand;
pub(crate) use words::Lookup;

/// Inputs of a chunk.
pub const CHUNK: usize = 32;
