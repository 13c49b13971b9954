//! What every kernel takes for granted, checked once for each node; and what the addresses of tensors are multiples of.

use qiao_core::{Graph, Storage, Tensor, TensorId};

pub(crate) use qiao_core::sound::{can_be_packed, element_alignment as alignment, find, support, writes_nothing};

/// The alignment that the binding of a tensor needs for itself and for every view of it.
pub(crate) fn binding_alignment(graph: &Graph, bound: TensorId) -> usize {
    let of_it = |t: &&Tensor| matches!(t.storage, Storage::View(root, _) if root == bound);
    let views = graph.tensors().iter().filter(of_it).map(|t| alignment(&t.desc)).max();
    views.unwrap_or(1).max(alignment(graph.desc(bound)))
}
