//! kv_write.

use crate::kernel::{Group, Kernel};

const TEXTS: &[&str] =
    &[include_str!("../../text/rowwise.cl"), include_str!("../../text/numbers.cl"), include_str!("../../text/kv.cl")];

const fn row(symbol: &'static str, options: &'static str) -> Kernel {
    Kernel { symbol, texts: TEXTS, options, sizes: &[], group: Group::Rows, params: "ppppppps" }
}

pub(crate) const KERNELS: &[Kernel] = &[
    row("kv_write_f32_f32", "-DROWS=4 -DFROM=F32 -DTO=F32"),
    row("kv_write_f32_f16", "-DROWS=4 -DFROM=F32 -DTO=F16"),
    row("kv_write_f32_bf16", "-DROWS=4 -DFROM=F32 -DTO=BF16"),
    row("kv_write_f32_i8", "-DROWS=4 -DFROM=F32 -DTO=CODES_I8"),
    row("kv_write_f32_f8_e4m3", "-DROWS=4 -DFROM=F32 -DTO=CODES_E4M3"),
    row("kv_write_f32_f8_e5m2", "-DROWS=4 -DFROM=F32 -DTO=CODES_E5M2"),
    row("kv_write_f16_f32", "-DROWS=4 -DFROM=F16 -DTO=F32"),
    row("kv_write_f16_f16", "-DROWS=4 -DFROM=F16 -DTO=F16"),
    row("kv_write_f16_bf16", "-DROWS=4 -DFROM=F16 -DTO=BF16"),
    row("kv_write_f16_i8", "-DROWS=4 -DFROM=F16 -DTO=CODES_I8"),
    row("kv_write_f16_f8_e4m3", "-DROWS=4 -DFROM=F16 -DTO=CODES_E4M3"),
    row("kv_write_f16_f8_e5m2", "-DROWS=4 -DFROM=F16 -DTO=CODES_E5M2"),
    row("kv_write_bf16_f32", "-DROWS=4 -DFROM=BF16 -DTO=F32"),
    row("kv_write_bf16_f16", "-DROWS=4 -DFROM=BF16 -DTO=F16"),
    row("kv_write_bf16_bf16", "-DROWS=4 -DFROM=BF16 -DTO=BF16"),
    row("kv_write_bf16_i8", "-DROWS=4 -DFROM=BF16 -DTO=CODES_I8"),
    row("kv_write_bf16_f8_e4m3", "-DROWS=4 -DFROM=BF16 -DTO=CODES_E4M3"),
    row("kv_write_bf16_f8_e5m2", "-DROWS=4 -DFROM=BF16 -DTO=CODES_E5M2"),
];
