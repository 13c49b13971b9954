//! A graph as a plan: every node prepared once, launches queued one by one.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use qiao_core::place::place_where;
use qiao_core::{
    Accept, Binding, DeviceInfo, Error, Graph, Plan, PlanInfo, Result, Storage, Stream, TensorDesc, device, sound,
};
use qiao_launch::{ALIGN, Arg, Launch, Prepared};

use super::program::{Place, Program};
use super::{Table, Target, local, support};
use crate::context::Context;
use crate::memory::{Start, resolve};
use crate::stream::OpenClStream;

/// What plans share with their device.
pub(crate) struct Card {
    pub(crate) context: Arc<Context>,
    pub(crate) target: Target,
    pub(crate) table: Table,
    /// Every tensor inside a buffer starts on a multiple of this.
    pub(crate) align: usize,
}

/// A graph, ready to run on the device.
pub(crate) struct OpenClPlan {
    card: Arc<Card>,
    graph: Graph,
    /// The kernels, with the addresses of an execution: their arguments belong to one execution at a time.
    program: Mutex<(Program, Vec<Start>)>,
    /// Bytes of each bound tensor.
    needs: Vec<usize>,
    workspace: usize,
}

impl OpenClPlan {
    pub(crate) fn new(card: &Arc<Card>, info: &DeviceInfo, graph: &Graph) -> Result<Self> {
        let steps = prepare(card, info, graph)?;
        let named = named_roots(graph, &steps);
        let align = card.align.max(ALIGN);
        let placement = place_where(graph, align, 0, |id| named[id.index()], |node| node)?;
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
        Ok(OpenClPlan {
            card: card.clone(),
            graph: graph.clone(),
            program: Mutex::new((program, Vec::with_capacity(bound + 1))),
            needs,
            workspace,
        })
    }

    /// Where every binding starts, and the workspace behind them.
    fn starts(&self, bindings: &[Binding], workspace: &Binding, out: &mut Vec<Start>) -> Result<()> {
        let (context, align) = (&self.card.context, self.card.align);
        out.clear();
        let mut push = |binding: &Binding, name: &str, need: usize| {
            let start = resolve(context, binding, name, need)?;
            if need > 0 && !start.offset.is_multiple_of(align) {
                let mend = format!("start it on a multiple of {align} of an allocated buffer");
                let found = format!("it starts at byte {}", start.offset);
                return Err(Error::invalid(format!("binding of '{name}'"), found, mend));
            }
            out.push(start);
            Ok(())
        };
        for ((binding, &need), &id) in bindings.iter().zip(&self.needs).zip(self.graph.bound()) {
            push(binding, &self.graph.tensor(id).name, need)?;
        }
        push(workspace, "workspace", self.workspace)
    }
}

/// Bytes of a bound tensor, in its private layout if it has one.
fn bound_bytes(desc: &TensorDesc) -> Result<usize> {
    match desc.layout {
        0 => desc.bytes(),
        layout => (super::layout(desc, layout)?.bytes)(desc),
    }
}

/// Every node that writes something as what runs, in order.
fn prepare(card: &Card, info: &DeviceInfo, graph: &Graph) -> Result<Vec<Prepared>> {
    let mut steps = Vec::with_capacity(graph.nodes().len());
    let refused = || device::refuse(info, graph, &support(&card.table, &card.target, graph));
    for node in graph.views() {
        match sound::find(&card.table, &node) {
            Ok((_, Accept::Native)) if sound::writes_nothing(&node) => steps.push(Prepared::default()),
            Ok((row, Accept::Native)) => {
                let prepared = row.launch.prepare(&node, &card.target)?;
                local::fits(&node, &prepared, &card.target).map_err(|_| refused())?;
                steps.push(prepared);
            }
            _ => return Err(refused()),
        }
    }
    Ok(steps)
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

impl Plan for OpenClPlan {
    fn info(&self) -> PlanInfo {
        PlanInfo { workspace_bytes: self.workspace, workspace_align: self.card.align, resident_bytes: 0 }
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let stream = (stream as &mut dyn Any)
            .downcast_mut::<OpenClStream>()
            .filter(|s| Arc::ptr_eq(&s.context, &self.card.context))
            .ok_or_else(|| Error::invalid("stream", "it belongs to another device", "use a stream of this device"))?;
        if bindings.len() != self.needs.len() {
            let found = format!("{} were given", bindings.len());
            return Err(Error::invalid("bindings", found, format!("give {}, one per bound tensor", self.needs.len())));
        }
        stream.healthy()?;
        let mut program = self.program.lock().unwrap_or_else(PoisonError::into_inner);
        let (program, starts) = &mut *program;
        self.starts(bindings, workspace, starts)?;
        let queued = program.launch(stream, starts);
        let end = stream.keep(queued)?;
        stream.launched(end);
        Ok(())
    }
}
