//! A graph as a plan: every node prepared once, operands resolved to addresses at each execution.

use std::any::Any;
use std::sync::Arc;

use qiao_core::place::place_where;
use qiao_core::{
    Accept, Binding, DeviceInfo, Error, Graph, NodeView, OpKind, Plan, PlanInfo, Result, Storage, Stream, TensorId,
    device,
};

use super::exec::{Core, Exec, Prepared};
use super::{fuse, pack, sound};
use crate::memory::{ALIGN, resolve, resolve_mut};
use crate::stream::CpuStream;

/// A graph, ready to run on the CPU.
pub(crate) struct CpuPlan {
    core: Arc<Core>,
    graph: Graph,
    steps: Vec<Prepared>,
    /// For each step: the bound table of which it read some rows here and there.
    cold: Vec<Option<usize>>,
    /// For each tensor: where its first byte is.
    places: Vec<At>,
    bound: Vec<Bound>,
    shared: (usize, usize),
    scratch: (usize, usize),
    workspace: usize,
}

/// What the binding of a bound tensor must be.
struct Bound {
    /// Its bytes, in the layout that it has.
    bytes: usize,
    /// What its address is a multiple of.
    align: usize,
    written: bool,
}

impl Bound {
    fn new(graph: &Graph, position: usize) -> Result<Self> {
        let id = graph.bound()[position];
        let desc = graph.desc(id);
        let bytes = match desc.layout {
            0 => desc.bytes()?,
            layout => pack::packed_bytes(desc, layout)?,
        };
        Ok(Bound { bytes, align: sound::binding_alignment(graph, id), written: graph.writes_bound(position) })
    }
}

#[derive(Clone, Copy)]
enum At {
    Bound { position: usize, offset: usize },
    Workspace { offset: usize },
    Nowhere,
}

impl CpuPlan {
    pub(crate) fn new(core: Arc<Core>, info: &DeviceInfo, graph: &Graph) -> Result<Self> {
        let mut steps = Vec::with_capacity(graph.nodes().len());
        for node in graph.views() {
            match sound::find(&core.table, &node) {
                Ok((_, Accept::Native)) if sound::writes_nothing(&node) => steps.push(Prepared::nothing()),
                Ok((row, Accept::Native)) => steps.push((row.launch)(&node, &core)),
                _ => {
                    let answers = sound::support(&core.table, graph, &core.kernels.isa.to_string());
                    return Err(device::refuse(info, graph, &answers));
                }
            }
        }
        let fusion = fuse::fuse(graph, &mut steps, core.pool.threads());
        let placed = |id: TensorId| !fusion.gone[id.index()];
        let placement = place_where(graph, ALIGN, 0, placed, |node| fusion.moments[node])?;
        let places = graph.tensors().iter().enumerate().map(|(i, t)| {
            let (root, inside) = match t.storage {
                Storage::View(root, offset) => (root.index(), offset),
                _ => (i, 0),
            };
            match graph.tensors()[root].storage {
                Storage::Bound(position) => At::Bound { position, offset: inside },
                _ => placement.offsets[root].map_or(At::Nowhere, |o| At::Workspace { offset: o + inside }),
            }
        });
        let places = places.collect();
        let most = |f: fn(&Prepared) -> usize| steps.iter().map(f).max().unwrap_or(0).next_multiple_of(ALIGN);
        let (shared, per_thread) = (most(|s| s.shared), most(|s| s.per_thread));
        let too_large = || Error::invalid("workspace", "its size overflows", "use a smaller batch or context");
        let scratch = placement.bytes.checked_add(shared).ok_or_else(too_large)?;
        let all_threads = per_thread.checked_mul(core.pool.threads());
        Ok(CpuPlan {
            workspace: all_threads.and_then(|bytes| bytes.checked_add(scratch)).ok_or_else(too_large)?,
            shared: (placement.bytes, shared),
            scratch: (scratch, per_thread),
            bound: (0..graph.bound().len()).map(|i| Bound::new(graph, i)).collect::<Result<_>>()?,
            graph: graph.clone(),
            core,
            steps,
            cold: graph.views().map(|node| gathered_table(&node)).collect(),
            places,
        })
    }

    /// The address of each bound tensor's buffer, checked.
    fn bound_address(&self, position: usize, binding: &Binding) -> Result<usize> {
        let Bound { bytes, align, written } = self.bound[position];
        let name = || &self.graph.tensor(self.graph.bound()[position]).name;
        let check = if written { resolve_mut } else { resolve };
        let (buffer, range) = check(binding, name(), bytes)?;
        let address = buffer.at(range.start) as usize;
        if !address.is_multiple_of(align) {
            let found = format!("it starts at byte {}", range.start);
            let mend = format!("start it on a multiple of {ALIGN} of an allocated buffer");
            return Err(Error::invalid(format!("binding of '{}'", name()), found, mend));
        }
        Ok(address)
    }
}

/// The bound table that a node gathers many rows of: reading them brings in many more pages of a mapped file than the
/// rows fill.
fn gathered_table(node: &NodeView<'_>) -> Option<usize> {
    /// Rows that are not worth a call to the system.
    const FEW: usize = 16;
    if node.kind() != OpKind::GatherRows || node.required(1).elements() <= FEW {
        return None;
    }
    match node.graph.tensor(node.node.inputs[0]?).storage {
        Storage::Bound(position) => Some(position),
        _ => None,
    }
}

impl Plan for CpuPlan {
    fn info(&self) -> PlanInfo {
        PlanInfo { workspace_bytes: self.workspace, workspace_align: ALIGN, resident_bytes: 0 }
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let stream = (stream as &mut dyn Any)
            .downcast_mut::<CpuStream>()
            .ok_or_else(|| Error::invalid("stream", "it belongs to another device", "use a stream of this device"))?;
        if bindings.len() != self.bound.len() {
            let found = format!("{} were given", bindings.len());
            return Err(Error::invalid("bindings", found, format!("give {}, one per bound tensor", self.bound.len())));
        }
        stream.healthy()?;
        let (buffer, range) = resolve_mut(workspace, "workspace", self.workspace)?;
        let base = buffer.at(range.start) as usize;
        if !base.is_multiple_of(ALIGN) {
            return Err(Error::invalid(
                "workspace",
                format!("it starts at byte {}", range.start),
                "align it to 64 bytes",
            ));
        }
        stream.bound.clear();
        for (i, binding) in bindings.iter().enumerate() {
            stream.bound.push(self.bound_address(i, binding)?);
        }
        stream.addresses.clear();
        stream.addresses.extend(self.places.iter().map(|at| match *at {
            At::Bound { position, offset } => stream.bound[position] + offset,
            At::Workspace { offset } => base + offset,
            At::Nowhere => 0,
        }));
        let exec = Exec {
            addresses: &stream.addresses,
            core: &self.core,
            shared: base + self.shared.0,
            shared_bytes: self.shared.1,
            scratch: base + self.scratch.0,
            apart: self.scratch.1,
            per_thread: self.scratch.1,
        };
        let _region = self.core.pool.enter();
        let result = self.steps.iter().zip(&self.cold).try_for_each(|(step, cold)| {
            step.run(&exec)?;
            if let Some(position) = *cold {
                let (table, range) = resolve(&bindings[position], "gathered table", 0)?;
                table.cold(range);
            }
            Ok(())
        });
        stream.failed = result.clone().err();
        result
    }
}
