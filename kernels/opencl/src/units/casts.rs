//! cast, and rows of a table whose dtype is not the result's.

use crate::kernel::{Group, Kernel};

const TEXTS: &[&str] =
    &[include_str!("../../text/walk.cl"), include_str!("../../text/numbers.cl"), include_str!("../../text/cast.cl")];

const fn row(symbol: &'static str, options: &'static str, params: &'static str) -> Kernel {
    Kernel { symbol, texts: TEXTS, options, sizes: &[], group: Group::Walk, params }
}

pub(crate) const KERNELS: &[Kernel] = &[
    row("cast_f32_f16", "-DCAST -DFROM=F32 -DTO=F16", "ppl"),
    row("cast_f32_bf16", "-DCAST -DFROM=F32 -DTO=BF16", "ppl"),
    row("cast_f16_f32", "-DCAST -DFROM=F16 -DTO=F32", "ppl"),
    row("cast_bf16_f32", "-DCAST -DFROM=BF16 -DTO=F32", "ppl"),
    row("cast_f16_bf16", "-DCAST -DFROM=F16 -DTO=BF16", "ppl"),
    row("cast_bf16_f16", "-DCAST -DFROM=BF16 -DTO=F16", "ppl"),
    row("cast_any", "-DCAST_ANY", "ppsuu"),
    row("gather_any", "-DGATHER_ANY", "pppslluuu"),
];
