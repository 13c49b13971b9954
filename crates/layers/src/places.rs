//! Which nodes run on the host, and where bound tensors live: worked out before anything is planned.
//!
//! - A given node any of whose pieces the device refuses runs on the host, as it was given.
//! - A node that touches a tensor which lives on the host runs there.
//! - State never moves, unless the caller fixed its home: where one node that touches it runs on the host, it lives there and
//!   all nodes that touch it run there. State is what an execution leaves for the next: a bound tensor that is written and
//!   whose bytes from before are read, such as a KV cache.
//! - A tensor that only host nodes touch lives on the host; everything else on the device.

use qiao_core::error::Unsupported;
use qiao_core::{Device, Error, Graph, Limit, NodeSupport, Property, Reason, Result, Rule, TensorId};

use crate::draft::Draft;
use crate::flow::{reads, touches, writes};
use crate::policy::Home;

/// Rewrites a graph until every node runs on the device or, with `fallback`, is set aside for the host.
///
/// # Errors
/// As [`Draft::settle`]; homes that are not one for each bound tensor, or on a host that there is not.
pub(crate) fn settle<'a>(
    device: &'a dyn Device,
    given: Graph,
    homes: &[Option<Home>],
    fallback: bool,
) -> Result<(Draft<'a>, Vec<NodeSupport>)> {
    let homes = checked(&given, homes, fallback)?;
    let mut host: Vec<Option<Reason>> = vec![None; given.nodes().len()];
    if !fallback {
        let mut draft = Draft::new(device, given, host);
        let answers = draft.settle()?;
        return Ok((draft, answers));
    }
    if homes.contains(&Some(Home::Host)) {
        for u in refused_anywhere(device, &given, &homes) {
            host[u.node] = Some(u.reason);
        }
    }
    spread(&given, &homes, &mut host);
    loop {
        let mut draft = Draft::new(device, given.clone(), host);
        let answers = draft.settle()?;
        let refused = draft.refused(&answers);
        if refused.is_empty() {
            return Ok((draft, answers));
        }
        host = draft.host;
        for u in refused {
            host[u.node] = Some(u.reason);
        }
        spread(&given, &homes, &mut host);
    }
}

/// What the device refuses wherever tensors live: that it does is a better reason than where they do.
fn refused_anywhere(device: &dyn Device, given: &Graph, homes: &[Option<Home>]) -> Vec<Unsupported> {
    let mut plain = given.clone();
    for (&id, home) in given.bound().iter().zip(homes) {
        // A private layout of the host's means nothing to the device.
        if *home == Some(Home::Host) && given.desc(id).layout != 0 && plain.set_layout(id, 0).is_err() {
            return Vec::new();
        }
    }
    let mut draft = Draft::new(device, plain, vec![None; given.nodes().len()]);
    // What goes wrong here goes wrong again where the homes are kept, or is of no concern.
    draft.settle().map_or(Vec::new(), |answers| draft.refused(&answers))
}

fn checked(given: &Graph, homes: &[Option<Home>], fallback: bool) -> Result<Vec<Option<Home>>> {
    let bound = given.bound().len();
    if homes.is_empty() {
        return Ok(vec![None; bound]);
    }
    if homes.len() != bound {
        let mend = format!("give {bound}, one per bound tensor, or none");
        return Err(Error::invalid("homes", format!("{} were given", homes.len()), mend));
    }
    if let (Some(at), false) = (homes.iter().position(|&home| home == Some(Home::Host)), fallback) {
        let what = format!("'{}' on the host", given.tensor(given.bound()[at]).name);
        return Err(Error::invalid(what, "there is no host", "lower with Policy::Fallback"));
    }
    Ok(homes.to_vec())
}

/// Adds nodes to those on the host until no rule asks for more.
fn spread(graph: &Graph, homes: &[Option<Home>], host: &mut [Option<Reason>]) {
    let state: Vec<bool> = graph.bound().iter().map(|&id| is_state(graph, id)).collect();
    loop {
        let mut changed = false;
        for (position, &id) in graph.bound().iter().enumerate() {
            let touching = |node: usize| touches(graph, node).find(|&(_, root)| root == id).map(|(operand, _)| operand);
            let nodes: Vec<(usize, usize)> = (0..host.len()).filter_map(|node| Some((node, touching(node)?))).collect();
            let drawn = state[position] && homes[position].is_none() && nodes.iter().any(|&(n, _)| host[n].is_some());
            if homes[position] != Some(Home::Host) && !drawn {
                continue;
            }
            for (node, operand) in nodes {
                if host[node].is_none() {
                    host[node] = Some(Reason::operand(operand, Property::Memory, Rule::None, "host", Limit::None));
                    changed = true;
                }
            }
        }
        if !changed {
            return;
        }
    }
}

/// Whether an execution reads what was in a bound tensor before it, and writes it.
fn is_state(graph: &Graph, id: TensorId) -> bool {
    let nodes = 0..graph.nodes().len();
    let mut first = nodes.clone().filter(|&node| touches(graph, node).any(|(_, root)| root == id));
    let read = first.next().is_some_and(|node| reads(graph, node).any(|root| root == id));
    read && nodes.into_iter().any(|node| writes(graph, node).any(|root| root == id))
}

/// Where every bound tensor of a settled graph lives.
pub(crate) fn homes(draft: &Draft<'_>, fixed: &[Option<Home>]) -> Vec<Home> {
    let graph = &draft.graph;
    let mut by_host = vec![false; graph.tensors().len()];
    let mut by_device = by_host.clone();
    for node in 0..graph.nodes().len() {
        let seen = if draft.on_host(node) { &mut by_host } else { &mut by_device };
        touches(graph, node).for_each(|(_, root)| seen[root.index()] = true);
    }
    let free = |id: TensorId| match by_host[id.index()] && !by_device[id.index()] {
        // What is packed for the device already is there.
        true if graph.desc(id).layout == 0 => Home::Host,
        _ => Home::Device,
    };
    let fixed = |position: usize| fixed.get(position).copied().flatten();
    graph.bound().iter().enumerate().map(|(position, &id)| fixed(position).unwrap_or_else(|| free(id))).collect()
}
