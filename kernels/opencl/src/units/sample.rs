//! sample.

use crate::kernel::{Group, Kernel};

const TEXTS: &[&str] = &[
    include_str!("../../text/rowwise.cl"),
    include_str!("../../text/select.cl"),
    include_str!("../../text/sample.cl"),
];

const fn row(symbol: &'static str, options: &'static str) -> Kernel {
    Kernel { symbol, texts: TEXTS, options, sizes: &[], group: Group::Rows, params: "ppppppps" }
}

pub(crate) const KERNELS: &[Kernel] = &[
    row("sample_f32_256", "-DT=F32 -DROWS=1"),
    row("sample_f32_1024", "-DT=F32 -DROWS=1"),
    row("sample_f16_256", "-DT=F16 -DROWS=1"),
    row("sample_f16_1024", "-DT=F16 -DROWS=1"),
    row("sample_bf16_256", "-DT=BF16 -DROWS=1"),
    row("sample_bf16_1024", "-DT=BF16 -DROWS=1"),
    row("sample_any_256", "-DROWS=1"),
    row("sample_any_1024", "-DROWS=1"),
];
