//! What kernels of a backend take for granted, checked once for each node: sizes whose sums do not overflow, aligned views,
//! results whose elements do not share memory.
//!
//! A backend that asks [`find`] in the place of [`OpTable::find`] may rely on it in every kernel.

use crate::graph::{Graph, NodeView, Storage, Tensor};
use crate::op::OpKind;
use crate::shape::TensorDesc;
use crate::support::{NodeSupport, Property, Reason, Rule};
use crate::table::{Accept, OpTable, Row};

/// The most elements of a tensor, and the largest dim: a small multiple of it in bytes still fits a `u64`.
const MOST: usize = 1 << 48;

/// The row that runs a node and what it asks for.
///
/// # Errors
/// What is unsound about the node, or why no row accepts it.
pub fn find<'t, L>(table: &'t OpTable<L>, node: &NodeView<'_>) -> Result<(&'t Row<L>, Accept), Reason> {
    check(node)?;
    table.find(node)
}

/// The answer for every node of a graph, each kernel named `row.how`.
pub fn support<L>(table: &OpTable<L>, graph: &Graph, how: &str) -> Vec<NodeSupport> {
    let answer = |node: NodeView<'_>| match check(&node) {
        Ok(()) => table.support_node(&node),
        Err(reason) => NodeSupport::no(reason),
    };
    let named = |answer: NodeSupport| match answer.kernel.is_empty() {
        true => answer,
        false => NodeSupport { kernel: format!("{}.{how}", answer.kernel), ..answer },
    };
    graph.views().map(|node| named(answer(node))).collect()
}

/// # Errors
/// What is unsound about a node.
fn check(node: &NodeView<'_>) -> Result<(), Reason> {
    for (i, desc) in node.operands() {
        let largest = desc.shape.iter().copied().max().unwrap_or(0).max(desc.elements());
        if largest > MOST && !writes_nothing(node) {
            return Err(Reason::operand(i, Property::Memory, Rule::AtMost, largest, MOST));
        }
    }
    let outputs = node.node.outputs.iter().copied().map(Some);
    for (i, id) in node.node.inputs.iter().copied().chain(outputs).enumerate() {
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
    Ok(())
}

/// Whether a node has nothing to write, so that it need not run. Slots are checked even for empty caches.
pub fn writes_nothing(node: &NodeView<'_>) -> bool {
    node.kind() != OpKind::KvWrite && node.node.outputs.iter().all(|id| node.graph.desc(*id).elements() == 0)
}

/// Whether an operand can be bound in a private layout: a bound tensor of its own, of which nothing is a view.
pub fn can_be_packed(node: &NodeView<'_>, operand: usize) -> bool {
    let Some(id) = node.node.inputs.get(operand).copied().flatten() else { return false };
    let viewed = |t: &Tensor| matches!(t.storage, Storage::View(root, _) if root == id);
    matches!(node.graph.tensor(id).storage, Storage::Bound(_)) && !node.graph.tensors().iter().any(viewed)
}

/// What the address of an element is a multiple of, in bytes.
pub fn element_alignment(desc: &TensorDesc) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attrs::NoAttrs;
    use crate::dtype::DType;
    use crate::op::Op;
    use crate::support::Support;

    /// The answer of a table that takes everything for `y = relu(x)`.
    fn answer(x: TensorDesc, x_offset: usize, y: TensorDesc) -> NodeSupport {
        let mut g = Graph::new();
        let bytes = TensorDesc::new(DType::U8, &[x.bytes().unwrap() + x_offset]).unwrap();
        let root = g.bind("bytes", bytes);
        let x = g.view(root, x, x_offset).unwrap();
        let y = g.bind("y", y);
        g.add_into(Op::Relu(NoAttrs {}), &[Some(x)], &[y]).unwrap();
        let all = |_: &NodeView<'_>| Ok(Accept::Native);
        let row = Row { op: OpKind::Relu, name: "relu", act_dtype: None, accepts: all, launch: () };
        support(&OpTable::new(vec![row]), &g, "there").remove(0)
    }

    fn dense(shape: &[usize]) -> TensorDesc {
        TensorDesc::new(DType::F32, shape).unwrap()
    }

    #[test]
    fn a_sound_node_is_for_the_table_to_answer() {
        assert_eq!(answer(dense(&[2, 3]), 8, dense(&[2, 3])), NodeSupport::native("relu.there"));
    }

    #[test]
    fn a_view_between_elements_is_refused() {
        let Support::No(reason) = answer(dense(&[2, 3]), 2, dense(&[2, 3])).answer else { panic!() };
        assert_eq!((reason.operand, reason.property), (Some(0), Property::Alignment));
    }

    #[test]
    fn results_that_share_memory_are_refused() {
        for (strides, shared) in [([3, 1], false), ([1, 2], false), ([2, 1], true), ([1, 1], true)] {
            let y = TensorDesc::strided(DType::F32, &[2, 3], &strides).unwrap();
            let refused = matches!(answer(dense(&[2, 3]), 0, y).answer, Support::No(_));
            assert_eq!(refused, shared, "{strides:?}");
        }
    }

    #[test]
    fn sizes_that_overflow_sums_are_refused() {
        let far = TensorDesc::strided(DType::F32, &[1 << 50], &[0]).unwrap();
        let y = TensorDesc::new(DType::F32, &[1 << 50]).unwrap();
        assert!(matches!(answer(far, 0, y).answer, Support::No(r) if r.property == Property::Memory));
    }
}
