//! Several nodes of a graph as one step: products that read the same activations, such as those of queries, keys and values,
//! pack them once and are one job; where two of them are a gate and what it gates, their results meet while they are in
//! the caches.

use qiao_core::{Graph, Op, Storage, TensorId};

use super::access::Operand;
use super::exec::Prepared;
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
pub(super) fn fuse(graph: &Graph, steps: &mut [Prepared]) -> Fusion {
    let mut fusion = Fusion { moments: (0..steps.len()).collect(), gone: vec![false; graph.tensors().len()] };
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
        let last = nodes.into_iter().max().unwrap_or(first);
        let moment = fusion.moments[first];
        fusion.moments[first..=last].fill(moment);
    }
    fusion
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
