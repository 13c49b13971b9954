//! Operators on the CPU: the table of kernels, and the plan that runs them.
//!
//! A row of the table prepares a node once: it captures shapes, strides and kernels in a closure. Executing the plan
//! resolves every tensor to an address and calls the closures in order; each spreads its tasks over the pool.

pub(crate) mod access;
pub(crate) mod pack;
pub(crate) mod sound;

mod attention;
mod choose;
mod elementwise;
mod int8;
mod kv;
mod matmul;
mod moves;
mod rope;
mod rows;

use std::any::Any;
use std::sync::Arc;

use qiao_core::place::place;
use qiao_core::{
    Accept, Binding, DType, DeviceInfo, Error, Graph, NodeView, OpKind, OpTable, Plan, PlanInfo, Reason, Result, Row,
    Storage, Stream, device,
};
use qiao_kernels_cpu::Kernels;

use crate::device::Core;
use crate::memory::{ALIGN, resolve, resolve_mut};
use crate::stream::CpuStream;

/// The CPU's kernels.
pub(crate) type Table = OpTable<Prepare>;

/// Prepares a node that the row accepted.
pub(crate) type Prepare = fn(&NodeView<'_>, &Core) -> Prepared;

/// Runs a prepared node.
type Step = dyn Fn(&Exec<'_>) -> Result<()> + Send + Sync;

/// A node, ready to run.
pub(crate) struct Prepared {
    /// Runs the node.
    pub(crate) run: Box<Step>,
    /// Bytes of scratch that all threads share.
    pub(crate) shared: usize,
    /// Bytes of scratch for each thread.
    pub(crate) per_thread: usize,
}

impl Prepared {
    /// A node that needs this many f32 of scratch a thread.
    pub(crate) fn with_scratch(floats: usize, run: impl Fn(&Exec<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        Prepared { run: Box::new(run), shared: 0, per_thread: floats * 4 }
    }

    /// A node that has nothing to do.
    fn nothing() -> Self {
        Prepared::with_scratch(0, |_| Ok(()))
    }
}

/// Every kernel of the CPU, best first for each operator.
pub(crate) fn table() -> Table {
    let mut rows = Vec::new();
    rows.extend(moves::rows());
    rows.extend(elementwise::rows());
    rows.extend(matmul::rows());
    rows.extend(rows::rows());
    rows.extend(rope::rows());
    rows.extend(kv::rows());
    rows.extend(attention::rows());
    rows.extend(choose::rows());
    rows.extend(int8::rows());
    OpTable::new(rows)
}

/// A row whose kernel keeps activations as they are.
pub(crate) fn row(
    op: OpKind,
    name: &'static str,
    accepts: fn(&NodeView<'_>) -> Result<Accept, Reason>,
    launch: Prepare,
) -> Row<Prepare> {
    Row { op, name, act_dtype: None, accepts, launch }
}

/// Accepts f32, f16 and bf16 in the operands that `floats` names; the graph checked the rest.
pub(crate) fn activations(node: &NodeView<'_>, floats: &[usize]) -> Result<Accept, Reason> {
    for (i, desc) in node.operands().filter(|(i, _)| floats.contains(i)) {
        if !desc.dtype.is_activation() {
            return Err(Reason::dtype(i, desc.dtype, &[DType::F32, DType::F16, DType::BF16]));
        }
    }
    no_layouts(node)
}

/// Accepts f32, f16 and bf16 in every operand.
pub(crate) fn all_activations(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let all: Vec<usize> = node.operands().map(|(i, _)| i).collect();
    activations(node, &all)
}

/// Accepts anything that is in no private layout.
pub(crate) fn no_layouts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    for (i, desc) in node.operands() {
        if desc.layout != 0 {
            let found = format!("{:#x}", desc.layout);
            return Err(Reason::operand(
                i,
                qiao_core::Property::Layout,
                qiao_core::Rule::Equal,
                found.as_str(),
                "strided",
            ));
        }
    }
    Ok(Accept::Native)
}

/// What a step sees while a plan executes.
pub(crate) struct Exec<'a> {
    addresses: &'a [usize],
    pub(crate) core: &'a Core,
    shared: usize,
    shared_bytes: usize,
    scratch: usize,
    per_thread: usize,
}

impl Exec<'_> {
    /// The kernels of the device's tier.
    pub(crate) fn kernels(&self) -> &Kernels {
        &self.core.kernels
    }

    /// The address of a tensor's first element.
    pub(crate) fn address(&self, tensor: usize) -> *mut u8 {
        self.addresses[tensor] as *mut u8
    }

    /// This thread's scratch, as the step asked for it.
    ///
    /// # Safety
    /// `thread` is the thread that the pool gave to the running task, and the slice is dropped before the task ends.
    #[allow(clippy::mut_from_ref, reason = "each thread has scratch of its own, and the caller vouches for the thread")]
    pub(crate) unsafe fn scratch(&self, thread: usize) -> &mut [f32] {
        let start = (self.scratch + thread * self.per_thread) as *mut f32;
        // SAFETY: the plan laid out `per_thread` bytes for each thread in its workspace, which it checked.
        unsafe { std::slice::from_raw_parts_mut(start, self.per_thread / 4) }
    }

    /// The scratch that all threads share, as the step asked for it: its address and its size in bytes.
    pub(crate) fn shared(&self) -> (*mut u8, usize) {
        (self.shared as *mut u8, self.shared_bytes)
    }

    /// Runs tasks on the pool.
    pub(crate) fn run(&self, tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        self.core.pool.run(tasks, task);
    }

    /// Splits `count` rows of `elements` each over the threads: `task(first, last, thread)`. Rows of no elements are
    /// no work, however many there are.
    pub(crate) fn rows(&self, count: usize, elements: usize, task: &(dyn Fn(usize, usize, usize) + Sync)) {
        /// Elements below which a task is not worth handing to another thread.
        const GRAIN: usize = 4096;
        if count == 0 || elements == 0 {
            return;
        }
        let grain = GRAIN.div_ceil(elements);
        let tasks = count.div_ceil(grain).min(4 * self.core.pool.threads());
        let size = count.div_ceil(tasks);
        self.run(tasks, &|i, thread| {
            let first = (i * size).min(count);
            task(first, (first + size).min(count), thread);
        });
    }
}

/// A graph, ready to run on the CPU.
pub(crate) struct CpuPlan {
    core: Arc<Core>,
    graph: Graph,
    steps: Vec<Prepared>,
    /// For each tensor: where its first byte is.
    places: Vec<At>,
    writes: Vec<bool>,
    /// What the address of each bound tensor is a multiple of.
    aligns: Vec<usize>,
    shared: (usize, usize),
    scratch: (usize, usize),
    workspace: usize,
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
        let placement = place(graph, ALIGN, 0)?;
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
            aligns: graph.bound().iter().map(|&id| sound::binding_alignment(graph, id)).collect(),
            shared: (placement.bytes, shared),
            scratch: (scratch, per_thread),
            writes: (0..graph.bound().len()).map(|i| graph.writes_bound(i)).collect(),
            graph: graph.clone(),
            core,
            steps,
            places,
        })
    }

    /// The address of each bound tensor's buffer, checked.
    fn bound_address(&self, position: usize, binding: &Binding) -> Result<usize> {
        let tensor = self.graph.tensor(self.graph.bound()[position]);
        let need = match tensor.desc.layout {
            0 => tensor.desc.bytes()?,
            layout => pack::packed_bytes(&tensor.desc, layout)?,
        };
        let check = if self.writes[position] { resolve_mut } else { resolve };
        let (buffer, range) = check(binding, &tensor.name, need)?;
        let address = buffer.at(range.start) as usize;
        if !address.is_multiple_of(self.aligns[position]) {
            let found = format!("it starts at byte {}", range.start);
            let mend = format!("start it on a multiple of {ALIGN} of an allocated buffer");
            return Err(Error::invalid(format!("binding of '{}'", tensor.name), found, mend));
        }
        Ok(address)
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
        if bindings.len() != self.writes.len() {
            let found = format!("{} were given", bindings.len());
            return Err(Error::invalid("bindings", found, format!("give {}, one per bound tensor", self.writes.len())));
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
            per_thread: self.scratch.1,
        };
        let result = self.steps.iter().try_for_each(|step| (step.run)(&exec));
        stream.failed = result.clone().err();
        result
    }
}
