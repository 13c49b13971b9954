//! A graph as one plan per node: how a device that plans single operators runs a whole graph, how a profile takes a graph
//! apart, and how a host runs what a device refuses.
//!
//! Operands become bound tensors of the node's own graph. A view is bound where it starts; only where that is no
//! multiple of the device's alignment does the node bind the tensor behind it and hold the view inside.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use qiao_core::{
    Binding, Device, Error, Graph, Plan, PlanInfo, Result, Storage, Stream, TensorDesc, TensorId, place::place,
};

/// Where an operand's bytes come from when a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// The whole of the caller's binding at this position, as it stands.
    Whole(usize),
    /// `bytes` of the caller's binding at this position, from `offset` on.
    Bound { position: usize, offset: usize, bytes: usize },
    /// `bytes` of the workspace, from `offset` on.
    Workspace { offset: usize, bytes: usize },
}

impl Source {
    pub(crate) fn bind(self, bindings: &[Binding], workspace: &Binding) -> Binding {
        match self {
            Source::Whole(position) => bindings[position].clone(),
            Source::Bound { position, offset, bytes } => {
                let outer = &bindings[position];
                Binding::part(&outer.buffer, outer.offset + offset, bytes)
            }
            Source::Workspace { offset, bytes } => Binding::part(&workspace.buffer, workspace.offset + offset, bytes),
        }
    }
}

struct Step {
    plan: Arc<dyn Plan>,
    operands: Vec<Source>,
    workspace: usize,
}

/// A graph as one plan per node, with its temporaries placed in one workspace.
pub(crate) struct Steps {
    steps: Vec<Step>,
    info: PlanInfo,
    scratch_at: usize,
    // Lists of bindings that no execution uses at the moment, so that a steady state allocates none.
    spare: Mutex<Vec<Vec<Binding>>>,
}

impl Steps {
    /// Plans every node of a graph by itself.
    ///
    /// # Errors
    /// The device's, when it refuses a node; a workspace that can't be.
    pub(crate) fn new(device: &dyn Device, graph: &Graph) -> Result<Steps> {
        let align = device.info().tensor_align.max(1).next_power_of_two();
        let placement = place(graph, align, device.info().tensor_tail_pad)?;
        let mut steps = Vec::with_capacity(graph.nodes().len());
        let mut info = PlanInfo { workspace_align: align, ..Default::default() };
        let mut scratch = 0;
        let roots = |root: TensorId| {
            let base = match graph.tensor(root).storage {
                Storage::Bound(position) => Base::Bound(position),
                _ => {
                    Base::Workspace(placement.offsets[root.index()].expect("a temporary that a node touches is placed"))
                }
            };
            Root { base, constant: true, layout: true }
        };
        for index in 0..graph.nodes().len() {
            let single = Single::new(graph, index, align, &roots)?;
            let plan = device.plan(&single.graph)?;
            let needs = plan.info();
            scratch = scratch.max(needs.workspace_bytes);
            info.workspace_align = info.workspace_align.max(needs.workspace_align);
            info.resident_bytes = info.resident_bytes.saturating_add(needs.resident_bytes);
            steps.push(Step { plan, operands: single.operands, workspace: needs.workspace_bytes });
        }
        let scratch_at = placement.bytes.checked_next_multiple_of(info.workspace_align);
        let total = scratch_at.and_then(|at| at.checked_add(scratch));
        let (Some(scratch_at), Some(total)) = (scratch_at, total) else {
            return Err(Error::invalid("workspace", "its size overflows", "use a smaller batch or context"));
        };
        info.workspace_bytes = if scratch == 0 { placement.bytes } else { total };
        Ok(Steps { steps, info, scratch_at: scratch_at.min(info.workspace_bytes), spare: Mutex::default() })
    }

    pub(crate) fn info(&self) -> PlanInfo {
        self.info
    }

    /// Hands every node's plan, with its bindings and its workspace, to `each` in order. Bindings and workspace were
    /// checked by the caller.
    pub(crate) fn run(
        &self,
        stream: &mut dyn Stream,
        bindings: &[Binding],
        workspace: &Binding,
        mut each: impl FnMut(usize, &dyn Plan, &mut dyn Stream, &[Binding], &Binding) -> Result<()>,
    ) -> Result<()> {
        let mut operands = self.spare().pop().unwrap_or_default();
        let mut result = Ok(());
        for (index, step) in self.steps.iter().enumerate() {
            operands.clear();
            operands.extend(step.operands.iter().map(|o| o.bind(bindings, workspace)));
            let scratch = Source::Workspace { offset: self.scratch_at, bytes: step.workspace };
            result = each(index, &*step.plan, stream, &operands, &scratch.bind(bindings, workspace));
            if result.is_err() {
                break;
            }
        }
        operands.clear();
        self.spare().push(operands);
        result
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Binding>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the bytes of a tensor that is no view are, and how whoever plans the node is to see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    pub(crate) base: Base,
    /// Whether it may be told that a constant is one.
    pub(crate) constant: bool,
    /// Whether it is told of a private layout.
    pub(crate) layout: bool,
}

/// Where bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Base {
    /// In the binding at this position.
    Bound(usize),
    /// In the workspace from here on.
    Workspace(usize),
}

/// The graph of one node, and where its bound tensors come from.
pub(crate) struct Single<'a> {
    whole: &'a Graph,
    roots: &'a dyn Fn(TensorId) -> Root,
    align: usize,
    pub(crate) graph: Graph,
    pub(crate) operands: Vec<Source>,
    ids: HashMap<TensorId, TensorId>,
}

impl<'a> Single<'a> {
    /// Makes the graph of the node at this position of a graph.
    ///
    /// # Errors
    /// None for a node of a graph that is valid.
    pub(crate) fn new(
        whole: &'a Graph,
        index: usize,
        align: usize,
        roots: &'a dyn Fn(TensorId) -> Root,
    ) -> Result<Self> {
        let mut single = Single { whole, roots, align, graph: Graph::new(), operands: Vec::new(), ids: HashMap::new() };
        let node = &whole.nodes()[index];
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for id in &node.inputs {
            inputs.push(id.map(|id| single.operand(id)).transpose()?);
        }
        let outputs = node.outputs.iter().map(|&id| single.operand(id)).collect::<Result<Vec<_>>>()?;
        single.graph.add_into(node.op, &inputs, &outputs)?;
        Ok(single)
    }

    /// The tensor of the node's own graph that stands for a tensor of the whole graph.
    fn operand(&mut self, id: TensorId) -> Result<TensorId> {
        if let Some(&own) = self.ids.get(&id) {
            return Ok(own);
        }
        let (root, offset) = self.whole.root(id);
        let own = if offset.is_multiple_of(self.align) {
            self.bind(id, root, offset)?
        } else {
            let base = self.operand(root)?;
            let desc = self.seen(id, (self.roots)(root));
            self.graph.view(base, desc, offset)?
        };
        self.ids.insert(id, own);
        Ok(own)
    }

    fn seen(&self, id: TensorId, root: Root) -> TensorDesc {
        let desc = self.whole.desc(id).clone();
        let layout = if root.layout { desc.layout } else { 0 };
        TensorDesc { constant: desc.constant && root.constant, layout, ..desc }
    }

    fn bind(&mut self, id: TensorId, root: TensorId, offset: usize) -> Result<TensorId> {
        let at = (self.roots)(root);
        let desc = self.seen(id, at);
        let source = match at.base {
            Base::Bound(position) if desc.layout != 0 => Source::Whole(position),
            Base::Bound(position) => Source::Bound { position, offset, bytes: desc.bytes()? },
            Base::Workspace(base) => Source::Workspace { offset: base + offset, bytes: desc.bytes()? },
        };
        self.operands.push(source);
        Ok(self.graph.bind(&self.whole.tensor(id).name, desc))
    }
}
