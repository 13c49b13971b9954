//! Operators that move elements.

use crate::kernel::{Group, Kernel};

const TEXTS: &[&str] = &[include_str!("../../text/walk.cl"), include_str!("../../text/moves.cl")];

const fn row(symbol: &'static str, options: &'static str, params: &'static str) -> Kernel {
    Kernel { symbol, texts: TEXTS, options, sizes: &[], group: Group::Walk, params }
}

pub(crate) const KERNELS: &[Kernel] = &[
    row("move_1", "-DMOVE -DUNIT=uchar", "pps"),
    row("move_2", "-DMOVE -DUNIT=ushort", "pps"),
    row("move_4", "-DMOVE -DUNIT=uint", "pps"),
    row("move_8", "-DMOVE -DUNIT=ulong", "pps"),
    row("move_16", "-DMOVE -DUNIT=uint4", "pps"),
    row("fill_1", "-DFILL -DUNIT=uchar", "psl"),
    row("fill_2", "-DFILL -DUNIT=ushort", "psl"),
    row("fill_4", "-DFILL -DUNIT=uint", "psl"),
    row("fill_8", "-DFILL -DUNIT=ulong", "psl"),
    row("fill_16", "-DFILL -DUNIT=uint4", "psl"),
    row("gather_1", "-DGATHER -DUNIT=uchar", "pppsllul"),
    row("gather_2", "-DGATHER -DUNIT=ushort", "pppsllul"),
    row("gather_4", "-DGATHER -DUNIT=uint", "pppsllul"),
    row("gather_8", "-DGATHER -DUNIT=ulong", "pppsllul"),
    row("gather_16", "-DGATHER -DUNIT=uint4", "pppsllul"),
];
