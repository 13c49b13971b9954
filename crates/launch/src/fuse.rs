//! Several nodes of a graph as one: rules that look for neighbours which one kernel runs together.

use qiao_core::{Graph, NodeView, Op, OpKind};

use crate::launch::{Chip, Prepared};
use crate::several::{self, Several};
use crate::{matmul, matmul_quant, norms, rope};

/// Nodes that run as one.
pub struct Fused {
    /// Their positions in the graph, ascending, at least two. They run in the place of the last, so that no node between them
    /// may write what they read or read what they write.
    pub nodes: Vec<usize>,
    /// What runs. A temporary that it does not name gets no memory: nobody else reads it.
    pub prepared: Prepared,
}

/// Looks whether this node is the first of some that run as one.
pub type Rule = fn(&Graph, usize, &Chip) -> Option<Fused>;

/// The rules, best first. A node that an earlier match took is offered to no other.
pub const RULES: &[Rule] = &[norm_and_codes, rotations_and_cache, gate_and_up, products_of_one];

/// A norm whose rows are quantised next.
fn norm_and_codes(graph: &Graph, node: usize, chip: &Chip) -> Option<Fused> {
    norms::with_codes(graph, node, chip).map(|(last, prepared)| Fused { nodes: vec![node, last], prepared })
}

/// Keys that are turned and go into the cache, and queries that are turned alike.
fn rotations_and_cache(graph: &Graph, node: usize, _: &Chip) -> Option<Fused> {
    rope::with_cache(graph, node).map(|(nodes, prepared)| Fused { nodes, prepared })
}

/// A gate and what it gates, of few rows, where nothing else wants either.
fn gate_and_up(graph: &Graph, node: usize, chip: &Chip) -> Option<Fused> {
    let gated = match graph.node(node).kind() {
        OpKind::Matmul => matmul::gated,
        OpKind::MatmulQuant => matmul_quant::gated,
        _ => return None,
    };
    let other = several::of_one_a(graph, node).nth(1)?;
    let ends = |n: &usize| matches!(graph.node(*n).op(), Op::SiluMul(attrs) if attrs.clamp == 0.0);
    let at = (other + 1..graph.nodes().len()).find(ends)?;
    let order = [[node, other], [other, node]].into_iter().find(|&two| several::meet(graph, two, at))?;
    let launch = gated(graph, order, at, chip)?;
    Some(Fused { nodes: vec![node, other, at], prepared: Prepared { launches: vec![launch], scratch: 0 } })
}

/// Products of few rows of the same activations, such as queries, keys and values.
fn products_of_one(graph: &Graph, node: usize, chip: &Chip) -> Option<Fused> {
    let first = graph.node(node);
    let one_of: fn(&NodeView<'_>, usize, &Chip) -> Option<Several> = match first.kind() {
        OpKind::Matmul => matmul::one_of,
        OpKind::MatmulQuant => |node, _, chip| matmul_quant::one_of(node, chip),
        _ => return None,
    };
    let join = |nodes: &[usize]| {
        let columns = nodes.iter().map(|&n| graph.node(n).output(0).shape.last_dim()).sum();
        let all = nodes.iter().map(|&n| one_of(&graph.node(n), columns, chip));
        all.reduce(|all, one| all?.and(one?)).flatten()
    };
    let mut nodes = vec![node];
    for other in several::of_one_a(graph, node).skip(1) {
        nodes.push(other);
        if join(&nodes).is_none() || !several::may_run_at_last(graph, &nodes) {
            nodes.pop();
        }
    }
    let launches = vec![join(&nodes).filter(|_| nodes.len() > 1)?.launch()];
    Some(Fused { nodes, prepared: Prepared { launches, scratch: 0 } })
}

/// Every match in a graph, first nodes ascending.
pub fn matches(rules: &[Rule], graph: &Graph, chip: &Chip) -> Vec<Fused> {
    let mut taken = vec![false; graph.nodes().len()];
    let mut out = Vec::new();
    for node in 0..taken.len() {
        let fits = |f: &Fused| f.nodes.len() > 1 && f.nodes.iter().all(|&n| !taken[n]);
        let Some(fused) = rules.iter().filter_map(|rule| rule(graph, node, chip)).find(fits) else { continue };
        fused.nodes.iter().for_each(|&n| taken[n] = true);
        out.push(fused);
    }
    out
}
