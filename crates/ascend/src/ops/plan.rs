//! A graph as a plan: rows chosen once, temporaries and working room placed; every execution makes new executors, since one
//! runs once.

use std::any::Any;
use std::sync::Arc;

use qiao_core::{
    Accept, Binding, DeviceInfo, Error, Graph, Plan, PlanInfo, Result, Storage, Stream, TensorDesc, device, place,
    sound,
};

use super::launcher::{Given, Launcher};
use super::nz::Blocks;
use super::{Here, Table};
use crate::context::Context;
use crate::memory::{ALIGN, AscendBuffer, TAIL, resolve};
use crate::stream::AscendStream;

type Run = fn(&mut Launcher<'_>, &qiao_core::NodeView<'_>, &[usize]) -> Result<()>;

/// A node's turn: what it does, and where its pieces of room start.
struct Step {
    node: usize,
    run: Run,
    room: Vec<usize>,
}

/// A graph, ready to run.
pub(crate) struct AscendPlan {
    context: Arc<Context>,
    graph: Graph,
    steps: Vec<Step>,
    /// The offset of every temporary in the workspace, by tensor.
    offsets: Vec<Option<usize>>,
    /// Bytes of each bound tensor.
    needs: Vec<usize>,
    /// Where working room starts in the workspace, and the workspace's bytes.
    room: usize,
    workspace: usize,
    /// The mask of causal attention, where the graph has any.
    mask: Option<Arc<AscendBuffer>>,
}

impl AscendPlan {
    pub(crate) fn new(
        context: &Arc<Context>,
        info: &DeviceInfo,
        here: Here,
        table: &Table,
        graph: &Graph,
        mask: impl FnOnce() -> Result<Arc<AscendBuffer>>,
    ) -> Result<Self> {
        let too_large = || Error::invalid("workspace", "its size overflows", "use a smaller batch or context");
        let (mut steps, mut most, mut masked) = (Vec::new(), 0usize, false);
        for node in graph.views() {
            let Ok((row, Accept::Native)) = here.find(table, &node) else {
                let answers: Vec<_> = graph.views().map(|n| here.support(table, &n)).collect();
                return Err(device::refuse(info, graph, &answers));
            };
            if sound::writes_nothing(&node) {
                continue;
            }
            masked |= matches!(node.op(), qiao_core::Op::AttentionPrefill(attrs) if attrs.causal);
            let (mut room, mut end) = (Vec::new(), 0usize);
            for bytes in (row.launch.room)(&node) {
                room.push(end);
                end = bytes
                    .checked_add(end + TAIL)
                    .and_then(|e| e.checked_next_multiple_of(ALIGN))
                    .ok_or_else(too_large)?;
            }
            most = most.max(end);
            steps.push(Step { node: node.index, run: row.launch.run, room });
        }
        let placement = place::place(graph, ALIGN, TAIL)?;
        let needs = graph.bound().iter().map(|&id| bound_bytes(graph.desc(id))).collect::<Result<_>>()?;
        let workspace = placement.bytes.checked_add(most).ok_or_else(too_large)?;
        Ok(AscendPlan {
            context: context.clone(),
            graph: graph.clone(),
            steps,
            offsets: placement.offsets,
            needs,
            room: placement.bytes,
            workspace,
            mask: if masked { Some(mask()?) } else { None },
        })
    }

    /// The address of every tensor that owns its bytes, and of the workspace.
    fn addresses(&self, bindings: &[Binding], workspace: &Binding) -> Result<(Vec<usize>, usize)> {
        let aligned = |address: usize, what: &str, start: usize| {
            if address.is_multiple_of(ALIGN) {
                return Ok(address);
            }
            let mend = format!("start it on a multiple of {ALIGN} of an allocated buffer");
            Err(Error::invalid(format!("binding of '{what}'"), format!("it starts at byte {start}"), mend))
        };
        let mut addresses = vec![0; self.graph.tensors().len()];
        for ((binding, &need), &id) in bindings.iter().zip(&self.needs).zip(self.graph.bound()) {
            let name = &self.graph.tensor(id).name;
            let address = resolve(&self.context, binding, name, need)?;
            addresses[id.index()] = aligned(address, name, binding.offset)?;
        }
        let base = resolve(&self.context, workspace, "workspace", self.workspace)?;
        let base = if self.workspace > 0 { aligned(base, "workspace", workspace.offset)? } else { 0 };
        for (address, (tensor, offset)) in addresses.iter_mut().zip(self.graph.tensors().iter().zip(&self.offsets)) {
            if let (Storage::Temporary, Some(offset)) = (tensor.storage, offset) {
                *address = base + offset;
            }
        }
        Ok((addresses, base))
    }

    fn run(&self, stream: &mut AscendStream, addresses: &[usize], base: usize) -> Result<()> {
        let _entered = self.context.enter()?;
        let mask = self.mask.as_ref().map_or(0, |m| m.address());
        let given = Given { graph: &self.graph, addresses, scratch: base + self.room, mask };
        let mut launcher = Launcher::new(stream, given);
        for step in &self.steps {
            let node = self.graph.node(step.node);
            (step.run)(&mut launcher, &node, &step.room)?;
            launcher.end(&node);
        }
        Ok(())
    }
}

/// Bytes of a bound tensor, in its private layout if it has one.
fn bound_bytes(desc: &TensorDesc) -> Result<usize> {
    match desc.layout {
        0 => desc.bytes(),
        layout => Blocks::check(&TensorDesc { layout: 0, ..desc.clone() }, layout)?.bytes(),
    }
}

impl Plan for AscendPlan {
    fn info(&self) -> PlanInfo {
        use qiao_core::Buffer as _;
        let resident = self.mask.as_ref().map_or(0, |m| m.bytes());
        PlanInfo { workspace_bytes: self.workspace, workspace_align: ALIGN, resident_bytes: resident }
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let stream = (stream as &mut dyn Any)
            .downcast_mut::<AscendStream>()
            .filter(|s| Arc::ptr_eq(&s.context, &self.context))
            .ok_or_else(|| Error::invalid("stream", "it belongs to another device", "use a stream of this device"))?;
        stream.healthy()?;
        self.graph.check_bindings(bindings)?;
        let (addresses, base) = self.addresses(bindings, workspace)?;
        let result = self.run(stream, &addresses, base);
        stream.keep(result)
    }
}
