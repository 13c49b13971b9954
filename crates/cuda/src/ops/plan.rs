//! A graph as a plan: every node prepared once, launches queued one by one or, from the second time on with the same
//! addresses, as a captured graph.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qiao_core::place::place_where;
use qiao_core::{Accept, Binding, DeviceInfo, Error, Graph, Plan, PlanInfo, Result, Storage, Stream, device, sound};
use qiao_launch::fuse::{Fused, Rule, matches};
use qiao_launch::{Arg, Chip, Launch, Prepared, Table};

use super::capture::{Captured, Ran};
use super::program::{Block, Place, Program};
use super::support;
use crate::context::Context;
use crate::memory::{ALIGN, resolve};
use crate::stream::CudaStream;

/// Launches below which a captured graph saves nothing.
const FEW: usize = 3;

/// What plans share with their device.
pub(crate) struct Card {
    pub(crate) context: Arc<Context>,
    pub(crate) chip: Chip,
    pub(crate) table: Table,
    /// Nodes that may run as one.
    pub(crate) rules: &'static [Rule],
    /// Whether plans are captured as graphs.
    pub(crate) graphs: bool,
}

/// A graph, ready to run on the card.
pub(crate) struct CudaPlan {
    card: Arc<Card>,
    graph: Graph,
    program: Program,
    /// Bytes of each bound tensor.
    needs: Vec<usize>,
    workspace: usize,
    /// Blocks that no execution uses right now, with room for the addresses of all bindings.
    idle: Mutex<Vec<(Block, Vec<u64>)>>,
    captured: Mutex<Captured>,
    /// Whether executions are captured.
    capturing: AtomicBool,
}

impl CudaPlan {
    pub(crate) fn new(card: &Arc<Card>, info: &DeviceInfo, graph: &Graph) -> Result<Self> {
        let (steps, moments) = prepare(card, info, graph)?;
        let named = named_roots(graph, &steps);
        let placement = place_where(graph, ALIGN, 0, |id| named[id.index()], |node| moments[node])?;
        let bound = graph.bound().len();
        let place = |tensor: usize| {
            let (root, offset) = match graph.tensors()[tensor].storage {
                Storage::View(root, offset) => (root.index(), offset),
                _ => (tensor, 0),
            };
            match graph.tensors()[root].storage {
                Storage::Bound(position) => Some(Place { base: position, offset }),
                _ => placement.offsets[root].map(|o| Place { base: bound, offset: o + offset }),
            }
        };
        let too_large = || Error::invalid("workspace", "its size overflows", "use a smaller batch or context");
        let most = steps.iter().map(|s| s.scratch).max().unwrap_or(0);
        let scratch = Place { base: bound, offset: placement.bytes };
        let workspace = placement.bytes.checked_add(most).ok_or_else(too_large)?;
        let program = Program::new(&card.context, &steps, place, scratch)?;
        let needs = graph.bound().iter().map(|&id| bound_bytes(graph.desc(id))).collect::<Result<_>>()?;
        let capturing = AtomicBool::new(card.graphs && program.launches() >= FEW);
        Ok(CudaPlan {
            card: card.clone(),
            graph: graph.clone(),
            program,
            needs,
            workspace,
            idle: Mutex::default(),
            captured: Mutex::default(),
            capturing,
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Block, Vec<u64>)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of every binding, and of the workspace behind them.
    fn addresses(&self, bindings: &[Binding], workspace: &Binding, out: &mut Vec<u64>) -> Result<()> {
        out.clear();
        let context = &self.card.context;
        let aligned = |address: u64, what: &str, start: usize| {
            if address.is_multiple_of(ALIGN as u64) {
                return Ok(address);
            }
            let mend = format!("start it on a multiple of {ALIGN} of an allocated buffer");
            Err(Error::invalid(format!("binding of '{what}'"), format!("it starts at byte {start}"), mend))
        };
        for ((binding, &need), &id) in bindings.iter().zip(&self.needs).zip(self.graph.bound()) {
            let name = &self.graph.tensor(id).name;
            out.push(aligned(resolve(context, binding, name, need)?, name, binding.offset)?);
        }
        let address = resolve(context, workspace, "workspace", self.workspace)?;
        out.push(if self.workspace > 0 { aligned(address, "workspace", workspace.offset)? } else { 0 });
        Ok(())
    }

    /// Queues everything: as a graph that was captured with these addresses, or launch by launch.
    fn queue(&self, stream: &CudaStream, block: &mut Block, addresses: &[u64]) -> Result<()> {
        let context = &self.card.context;
        let _entered = context.enter()?;
        let run = |block: &mut Block| {
            self.program.fill(block, addresses);
            self.program.launch(stream, block)
        };
        if !self.capturing.load(Ordering::Relaxed) {
            return run(block);
        }
        let mut captured = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
        if !captured.is_due(context, addresses) {
            drop(captured);
            return run(block);
        }
        match captured.launch(context, &stream.queue, addresses, || run(block)) {
            Ok(Ran::Queued) => return Ok(()),
            Ok(Ran::NotNow) => {}
            // A graph of kernels that wait for each other may be captured where one of kernels that overlap is not.
            Ok(Ran::Never) if context.stop_overlaps() => {}
            // Whatever is wrong comes to light launch by launch.
            Ok(Ran::Never) => self.capturing.store(false, Ordering::Relaxed),
            Err(error) => return Err(error),
        }
        drop(captured);
        run(block)
    }
}

/// Bytes of a bound tensor, in its private layout if it has one.
fn bound_bytes(desc: &qiao_core::TensorDesc) -> Result<usize> {
    match desc.layout {
        0 => desc.bytes(),
        layout => (super::layout(desc, layout)?.bytes)(desc),
    }
}

/// Every node as what runs, in order, and for each node the moment at which it runs.
fn prepare(card: &Card, info: &DeviceInfo, graph: &Graph) -> Result<(Vec<Prepared>, Vec<usize>)> {
    let mut accepted = Vec::with_capacity(graph.nodes().len());
    for node in graph.views() {
        match sound::find(&card.table, &node) {
            Ok((row, Accept::Native)) => accepted.push(row.launch),
            _ => return Err(device::refuse(info, graph, &support(card.context.driver.row.name, &card.table, graph))),
        }
    }
    let mut moments: Vec<usize> = (0..accepted.len()).collect();
    let mut part = vec![false; accepted.len()];
    let mut at_last: HashMap<usize, Fused> = HashMap::new();
    for fused in matches(card.rules, graph, &card.chip) {
        let (first, last) = (fused.nodes[0], fused.nodes[fused.nodes.len() - 1]);
        fused.nodes.iter().for_each(|&n| part[n] = true);
        let start = moments[first];
        // What lies between shares the moment: its temporaries lie apart from those that are read at the end.
        moments[first..=last].fill(start);
        at_last.insert(last, fused);
    }
    let mut steps = Vec::with_capacity(accepted.len());
    for (index, launch) in accepted.into_iter().enumerate() {
        let node = graph.node(index);
        if let Some(fused) = at_last.remove(&index) {
            steps.push(fused.prepared);
        } else if !part[index] && !sound::writes_nothing(&node) {
            steps.push(launch(&node, &card.chip)?);
        }
    }
    Ok((steps, moments))
}

/// For each tensor whether a launch names it or a view of it.
fn named_roots(graph: &Graph, steps: &[Prepared]) -> Vec<bool> {
    let mut named = vec![false; graph.tensors().len()];
    for arg in steps.iter().flat_map(|s| &s.launches).flat_map(Launch::all_args) {
        if let Arg::Tensor(tensor, _) = *arg {
            let root = match graph.tensors()[tensor].storage {
                Storage::View(root, _) => root.index(),
                _ => tensor,
            };
            named[root] = true;
        }
    }
    named
}

impl Plan for CudaPlan {
    fn info(&self) -> PlanInfo {
        PlanInfo { workspace_bytes: self.workspace, workspace_align: ALIGN, resident_bytes: 0 }
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let stream = (stream as &mut dyn Any)
            .downcast_mut::<CudaStream>()
            .filter(|s| Arc::ptr_eq(&s.context, &self.card.context))
            .ok_or_else(|| Error::invalid("stream", "it belongs to another device", "use a stream of this device"))?;
        if bindings.len() != self.needs.len() {
            let found = format!("{} were given", bindings.len());
            return Err(Error::invalid("bindings", found, format!("give {}, one per bound tensor", self.needs.len())));
        }
        stream.healthy()?;
        let idle = self.idle().pop();
        let (mut block, mut addresses) = idle.unwrap_or_else(|| (self.program.block(), Vec::new()));
        let result = self.addresses(bindings, workspace, &mut addresses).and_then(|()| {
            let queued = self.queue(stream, &mut block, &addresses);
            stream.keep(queued)
        });
        self.idle().push((block, addresses));
        result
    }
}

impl Drop for CudaPlan {
    fn drop(&mut self) {
        self.captured.get_mut().unwrap_or_else(PoisonError::into_inner).clear(&self.card.context);
    }
}
