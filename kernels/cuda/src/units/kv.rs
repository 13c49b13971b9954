//! Writing the KV cache.

use crate::kernel::{Kernel, Unit};

const fn row(symbol: &'static str) -> Kernel {
    Kernel { symbol, threads: 128, params: "ppppppps" }
}

pub(crate) const UNIT: Unit = Unit {
    name: "kv",
    text: include_str!("../../text/kv.cu"),
    kernels: &[
        row("kv_write_f32_f32"),
        row("kv_write_f32_f16"),
        row("kv_write_f32_bf16"),
        row("kv_write_f32_i8"),
        row("kv_write_f32_f8_e4m3"),
        row("kv_write_f32_f8_e5m2"),
        row("kv_write_f16_f32"),
        row("kv_write_f16_f16"),
        row("kv_write_f16_bf16"),
        row("kv_write_f16_i8"),
        row("kv_write_f16_f8_e4m3"),
        row("kv_write_f16_f8_e5m2"),
        row("kv_write_bf16_f32"),
        row("kv_write_bf16_f16"),
        row("kv_write_bf16_bf16"),
        row("kv_write_bf16_i8"),
        row("kv_write_bf16_f8_e4m3"),
        row("kv_write_bf16_f8_e5m2"),
    ],
};
