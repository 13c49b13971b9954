//! Several nodes of a graph as one step.
//!
//! Products that read the same activations, such as those of queries, keys and values, pack them once and are one job;
//! where two of them are a gate and what it gates, their results meet while they are in the caches. Steps that take rows
//! apart, such as rotations and the writing of keys and values, are one job where they follow each other, and so are a norm
//! and the packing of its rows for the products behind it.

use qiao_core::{Graph, Op, Storage, TensorId};

use super::access::Operand;
use super::by_rows::ByRows;
use super::exec::{CHEAP, Prepared};
use super::job::Together;

/// Nodes within which products of the same activations are looked for.
const REACH: usize = 16;

/// What fusing changes for the place of temporaries.
pub(super) struct Fusion {
    /// For each node the moment at which it runs: those from the first to the last of a step share one.
    pub(super) moments: Vec<usize>,
    /// For each tensor whether nothing writes it any more.
    pub(super) gone: Vec<bool>,
}

/// Fuses steps of a graph, one for each node. Nodes that are fused run in the place of the first of them; the others have nothing
/// left to do.
pub(super) fn fuse(graph: &Graph, steps: &mut [Prepared], threads: usize) -> Fusion {
    let mut fusion = Fusion { moments: (0..steps.len()).collect(), gone: vec![false; graph.tensors().len()] };
    products(graph, steps, &mut fusion);
    rows(graph, steps, threads, &mut fusion);
    fusion
}

impl Fusion {
    /// Has the nodes from `first` to `last`, and all that share a moment with one of them, run at the moment of the first.
    fn join(&mut self, first: usize, last: usize) {
        let (moment, end) = (self.moments[first], self.moments[last]);
        let rest = self.moments[first..].iter_mut().take_while(|m| **m <= end);
        rest.for_each(|m| *m = moment);
    }
}

/// Fuses products of the same activations.
fn products(graph: &Graph, steps: &mut [Prepared], fusion: &mut Fusion) {
    for first in 0..steps.len() {
        let mut nodes = same_activations(graph, steps, first);
        if nodes.len() < 2 {
            continue;
        }
        let parts: Vec<Together> = nodes.iter().filter_map(|&n| steps[n].take_products()).collect();
        let mut products = Together::all(parts);
        if let Some((node, [gate, up])) = gated(graph, &nodes).filter(|_| products.can_be_gated()) {
            products = products.gated(Operand::output(&graph.node(node), 0));
            steps[node] = Prepared::nothing();
            nodes.push(node);
            fusion.gone[gate.index()] = true;
            fusion.gone[up.index()] = true;
        }
        steps[first] = Prepared::products(products);
        fusion.join(first, nodes.into_iter().max().unwrap_or(first));
    }
}

/// Fuses steps that take rows apart with those of their kind that follow them, and with products that pack their rows.
fn rows(graph: &Graph, steps: &mut [Prepared], threads: usize, fusion: &mut Fusion) {
    for first in 0..steps.len() {
        let Some(run) = Run::starting_at(graph, steps, first, threads, &fusion.moments) else { continue };
        let last = run.products.map_or(run.nodes.last().copied(), |(node, _)| Some(node)).unwrap_or(first);
        if last == first {
            continue;
        }
        let taken = run.nodes.iter().filter_map(|&n| steps[n].take_rows());
        let rows = ByRows::all(taken, run.units);
        match run.products {
            Some((node, together)) => {
                let products = steps[node].take_products().expect("the run ends with products");
                steps[node] = Prepared::products(products.behind(rows, together));
            }
            None => steps[first] = Prepared::rows(rows),
        }
        fusion.join(first, last);
    }
}

/// Nodes that follow each other and take rows apart, in units that stay with one task.
struct Run<'a> {
    graph: &'a Graph,
    units: usize,
    nodes: Vec<usize>,
    /// For each of the nodes the tensors of which a unit touches its own part alone.
    own: Vec<Vec<usize>>,
    /// The products that pack what the last of them computes, and how many units they pack together.
    products: Option<(usize, usize)>,
}

impl<'a> Run<'a> {
    /// The longest run from a node on.
    fn starting_at(
        graph: &'a Graph,
        steps: &[Prepared],
        first: usize,
        threads: usize,
        moments: &[usize],
    ) -> Option<Self> {
        let units = *graph.tensors()[steps[first].as_rows()?.touched().next()?].desc.shape.first()?;
        let mut run = Run { graph, units, nodes: Vec::new(), own: Vec::new(), products: None };
        let mut work = 0;
        // Fusing must not leave threads without work.
        let shared = |work: usize, together: usize| {
            work.saturating_mul(together.min(units)) <= 4 * CHEAP || units.div_ceil(together) >= 4 * threads
        };
        for (node, step) in steps.iter().enumerate().skip(first).filter(|(_, step)| !step.is_nothing()) {
            if let Some(rows) = step.as_rows() {
                let own: Vec<usize> = rows.touched().collect();
                let all = rows.work_of(units).map(|more| more.saturating_add(work));
                let Some(all) = all.filter(|&all| shared(all, 1) && run.takes(node, &own)) else { break };
                work = all;
                run.nodes.push(node);
                run.own.push(own);
                continue;
            }
            let tiles = step.as_products().and_then(|products| products.tiles());
            let together = tiles.filter(|&(rows, together)| rows == units && shared(work, together));
            let mut members = (node..steps.len()).take_while(|&n| moments[n] == moments[node]);
            run.products =
                together.filter(|_| members.all(|n| run.feeds(n, node))).map(|(_, together)| (node, together));
            break;
        }
        (!run.nodes.is_empty()).then_some(run)
    }

    /// Whether a node can follow, that touches its own part of these tensors in each unit, and of others anything.
    fn takes(&self, node: usize, own: &[usize]) -> bool {
        self.nodes.iter().zip(&self.own).all(|(&before, owned)| {
            touched(self.graph, before).all(|(a, a_written)| {
                touched(self.graph, node).all(|(b, b_written)| {
                    let apart = self.graph.root(a).0 != self.graph.root(b).0 || !a_written && !b_written;
                    let each_own = owned.contains(&a.index()) && own.contains(&b.index());
                    apart || each_own && self.aligned(a, b)
                })
            })
        })
    }

    /// Whether the nodes compute the activations of products, and nothing else that a node takes which runs with these.
    fn feeds(&self, node: usize, products: usize) -> bool {
        let Some(x) = self.graph.nodes()[products].inputs[0] else { return false };
        let written = self.nodes.iter().flat_map(|&n| &self.graph.nodes()[n].outputs);
        let computed = written.map(|&id| self.graph.root(id).0).any(|root| root == self.graph.root(x).0);
        computed && self.takes(node, &[x.index()])
    }

    /// Whether unit `u` of two views of the same memory is the same part of it, and no part of another unit.
    fn aligned(&self, a: TensorId, b: TensorId) -> bool {
        if self.units == 1 {
            return true;
        }
        let place = |id: TensorId| {
            let desc = self.graph.desc(id);
            let (&stride, strides) = desc.strides.split_first()?;
            let (&units, shape) = desc.shape.split_first()?;
            let span: usize = shape.iter().zip(strides).map(|(&n, &s)| n.saturating_sub(1) * s).sum();
            let fits = units == self.units && span < stride && desc.layout == 0 && desc.dtype.block_elems() == 1;
            fits.then(|| (self.graph.root(id).1, stride * desc.dtype.block_bytes()))
        };
        place(a).is_some() && place(a) == place(b)
    }
}

/// The tensors that a node reads or writes, and whether it writes them.
fn touched(graph: &Graph, node: usize) -> impl Iterator<Item = (TensorId, bool)> {
    let node = &graph.nodes()[node];
    let read = node.inputs.iter().flatten().map(|&id| (id, false));
    read.chain(node.outputs.iter().map(|&id| (id, true)))
}

/// The product `first` and those after it that read the same activations and can run in its place.
fn same_activations(graph: &Graph, steps: &[Prepared], first: usize) -> Vec<usize> {
    let Some(products) = steps[first].as_products() else { return Vec::new() };
    let x = graph.nodes()[first].inputs[0];
    let mut nodes = vec![first];
    for node in (first + 1..steps.len()).take(REACH) {
        let alike = steps[node].as_products().is_some_and(|other| products.goes_with(other));
        if alike && graph.nodes()[node].inputs[0] == x && can_run_at(graph, node, first, &[]) {
            nodes.push(node);
        }
    }
    nodes
}

/// Whether a node can run in the place of an earlier one, `beside` those of the nodes between that run there as well: its
/// results are temporaries, no other node from there on reads or writes them, and none writes what it reads.
fn can_run_at(graph: &Graph, node: usize, place: usize, beside: &[usize]) -> bool {
    let root = |id: &TensorId| graph.root(*id).0;
    let (inputs, outputs) = (
        |n: usize| graph.nodes()[n].inputs.iter().flatten().map(root),
        |n: usize| graph.nodes()[n].outputs.iter().map(root),
    );
    let temporary = |id: TensorId| graph.tensor(id).storage == Storage::Temporary;
    let apart = |other: usize| {
        let mut touched = inputs(other).chain(outputs(other));
        !touched.any(|id| outputs(node).any(|own| own == id))
            && !outputs(other).any(|id| inputs(node).any(|own| own == id))
    };
    outputs(node).all(temporary) && (place..node).filter(|n| !beside.contains(n)).all(apart)
}

/// The node that multiplies one of two products with the SiLU of the other, and the two results, which nobody else reads.
fn gated(graph: &Graph, nodes: &[usize]) -> Option<(usize, [TensorId; 2])> {
    let &[a, b] = nodes else { return None };
    let results = [a, b].map(|n| graph.nodes()[n].outputs[0]);
    let readers = |id: TensorId| {
        let reads = move |n: &usize| graph.nodes()[*n].inputs.iter().flatten().any(|&i| graph.root(i).0 == id);
        (0..graph.nodes().len()).filter(reads)
    };
    let node = readers(results[0]).next()?;
    let view = graph.node(node);
    let plain = matches!(view.op(), Op::SiluMul(attrs) if attrs.clamp == 0.0);
    let takes = view.node.inputs == results.map(Some);
    let own = |&id: &TensorId| graph.tensor(id).storage == Storage::Temporary && readers(id).count() == 1;
    // Rows of the products are rows of what is written.
    let shaped = view.output(0).shape == graph.desc(results[0]).shape;
    (plain && takes && results.iter().all(own) && shaped && can_run_at(graph, node, a, &[a, b]))
        .then_some((node, results))
}
