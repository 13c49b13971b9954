//! A graph as the structs that a plugin reads, alive for one call.

use std::collections::HashMap;
use std::ffi::c_void;

use qiao_core::{Error, Graph, Node, Result, Storage, TensorDesc, TensorId};

use crate::abi::{self, Sized32};
use crate::dtypes;

/// The structs of one graph. What points into what stays where it is, since nothing is added any more.
pub(super) struct Arena {
    graph: abi::Graph,
    tensors: Vec<abi::Tensor>,
    ops: Vec<abi::Op>,
    operands: Vec<u32>,
    attrs: Vec<u32>,
    bound: Vec<u32>,
    tensor_list: Vec<*const abi::Tensor>,
    op_list: Vec<*const abi::Op>,
}

/// Where lists of one operator begin.
struct Start {
    operands: usize,
    attrs: Option<usize>,
}

impl Arena {
    /// A whole graph, tensor by tensor.
    ///
    /// # Errors
    /// Something that the boundary has no number for.
    pub(super) fn of_graph(graph: &Graph) -> Result<Arena> {
        let mut arena = Arena::empty();
        for t in graph.tensors() {
            let mut tensor = tensor(&t.desc)?;
            match t.storage {
                Storage::Bound(position) => tensor.bound = small(position)?.saturating_add(1),
                Storage::View(root, offset) => {
                    tensor.view_of = small(root.index())?.saturating_add(1);
                    tensor.view_offset = offset as u64;
                }
                Storage::Temporary => {}
            }
            arena.tensors.push(tensor);
        }
        for id in graph.bound() {
            arena.bound.push(small(id.index())?);
        }
        let mut starts = Vec::new();
        for node in graph.nodes() {
            starts.push(arena.op(node, |id| small(id.index()))?);
        }
        Ok(arena.finish(&starts))
    }

    /// One node of a graph as a graph of its own, as it is when it is planned alone: operands are bound tensors, and a
    /// view is bound where it starts, or, where that is no multiple of `align`, stays a view of the bound tensor behind it.
    ///
    /// # Errors
    /// As [`Arena::of_graph`].
    pub(super) fn of_node(graph: &Graph, index: usize, align: usize) -> Result<Arena> {
        let mut arena = Arena::empty();
        let mut ids = HashMap::new();
        let node = &graph.nodes()[index];
        for id in node.inputs.iter().flatten().chain(&node.outputs) {
            arena.operand(graph, *id, align, &mut ids)?;
        }
        let start = arena.op(node, |id| Ok(ids[&id]))?;
        Ok(arena.finish(&[start]))
    }

    /// The index of a tensor of the whole graph in the graph of one node.
    fn operand(&mut self, graph: &Graph, id: TensorId, align: usize, ids: &mut HashMap<TensorId, u32>) -> Result<u32> {
        if let Some(&index) = ids.get(&id) {
            return Ok(index);
        }
        let (root, offset) = graph.root(id);
        let mut tensor = tensor(graph.desc(id))?;
        if root == id || offset.is_multiple_of(align) {
            tensor.bound = small(self.bound.len())?.saturating_add(1);
            self.bound.push(small(self.tensors.len())?);
        } else {
            tensor.view_of = self.operand(graph, root, align, ids)?.saturating_add(1);
            tensor.view_offset = offset as u64;
        }
        let index = small(self.tensors.len())?;
        self.tensors.push(tensor);
        ids.insert(id, index);
        Ok(index)
    }

    /// A tensor by itself, where it lies left out.
    ///
    /// # Errors
    /// As [`Arena::of_graph`].
    pub(super) fn of_tensor(desc: &TensorDesc) -> Result<abi::Tensor> {
        tensor(desc)
    }

    /// The structs. They live as long as the arena.
    pub(super) fn graph(&self) -> *const abi::Graph {
        &self.graph
    }

    fn empty() -> Arena {
        Arena {
            graph: abi::Graph::sized(),
            tensors: Vec::new(),
            ops: Vec::new(),
            operands: Vec::new(),
            attrs: Vec::new(),
            bound: Vec::new(),
            tensor_list: Vec::new(),
            op_list: Vec::new(),
        }
    }

    fn op(&mut self, node: &Node, index: impl Fn(TensorId) -> Result<u32>) -> Result<Start> {
        let operands = self.operands.len();
        for id in &node.inputs {
            self.operands.push(id.map_or(Ok(abi::ABSENT), &index)?);
        }
        for id in &node.outputs {
            self.operands.push(index(*id)?);
        }
        let words = node.op.attr_words();
        let attrs = (!words.is_empty()).then_some(self.attrs.len());
        if attrs.is_some() {
            self.attrs.push(small(4 * (1 + words.len()))?);
            self.attrs.extend(words);
        }
        self.ops.push(abi::Op {
            opcode: node.op.kind() as u32,
            n_in: small(node.inputs.len())?,
            n_out: small(node.outputs.len())?,
            ..abi::Op::sized()
        });
        Ok(Start { operands, attrs })
    }

    /// Points everything at where it now stays.
    fn finish(mut self, starts: &[Start]) -> Arena {
        for (op, start) in self.ops.iter_mut().zip(starts) {
            op.operands = self.operands[start.operands..].as_ptr();
            op.attrs = start.attrs.map_or(std::ptr::null(), |at| self.attrs[at..].as_ptr().cast::<c_void>());
        }
        self.tensor_list = self.tensors.iter().map(|t| &raw const *t).collect();
        self.op_list = self.ops.iter().map(|o| &raw const *o).collect();
        self.graph = abi::Graph {
            n_tensors: self.tensors.len() as u32,
            n_ops: self.ops.len() as u32,
            n_bound: self.bound.len() as u32,
            tensors: self.tensor_list.as_ptr(),
            ops: self.op_list.as_ptr(),
            bound: self.bound.as_ptr(),
            ..abi::Graph::sized()
        };
        self
    }
}

/// A count or an index as the boundary holds it.
fn small(n: usize) -> Result<u32> {
    u32::try_from(n)
        .ok()
        .filter(|&n| n < abi::ABSENT)
        .ok_or_else(|| Error::invalid("graph for a plugin", format!("{n} things of one kind"), "use a smaller graph"))
}

fn tensor(desc: &TensorDesc) -> Result<abi::Tensor> {
    let number = |n: usize| {
        i64::try_from(n).map_err(|_| {
            Error::invalid("tensor for a plugin", format!("{desc} with a dim or stride of {n}"), "use smaller dims")
        })
    };
    let dtype = dtypes::to_c(desc.dtype).ok_or_else(|| {
        let found = format!("{} has no number in ABI {}.{}", desc.dtype, abi::MAJOR, abi::MINOR);
        Error::invalid("tensor for a plugin", found, "use another dtype")
    })?;
    let mut tensor = abi::Tensor {
        dtype,
        rank: desc.rank() as u32,
        flags: if desc.constant { abi::TENSOR_CONST } else { 0 },
        layout: desc.layout,
        ..abi::Tensor::sized()
    };
    for (axis, (&dim, &stride)) in desc.shape.iter().zip(desc.strides.iter()).enumerate() {
        tensor.dims[axis] = number(dim)?;
        tensor.strides[axis] = number(stride)?;
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use qiao_core::{DType, MatmulAttrs, NoAttrs, Op};

    use super::*;

    /// Everything that a plugin reads of a graph, as text.
    fn read(arena: &Arena) -> String {
        // SAFETY: the arena is alive, and the graph points into it; counts are those of its lists.
        unsafe {
            let g = &*arena.graph();
            let mut out = String::new();
            for i in 0..g.n_tensors as usize {
                let t = &**g.tensors.add(i);
                assert_eq!(t.struct_size as usize, size_of::<abi::Tensor>());
                let (dims, strides) = (&t.dims[..t.rank as usize], &t.strides[..t.rank as usize]);
                out.push_str(&format!(
                    "{i}: {:#x} {dims:?} {strides:?} f{} b{} v{}+{} l{}\n",
                    t.dtype, t.flags, t.bound, t.view_of, t.view_offset, t.layout
                ));
            }
            for i in 0..g.n_ops as usize {
                let o = &**g.ops.add(i);
                let operands = std::slice::from_raw_parts(o.operands, (o.n_in + o.n_out) as usize);
                out.push_str(&format!("op {} {operands:?}", o.opcode));
                if !o.attrs.is_null() {
                    let words = o.attrs.cast::<u32>();
                    let n = *words as usize / 4;
                    out.push_str(&format!(" {:?}", std::slice::from_raw_parts(words, n)));
                }
                out.push('\n');
            }
            out.push_str(&format!("bound {:?}", std::slice::from_raw_parts(g.bound, g.n_bound as usize)));
            out
        }
    }

    fn graph() -> Graph {
        let mut g = Graph::new();
        let x = g.bind("x", TensorDesc::new(DType::F32, &[2, 32]).unwrap());
        let w = g.bind("w", TensorDesc::new(DType::F32, &[8, 32]).unwrap().as_constant());
        let row = g.view(x, TensorDesc::new(DType::F32, &[1, 32]).unwrap(), 128).unwrap();
        let odd = g.view(x, TensorDesc::new(DType::F32, &[32]).unwrap(), 12).unwrap();
        let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
        g.op1(op, &[row, w]).unwrap();
        g.op1(Op::Add(NoAttrs {}), &[odd, odd]).unwrap();
        g
    }

    #[test]
    fn a_graph_is_told_tensor_by_tensor() {
        let text = read(&Arena::of_graph(&graph()).unwrap());
        let want = "0: 0x12002 [2, 32] [32, 1] f0 b1 v0+0 l0\n1: 0x12002 [8, 32] [32, 1] f1 b2 v0+0 l0\n\
                    2: 0x12002 [1, 32] [32, 1] f0 b0 v1+128 l0\n3: 0x12002 [32] [1] f0 b0 v1+12 l0\n\
                    4: 0x12002 [1, 8] [8, 1] f0 b0 v0+0 l0\n5: 0x12002 [32] [1] f0 b0 v0+0 l0\n\
                    op 48 [2, 1, 4] [16, 1, 0, 0]\nop 16 [3, 3, 5]\nbound [0, 1]";
        assert_eq!(text, want);
        let empty = Arena::of_graph(&Graph::new()).unwrap();
        assert_eq!(read(&empty), "bound []");
    }

    #[test]
    fn a_node_alone_binds_its_operands_where_they_start() {
        let g = graph();
        let text = read(&Arena::of_node(&g, 0, 64).unwrap());
        let want = "0: 0x12002 [1, 32] [32, 1] f0 b1 v0+0 l0\n1: 0x12002 [8, 32] [32, 1] f1 b2 v0+0 l0\n\
                    2: 0x12002 [1, 8] [8, 1] f0 b3 v0+0 l0\nop 48 [0, 1, 2] [16, 1, 0, 0]\nbound [0, 1, 2]";
        assert_eq!(text, want);
        // What starts at no multiple stays inside of what does.
        let text = read(&Arena::of_node(&g, 1, 64).unwrap());
        let want = "0: 0x12002 [2, 32] [32, 1] f0 b1 v0+0 l0\n1: 0x12002 [32] [1] f0 b0 v1+12 l0\n\
                    2: 0x12002 [32] [1] f0 b2 v0+0 l0\nop 16 [1, 1, 2]\nbound [0, 2]";
        assert_eq!(text, want);
    }

    #[test]
    fn sizes_beyond_the_boundary_are_refused() {
        let mut g = Graph::new();
        g.bind("x", TensorDesc::new(DType::F32, &[usize::MAX, 0]).unwrap());
        assert!(Arena::of_graph(&g).is_err());
    }
}
