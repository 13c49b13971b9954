//! The truth as a device: host memory, and plans that evaluate node by node.

use std::any::Any;
use std::sync::Arc;

use qiao_core::host::{HostBuffer, HostStream, host_range};
use qiao_core::{
    Binding, Buffer, Caps, DType, Device, DeviceInfo, DtypeInfo, Error, Graph, KvInfo, KvLayout, Limit, MemoryInfo,
    MemoryKind, NodeSupport, NodeView, Placement, Plan, PlanInfo, Property, Reason, Result, Rule, Storage, Stream,
    Support, TensorId, device, place,
};

use crate::truth;

/// The device of the truth: runs every operator of the list on any dtype, stride and shape that a graph allows.
#[derive(Clone, Debug)]
pub struct ReferenceDevice {
    info: DeviceInfo,
}

impl Default for ReferenceDevice {
    fn default() -> Self {
        let memory = MemoryInfo {
            kind: MemoryKind { device_local: true, host_visible: true, pinned: false },
            base_align: 1,
            ..Default::default()
        };
        let dtypes = DType::ALL.iter().map(|&dtype| DtypeInfo { dtype, compute: true, peak_ops_per_s: 0.0 });
        let info = DeviceInfo {
            name: "reference".into(),
            vendor: "Qiao".into(),
            arch: "f64".into(),
            memories: vec![memory],
            dtypes: dtypes.collect(),
            kv: KvLayout::ALL.iter().map(|&layout| KvInfo { layout, block_size: 0 }).collect(),
            caps: Caps {
                multi_op: true,
                strided: true,
                index_i64: true,
                deterministic: true,
                batch_invariant: true,
                ..Default::default()
            },
            tensor_align: 1,
            ..Default::default()
        };
        ReferenceDevice { info }
    }
}

/// Native, unless an operand is in a private layout: there is none here.
fn support_node(node: NodeView<'_>) -> NodeSupport {
    for (operand, desc) in node.operands() {
        if desc.layout != 0 {
            let found = Limit::Text(format!("{:#x}", desc.layout));
            let property = Property::Layout;
            return NodeSupport::no(Reason {
                operand: Some(operand),
                property,
                rule: Rule::Equal,
                value: found,
                limit: Limit::Int(0),
            });
        }
    }
    NodeSupport::native(format!("{}.reference", node.kind()))
}

impl Device for ReferenceDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        if memory != 0 {
            return Err(Error::invalid("memory", format!("position {memory}"), "the reference has memory 0 only"));
        }
        Ok(Arc::new(HostBuffer::new(&self.info.name, bytes)?))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(HostStream::default()))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        graph.views().map(support_node).collect()
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let answers = self.support(graph);
        if answers.iter().any(|s| s.answer != Support::Native) {
            return Err(device::refuse(&self.info, graph, &answers));
        }
        let placement = place::place(graph, self.info.tensor_align, self.info.tensor_tail_pad)?;
        Ok(Arc::new(ReferencePlan { graph: graph.clone(), placement }))
    }
}

struct ReferencePlan {
    graph: Graph,
    placement: Placement,
}

impl ReferencePlan {
    /// The bytes of a tensor: where they are bound, or in the workspace.
    fn locate(&self, id: TensorId, bindings: &[Binding], workspace: &Binding) -> Result<Binding> {
        let (root, inside) = self.graph.root(id);
        let (binding, start) = match self.graph.tensor(root).storage {
            Storage::Bound(position) => (&bindings[position], 0),
            _ => (workspace, self.placement.offsets[root.index()].unwrap_or(0)),
        };
        let bytes = self.graph.desc(id).bytes()?;
        Ok(Binding::part(&binding.buffer, binding.offset + start + inside, bytes))
    }

    fn run(&self, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        for view in self.graph.views() {
            let mut operands = Vec::with_capacity(view.node.inputs.len());
            for id in &view.node.inputs {
                operands.push(match id {
                    Some(id) => {
                        let at = self.locate(*id, bindings, workspace)?;
                        let (buffer, range) = host_range(&at)?;
                        Some(buffer.read(range, <[u8]>::to_vec))
                    }
                    None => None,
                });
            }
            let operands: Vec<Option<&[u8]>> = operands.iter().map(|o| o.as_deref()).collect();
            for (output, &id) in truth::eval(view, &operands)?.iter().zip(&view.node.outputs) {
                let at = self.locate(id, bindings, workspace)?;
                let (buffer, range) = host_range(&at)?;
                buffer.write(range, |bytes| output.store(self.graph.desc(id), bytes))?;
            }
        }
        Ok(())
    }
}

impl Plan for ReferencePlan {
    fn info(&self) -> PlanInfo {
        PlanInfo { workspace_bytes: self.placement.bytes, workspace_align: 1, resident_bytes: 0 }
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let stream = (stream as &mut dyn Any).downcast_mut::<HostStream>().ok_or_else(|| {
            Error::invalid("stream", "it belongs to another device", "make it with the device that made the plan")
        })?;
        self.graph.check_bindings(bindings)?;
        workspace.check("workspace", self.placement.bytes)?;
        for binding in bindings.iter().chain([workspace]) {
            host_range(binding)?;
        }
        stream.run(|| self.run(bindings, workspace))
    }
}
