//! Prepared graphs: executors over the chip's memory.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qiao_core::{
    Binding, Error, Graph, NodeView, Placement, Plan, PlanInfo, Result, Storage as Where, Stream, TensorId, device,
    place,
};
use qiao_reference::value::Output;

use crate::chip::Chip;
use crate::fault::Fate;
use crate::fractal::Fractal;
use crate::memory::{DIRT, Reading, Storage, resolve_mut};
use crate::ops::Launch;
use crate::schedule::{Outcome, Step};
use crate::stream::SimStream;

/// Where something lies.
type Place = (Arc<Storage>, usize);

/// What a graph runs as. On a chip whose executors are spent by one execution each has its own.
struct Executor {
    graph: Graph,
    launches: Vec<Launch>,
    placement: Placement,
}

/// A graph on a chip.
pub(crate) struct SimPlan {
    chip: Arc<Chip>,
    executor: Arc<Executor>,
    /// Bytes of each bound tensor, and whether a node writes it.
    needs: Vec<(usize, bool)>,
    executed: AtomicU64,
}

impl SimPlan {
    /// Prepares a graph.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with every node that the chip refuses; several nodes on a chip that plans one at a time; a
    /// constant that is not yet in the layout it was asked to be in.
    pub(crate) fn new(chip: Arc<Chip>, info: &qiao_core::DeviceInfo, graph: &Graph) -> Result<SimPlan> {
        let limits = chip.limits();
        std::thread::sleep(std::time::Duration::from_millis(limits.plan_ms));
        let answers = chip.kernels.support(graph);
        if answers.iter().any(|a| matches!(a.answer, qiao_core::Support::No(_))) {
            return Err(device::refuse(info, graph, &answers));
        }
        if chip.faults.lying_plan {
            return Err(Error::internal(
                "plan",
                "it fails although support calls every node native: sim.fault said so",
            ));
        }
        if graph.nodes().len() > 1 && !limits.multi_op {
            let found = format!("{} nodes, and {} plans one at a time", graph.nodes().len(), limits.name);
            return Err(Error::invalid("plan", found, "plan each node by itself"));
        }
        let launches = chip.kernels.launches(graph).ok_or_else(|| {
            let mend = "pack it with prepack and set its layout on the graph";
            Error::invalid("plan", "a constant is not in the private layout that support asks for", mend)
        })?;
        let placement = place::place(graph, limits.align, limits.tail_pad)?;
        let needs = graph.bound().iter().enumerate().map(|(position, &id)| {
            let desc = graph.desc(id);
            let bytes = match desc.layout {
                0 => desc.bytes()?,
                layout => Fractal::check(&qiao_core::TensorDesc { layout: 0, ..desc.clone() }, layout)?.bytes()?,
            };
            Ok((bytes, graph.writes_bound(position)))
        });
        let needs = needs.collect::<Result<Vec<_>>>()?;
        chip.executors.fetch_add(1, Ordering::Relaxed);
        let executor = Arc::new(Executor { graph: graph.clone(), launches, placement });
        Ok(SimPlan { executor, needs, chip, executed: AtomicU64::new(0) })
    }

    /// The executor of the next execution.
    fn executor(&self) -> Arc<Executor> {
        if !self.chip.limits().one_shot || self.executed.load(Ordering::Relaxed) == 0 {
            return self.executor.clone();
        }
        self.chip.executors.fetch_add(1, Ordering::Relaxed);
        let Executor { graph, launches, placement } = &*self.executor;
        Arc::new(Executor { graph: graph.clone(), launches: launches.clone(), placement: placement.clone() })
    }

    fn workspace(&self, binding: &Binding) -> Result<Place> {
        let (need, align) = (self.executor.placement.bytes, self.chip.limits().align);
        let (storage, range) = resolve_mut(self.chip.number, binding, "workspace", need)?;
        if need > 0 && !range.start.is_multiple_of(align) {
            let found = format!("it starts at byte {} of its buffer", range.start);
            return Err(Error::invalid("workspace", found, format!("start it on a multiple of {align}")));
        }
        Ok((storage, range.start))
    }
}

impl Plan for SimPlan {
    fn info(&self) -> PlanInfo {
        let workspace_bytes = self.executor.placement.bytes;
        PlanInfo { workspace_bytes, workspace_align: self.chip.limits().align, resident_bytes: 0 }
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let own = (stream as &mut dyn Any).downcast_mut::<SimStream>().filter(|s| s.chip.number == self.chip.number);
        let stream = own.ok_or_else(|| {
            Error::invalid("stream", "it belongs to another device", "make it with the device that made the plan")
        })?;
        stream.healthy()?;
        if bindings.len() != self.needs.len() {
            let found = format!("{} were given", bindings.len());
            let mend = format!("give {}, one per bound tensor", self.needs.len());
            return Err(Error::invalid("bindings", found, mend));
        }
        let graph = &self.executor.graph;
        let operands = bindings.iter().zip(&self.needs).zip(graph.bound());
        let places = operands
            .map(|((binding, &(need, written)), &id)| self.chip.operand(binding, &graph.tensor(id).name, need, written))
            .collect::<Result<Vec<Place>>>()?;
        let workspace = self.workspace(workspace)?;
        if self.chip.faults.lying_second && self.executed.load(Ordering::Relaxed) > 0 {
            return Err(Error::internal("execute", "the plan has run once, and runs no more: sim.fault said so"));
        }
        let executor = self.executor();
        self.executed.fetch_add(1, Ordering::Relaxed);
        let fate = self.chip.faults.execution(&self.chip.counters);
        let chip = self.chip.clone();
        let run = Frame { chip, executor, places, workspace };
        stream.push(Step::Run(Box::new(move || run.meet(fate)))).map(|_| ())
    }
}

/// One execution.
struct Frame {
    chip: Arc<Chip>,
    executor: Arc<Executor>,
    places: Vec<Place>,
    workspace: Place,
}

impl Frame {
    fn meet(self, fate: Fate) -> Outcome {
        match fate {
            Fate::Runs => Outcome::Done(self.run()),
            Fate::Fails => {
                Outcome::Done(Err(Error::internal("execution", "it failed on the device: sim.fault said so")))
            }
            Fate::Hangs => Outcome::Hangs,
            Fate::Loses => Outcome::Loses,
            Fate::Corrupts => Outcome::Done(self.run().map(|()| self.corrupt())),
        }
    }

    /// Where a tensor starts.
    fn place(&self, id: TensorId) -> (&Arc<Storage>, usize) {
        let graph = &self.executor.graph;
        let (root, inside) = graph.root(id);
        let (storage, start) = match graph.tensor(root).storage {
            Where::Bound(position) => (&self.places[position].0, self.places[position].1),
            _ => {
                let offset = self.executor.placement.offsets[root.index()].unwrap_or(0);
                (&self.workspace.0, self.workspace.1 + offset)
            }
        };
        (storage, start + inside)
    }

    fn run(&self) -> Result<()> {
        let (storage, start) = &self.workspace;
        let bytes = self.executor.placement.bytes;
        if bytes > 0 {
            storage.write(*start..start + bytes, |bytes| bytes.fill(DIRT));
        }
        for (node, launch) in self.executor.graph.views().zip(&self.executor.launches) {
            let outputs = self.compute(node, *launch)?;
            for (output, &id) in outputs.iter().zip(&node.node.outputs) {
                let desc = self.executor.graph.desc(id);
                let (storage, start) = self.place(id);
                let mut stored = Ok(());
                let bytes = desc.bytes()?;
                storage.write(start..start + bytes, |bytes| stored = output.store(desc, bytes));
                stored?;
            }
        }
        Ok(())
    }

    /// Computes a node while its operands stand still.
    fn compute(&self, node: NodeView<'_>, launch: Launch) -> Result<Vec<Output>> {
        let ids = &node.node.inputs;
        let mut storages: Vec<&Arc<Storage>> = ids.iter().flatten().map(|&id| self.place(id).0).collect();
        // Every storage once, in the order in which everybody takes them.
        storages.sort_by_key(|s| Arc::as_ptr(s));
        storages.dedup_by_key(|s| Arc::as_ptr(s));
        let readings: Vec<Reading<'_>> = storages.iter().map(|s| s.read()).collect();
        let operand = |id: TensorId| {
            let (storage, start) = self.place(id);
            let at = storages.iter().position(|s| Arc::ptr_eq(s, storage)).expect("every operand's storage is read");
            &readings[at][start..]
        };
        let bytes: Vec<Option<&[u8]>> = ids.iter().map(|id| id.map(operand)).collect();
        launch(self.chip.limits().numerics, node, &bytes)
    }

    /// Makes one element of the last node's first result wrong.
    fn corrupt(&self) {
        let graph = &self.executor.graph;
        let Some(&id) = graph.nodes().last().and_then(|n| n.outputs.first()) else { return };
        let desc = graph.desc(id);
        let (bytes, size) = (desc.bytes().unwrap_or(0), desc.dtype.block_bytes());
        if bytes < size {
            return;
        }
        let (storage, start) = self.place(id);
        let element = start + bytes / 2 / size * size;
        // The highest bits of a float's exponent, or of an integer.
        storage.write(element..element + size, |bytes| bytes[size - 1] ^= 0x40);
    }
}
