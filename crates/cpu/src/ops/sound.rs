//! What every kernel takes for granted, checked once for each node: sizes whose sums do not overflow, aligned views,
//! results whose elements do not share memory.

use qiao_core::{
    Accept, Graph, NodeSupport, NodeView, OpKind, Property, Reason, Row, Rule, Storage, Support, TensorDesc, TensorId,
};

use super::exec::{Prepare, Table};

/// The most elements of a tensor, and the largest dim: a small multiple of it in bytes still fits a `usize`.
const MOST: usize = 1 << 48;

/// The row that runs a node and what it asks for.
///
/// # Errors
/// The reason why the CPU does not run the node.
pub(crate) fn find<'t>(table: &'t Table, node: &NodeView<'_>) -> Result<(&'t Row<Prepare>, Accept), Reason> {
    for (i, desc) in node.operands() {
        let largest = desc.shape.iter().copied().max().unwrap_or(0).max(desc.elements());
        if largest > MOST && !writes_nothing(node) {
            return Err(Reason::operand(i, Property::Memory, Rule::AtMost, largest, MOST));
        }
    }
    for (i, id) in
        node.node.inputs.iter().chain(&node.node.outputs.iter().copied().map(Some).collect::<Vec<_>>()).enumerate()
    {
        let Some(id) = *id else { continue };
        let align = alignment(node.graph.desc(id));
        let (_, offset) = node.graph.root(id);
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

/// The answer for every node of a graph, with the tier behind the name of each kernel.
pub(crate) fn support(table: &Table, graph: &Graph, isa: &str) -> Vec<NodeSupport> {
    let answer = |node: NodeView<'_>| match find(table, &node) {
        Ok((row, accept)) => NodeSupport {
            answer: match accept {
                Accept::Native => Support::Native,
                Accept::Relayout { operand, layout } => Support::Relayout { operand, layout },
            },
            kernel: format!("{}.{isa}", row.name),
            act_dtype: row.act_dtype,
        },
        Err(reason) => NodeSupport::no(reason),
    };
    graph.views().map(answer).collect()
}

/// Whether a node has nothing to write, so that it need not run. Slots are checked even for empty caches.
pub(crate) fn writes_nothing(node: &NodeView<'_>) -> bool {
    node.kind() != OpKind::KvWrite && node.node.outputs.iter().all(|id| node.graph.desc(*id).elements() == 0)
}

/// Whether an operand can be bound in a private layout: a bound tensor of its own, of which nothing is a view.
pub(crate) fn can_be_packed(node: &NodeView<'_>, operand: usize) -> bool {
    let Some(id) = node.node.inputs.get(operand).copied().flatten() else { return false };
    let viewed = |t: &qiao_core::Tensor| matches!(t.storage, Storage::View(root, _) if root == id);
    matches!(node.graph.tensor(id).storage, Storage::Bound(_)) && !node.graph.tensors().iter().any(viewed)
}

/// What the address of a tensor's first element is a multiple of.
pub(crate) fn alignment(desc: &TensorDesc) -> usize {
    if desc.dtype.is_packed() { 1 } else { desc.dtype.block_bytes() }
}

/// The alignment that the binding of a tensor needs for itself and for every view of it.
pub(crate) fn binding_alignment(graph: &Graph, bound: TensorId) -> usize {
    let of_it = |t: &&qiao_core::Tensor| matches!(t.storage, Storage::View(root, _) if root == bound);
    let views = graph.tensors().iter().filter(of_it).map(|t| alignment(&t.desc)).max();
    views.unwrap_or(1).max(alignment(graph.desc(bound)))
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
