//! Arithmetic, activations, silu_mul.

use crate::kernel::{Group, Kernel};

const TEXTS: &[&str] = &[
    include_str!("../../text/element.cl"),
    include_str!("../../text/walk.cl"),
    include_str!("../../text/functions.cl"),
    include_str!("../../text/elementwise.cl"),
];

const fn row(symbol: &'static str, options: &'static str, params: &'static str) -> Kernel {
    Kernel { symbol, texts: TEXTS, options, sizes: &[], group: Group::Walk, params }
}

pub(crate) const KERNELS: &[Kernel] = &[
    row("binary_f32", "-DBINARY -DT=0", "pppuflullluu"),
    row("binary_f16", "-DBINARY -DT=1", "pppuflullluu"),
    row("binary_bf16", "-DBINARY -DT=2", "pppuflullluu"),
    row("binary_any", "-DBINARY_ANY", "pppsufuuu"),
    row("unary_f32", "-DUNARY -DT=0", "ppulull"),
    row("unary_f16", "-DUNARY -DT=1", "ppulull"),
    row("unary_bf16", "-DUNARY -DT=2", "ppulull"),
    row("unary_any", "-DUNARY_ANY", "ppsuuu"),
];
