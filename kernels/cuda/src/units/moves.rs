//! Operators that move elements.

use crate::kernel::{Kernel, Unit};

const fn row(symbol: &'static str, params: &'static str) -> Kernel {
    Kernel { symbol, threads: 256, params }
}

pub(crate) const UNIT: Unit = Unit {
    name: "moves",
    text: include_str!("../../text/moves.cu"),
    kernels: &[
        row("move_1", "pps"),
        row("move_2", "pps"),
        row("move_4", "pps"),
        row("move_8", "pps"),
        row("move_16", "pps"),
        row("fill_1", "psl"),
        row("fill_2", "psl"),
        row("fill_4", "psl"),
        row("fill_8", "psl"),
        row("fill_16", "psl"),
        row("gather_1", "pppsllul"),
        row("gather_2", "pppsllul"),
        row("gather_4", "pppsllul"),
        row("gather_8", "pppsllul"),
        row("gather_16", "pppsllul"),
    ],
};
