//! What every kernel takes for granted, checked once for each node; and what the addresses of tensors are multiples of.

use qiao_core::{Graph, NodeSupport, TensorId};

use super::launch::Table;
use crate::memory::ALIGN;

pub(crate) use qiao_core::sound::{can_be_packed, find, writes_nothing};

/// The answer for every node of a graph.
pub(crate) fn support(table: &Table, graph: &Graph) -> Vec<NodeSupport> {
    qiao_core::sound::support(table, graph, "cuda")
}

/// What the address of a tensor's first element is a multiple of whatever is bound: the largest power of two up to 256.
pub(crate) fn alignment(graph: &Graph, id: TensorId) -> usize {
    match graph.root(id).1 {
        0 => ALIGN,
        offset => (1 << offset.trailing_zeros().min(8)).min(ALIGN),
    }
}
