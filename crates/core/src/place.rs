//! Where the temporaries of a graph lie in its workspace: by liveness, first fit on the lowest free offset.

use crate::error::{Error, Result};
use crate::graph::{Graph, Storage, TensorId};

/// The workspace of a graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The offset of each temporary in the workspace, by tensor index; `None` for bound tensors, views, temporaries that
    /// nothing touches and those that were not to be placed.
    pub offsets: Vec<Option<usize>>,
    /// Bytes of the whole workspace.
    pub bytes: usize,
}

/// Places every temporary on a multiple of `align` (a power of two), followed by `tail_pad` spare bytes. Temporaries
/// whose lives overlap never share bytes; a node's results never share bytes with its operands.
///
/// # Errors
/// The workspace is larger than memory can be.
pub fn place(graph: &Graph, align: usize, tail_pad: usize) -> Result<Placement> {
    place_where(graph, align, tail_pad, |_| true, |node| node)
}

/// [`place`] for those temporaries that are `wanted`, where `moment` says for each node when it runs. Nodes of one moment run
/// in any order, or together, so that temporaries which they touch never share bytes; moments never decrease from node to
/// node.
///
/// # Errors
/// As [`place`].
pub fn place_where(
    graph: &Graph,
    align: usize,
    tail_pad: usize,
    wanted: impl Fn(TensorId) -> bool,
    moment: impl Fn(usize) -> usize,
) -> Result<Placement> {
    let count = graph.tensors().len();
    let mut life: Vec<Option<(usize, usize)>> = vec![None; count];
    for (index, node) in graph.nodes().iter().enumerate() {
        let step = moment(index);
        for &id in node.inputs.iter().flatten().chain(&node.outputs) {
            let root = graph.root(id).0;
            if graph.tensor(root).storage == Storage::Temporary && wanted(root) {
                let span = life[root.index()].get_or_insert((step, step));
                span.1 = step;
            }
        }
    }
    let too_large = || Error::invalid("workspace", "its size overflows", "use a smaller batch or context");
    let mut placed: Vec<(usize, usize, usize, usize)> = Vec::new();
    let mut out = Placement { offsets: vec![None; count], bytes: 0 };
    for (index, span) in life.iter().enumerate() {
        let Some((first, last)) = *span else { continue };
        let bytes = graph.tensors()[index].desc.bytes()?.max(1).checked_add(tail_pad).ok_or_else(too_large)?;
        let bytes = bytes.checked_next_multiple_of(align).ok_or_else(too_large)?;
        let mut busy: Vec<(usize, usize)> =
            placed.iter().filter(|p| p.2 <= last && first <= p.3).map(|p| (p.0, p.1)).collect();
        busy.sort_unstable();
        let mut offset = 0usize;
        for (start, end) in busy {
            if offset.checked_add(bytes).is_some_and(|e| e <= start) {
                break;
            }
            offset = offset.max(end);
        }
        let end = offset.checked_add(bytes).ok_or_else(too_large)?;
        placed.push((offset, end, first, last));
        out.offsets[index] = Some(offset);
        out.bytes = out.bytes.max(end);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attrs::NoAttrs;
    use crate::dtype::DType;
    use crate::op::Op;
    use crate::shape::TensorDesc;

    #[test]
    fn a_chain_of_operators_needs_room_for_two_tensors_only() {
        let mut g = Graph::new();
        let mut x = g.bind("x", TensorDesc::new(DType::F32, &[16]).unwrap());
        for _ in 0..6 {
            x = g.op1(Op::Silu(NoAttrs {}), &[x]).unwrap();
        }
        let p = place(&g, 64, 0).unwrap();
        assert_eq!(p.bytes, 128);
        assert_eq!(p.offsets.iter().flatten().count(), 6);
    }

    #[test]
    fn only_what_is_wanted_is_placed_and_what_one_moment_touches_lies_apart() {
        let mut g = Graph::new();
        let x = g.bind("x", TensorDesc::new(DType::F32, &[16]).unwrap());
        let mut chain = vec![x];
        for _ in 0..4 {
            chain.push(g.op1(Op::Silu(NoAttrs {}), &[*chain.last().unwrap()]).unwrap());
        }
        let p = place_where(&g, 64, 0, |id| id != chain[2], |_| 0).unwrap();
        let at: Vec<_> = chain[1..].iter().map(|id| p.offsets[id.index()]).collect();
        assert_eq!((at, p.bytes), (vec![Some(0), None, Some(64), Some(128)], 192));
        let p = place_where(&g, 64, 0, |_| true, |node| node / 2).unwrap();
        assert_eq!(p.bytes, 192, "two of the first moment and the one that the next reads");
    }

    #[test]
    fn a_view_keeps_its_tensor_alive() {
        let mut g = Graph::new();
        let x = g.bind("x", TensorDesc::new(DType::F32, &[16]).unwrap());
        let a = g.op1(Op::Silu(NoAttrs {}), &[x]).unwrap();
        let v = g.reshape(a, &[4, 4]).unwrap();
        let b = g.op1(Op::Silu(NoAttrs {}), &[x]).unwrap();
        let c = g.op1(Op::Silu(NoAttrs {}), &[v]).unwrap();
        let p = place(&g, 64, 32).unwrap();
        let at = |t: TensorId| p.offsets[t.index()].unwrap();
        assert_ne!(at(a), at(b));
        assert_ne!(at(a), at(c));
        assert!(p.offsets.iter().flatten().all(|o| o % 64 == 0));
    }
}
