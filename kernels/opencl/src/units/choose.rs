//! argmax, top_k.

use crate::kernel::{Group, Kernel};

const TEXTS: &[&str] = &[
    include_str!("../../text/rowwise.cl"),
    include_str!("../../text/select.cl"),
    include_str!("../../text/choose.cl"),
];

const fn row(symbol: &'static str, options: &'static str, params: &'static str) -> Kernel {
    Kernel { symbol, texts: TEXTS, options, sizes: &[], group: Group::Rows, params }
}

/// argmax of a dtype for teams of a name.
macro_rules! teams {
    ($(($dtype:literal, $team:literal, $options:literal)),* $(,)?; $($more:expr),* $(,)?) => {
        &[$(
            row(concat!("argmax_", $dtype, $team), concat!("-DARGMAX", $options), "ppps"),
        )* $($more),*]
    };
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
    row("argmax_join", "-DARGMAX_JOIN -DROWS=4", "pps"),
    row("top_k_f32", "-DTOP_K -DT=F32 -DROWS=1", "ppppsm"),
    row("top_k_f16", "-DTOP_K -DT=F16 -DROWS=1", "ppppsm"),
    row("top_k_bf16", "-DTOP_K -DT=BF16 -DROWS=1", "ppppsm"),
    row("top_k_any", "-DTOP_K -DROWS=1", "ppppsm"),
    row("top_k_places", "-DTOP_K_PLACES -DROWS=1", "pppppsm"),
    row("top_k_few", "-DTOP_K_FEW -DROWS=4", "ppps"),
];
