//! Operators that work element by element.

use crate::kernel::{Kernel, Unit};

const fn row(symbol: &'static str, params: &'static str) -> Kernel {
    Kernel { symbol, threads: 256, params }
}

pub(crate) const UNIT: Unit = Unit {
    name: "elementwise",
    text: include_str!("../../text/elementwise.cu"),
    kernels: &[
        row("binary_f32", "pppuflullluu"),
        row("binary_f16", "pppuflullluu"),
        row("binary_bf16", "pppuflullluu"),
        row("unary_f32", "ppulull"),
        row("unary_f16", "ppulull"),
        row("unary_bf16", "ppulull"),
        row("binary_any", "pppsufuuu"),
        row("unary_any", "ppsuuu"),
    ],
};
