//! What every kernel takes for granted, checked once for each node: sizes whose sums do not overflow, aligned views, results
//! whose elements do not share memory.

use qiao_core::{
    Accept, Graph, NodeSupport, NodeView, OpKind, Property, Reason, Row, Rule, Storage, Support, TensorDesc, TensorId,
};

use super::launch::{Prepare, Table};
use crate::memory::ALIGN;

/// The most elements of a tensor, and the largest dim: a small multiple of it in bytes still fits a `u64`.
const MOST: usize = 1 << 48;

/// The row that runs a node and what it asks for.
///
/// # Errors
/// The reason why the card does not run the node.
pub(crate) fn find<'t>(table: &'t Table, node: &NodeView<'_>) -> Result<(&'t Row<Prepare>, Accept), Reason> {
    for (i, desc) in node.operands() {
        let largest = desc.shape.iter().copied().max().unwrap_or(0).max(desc.elements());
        if largest > MOST && !writes_nothing(node) {
            return Err(Reason::operand(i, Property::Memory, Rule::AtMost, largest, MOST));
        }
    }
    let given = node.node.inputs.iter().copied().chain(node.node.outputs.iter().copied().map(Some));
    for (i, id) in given.enumerate() {
        let Some(id) = id else { continue };
        let (align, (_, offset)) = (element_alignment(node.graph.desc(id)), node.graph.root(id));
        if !offset.is_multiple_of(align) {
            return Err(Reason::operand(i, Property::Alignment, Rule::MultipleOf, offset, align));
        }
    }
    for (i, id) in node.node.outputs.iter().enumerate() {
        if overlaps_itself(node.graph.desc(*id)) {
            return Err(Reason::strides(node.node.inputs.len() + i, "such that no two elements share memory"));
        }
    }
    table.find(node)
}

/// The answer for every node of a graph.
pub(crate) fn support(table: &Table, graph: &Graph) -> Vec<NodeSupport> {
    let answer = |node: NodeView<'_>| match find(table, &node) {
        Ok((row, accept)) => NodeSupport {
            answer: match accept {
                Accept::Native => Support::Native,
                Accept::Relayout { operand, layout } => Support::Relayout { operand, layout },
            },
            kernel: format!("{}.cuda", row.name),
            act_dtype: row.act_dtype,
        },
        Err(reason) => NodeSupport::no(reason),
    };
    graph.views().map(answer).collect()
}

/// Whether a node has nothing to write, so that it need not run.
pub(crate) fn writes_nothing(node: &NodeView<'_>) -> bool {
    node.kind() != OpKind::KvWrite && node.node.outputs.iter().all(|id| node.graph.desc(*id).elements() == 0)
}

/// Whether an operand can be bound in a private layout: a bound tensor of its own, of which nothing is a view.
pub(crate) fn can_be_packed(node: &NodeView<'_>, operand: usize) -> bool {
    let Some(id) = node.node.inputs.get(operand).copied().flatten() else { return false };
    let viewed = |t: &qiao_core::Tensor| matches!(t.storage, Storage::View(root, _) if root == id);
    matches!(node.graph.tensor(id).storage, Storage::Bound(_)) && !node.graph.tensors().iter().any(viewed)
}

/// What the address of a tensor's first element is a multiple of whatever is bound: the largest power of two up to 256.
pub(crate) fn alignment(graph: &Graph, id: TensorId) -> usize {
    match graph.root(id).1 {
        0 => ALIGN,
        offset => (1 << offset.trailing_zeros().min(8)).min(ALIGN),
    }
}

/// What the address of an element is a multiple of.
fn element_alignment(desc: &TensorDesc) -> usize {
    if desc.dtype.is_packed() { 1 } else { desc.dtype.block_bytes() }
}

/// Whether two elements may share memory: an axis does not step past all that the axes of smaller strides reach.
fn overlaps_itself(desc: &TensorDesc) -> bool {
    if desc.elements() == 0 {
        return false;
    }
    let mut axes: Vec<(usize, usize)> =
        desc.strides.iter().copied().zip(desc.shape.iter().copied()).filter(|&(_, size)| size > 1).collect();
    axes.sort_unstable();
    let mut reach = 0usize;
    axes.into_iter().any(|(stride, size)| {
        let overlaps = stride <= reach;
        reach = reach.saturating_add((size - 1).saturating_mul(stride));
        overlaps
    })
}
