//! softmax, reduce.

use crate::kernel::{Group, Kernel};

const TEXTS: &[&str] = &[include_str!("../../text/rowwise.cl"), include_str!("../../text/rows.cl")];

const fn row(symbol: &'static str, options: &'static str, params: &'static str) -> Kernel {
    Kernel { symbol, texts: TEXTS, options, sizes: &[], group: Group::Rows, params }
}

/// Both operators of a dtype for teams of a name.
macro_rules! teams {
    ($(($dtype:literal, $team:literal, $options:literal)),* $(,)?; $($more:expr),* $(,)?) => {
        &[$(
            row(concat!("softmax_", $dtype, $team), concat!("-DSOFTMAX", $options), "ppps"),
            row(concat!("reduce_", $dtype, $team), concat!("-DREDUCE", $options), "pps"),
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
    Kernel { group: Group::Walk, ..row("reduce_columns", "-DREDUCE_COLUMNS -DROWS=1", "pps") }
];
