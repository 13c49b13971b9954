//! Block and group formats of quantised weights: layout, exact decoding, encoding of least error.
//!
//! - Everything is scalar, pure and plain; the fast decoders stand in the kernel crates and are held to these.
//! - Decoding is exact: the products of scale and code fit an f32, so at most the subtraction of a minimum rounds.
//! - One file per family; [`decode_row`] and [`encode_row`] are the doors to the block formats.
//! - Encoders search scales by weighted least squares, and choose codes for the scale as it is stored.
//!
//! Modules, from ground to roof: `error` (how far apart two tensors are), `minifloat` (fp8, fp4, f16, bf16), `nibble`
//! (4-bit integers), `q32` (Q4_0 to Q8_0), `kquant` (Q2_K to Q6_K), `iq4` (IQ4_NL, IQ4_XS), `mxfp4`, `row` (decoding),
//! `encode`, `group` (integer codes with scales beside them, int8 and fp8 per channel and block), `compensate`
//! (quantisation that passes errors on), `import` (packed tensors of checkpoints: GPTQ, AWQ, compressed-tensors, fp8,
//! Ascend).
#![forbid(unsafe_code)]

pub mod error;
pub mod minifloat;
pub mod nibble;

mod q32;

mod kquant;

mod iq4;
mod mxfp4;

mod row;

mod encode;

pub mod group;

pub mod compensate;

pub mod import;

pub use encode::encode_row;
pub use row::{decode_row, first_bad_scale, scale_offsets};
