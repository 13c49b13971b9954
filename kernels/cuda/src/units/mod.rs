//! The rows, a file for each unit.

mod cast;
mod choose;
mod elementwise;
mod matmul_fma;
mod matmul_gemv;
mod matmul_mma;
mod moves;
mod norms;
mod norms_int8;
mod quantize;
mod rope;
mod rows;
mod sample;
mod unpack;

use crate::kernel::Unit;

/// Every unit.
pub const UNITS: &[Unit] = &[
    elementwise::UNIT,
    moves::UNIT,
    cast::UNIT,
    unpack::UNIT,
    matmul_gemv::UNIT,
    matmul_mma::UNIT,
    matmul_fma::UNIT,
    choose::UNIT,
    norms::UNIT,
    norms_int8::UNIT,
    quantize::UNIT,
    rope::UNIT,
    rows::UNIT,
    sample::UNIT,
];
