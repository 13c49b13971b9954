//! Elements in another type.

use crate::kernel::{Kernel, Unit};

const fn row(symbol: &'static str, params: &'static str) -> Kernel {
    Kernel { symbol, threads: 256, params }
}

pub(crate) const UNIT: Unit = Unit {
    name: "cast",
    text: include_str!("../../text/cast.cu"),
    kernels: &[
        row("cast_f32_f16", "ppl"),
        row("cast_f32_bf16", "ppl"),
        row("cast_f16_f32", "ppl"),
        row("cast_bf16_f32", "ppl"),
        row("cast_f16_bf16", "ppl"),
        row("cast_bf16_f16", "ppl"),
        row("cast_any", "ppsuu"),
        row("gather_any", "pppslluuu"),
    ],
};
