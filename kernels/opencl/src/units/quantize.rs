//! quantize_dynamic, quantize_static.

use crate::kernel::{Group, Kernel};

const TEXTS: &[&str] = &[include_str!("../../text/rowwise.cl"), include_str!("../../text/quantize.cl")];

const fn row(symbol: &'static str, options: &'static str, params: &'static str) -> Kernel {
    Kernel { symbol, texts: TEXTS, options, sizes: &[], group: Group::Rows, params }
}

/// quantize_dynamic of a dtype for teams of a name.
macro_rules! teams {
    ($(($dtype:literal, $team:literal, $options:literal)),* $(,)?; $($more:expr),* $(,)?) => {
        &[$(
            row(concat!("quantize_dynamic_", $dtype, $team), concat!("-DDYNAMIC", $options), "ppps"),
        )* $($more),*]
    };
}

/// quantize_static, element by element.
const fn fixed(symbol: &'static str, options: &'static str) -> Kernel {
    Kernel { group: Group::Walk, ..row(symbol, options, "pppps") }
}

pub(crate) const KERNELS: &[Kernel] = teams![
    ("f32", "_32", " -DT=F32 -DROWS=4"),
    ("f32", "_512", " -DT=F32 -DROWS=1"),
    ("f16", "_32", " -DT=F16 -DROWS=4"),
    ("f16", "_512", " -DT=F16 -DROWS=1"),
    ("bf16", "_32", " -DT=BF16 -DROWS=4"),
    ("bf16", "_512", " -DT=BF16 -DROWS=1"),
    ("any", "_32", " -DROWS=4"),
    ("any", "_512", " -DROWS=1");
    fixed("quantize_static_f32", "-DSTATIC -DT=F32 -DROWS=1"),
    fixed("quantize_static_f16", "-DSTATIC -DT=F16 -DROWS=1"),
    fixed("quantize_static_bf16", "-DSTATIC -DT=BF16 -DROWS=1"),
    fixed("quantize_static_any", "-DSTATIC -DROWS=1"),
];
