//! What the addresses of tensors are multiples of.

use qiao_core::{Graph, TensorId};

pub(crate) use qiao_core::sound::can_be_packed;

/// Every tensor that is bound starts on a multiple of this, so that neighbouring threads fill whole lines.
pub const ALIGN: usize = 256;

/// What the address of a tensor's first element is a multiple of whatever is bound: the largest power of two up to 256.
pub(crate) fn alignment(graph: &Graph, id: TensorId) -> usize {
    match graph.root(id).1 {
        0 => ALIGN,
        offset => (1 << offset.trailing_zeros().min(8)).min(ALIGN),
    }
}
