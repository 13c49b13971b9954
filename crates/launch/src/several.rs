//! Products of one a in one launch: what a step reads and multiplies with few rows is started together, and not one by one.

use qiao_core::{Graph, Storage, TensorId};

use crate::launch::{Arg, Launch};

/// Products that one launch takes.
pub(crate) const MOST: usize = 3;

/// Nodes within which products of one a are looked for.
const REACH: usize = 16;

/// Products of few rows, as their kernels take them: one, several of the same a, or one whose gate and up half are two weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Several {
    pub(crate) symbol: String,
    pub(crate) a: Arg,
    pub(crate) residual: Arg,
    /// The kernel's struct of what they share.
    pub(crate) shared: Vec<u8>,
    /// From 1 to [`MOST`].
    pub(crate) parts: Vec<Part>,
    /// With one part: the addresses of its second weight, and whether the kernel must be told that there is one.
    pub(crate) up: Option<(Vec<Arg>, bool)>,
    /// Blocks along y.
    pub(crate) batches: u32,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    /// The weight, its tables, the bias and the result.
    pub(crate) addresses: Vec<Arg>,
    /// The kernel's struct of what is this one's own.
    pub(crate) own: Vec<u8>,
    /// Blocks along x.
    pub(crate) blocks: u32,
}

impl Several {
    /// The launch.
    pub(crate) fn launch(self) -> Launch {
        let of_one = self.parts[0].addresses.len();
        let end = self.shared.len() + MOST * self.parts[0].own.len();
        let mut args = vec![self.a, self.residual];
        let (mut bytes, mut starts, mut blocks) = (self.shared, Vec::new(), 0u32);
        for part in &self.parts {
            starts.push(blocks);
            blocks += part.blocks;
            args.extend(part.addresses.iter().cloned());
            bytes.extend(&part.own);
        }
        let (up, gated) = self.up.unwrap_or_default();
        args.extend(up);
        args.resize(2 + MOST * of_one, Arg::Null);
        bytes.resize(end, 0);
        starts.resize(MOST, u32::MAX);
        for word in [starts[1], starts[2], u32::from(gated), 0] {
            bytes.extend(word.to_ne_bytes());
        }
        args.push(Arg::Struct(bytes));
        Launch::new(&self.symbol, [blocks, self.batches, 1], 0, args)
    }

    /// These and another of the same kernel, a and batch, where one launch takes them.
    pub(crate) fn and(mut self, other: Several) -> Option<Several> {
        let one = |s: &Several| s.up.is_none() && s.residual == Arg::Null && s.batches == 1;
        let alike = self.symbol == other.symbol && self.a == other.a && self.shared == other.shared;
        if !alike || !one(&self) || !one(&other) || self.parts.len() + other.parts.len() > MOST {
            return None;
        }
        let blocks = self.parts.iter().chain(&other.parts).try_fold(0u32, |sum, p| sum.checked_add(p.blocks));
        blocks.filter(|&blocks| blocks < u32::MAX)?;
        self.parts.extend(other.parts);
        Some(self)
    }
}

/// The nodes of this one's kind from `first` on that have the same operand 0, ascending.
pub(crate) fn of_one_a(graph: &Graph, first: usize) -> impl Iterator<Item = usize> {
    let nodes = graph.nodes();
    let (kind, a) = (nodes[first].op.kind(), nodes[first].inputs.first().copied().flatten());
    let end = nodes.len().min(first + REACH);
    (first..end).filter(move |&n| a.is_some() && nodes[n].op.kind() == kind && nodes[n].inputs.first() == Some(&a))
}

/// What a node reads, or writes: the memory of its operands.
fn inputs(graph: &Graph, node: usize) -> impl Iterator<Item = TensorId> {
    graph.nodes()[node].inputs.iter().flatten().map(|&id| graph.root(id).0)
}
fn outputs(graph: &Graph, node: usize) -> impl Iterator<Item = TensorId> {
    graph.nodes()[node].outputs.iter().map(|&id| graph.root(id).0)
}

/// Whether a node writes what another reads.
fn writes_into(graph: &Graph, node: usize, reader: usize) -> bool {
    outputs(graph, node).any(|o| inputs(graph, reader).any(|i| i == o))
}

/// Whether these nodes, ascending, may run where the last of them stands, all at once: nothing on the way and none of them
/// changes what they read, or reads or changes what they write.
pub(crate) fn may_run_at_last(graph: &Graph, together: &[usize]) -> bool {
    let Some(&last) = together.last() else { return false };
    together.iter().all(|&moved| {
        let others = together.iter().copied().filter(|&n| n != moved);
        let passed = (moved + 1..last).filter(|n| !together.contains(n)).chain(others);
        let write_apart = |n: usize| outputs(graph, n).all(|o| outputs(graph, moved).all(|own| own != o));
        let apart = |n: usize| write_apart(n) && !writes_into(graph, n, moved) && !writes_into(graph, moved, n);
        passed.into_iter().all(apart)
    })
}

/// Whether a node takes the results of these two and nothing else, nobody else touches them, and all may run as one where it
/// stands.
pub(crate) fn meet(graph: &Graph, two: [usize; 2], at: usize) -> bool {
    let nodes = graph.nodes();
    let results = two.map(|n| nodes[n].outputs[0]);
    let touches = |n: usize, id: TensorId| inputs(graph, n).chain(outputs(graph, n)).any(|i| i == id);
    let own = |n: usize| {
        let id = nodes[n].outputs[0];
        graph.tensor(id).storage == Storage::Temporary && (0..nodes.len()).filter(|&n| touches(n, id)).eq([n, at])
    };
    let unchanged = |n: usize| (n + 1..=at).all(|later| !writes_into(graph, later, n));
    nodes[at].inputs == results.map(Some) && two.into_iter().all(|n| n < at && own(n) && unchanged(n))
}
