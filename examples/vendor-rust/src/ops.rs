//! The chip's operators: one table that answers what runs and runs it, and the plan of a graph.

use std::any::Any;

use qiao_core::{
    Accept, Binding, DType, DeviceInfo, Dims, Epilogue, Error, Graph, Limit, NodeView, Op, OpKind, OpTable, Placement,
    Plan, PlanInfo, Property, Reason, Result, Row, Rule, Storage, Stream, TensorId, device, place,
};

use crate::memory::{Memory, Queue};

/// A kernel: operands in, result out, as f32 without gaps. YOUR DRIVER: a launch on the chip's own memory.
pub(crate) type Kernel = fn(&NodeView<'_>, &[Option<Vec<f32>>]) -> Vec<f32>;

/// The table. A new operator, or a faster kernel for one, is one more row.
pub(crate) fn table() -> OpTable<Kernel> {
    let row = |op, name, launch: Kernel| Row { op, name, act_dtype: None, accepts, launch };
    OpTable::new(vec![
        row(OpKind::Add, "add_f32.acme", |n, x| elementwise(n, x, |a, b| a + b)),
        row(OpKind::Sub, "sub_f32.acme", |n, x| elementwise(n, x, |a, b| a - b)),
        row(OpKind::Mul, "mul_f32.acme", |n, x| elementwise(n, x, |a, b| a * b)),
        row(OpKind::Div, "div_f32.acme", |n, x| elementwise(n, x, |a, b| a / b)),
        row(OpKind::Silu, "silu_f32.acme", |_, x| given(x, 0).iter().map(|&x| silu(x.into()) as f32).collect()),
        row(OpKind::SiluMul, "silu_mul_f32.acme", silu_mul),
        row(OpKind::RmsNorm, "rms_norm_f32.acme", rms_norm),
        row(OpKind::Matmul, "matmul_f32.acme", matmul),
    ])
}

/// Whether the kernels take a node, or why not.
fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    for (i, operand) in node.operands() {
        if operand.dtype != DType::F32 {
            return Err(Reason::dtype(i, operand.dtype, &[DType::F32]));
        }
        if operand.layout != 0 {
            return Err(Reason::operand(i, Property::Layout, Rule::None, Limit::None, Limit::None));
        }
    }
    match node.op() {
        // The host adds what follows the product as operators of its own.
        Op::Matmul(attrs) if attrs.epilogue != Epilogue::None => {
            Err(Reason::attribute("epilogue", Rule::Equal, attrs.epilogue.to_string().as_str(), "none"))
        }
        _ => Ok(Accept::Native),
    }
}

// ---- kernels: YOUR DRIVER launches here ------------------------------------------------------------------------------

fn given(operands: &[Option<Vec<f32>>], index: usize) -> &[f32] {
    operands.get(index).and_then(Option::as_deref).unwrap_or_default()
}

fn elementwise(node: &NodeView<'_>, x: &[Option<Vec<f32>>], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let shape = node.output(0).shape;
    let [a, b] = [0, 1].map(|i| broadcast(given(x, i), node.required(i).shape, shape));
    a.into_iter().zip(b).map(|(a, b)| f(a, b)).collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn silu_mul(node: &NodeView<'_>, x: &[Option<Vec<f32>>]) -> Vec<f32> {
    let Op::SiluMul(attrs) = node.op() else { unreachable!("the table pairs operators with kernels") };
    let n = node.output(0).shape.last_dim();
    let mut pairs: Vec<(f32, f32)> = match node.input(1) {
        Some(_) => given(x, 0).iter().copied().zip(given(x, 1).iter().copied()).collect(),
        None if n == 0 => Vec::new(),
        None => given(x, 0).chunks(2 * n).flat_map(|row| (0..n).map(|i| (row[i], row[n + i]))).collect(),
    };
    if node.input(1).is_none() && attrs.gate_second {
        pairs.iter_mut().for_each(|(gate, up)| std::mem::swap(gate, up));
    }
    if attrs.clamp != 0.0 {
        let most = attrs.clamp;
        pairs
            .iter_mut()
            .for_each(|(gate, up)| (*gate, *up) = (at_most(*gate, most), -at_most(-at_most(*up, most), most)));
    }
    pairs.into_iter().map(|(gate, up)| (silu(gate.into()) * f64::from(up)) as f32).collect()
}

/// The smaller of the two; NaN stays.
fn at_most(x: f32, most: f32) -> f32 {
    if x > most { most } else { x }
}

fn rms_norm(node: &NodeView<'_>, x: &[Option<Vec<f32>>]) -> Vec<f32> {
    let Op::RmsNorm(attrs) = node.op() else { unreachable!("the table pairs operators with kernels") };
    let n = node.output(0).shape.last_dim();
    let weight = |i: usize| match node.input(1) {
        Some(_) => f64::from(given(x, 1)[i]) + f64::from(attrs.weight_offset),
        None => 1.0,
    };
    let row = |row: &[f32]| {
        let mean = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (mean + f64::from(attrs.eps)).sqrt();
        let normal = |&x: &f32| f64::from(x) * scale;
        let rounded = |y: f64| if attrs.round_before_weight { f64::from(y as f32) } else { y };
        row.iter().map(normal).enumerate().map(|(i, y)| (rounded(y) * weight(i)) as f32).collect::<Vec<_>>()
    };
    given(x, 0).chunks(n.max(1)).flat_map(row).collect()
}

fn matmul(node: &NodeView<'_>, x: &[Option<Vec<f32>>]) -> Vec<f32> {
    let Op::Matmul(attrs) = node.op() else { unreachable!("the table pairs operators with kernels") };
    let (a, b, c) = (node.required(0), node.required(1), node.output(0));
    let (m, k, n) = (a.shape[a.rank() - 2], a.shape.last_dim(), c.shape.last_dim());
    let dot = |row: usize, column: usize| {
        let a = &given(x, 0)[row * k..][..k];
        // A second operand of rank 2 serves every batch.
        let b = &given(x, 1)[if b.rank() == 2 { 0 } else { row / m * n * k }..];
        let at = |i: usize| if attrs.trans_b { column * k + i } else { i * n + column };
        a.iter().enumerate().map(|(i, &a)| a * b[at(i)]).sum::<f32>()
    };
    (0..c.shape.rows()).flat_map(|row| (0..n).map(move |column| (row, column))).map(|(r, c)| dot(r, c)).collect()
}

// ---- tensors with gaps -----------------------------------------------------------------------------------------------

/// Where each element lies, in row-major order.
fn places(shape: &[usize], strides: &[usize]) -> Vec<usize> {
    shape.iter().zip(strides).fold(vec![0], |places, (&dim, &stride)| {
        places.iter().flat_map(|&at| (0..dim).map(move |i| at + i * stride)).collect()
    })
}

/// A tensor without gaps, repeated to a shape that it broadcasts to.
fn broadcast(values: &[f32], from: Dims, to: Dims) -> Vec<f32> {
    let mut strides = vec![0; to.len() - from.len()];
    strides.extend(from.iter().zip(from.contiguous_strides().iter()).map(|(&dim, &s)| if dim == 1 { 0 } else { s }));
    places(&to, &strides).into_iter().map(|at| values[at]).collect()
}

// ---- the plan --------------------------------------------------------------------------------------------------------

/// A graph with a kernel for each node and a place for each temporary.
pub(crate) struct Prepared {
    graph: Graph,
    kernels: Vec<Kernel>,
    placement: Placement,
    align: usize,
}

impl Prepared {
    pub(crate) fn new(table: &OpTable<Kernel>, info: &DeviceInfo, graph: &Graph) -> Result<Self> {
        let kernels = graph.views().map(|node| table.find(&node).map(|(row, _)| row.launch)).collect::<Result<_, _>>();
        let kernels = kernels.map_err(|_| device::refuse(info, graph, &table.support(graph)))?;
        let placement = place::place(graph, info.tensor_align, info.tensor_tail_pad)?;
        Ok(Prepared { graph: graph.clone(), kernels, placement, align: info.tensor_align })
    }

    /// The range in which a tensor lies.
    fn at(&self, id: TensorId, bindings: &[Binding], workspace: &Binding) -> Result<Binding> {
        let (root, inside) = self.graph.root(id);
        let (binding, start) = match self.graph.tensor(root).storage {
            Storage::Bound(position) => (&bindings[position], 0),
            _ => (workspace, self.placement.offsets[root.index()].unwrap_or(0)),
        };
        Ok(Binding::part(&binding.buffer, binding.offset + start + inside, self.graph.desc(id).bytes()?))
    }

    fn load(&self, id: TensorId, bindings: &[Binding], workspace: &Binding) -> Result<Vec<f32>> {
        let (range, desc) = (self.at(id, bindings, workspace)?, self.graph.desc(id));
        let bytes = Memory::of(&range, "operand", 0)?.read(range.offset, range.bytes);
        let value = |at: usize| f32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[4 * at + i]));
        Ok(places(&desc.shape, &desc.strides).into_iter().map(value).collect())
    }

    fn store(&self, id: TensorId, values: &[f32], bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let (range, desc) = (self.at(id, bindings, workspace)?, self.graph.desc(id));
        let memory = Memory::of(&range, "result", 0)?;
        for (at, value) in places(&desc.shape, &desc.strides).into_iter().zip(values) {
            memory.write(range.offset + 4 * at, &value.to_le_bytes());
        }
        Ok(())
    }
}

impl Plan for Prepared {
    fn info(&self) -> PlanInfo {
        PlanInfo { workspace_bytes: self.placement.bytes, workspace_align: self.align, resident_bytes: 0 }
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        if !(stream as &mut dyn Any).is::<Queue>() {
            return Err(Error::invalid("stream", "it is of another device", "make it with this one"));
        }
        // Everything is checked before the first kernel runs: a call that is refused does nothing.
        self.graph.check_bindings(bindings)?;
        Memory::of(workspace, "workspace", self.placement.bytes)?;
        for binding in bindings {
            Memory::of(binding, "binding", 0)?;
        }
        for (node, kernel) in self.graph.views().zip(&self.kernels) {
            let load = |id: &Option<TensorId>| id.map(|id| self.load(id, bindings, workspace)).transpose();
            let operands = node.node.inputs.iter().map(load).collect::<Result<Vec<_>>>()?;
            self.store(node.node.outputs[0], &kernel(&node, &operands), bindings, workspace)?;
        }
        Ok(())
    }
}
