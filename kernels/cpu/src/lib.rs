//! SIMD micro-kernels for the CPU backend and the table that picks them.
//!
//! - [`detect`] asks the processor, [`kernels`] hands out the [`Kernels`] of a tier; a kernel
//!   itself never asks.
//! - Kernels are pure: they allocate nothing, start no thread, keep no state.
//! - Weights are packed once into panels of 16 output features ([`pack_w`], [`pack_panel`]), laid
//!   out per dtype as [`panel_len`] shows. Activations are packed per block by `pack_a_*`.
//! - An element of a matrix product is one chain of multiply-adds in the order of K. Within a tier
//!   it does not depend on how many rows or panels are computed together, nor on how K is cut. Tiles
//!   of bf16 are the exception: there each 32 inputs are two chains of their own, so K is cut
//!   between them.
//! - Algorithms are written once over a small trait of vector operations; a tier is that trait's
//!   implementation, its tile sizes, and what it does in its own way.

mod isa;
mod layout;
mod simd;

mod attention;
mod convert;
mod gemm;
mod math;
mod rows;
mod stream;

mod quant;

mod table;

pub mod limits;

mod entry;
mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
mod amx;

pub use attention::{
    Ahead, AttentionDigits, AttentionPairs, Cached, DIGIT_DIM, DigitRows, DigitUnit, E4m3, E5m2, KEY_BLOCK, KEYS,
    PackDigits, PackKeys, PackPairs, PairElement, PvDigits, PvPairs, QkDigits, QkPairs, RoundWeights, Soften,
    SplitDigits, WeighDigits, WeighPairs, WeighValues, fetch_ahead,
};
pub use gemm::GemmBlock;
pub use isa::{Features, Isa, IsaError, detect};
pub use layout::{
    NR, Weight, WeightMatrix, pack_panel, pack_panel_i8, pack_w, pack_w_i8, packed_len, packed_len_i8, panel_len,
    panel_len_i8, unpack_w, unpack_w_i8,
};
pub use quant::{
    CHUNK, FloatRows, IntegerRows, IntegerRowsMut, PackIntegers, QuantBlock, QuantCodes, QuantDecode, QuantDot,
    QuantFormat, QuantKernel, QuantOffset, QuantScales, pack_quant_panel,
};
pub use rows::RowMut;
pub use stream::{stream_copy, stream_fence};
pub use table::{
    Axpy, Binary, CacheElement, Convert, Dot, Element, Entry, ExpSubSum, Gemm, Gemv, GemvDot, Kernels, LayerNorm, Pack,
    PackA, Pv, Qk, QuantizeRow, Quotients, Reduce, RmsNorm, Rope, RopeTo, Rows, Scaled, SoftenRow, Softmax, SumOf,
    Unary, kernels, kernels_unchecked,
};
