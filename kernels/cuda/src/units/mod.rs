//! The rows, a file for each unit.

mod attention_decode_bf16;
mod attention_decode_codes;
mod attention_decode_f16;
mod attention_plain;
mod attention_prefill_bf16;
mod attention_prefill_codes;
mod attention_prefill_f16;
mod cast;
mod choose;
mod elementwise;
mod kv;
mod matmul_fma;
mod matmul_gemv;
mod matmul_mma;
mod moves;
mod norms;
mod norms_int8;
mod quant;
mod quantize;
mod rope;
mod rope_kv;
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
    rope_kv::UNIT,
    rows::UNIT,
    sample::UNIT,
    attention_decode_bf16::UNIT,
    attention_decode_codes::UNIT,
    attention_decode_f16::UNIT,
    attention_plain::UNIT,
    attention_prefill_bf16::UNIT,
    attention_prefill_codes::UNIT,
    attention_prefill_f16::UNIT,
    kv::UNIT,
    quant::Q4_0,
    quant::Q8_0,
    quant::Q4_K,
    quant::Q6_K,
    quant::CODES4,
    quant::CODES8,
    quant::E4M3,
    quant::PACK,
    quant::FINISH,
    quant::SCALED,
];
