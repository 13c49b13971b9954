//! A graph while it is rewritten until a device runs it.
//!
//! 1. The device answers for every node ([`Device::support`]).
//! 2. Constants that it wants in a private layout get it ([`Graph::set_layout`]), and it is asked again.
//! 3. Refused nodes that are composite are rewritten as smaller ones, and it is asked again: pieces may be refused too.
//!
//! Nodes that run on the host stay as they were given, and the device never sees them: to it, what they write is bound.

use std::collections::{HashMap, HashSet};

use qiao_core::error::Unsupported;
use qiao_core::{
    Device, Error, Graph, NodeSupport, Reason, Result, Storage, Support, TensorDesc, TensorId, decompose::decompose,
};

use crate::account::{Account, Entry, Piece, Way};
use crate::flow::{part, writes};
use crate::policy::Home;

/// Questions to a device before lowering gives up on an answer that never settles.
const ROUNDS: usize = 64;

/// A constant that wants to be packed before the first execution, by [`Device::prepack`] of the device on which it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Its position among the bound tensors.
    pub bound: usize,
    /// On which side it lives, and is packed.
    pub home: Home,
    /// What it is before it is packed.
    pub tensor: TensorDesc,
    /// The private layout.
    pub layout: u64,
    /// Bytes it takes in that layout, to be allocated for it.
    pub bytes: usize,
}

/// Who asked for a constant's layout.
#[derive(Clone, Copy)]
struct Asked {
    node: usize,
    op: &'static str,
    layout: u64,
}

/// A graph while it is lowered.
pub(crate) struct Draft<'a> {
    device: &'a dyn Device,
    pub(crate) graph: Graph,
    /// The operators of the graph that was given.
    given: Vec<&'static str>,
    /// For each node of the present graph, the given node that it stands for.
    pub(crate) origin: Vec<usize>,
    /// For each given node, why it runs on the host, where it does.
    pub(crate) host: Vec<Option<Reason>>,
    /// For each given node, why the device refused it first.
    reasons: Vec<Option<Reason>>,
    asked: HashMap<TensorId, Asked>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(device: &'a dyn Device, graph: Graph, host: Vec<Option<Reason>>) -> Self {
        let count = graph.nodes().len();
        let given = graph.views().map(|n| n.kind().name()).collect();
        let origin = (0..count).collect();
        Draft { device, graph, given, origin, host, reasons: vec![None; count], asked: HashMap::new() }
    }

    /// The operator of a given node.
    pub(crate) fn given(&self, node: usize) -> &'static str {
        self.given[node]
    }

    /// Whether a node of the present graph runs on the host.
    pub(crate) fn on_host(&self, node: usize) -> bool {
        self.host[self.origin[node]].is_some()
    }

    /// The device's answer for every node; those on the host count as native.
    fn ask(&self) -> Result<Vec<NodeSupport>> {
        let nodes: Vec<usize> = (0..self.origin.len()).filter(|&node| !self.on_host(node)).collect();
        let given = if nodes.len() == self.origin.len() {
            self.device.support(&self.graph)
        } else {
            let from_host = (0..self.origin.len()).filter(|&node| self.on_host(node));
            let from_host: HashSet<TensorId> = from_host.flat_map(|node| writes(&self.graph, node)).collect();
            self.device.support(&part(&self.graph, nodes.iter().copied(), &|id| from_host.contains(&id))?.graph)
        };
        if given.len() != nodes.len() {
            let why = format!("{} answers for {} nodes", given.len(), nodes.len());
            return Err(Error::internal(format!("support of {}", self.name()), why));
        }
        let mut answers = vec![NodeSupport::native(""); self.origin.len()];
        for (node, answer) in nodes.into_iter().zip(given) {
            answers[node] = answer;
        }
        Ok(answers)
    }

    pub(crate) fn name(&self) -> &str {
        &self.device.info().name
    }

    /// Rewrites the graph until the device runs every node that is its own, or until nothing more can be rewritten; gives its last answers,
    /// none of which asks for a layout.
    pub(crate) fn settle(&mut self) -> Result<Vec<NodeSupport>> {
        for _ in 0..ROUNDS {
            let answers = self.ask()?;
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

    /// Every given node which the device does not run, once, with its reason for the node as it was given.
    pub(crate) fn refused(&self, answers: &[NodeSupport]) -> Vec<Unsupported> {
        let mut list: Vec<Unsupported> = Vec::new();
        for (&node, answer) in self.origin.iter().zip(answers) {
            let Support::No(reason) = &answer.answer else { continue };
            if list.last().is_none_or(|u| u.node != node) {
                let reason = self.reasons[node].clone().unwrap_or_else(|| reason.clone());
                list.push(Unsupported { node, op: self.given[node], reason });
            }
        }
        list
    }

    pub(crate) fn packs(&self) -> Result<Vec<Pack>> {
        let mut packs = Vec::with_capacity(self.asked.len());
        for (bound, id) in self.graph.bound().iter().enumerate() {
            let Some(asked) = self.asked.get(id) else { continue };
            let tensor = TensorDesc { layout: 0, ..self.graph.desc(*id).clone() };
            let bytes = self.device.prepack_bytes(&tensor, asked.layout)?;
            packs.push(Pack { bound, home: Home::Device, tensor, layout: asked.layout, bytes });
        }
        Ok(packs)
    }

    /// What becomes of every given node; those on the host are left for whoever asks the host.
    pub(crate) fn account(&self, answers: &[NodeSupport]) -> Account {
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
        Account { device: self.name().into(), host: String::new(), entries }
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
