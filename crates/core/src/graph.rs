//! A graph of operators: plain data, checked while it is built.

use std::fmt;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Op, OpKind};
use crate::rules::{Operands, OutSpec, rule};
use crate::shape::TensorDesc;

/// A tensor of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(crate) u32);

impl TensorId {
    /// Its position in [`Graph::tensors`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A node of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// Its position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a tensor's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// In the binding of this position at execute.
    Bound(usize),
    /// In the workspace of the plan.
    Temporary,
    /// Inside another tensor, this many bytes from its start. Never a view of a view.
    View(TensorId, usize),
}

/// A tensor: what it is and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tensor {
    /// Its name, for people.
    pub name: String,
    /// What it is.
    pub desc: TensorDesc,
    /// Where it is.
    pub storage: Storage,
}

/// An operator with its operands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// The operator.
    pub op: Op,
    /// The operands, in the order of the op list; `None` where an optional one is left out.
    pub inputs: Vec<Option<TensorId>>,
    /// The results. One that stands among the inputs is written in place.
    pub outputs: Vec<TensorId>,
}

/// Operators in execution order over tensors. Built through checked methods, so that what exists is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Graph {
    tensors: Vec<Tensor>,
    nodes: Vec<Node>,
    bound: Vec<TensorId>,
    /// Whether a tensor that owns its bytes has any yet. A view is asked through its root; its own entry says nothing.
    written: Vec<bool>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Graph::default()
    }

    /// Adds a tensor whose bytes are bound at execute: an input, an output, a weight or a cache.
    pub fn bind(&mut self, name: impl Into<String>, desc: TensorDesc) -> TensorId {
        let storage = Storage::Bound(self.bound.len());
        let id = self.push(name.into(), desc, storage, true);
        self.bound.push(id);
        id
    }

    /// Adds a tensor that lives in the plan's workspace, to be written by [`Graph::add_into`].
    pub fn temporary(&mut self, name: impl Into<String>, desc: TensorDesc) -> TensorId {
        self.push(name.into(), desc, Storage::Temporary, false)
    }

    /// The same bytes of a contiguous tensor under another shape.
    ///
    /// # Errors
    /// The tensor is not contiguous, has a private layout, or has another number of elements.
    pub fn reshape(&mut self, of: TensorId, shape: &[usize]) -> Result<TensorId> {
        let from = self.desc(of);
        let desc = TensorDesc { constant: from.constant, ..TensorDesc::new(from.dtype, shape)? };
        if !from.is_contiguous() || from.layout != 0 || from.elements() != desc.elements() {
            return Err(Error::invalid(
                format!("reshape to {shape:?}"),
                format!("'{}' is {from}", self.tensor(of).name),
                "give a contiguous tensor and a shape with as many elements",
            ));
        }
        self.view(of, desc, 0)
    }

    /// A window onto another tensor's bytes, starting `offset` bytes from its first element.
    ///
    /// # Errors
    /// The window does not lie within the tensor, or either has a private layout.
    pub fn view(&mut self, of: TensorId, desc: TensorDesc, offset: usize) -> Result<TensorId> {
        let outer = self.desc(of);
        let end = desc.bytes()?.checked_add(offset);
        if outer.layout != 0 || desc.layout != 0 || end.is_none_or(|end| end > outer.bytes().unwrap_or(0)) {
            return Err(Error::invalid(
                format!("view {desc} at byte {offset}"),
                format!("'{}' is {outer}", self.tensor(of).name),
                "stay within a tensor that has no private layout",
            ));
        }
        let (root, base) = self.root(of);
        let name = self.tensor(of).name.clone();
        Ok(self.push(name, desc, Storage::View(root, base + offset), false))
    }

    /// Adds a node whose outputs are new temporaries of the operator's own dtype; outputs in place are the operands.
    ///
    /// # Errors
    /// An operand, shape, dtype or attribute that the operator's rule refuses.
    pub fn add(&mut self, op: Op, inputs: &[Option<TensorId>]) -> Result<Vec<TensorId>> {
        self.add_with(op, inputs, None)
    }

    /// [`Graph::add`] for an operator with one output and all operands given.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn op1(&mut self, op: Op, inputs: &[TensorId]) -> Result<TensorId> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        Ok(self.add(op, &inputs)?[0])
    }

    /// [`Graph::add`] with the first output in another dtype, where the operator leaves it free.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn add_as(&mut self, op: Op, inputs: &[Option<TensorId>], dtype: DType) -> Result<Vec<TensorId>> {
        self.add_with(op, inputs, Some(dtype))
    }

    fn add_with(&mut self, op: Op, inputs: &[Option<TensorId>], dtype: Option<DType>) -> Result<Vec<TensorId>> {
        let specs = self.infer(&op, inputs)?;
        let kind = op.kind();
        let places = in_place(kind, inputs, specs.len());
        let mut outputs = Vec::with_capacity(specs.len());
        for (i, spec) in specs.iter().enumerate() {
            if let Some(id) = places[i] {
                outputs.push(id);
                continue;
            }
            let shape = spec.shape.ok_or_else(|| {
                Error::invalid(format!("{kind}"), "its output shape follows from no operand", "use add_into")
            })?;
            let dtype = dtype.filter(|_| i == 0).unwrap_or(spec.dtype.default());
            let name = format!("{kind}.{}", self.nodes.len());
            outputs.push(self.push(name, TensorDesc::new(dtype, &shape)?, Storage::Temporary, false));
        }
        self.finish(op, inputs, outputs.clone(), &specs)?;
        Ok(outputs)
    }

    /// Adds a node that writes these tensors.
    ///
    /// # Errors
    /// As [`Graph::add`]; also an output of the wrong shape or dtype, one written before, or one that overlaps an
    /// operand where the operator does not work in place.
    pub fn add_into(&mut self, op: Op, inputs: &[Option<TensorId>], outputs: &[TensorId]) -> Result<NodeId> {
        let specs = self.infer(&op, inputs)?;
        self.finish(op, inputs, outputs.to_vec(), &specs)
    }

    fn infer(&self, op: &Op, inputs: &[Option<TensorId>]) -> Result<Vec<OutSpec>> {
        let kind = op.kind();
        let operands = kind.inputs();
        let variadic = operands.last().is_some_and(|o| o.variadic);
        if inputs.len() > operands.len() && !variadic {
            let found = format!("{} were given", inputs.len());
            return Err(Error::invalid(format!("{kind} operands"), found, format!("give at most {}", operands.len())));
        }
        let mut descs = Vec::with_capacity(inputs.len());
        for &id in inputs {
            if let Some(id) = id {
                let tensor = self.tensors.get(id.index()).ok_or_else(|| {
                    Error::invalid(format!("{kind} operand"), format!("no tensor {}", id.0), "use ids of this graph")
                })?;
                if !self.written[self.root(id).0.index()] {
                    return Err(Error::invalid(
                        format!("{kind} operand '{}'", tensor.name),
                        "no earlier node writes it",
                        "add its producer first",
                    ));
                }
                tensor.desc.check()?;
                descs.push(Some(&tensor.desc));
            } else {
                descs.push(None);
            }
        }
        let view = Operands { kind, descs: &descs };
        for (i, operand) in operands.iter().enumerate() {
            if !operand.optional {
                view.get(i)?;
            }
        }
        rule(kind)(op, &view)
    }

    fn finish(
        &mut self,
        op: Op,
        inputs: &[Option<TensorId>],
        outputs: Vec<TensorId>,
        specs: &[OutSpec],
    ) -> Result<NodeId> {
        let kind = op.kind();
        if outputs.len() != specs.len() {
            let found = format!("{} were given", outputs.len());
            return Err(Error::invalid(format!("{kind} outputs"), found, format!("give {}", specs.len())));
        }
        for (i, (&id, spec)) in outputs.iter().zip(specs).enumerate() {
            self.check_output(kind, i, id, spec, inputs, &outputs[..i])?;
        }
        for &id in &outputs {
            let root = self.root(id).0;
            self.written[root.index()] = true;
        }
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs });
        Ok(NodeId(self.nodes.len() as u32 - 1))
    }

    fn check_output(
        &self,
        kind: OpKind,
        index: usize,
        id: TensorId,
        spec: &OutSpec,
        inputs: &[Option<TensorId>],
        earlier: &[TensorId],
    ) -> Result<()> {
        let what = || format!("{kind} output {index}");
        let tensor = self
            .tensors
            .get(id.index())
            .ok_or_else(|| Error::invalid(what(), format!("no tensor {}", id.0), "use ids of this graph"))?;
        let (found, root) = (&tensor.desc, self.root(id).0);
        found.check()?;
        let dtype = spec.dtype.allows(found.dtype);
        let constant = found.constant || self.desc(root).constant;
        if spec.shape.is_some_and(|s| s != found.shape) || !dtype || constant || found.layout != 0 {
            let want = spec.shape.map_or("any shape".to_string(), |s| s.to_string());
            let mend = format!("give {}[{want}], not constant and in no private layout", spec.dtype.default());
            return Err(Error::invalid(what(), format!("'{}' is {found}", tensor.name), mend));
        }
        let of = kind.in_place_of(index);
        if let Some(operand) = of.and_then(|i| inputs.get(i).copied().flatten()).filter(|operand| *operand != id) {
            let mend = format!(
                "give '{}', the operand of the same name, which is written in place",
                self.tensor(operand).name
            );
            return Err(Error::invalid(what(), format!("'{}' is another tensor", tensor.name), mend));
        }
        if found.strides.iter().zip(found.shape.iter()).any(|(&s, &d)| s == 0 && d > 1) {
            return Err(Error::invalid(
                what(),
                format!("'{}' repeats elements", tensor.name),
                "give it non-zero strides",
            ));
        }
        let in_place = inputs.iter().position(|i| *i == Some(id)).is_some_and(|i| kind.may_be_in_place(index, i));
        let overlaps = inputs.iter().flatten().any(|&i| self.root(i).0 == root && !(in_place && i == id))
            || earlier.iter().any(|&o| self.root(o).0 == root);
        if overlaps {
            let mend = "give it storage of its own; only operands the list marks may be written in place";
            return Err(Error::invalid(what(), format!("'{}' shares storage with another operand", tensor.name), mend));
        }
        if !in_place && tensor.storage == Storage::Temporary && self.written[id.index()] {
            return Err(Error::invalid(
                what(),
                format!("'{}' was written before", tensor.name),
                "write each temporary once",
            ));
        }
        Ok(())
    }

    fn push(&mut self, name: String, desc: TensorDesc, storage: Storage, written: bool) -> TensorId {
        self.tensors.push(Tensor { name, desc, storage });
        self.written.push(written);
        TensorId(self.tensors.len() as u32 - 1)
    }

    /// Marks a bound constant as held in a device's private layout, as a `Relayout` answer asks.
    ///
    /// # Errors
    /// The tensor is not a bound constant, or another tensor views it.
    pub fn set_layout(&mut self, id: TensorId, layout: u64) -> Result<()> {
        let tensor = self.tensor(id);
        let viewed = self.tensors.iter().any(|t| matches!(t.storage, Storage::View(root, _) if root == id));
        if !matches!(tensor.storage, Storage::Bound(_)) || !tensor.desc.constant || viewed {
            return Err(Error::invalid(
                format!("private layout {layout:#x}"),
                format!("'{}' is no bound constant of its own", tensor.name),
                "only whole constant operands can be packed",
            ));
        }
        self.tensors[id.index()].desc.layout = layout;
        Ok(())
    }

    /// The same tensors and bindings without nodes, so that nodes can be rewritten one by one. Ids stay what they are.
    pub fn without_nodes(&self) -> Graph {
        let written = self.tensors.iter().map(|t| matches!(t.storage, Storage::Bound(_)));
        Graph {
            tensors: self.tensors.clone(),
            nodes: Vec::new(),
            bound: self.bound.clone(),
            written: written.collect(),
        }
    }

    /// Every tensor, in order of creation.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The nodes, in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The tensors bound at execute, in binding order.
    pub fn bound(&self) -> &[TensorId] {
        &self.bound
    }

    /// A tensor. Panics on an id of another graph.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.index()]
    }

    /// A tensor's description. Panics on an id of another graph.
    pub fn desc(&self, id: TensorId) -> &TensorDesc {
        &self.tensor(id).desc
    }

    /// The tensor that owns the storage of `id`, and how many bytes into it `id` starts.
    pub fn root(&self, id: TensorId) -> (TensorId, usize) {
        match self.tensor(id).storage {
            Storage::View(root, offset) => (root, offset),
            _ => (id, 0),
        }
    }

    /// A node with its operands' descriptions. Panics when `index` is no node.
    pub fn node(&self, index: usize) -> NodeView<'_> {
        NodeView { graph: self, node: &self.nodes[index], index }
    }

    /// Every node with its operands' descriptions.
    pub fn views(&self) -> impl ExactSizeIterator<Item = NodeView<'_>> {
        (0..self.nodes.len()).map(|i| self.node(i))
    }

    /// Whether a node of the graph writes the bound tensor at this position.
    pub fn writes_bound(&self, position: usize) -> bool {
        let id = self.bound[position];
        self.nodes.iter().flat_map(|n| &n.outputs).any(|&o| self.root(o).0 == id)
    }
}

/// The outputs that are operands written in place, by position.
fn in_place(kind: OpKind, inputs: &[Option<TensorId>], outputs: usize) -> Vec<Option<TensorId>> {
    // An optional in-place operand that was left out has no output either, so the given ones close ranks.
    let given: Vec<Option<TensorId>> = (0..kind.outputs().len())
        .filter_map(|o| match kind.in_place_of(o) {
            Some(i) => inputs.get(i).copied().flatten().map(Some),
            None => Some(None),
        })
        .collect();
    (0..outputs).map(|i| given.get(i).copied().flatten()).collect()
}

/// A node together with the descriptions of its operands.
#[derive(Clone, Copy)]
pub struct NodeView<'a> {
    /// The graph it belongs to.
    pub graph: &'a Graph,
    /// The node.
    pub node: &'a Node,
    /// Its position.
    pub index: usize,
}

impl<'a> NodeView<'a> {
    /// The operator.
    pub fn op(&self) -> &'a Op {
        &self.node.op
    }

    /// The operator without its attributes.
    pub fn kind(&self) -> OpKind {
        self.node.op.kind()
    }

    /// The description of an operand, if it was given.
    pub fn input(&self, index: usize) -> Option<&'a TensorDesc> {
        self.node.inputs.get(index).copied().flatten().map(|id| self.graph.desc(id))
    }

    /// The description of an operand that the list does not mark as optional. Panics when `index` is no such operand.
    pub fn required(&self, index: usize) -> &'a TensorDesc {
        self.input(index).expect("the graph checked that required operands are given")
    }

    /// The description of a result. Panics when `index` is no result.
    pub fn output(&self, index: usize) -> &'a TensorDesc {
        self.graph.desc(self.node.outputs[index])
    }

    /// Operands and results in order, as they are numbered in a `Reason`: inputs first, then outputs.
    pub fn operands(&self) -> impl Iterator<Item = (usize, &'a TensorDesc)> {
        let ins = self.node.inputs.iter().enumerate().filter_map(|(i, id)| id.map(|id| (i, id)));
        let outs = self.node.outputs.iter().enumerate().map(|(i, id)| (self.node.inputs.len() + i, *id));
        let graph = self.graph;
        ins.chain(outs).map(move |(i, id)| (i, graph.desc(id)))
    }
}

impl fmt::Display for NodeView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |id: &TensorId| format!("%{} {}", id.0, self.graph.desc(*id));
        let outs: Vec<_> = self.node.outputs.iter().map(name).collect();
        let ins: Vec<_> = self.node.inputs.iter().map(|i| i.as_ref().map_or("-".into(), name)).collect();
        write!(f, "{} = {}({})", outs.join(", "), self.op(), ins.join(", "))
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &id in &self.bound {
            let t = self.tensor(id);
            writeln!(f, "%{} '{}': {}{}", id.0, t.name, t.desc, if t.desc.constant { " constant" } else { "" })?;
        }
        self.views().try_for_each(|n| writeln!(f, "{n}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attrs::*;

    fn desc(shape: &[usize]) -> TensorDesc {
        TensorDesc::new(DType::F32, shape).unwrap()
    }

    fn matmul() -> Op {
        Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() })
    }

    #[test]
    fn shapes_follow_from_the_operands() {
        let mut g = Graph::new();
        let a = g.bind("a", desc(&[3, 8]));
        let w = g.bind("w", desc(&[5, 8]).as_constant());
        let c = g.op1(matmul(), &[a, w]).unwrap();
        assert_eq!(*g.desc(c).shape, [3, 5]);
        let s = g.op1(Op::Softmax(SoftmaxAttrs::default()), &[c]).unwrap();
        assert_eq!(*g.desc(s).shape, [3, 5]);
        assert_eq!(g.nodes().len(), 2);
    }

    #[test]
    fn a_wrong_operand_is_refused_by_name() {
        let mut g = Graph::new();
        let a = g.bind("a", desc(&[3, 8]));
        let w = g.bind("w", desc(&[5, 7]));
        let error = g.op1(matmul(), &[a, w]).unwrap_err().to_string();
        assert!(error.contains("matmul operand 1 (b)") && error.contains("K = 7"), "{error}");
        assert!(g.op1(Op::Add(NoAttrs {}), &[a]).is_err());
        assert!(g.op1(Op::Add(NoAttrs {}), &[a, a, a]).is_err());
    }

    #[test]
    fn outputs_may_not_share_storage_with_operands() {
        let mut g = Graph::new();
        let a = g.bind("a", desc(&[2, 4]));
        let b = g.bind("b", desc(&[2, 4]));
        assert!(g.add_into(Op::Add(NoAttrs {}), &[Some(a), Some(b)], &[a]).is_err());
        let v = g.reshape(a, &[4, 2]).unwrap();
        let c = g.bind("c", desc(&[4, 2]));
        assert!(g.add_into(Op::Copy(NoAttrs {}), &[Some(c)], &[v]).is_ok());
        assert!(g.add_into(Op::Copy(NoAttrs {}), &[Some(v)], &[v]).is_err());
    }

    #[test]
    fn the_residual_of_add_rms_norm_may_be_in_place() {
        let mut g = Graph::new();
        let a = g.bind("a", desc(&[2, 4]));
        let b = g.bind("b", desc(&[2, 4]));
        let y = g.bind("y", desc(&[2, 4]));
        let op = Op::AddRmsNorm(NormAttrs { eps: 1e-6, ..Default::default() });
        assert!(g.add_into(op, &[Some(a), Some(b)], &[a, y]).is_ok());
    }

    #[test]
    fn a_temporary_is_read_only_after_it_was_written() {
        let mut g = Graph::new();
        let t = g.temporary("t", desc(&[2]));
        assert!(g.op1(Op::Silu(NoAttrs {}), &[t]).is_err());
        g.add_into(Op::Fill(FillAttrs { value: 1.0 }), &[], &[t]).unwrap();
        assert!(g.op1(Op::Silu(NoAttrs {}), &[t]).is_ok());
    }

    #[test]
    fn caches_are_written_in_place() {
        let mut g = Graph::new();
        let k = g.bind("k", desc(&[3, 2, 4]));
        let slots = g.bind("slots", TensorDesc::new(DType::I32, &[3]).unwrap());
        let kc = g.bind("kc", desc(&[1, 2, 16, 4]));
        let vc = g.bind("vc", desc(&[1, 2, 16, 4]));
        let op = Op::KvWrite(KvWriteAttrs { kv_layout: KvLayout::BlockHeadToken });
        let out = g.add(op, &[k, k, slots, kc, vc].map(Some)).unwrap();
        assert_eq!(out, [kc, vc]);
        // Nowhere else, and not where nothing may be written.
        let other = g.bind("other", desc(&[1, 2, 16, 4]));
        let inputs = [k, k, slots, kc, vc].map(Some);
        for outputs in [[other, vc], [vc, kc]] {
            assert!(g.add_into(op, &inputs, &outputs).is_err());
        }
        let fixed = g.bind("fixed", desc(&[2, 4]).as_constant());
        let part = g.view(fixed, desc(&[1, 4]), 0).unwrap();
        let x = g.bind("x", desc(&[1, 4]));
        assert!(g.add_into(Op::Silu(NoAttrs {}), &[Some(x)], &[part]).is_err());
    }

    #[test]
    fn a_description_that_was_changed_by_hand_is_checked() {
        let mut g = Graph::new();
        let good = g.bind("good", desc(&[2, 4]));
        let mut bad = [desc(&[2, 4]), desc(&[2, 4])];
        bad[0].strides = crate::Dims::new(&[1]).unwrap();
        bad[1].strides = crate::Dims::new(&[usize::MAX, 1]).unwrap();
        for desc in bad {
            let x = g.bind("x", desc);
            assert!(g.op1(Op::Silu(NoAttrs {}), &[x]).is_err());
            assert!(g.add_into(Op::Silu(NoAttrs {}), &[Some(good)], &[x]).is_err());
        }
    }

    #[test]
    fn a_packed_tensor_is_cut_between_blocks_only() {
        let mut g = Graph::new();
        let x = g.bind("x", TensorDesc::new(DType::Q4_0, &[2, 96]).unwrap());
        let cut = |start| Op::Slice(SliceAttrs { axis: 1, start, len: 32 });
        assert!(g.op1(cut(32), &[x]).is_ok());
        let error = g.op1(cut(16), &[x]).unwrap_err().to_string();
        assert!(error.contains("multiples of 32"), "{error}");
    }
}
