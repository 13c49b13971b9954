//! Several nodes of a graph as one: rules that look for neighbours which one kernel runs together.

use qiao_core::Graph;

use crate::launch::{Chip, Prepared};
use crate::{norms, rope};

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
pub const RULES: &[Rule] = &[norm_and_codes, rotations_and_cache];

/// A norm whose rows are quantised next.
fn norm_and_codes(graph: &Graph, node: usize, chip: &Chip) -> Option<Fused> {
    norms::with_codes(graph, node, chip).map(|(last, prepared)| Fused { nodes: vec![node, last], prepared })
}

/// Keys that are turned and go into the cache, and queries that are turned alike.
fn rotations_and_cache(graph: &Graph, node: usize, _: &Chip) -> Option<Fused> {
    rope::with_cache(graph, node).map(|(nodes, prepared)| Fused { nodes, prepared })
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
