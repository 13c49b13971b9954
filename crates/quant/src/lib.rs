//! Block and group formats of quantised weights: layout and exact decoding.
//!
//! - Everything is scalar, pure and plain; the fast decoders stand in the kernel crates and are held to these.
//! - Decoding is exact: the products of scale and code fit an f32, so at most the subtraction of a minimum rounds.
//! - One file per family; [`decode_row`] is the one door to the block formats.
//!
//! Modules, from ground to roof: `minifloat` (fp8, fp4, f16, bf16), `nibble` (4-bit integers), `q32` (Q4_0 to Q8_0),
//! `kquant` (Q2_K to Q6_K), `iq4` (IQ4_NL, IQ4_XS), `mxfp4`, `row`.
#![forbid(unsafe_code)]

pub mod minifloat;
pub mod nibble;

mod q32;

mod kquant;

mod iq4;
mod mxfp4;

mod row;

pub use row::decode_row;
