//! A device of a few kernels over host memory, with the gaps that the tests need: no composites, one relayout, and
//! graphs of one node unless asked otherwise.
#![allow(dead_code, reason = "every test binary uses a part")]

use std::sync::Arc;
use std::time::Duration;

use qiao_core::host::{HostBuffer, HostStream, host_range};
use qiao_core::*;

/// Layout of a matmul weight with its rows and columns exchanged.
pub(crate) const TRANSPOSED: u64 = 0x71;

/// The toy, and what it is willing to do.
pub(crate) struct Toy {
    pub(crate) info: DeviceInfo,
    /// Whether matmul asks for its weight transposed.
    pub(crate) relayout: bool,
    /// Operators without a kernel.
    pub(crate) lacks: Vec<OpKind>,
    /// Whether plans fail although every node was called native.
    pub(crate) lies: bool,
}

impl Toy {
    pub(crate) fn new() -> Self {
        let memory = MemoryInfo { base_align: 64, ..Default::default() };
        let info = DeviceInfo {
            name: "toy".into(),
            memories: vec![memory],
            tensor_align: 64,
            tensor_tail_pad: 16,
            ..Default::default()
        };
        Toy { info, relayout: true, lacks: Vec::new(), lies: false }
    }

    pub(crate) fn whole_graphs(mut self) -> Self {
        self.info.caps.multi_op = true;
        self
    }

    pub(crate) fn without(mut self, kinds: &[OpKind]) -> Self {
        self.lacks = kinds.to_vec();
        self
    }

    pub(crate) fn open(self) -> Arc<dyn Device> {
        Arc::new(self)
    }

    fn answer(&self, node: &NodeView<'_>) -> NodeSupport {
        let kind = node.kind();
        let known = matches!(
            kind,
            OpKind::Add
                | OpKind::Mul
                | OpKind::Silu
                | OpKind::Cast
                | OpKind::Slice
                | OpKind::Matmul
                | OpKind::GatherRows
        );
        if !known || self.lacks.contains(&kind) {
            return NodeSupport::no(Reason::operator());
        }
        for (i, desc) in node.operands() {
            if desc.dtype.is_float() && desc.dtype != DType::F32 {
                return NodeSupport::no(Reason::dtype(i, desc.dtype, &[DType::F32]));
            }
        }
        match node.op() {
            Op::Matmul(attrs) if attrs.epilogue != Epilogue::None => {
                NodeSupport::no(Reason::attribute("epilogue", Rule::Equal, "other", "none"))
            }
            Op::Matmul(_) if self.relayout && node.required(1).constant && node.required(1).layout == 0 => {
                NodeSupport {
                    answer: Support::Relayout { operand: 1, layout: TRANSPOSED },
                    ..NodeSupport::native("matmul_f32.toy")
                }
            }
            Op::GatherRows(_) if node.required(0).layout != 0 => {
                NodeSupport::no(Reason::operand(0, Property::Layout, Rule::None, "transposed", Limit::None))
            }
            _ => NodeSupport::native(format!("{kind}_f32.toy")),
        }
    }
}

impl Device for Toy {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, _: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        Ok(Arc::new(HostBuffer::new("toy", bytes)?))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(HostStream::default()))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        graph.views().map(|n| self.answer(&n)).collect()
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        if self.lies {
            return Err(Error::internal("toy", "no plan today"));
        }
        if !self.info.caps.multi_op && graph.nodes().len() != 1 {
            return Err(Error::internal("toy", format!("{} nodes at once", graph.nodes().len())));
        }
        let placement = place::place(graph, self.info.tensor_align, self.info.tensor_tail_pad)?;
        Ok(Arc::new(ToyPlan { graph: graph.clone(), placement }))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        assert_eq!((layout, tensor.layout), (TRANSPOSED, 0));
        tensor.bytes()
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        _: u64,
        dst: &Binding,
    ) -> Result<()> {
        let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
        let mut bytes = vec![0; rows * columns * 4];
        stream.download(&mut bytes, src)?;
        let (x, mut y) = (floats(&bytes), vec![0.0; rows * columns]);
        for r in 0..rows {
            for c in 0..columns {
                y[c * rows + r] = x[r * columns + c];
            }
        }
        stream.upload(dst, &raw(&y))
    }
}

struct ToyPlan {
    graph: Graph,
    placement: Placement,
}

impl ToyPlan {
    fn at(&self, id: TensorId, bindings: &[Binding], workspace: &Binding) -> Binding {
        let (root, offset) = self.graph.root(id);
        let (base, start) = match self.graph.tensor(root).storage {
            Storage::Bound(i) => (&bindings[i], bindings[i].offset),
            _ => (workspace, workspace.offset + self.placement.offsets[root.index()].unwrap()),
        };
        Binding::part(&base.buffer, start + offset, self.graph.desc(id).bytes().unwrap())
    }
}

impl Plan for ToyPlan {
    fn info(&self) -> PlanInfo {
        PlanInfo { workspace_bytes: self.placement.bytes, workspace_align: 64, resident_bytes: 8 }
    }

    fn execute(&self, _: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        for node in self.graph.views() {
            let read = |id: TensorId| {
                let place = self.at(id, bindings, workspace);
                let (buffer, range) = host_range(&place)?;
                Ok(buffer.read(range, floats))
            };
            let inputs = node.node.inputs.iter().flatten().map(|&id| read(id)).collect::<Result<Vec<_>>>()?;
            let out = compute(&node, &inputs);
            let place = self.at(node.node.outputs[0], bindings, workspace);
            let (buffer, range) = host_range(&place)?;
            buffer.write(range, |b| b.copy_from_slice(&raw(&out)));
        }
        Ok(())
    }
}

fn compute(node: &NodeView<'_>, x: &[Vec<f32>]) -> Vec<f32> {
    let zip = |f: fn(f32, f32) -> f32| (0..x[0].len()).map(|i| f(x[0][i], x[1][i % x[1].len()])).collect();
    match node.op() {
        Op::Add(_) => zip(|a, b| a + b),
        Op::Mul(_) => zip(|a, b| a * b),
        Op::Silu(_) => x[0].iter().map(|v| v / (1.0 + (-v).exp())).collect(),
        Op::Cast(_) => x[0].clone(),
        Op::Slice(a) => {
            let row = node.required(0).shape.last_dim();
            let (start, len) = (a.start as usize, a.len as usize);
            x[0].chunks(row).flat_map(|r| r[start..start + len].to_vec()).collect()
        }
        Op::GatherRows(_) => {
            let row = node.required(0).shape[1];
            // Ids are read as the floats whose bits they are.
            x[1].iter().flat_map(|id| x[0][id.to_bits() as usize * row..][..row].to_vec()).collect()
        }
        Op::Matmul(_) => {
            let (m, n) = (node.output(0).shape[0], node.output(0).shape[1]);
            let k = node.required(0).shape[1];
            let (row, column) = if node.required(1).layout == TRANSPOSED { (n, 1) } else { (1, k) };
            let dot = |i: usize, j: usize| (0..k).map(|p| x[0][i * k + p] * x[1][p * row + j * column]).sum();
            (0..m * n).map(|at| dot(at / n, at % n)).collect()
        }
        other => panic!("the toy called {other} native"),
    }
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub(crate) fn raw(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(crate) fn desc(shape: &[usize]) -> TensorDesc {
    TensorDesc::new(DType::F32, shape).unwrap()
}

/// Values that differ from each other and have both signs.
pub(crate) fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + 11) % 23) as f32 / 8.0 - 1.25).collect()
}

/// A buffer that holds these values, with the spare bytes that the toy asks for.
pub(crate) fn upload(device: &dyn Device, stream: &mut dyn Stream, x: &[f32]) -> Binding {
    let buffer = device.alloc(0, x.len() * 4 + device.info().tensor_tail_pad).unwrap();
    let binding = Binding::part(&buffer, 0, x.len() * 4);
    stream.upload(&binding, &raw(x)).unwrap();
    binding
}

pub(crate) fn download(stream: &mut dyn Stream, binding: &Binding) -> Vec<f32> {
    stream.sync(Duration::from_secs(5)).unwrap();
    let mut bytes = vec![0; binding.bytes];
    stream.download(&mut bytes, binding).unwrap();
    floats(&bytes)
}

/// Workspace for a plan.
pub(crate) fn workspace(device: &dyn Device, plan: &dyn Plan) -> Binding {
    Binding::whole(device.alloc(0, plan.info().workspace_bytes).unwrap())
}
