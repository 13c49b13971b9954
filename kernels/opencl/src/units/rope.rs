//! rope.

use crate::kernel::{Group, Kernel};

const TEXTS: &[&str] = &[include_str!("../../text/rowwise.cl"), include_str!("../../text/rope.cl")];

const fn row(symbol: &'static str, options: &'static str) -> Kernel {
    Kernel { symbol, texts: TEXTS, options, sizes: &[], group: Group::Walk, params: "ppppps" }
}

pub(crate) const KERNELS: &[Kernel] = &[
    row("rope_f32", "-DT=F32 -DROWS=1"),
    row("rope_f16", "-DT=F16 -DROWS=1"),
    row("rope_bf16", "-DT=BF16 -DROWS=1"),
    row("rope_any", "-DROWS=1"),
];
