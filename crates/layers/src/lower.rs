//! A graph onto a device: native where it has a kernel, decomposed where it has none.
//!
//! 1. The device answers for every node ([`Device::support`]).
//! 2. Constants that it wants in a private layout get it ([`Graph::set_layout`]), and it is asked again.
//! 3. Refused nodes that are composite are rewritten as smaller ones, and it is asked again: pieces may be refused too.
//! 4. When nothing changes any more, every node must be native; else the error lists all that are not.
//! 5. The graph is planned as a whole, or node by node on a device without [`Caps::multi_op`](qiao_core::Caps).

use std::collections::HashMap;
use std::sync::Arc;

use qiao_core::error::Unsupported;
use qiao_core::{
    Binding, Device, Error, Graph, NodeSupport, Plan, PlanInfo, Reason, Result, Storage, Stream, Support, TensorDesc,
    TensorId, decompose::decompose,
};

use crate::account::{Account, Entry, Piece, Way};
use crate::steps::Steps;

/// Questions to a device before lowering gives up on an answer that never settles.
const ROUNDS: usize = 64;

/// Where nodes may run that neither the device nor its decompositions cover.
///
/// The host fallback, once there is one, is asked for by a further policy; it is never a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {}

impl Policy {
    /// Nowhere: every node runs on the device or lowering fails.
    pub const DEVICE_ONLY: Policy = Policy {};
}

/// A constant that the device wants packed before the first execution, by [`Device::prepack`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Its position among the bound tensors.
    pub bound: usize,
    /// What it is before it is packed.
    pub tensor: TensorDesc,
    /// The private layout.
    pub layout: u64,
    /// Bytes it takes in that layout, to be allocated for it.
    pub bytes: usize,
}

/// A graph on a device, ready to run: a [`Plan`] over the bound tensors of the graph that was lowered, in its order.
pub struct Lowered {
    /// The graph as the device runs it.
    pub graph: Graph,
    /// The constants to pack; their bindings at execute are the packed bytes.
    pub packs: Vec<Pack>,
    /// What became of every node.
    pub account: Account,
    needs: Vec<usize>,
    info: PlanInfo,
    body: Body,
}

enum Body {
    Whole(Arc<dyn Plan>),
    Steps(Steps),
}

/// Lowers a graph onto a device.
///
/// # Errors
/// [`Error::Unsupported`] with every node that the device refuses and that no decomposition saves, each with the reason
/// for the node as it was given; [`Error::Invalid`] where nodes want one constant in different layouts;
/// [`Error::Internal`] where the device contradicts itself; the device's own errors of planning.
pub fn lower(device: &Arc<dyn Device>, graph: Graph, policy: Policy) -> Result<Lowered> {
    let Policy {} = policy;
    let mut draft = Draft::new(&**device, graph);
    let answers = draft.settle()?;
    if answers.iter().any(|a| matches!(a.answer, Support::No(_))) {
        return Err(draft.refused(&answers));
    }
    let packs = draft.packs()?;
    let account = draft.account(&answers);
    let graph = draft.graph;
    let body = if device.info().caps.multi_op {
        Body::Whole(device.plan(&graph)?)
    } else {
        Body::Steps(Steps::new(&**device, &graph)?)
    };
    let info = match &body {
        Body::Whole(plan) => plan.info(),
        Body::Steps(steps) => steps.info(),
    };
    let needs = bound_bytes(&graph, &packs)?;
    Ok(Lowered { graph, packs, account, needs, info, body })
}

/// What a device would make of a graph, asked without planning anything: [`lower()`] for whoever wants to hear of every
/// node that the device refuses, not only that there are such.
pub struct Survey {
    /// The graph as the device would run it, with what it refuses left in.
    pub graph: Graph,
    /// For each node of `graph`, the node of the graph that was given for which it stands.
    pub origin: Vec<usize>,
    /// The device's answer for each node of `graph`: native, or refused.
    pub answers: Vec<NodeSupport>,
    /// For each node that was given, how it would run, or why it would not.
    pub ways: Vec<Result<Way, Refusal>>,
    /// The constants that would be packed.
    pub packs: Vec<Pack>,
}

/// Why a node does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The device's reason for the node as it was given.
    pub reason: Reason,
    /// Where the node is composite: those of its smaller operators that the device refuses too, with its reason for each.
    pub pieces: Vec<(&'static str, Reason)>,
}

/// Asks a device about every node of a graph as [`lower()`] does, and plans nothing.
///
/// # Errors
/// [`Error::Invalid`] where nodes want one constant in different layouts; [`Error::Internal`] where the device
/// contradicts itself.
pub fn survey(device: &dyn Device, graph: Graph) -> Result<Survey> {
    let mut draft = Draft::new(device, graph);
    let answers = draft.settle()?;
    let packs = draft.packs()?;
    let mut ways: Vec<_> = draft.account(&answers).entries.into_iter().map(|e| Ok(e.way)).collect();
    for ((node, &origin), answer) in draft.graph.views().zip(&draft.origin).zip(&answers) {
        let Support::No(why) = &answer.answer else { continue };
        let reason = draft.reasons[origin].clone().unwrap_or_else(|| why.clone());
        if ways[origin].is_ok() {
            ways[origin] = Err(Refusal { reason, pieces: Vec::new() });
        }
        let composite =
            draft.origin.iter().filter(|&&o| o == origin).count() > 1 || node.kind().name() != draft.given[origin];
        if let (Err(refusal), true) = (&mut ways[origin], composite) {
            refusal.pieces.push((node.kind().name(), why.clone()));
        }
    }
    Ok(Survey { graph: draft.graph, origin: draft.origin, answers, ways, packs })
}

fn bound_bytes(graph: &Graph, packs: &[Pack]) -> Result<Vec<usize>> {
    let packed: HashMap<usize, usize> = packs.iter().map(|p| (p.bound, p.bytes)).collect();
    let need = |(position, &id)| match packed.get(&position) {
        Some(&bytes) => Ok(bytes),
        None if graph.desc(id).layout != 0 => Ok(0),
        None => graph.desc(id).bytes(),
    };
    graph.bound().iter().enumerate().map(need).collect()
}

impl Plan for Lowered {
    fn info(&self) -> PlanInfo {
        self.info
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        if bindings.len() != self.needs.len() {
            let found = format!("{} were given", bindings.len());
            let mend = format!("give {}, one per bound tensor", self.needs.len());
            return Err(Error::invalid("bindings", found, mend));
        }
        for ((binding, &need), &id) in bindings.iter().zip(&self.needs).zip(self.graph.bound()) {
            binding.check(&self.graph.tensor(id).name, need)?;
        }
        workspace.check("workspace", self.info.workspace_bytes)?;
        match &self.body {
            Body::Whole(plan) => plan.execute(stream, bindings, workspace),
            Body::Steps(steps) => steps
                .run(stream, bindings, workspace, |_, plan, stream, own, scratch| plan.execute(stream, own, scratch)),
        }
    }
}

/// Who asked for a constant's layout.
#[derive(Clone, Copy)]
struct Asked {
    node: usize,
    op: &'static str,
    layout: u64,
}

/// A graph while it is lowered.
struct Draft<'a> {
    device: &'a dyn Device,
    graph: Graph,
    /// The operators of the graph that was given.
    given: Vec<&'static str>,
    /// For each node of the present graph, the given node that it stands for.
    origin: Vec<usize>,
    /// For each given node, why the device refused it first.
    reasons: Vec<Option<Reason>>,
    asked: HashMap<TensorId, Asked>,
}

impl<'a> Draft<'a> {
    fn new(device: &'a dyn Device, graph: Graph) -> Self {
        let count = graph.nodes().len();
        let given = graph.views().map(|n| n.kind().name()).collect();
        let origin = (0..count).collect();
        Draft { device, graph, given, origin, reasons: vec![None; count], asked: HashMap::new() }
    }

    fn name(&self) -> &str {
        &self.device.info().name
    }

    /// Rewrites the graph until the device runs every node, or until nothing more can be rewritten; gives its last answers,
    /// none of which asks for a layout.
    fn settle(&mut self) -> Result<Vec<NodeSupport>> {
        for _ in 0..ROUNDS {
            let answers = self.device.support(&self.graph);
            if answers.len() != self.graph.nodes().len() {
                let why = format!("{} answers for {} nodes", answers.len(), self.graph.nodes().len());
                return Err(Error::internal(format!("support of {}", self.name()), why));
            }
            self.note(&answers)?;
            if self.relayout(&answers)? {
                continue;
            }
            if answers.iter().all(|a| a.answer == Support::Native) {
                return Ok(answers);
            }
            if !self.decompose(&answers)? {
                return Ok(answers);
            }
        }
        let why = format!("its answers do not settle in {ROUNDS} rounds");
        Err(Error::internal(format!("support of {}", self.name()), why))
    }

    /// Keeps the first reason for each given node.
    fn note(&mut self, answers: &[NodeSupport]) -> Result<()> {
        for (index, answer) in answers.iter().enumerate() {
            let Support::No(reason) = &answer.answer else { continue };
            let node = self.origin[index];
            if self.reasons[node].is_some() {
                continue;
            }
            // A node that was accepted until another node had one of its constants packed.
            let inputs = self.graph.nodes()[index].inputs.iter().flatten();
            if let Some((id, by)) = inputs.filter_map(|id| Some((id, self.asked.get(id)?))).find(|a| a.1.node != node) {
                let name = &self.graph.tensor(*id).name;
                return Err(Error::invalid(
                    format!(
                        "constant '{name}' in the private layout {:#x} that node {} {} asks for",
                        by.layout, by.node, by.op
                    ),
                    format!("node {node} {} can't read it: {reason}", self.given[node]),
                    "bind the constant a second time for one of them",
                ));
            }
            self.reasons[node] = Some(reason.clone());
        }
        Ok(())
    }

    /// Gives constants the layouts that the device asks for; whether there was any.
    fn relayout(&mut self, answers: &[NodeSupport]) -> Result<bool> {
        let mut changed = false;
        for (index, answer) in answers.iter().enumerate() {
            let Support::Relayout { operand, layout } = answer.answer else { continue };
            let node = self.origin[index];
            let op = self.graph.node(index).kind().name();
            let what = format!("{} asks for a private layout of operand {operand} of node {node} {op}", self.name());
            let broken = |why: &str| Error::internal(what.clone(), why);
            let id = self.graph.nodes()[index].inputs.get(operand).copied().flatten();
            let id = id.ok_or_else(|| broken("the node has no such operand"))?;
            if let Some(first) = self.asked.get(&id) {
                if first.layout != layout {
                    return Err(Error::invalid(
                        format!("private layout {layout:#x} of '{}' for node {node} {op}", self.graph.tensor(id).name),
                        format!("node {} {} wants it in layout {:#x}", first.node, first.op, first.layout),
                        "bind the constant a second time for one of them",
                    ));
                }
                if self.graph.desc(id).layout == layout && !changed {
                    return Err(broken("the operand is in that layout already"));
                }
                continue;
            }
            if layout == 0 {
                return Err(broken("0 is no private layout"));
            }
            self.graph.set_layout(id, layout).map_err(|e| broken(&e.to_string()))?;
            self.asked.insert(id, Asked { node, op, layout });
            changed = true;
        }
        Ok(changed)
    }

    /// Rewrites every refused node that is composite; whether there was any.
    fn decompose(&mut self, answers: &[NodeSupport]) -> Result<bool> {
        let mut next = self.graph.without_nodes();
        let mut moved = Moved::default();
        let mut origin = Vec::with_capacity(self.origin.len());
        let mut changed = false;
        for (index, node) in self.graph.nodes().iter().enumerate() {
            let inputs = node.inputs.iter().map(|id| id.map(|id| moved.now(&mut next, id)).transpose());
            let inputs = inputs.collect::<Result<Vec<_>>>()?;
            let outputs = node.outputs.iter().map(|&id| moved.now(&mut next, id)).collect::<Result<Vec<_>>>()?;
            let mut replaced = false;
            if matches!(answers[index].answer, Support::No(_)) {
                let apart: Vec<_> = outputs.iter().map(|&id| apart(&mut next, &inputs, id)).collect();
                let what = || format!("decomposition of node {} {}", self.origin[index], node.op);
                replaced = decompose(&node.op, &mut next, &inputs, &apart)
                    .map_err(|e| Error::internal(what(), e.to_string()))?;
                if replaced {
                    changed = true;
                    moved.extend(&outputs, &apart);
                }
            }
            if !replaced {
                next.add_into(node.op, &inputs, &outputs)?;
            }
            origin.resize(next.nodes().len(), self.origin[index]);
        }
        if changed {
            (self.graph, self.origin) = (next, origin);
        }
        Ok(changed)
    }

    /// The error that lists every given node which the device does not run.
    fn refused(&self, answers: &[NodeSupport]) -> Error {
        let mut list: Vec<Unsupported> = Vec::new();
        for (&node, answer) in self.origin.iter().zip(answers) {
            let Support::No(reason) = &answer.answer else { continue };
            if list.iter().all(|u| u.node != node) {
                let reason = self.reasons[node].clone().unwrap_or_else(|| reason.clone());
                list.push(Unsupported { node, op: self.given[node], reason });
            }
        }
        Error::Unsupported { device: self.name().into(), list }
    }

    fn packs(&self) -> Result<Vec<Pack>> {
        let mut packs = Vec::with_capacity(self.asked.len());
        for (bound, id) in self.graph.bound().iter().enumerate() {
            let Some(asked) = self.asked.get(id) else { continue };
            let tensor = TensorDesc { layout: 0, ..self.graph.desc(*id).clone() };
            let bytes = self.device.prepack_bytes(&tensor, asked.layout)?;
            packs.push(Pack { bound, tensor, layout: asked.layout, bytes });
        }
        Ok(packs)
    }

    fn account(&self, answers: &[NodeSupport]) -> Account {
        let entry =
            |(node, &op)| Entry { node, op, way: Way::Native { kernel: String::new() }, cost: Default::default() };
        let mut entries: Vec<Entry> = self.given.iter().enumerate().map(entry).collect();
        for ((node, &origin), answer) in self.graph.views().zip(&self.origin).zip(answers) {
            let entry = &mut entries[origin];
            entry.cost = entry.cost + node.cost();
            let kernel = answer.kernel.clone();
            let Some(reason) = &self.reasons[origin] else {
                entry.way = Way::Native { kernel };
                continue;
            };
            let piece = Piece { op: node.kind().name(), kernel };
            match &mut entry.way {
                Way::Decomposed { into, .. } => into.push(piece),
                way => *way = Way::Decomposed { into: vec![piece], reason: reason.clone() },
            }
        }
        Account { device: self.name().into(), entries }
    }
}

/// A temporary is written once. Where a node that is taken apart works in place of one, its pieces write another.
fn apart(graph: &mut Graph, inputs: &[Option<TensorId>], output: TensorId) -> TensorId {
    let tensor = graph.tensor(output);
    if tensor.storage != Storage::Temporary || !inputs.contains(&Some(output)) {
        return output;
    }
    let (name, desc) = (tensor.name.clone(), tensor.desc.clone());
    graph.temporary(name, desc)
}

/// Temporaries that were written in place and have moved; later nodes mean the new ones.
#[derive(Default)]
struct Moved(HashMap<TensorId, TensorId>);

impl Moved {
    fn extend(&mut self, from: &[TensorId], to: &[TensorId]) {
        self.0.extend(from.iter().copied().zip(to.iter().copied()).filter(|(from, to)| from != to));
    }

    /// The tensor that a later node means by `id`: a moved one, a view of a moved one, or `id`.
    fn now(&mut self, graph: &mut Graph, id: TensorId) -> Result<TensorId> {
        let mut now = id;
        while let Some(&to) = self.0.get(&now) {
            now = to;
        }
        let (root, offset) = graph.root(now);
        if now == root || !self.0.contains_key(&root) {
            return Ok(now);
        }
        let root = self.now(graph, root)?;
        let view = graph.view(root, graph.desc(now).clone(), offset)?;
        self.0.insert(now, view);
        Ok(view)
    }
}
