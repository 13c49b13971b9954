//! rms_norm, add_rms_norm, layer_norm.

use crate::kernel::{Group, Kernel};

const TEXTS: &[&str] = &[include_str!("../../text/rowwise.cl"), include_str!("../../text/norms.cl")];

const fn row(symbol: &'static str, options: &'static str, params: &'static str) -> Kernel {
    Kernel { symbol, texts: TEXTS, options, sizes: &[], group: Group::Rows, params }
}

/// The three norms of a dtype for teams of a name.
macro_rules! norms {
    ($(($dtype:literal, $team:literal, $options:literal)),* $(,)?) => {
        &[$(
            row(concat!("rms_norm_", $dtype, $team), concat!("-DRMS_NORM", $options), "ppps"),
            row(concat!("add_rms_norm_", $dtype, $team), concat!("-DRMS_NORM -DADD", $options), "ppppps"),
            row(concat!("layer_norm_", $dtype, $team), concat!("-DLAYER_NORM", $options), "pppps"),
        )*]
    };
}

pub(crate) const KERNELS: &[Kernel] = norms![
    ("f32", "_32", " -DT=F32 -DROWS=4"),
    ("f32", "_128", " -DT=F32 -DROWS=1"),
    ("f32", "_512", " -DT=F32 -DROWS=1"),
    ("f16", "_32", " -DT=F16 -DROWS=4"),
    ("f16", "_128", " -DT=F16 -DROWS=1"),
    ("f16", "_512", " -DT=F16 -DROWS=1"),
    ("bf16", "_32", " -DT=BF16 -DROWS=4"),
    ("bf16", "_128", " -DT=BF16 -DROWS=1"),
    ("bf16", "_512", " -DT=BF16 -DROWS=1"),
    ("any", "_32", " -DROWS=4"),
    ("any", "_512", " -DROWS=1"),
];
