//! When bytes move between device and host: worked out once, by walking the nodes in order with what each side holds.
//!
//! A tensor is downloaded before a host node that reads it, and uploaded before the device nodes that read what a host node
//! wrote, each only where the other side has changed it since. What host nodes wrote of tensors that live on the device is
//! uploaded at the end. Constants that live on the device are no part of this: the host keeps copies.

use std::ops::Range;

use qiao_core::{Graph, Result, Storage, TensorId};

use crate::draft::Draft;
use crate::flow::{reads, touches, writes};
use crate::policy::Home;

/// An upload of what a host node wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Up {
    pub(crate) root: TensorId,
    /// The given node that wrote it last.
    pub(crate) by: usize,
}

/// Nodes that run one after the other on the same side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// A maximal run of device nodes, after these uploads.
    Device { nodes: Range<usize>, up: Vec<Up> },
    /// One host node, after these downloads.
    Host { node: usize, down: Vec<TensorId> },
}

/// The segments of a graph, and what moves between them.
pub(crate) struct Schedule {
    pub(crate) segments: Vec<Segment>,
    /// Uploads after the last segment.
    pub(crate) after: Vec<Up>,
    /// For each node, its segment.
    pub(crate) segment_of: Vec<usize>,
    /// The temporaries that need room on the device outside the plan of one segment, by tensor index.
    pub(crate) crossing: Vec<bool>,
    /// The tensors that need room on the host, by tensor index: temporaries, and copies of what lives on the device.
    pub(crate) staged: Vec<bool>,
}

impl Schedule {
    pub(crate) fn new(draft: &Draft<'_>, homes: &[Home]) -> Schedule {
        let graph = &draft.graph;
        let mut walk = Walk::new(graph, homes);
        let mut segments: Vec<Segment> = Vec::new();
        let mut segment_of = Vec::with_capacity(graph.nodes().len());
        for node in 0..graph.nodes().len() {
            if draft.on_host(node) {
                let down = walk.host(node, draft.origin[node]);
                segments.push(Segment::Host { node, down });
            } else {
                let more = walk.device(node);
                match segments.last_mut() {
                    Some(Segment::Device { nodes, up }) => {
                        nodes.end = node + 1;
                        up.extend(more);
                    }
                    _ => segments.push(Segment::Device { nodes: node..node + 1, up: more }),
                }
            }
            segment_of.push(segments.len() - 1);
        }
        let (crossing, staged) = rooms(graph, homes, &segments, &segment_of);
        Schedule { segments, after: walk.end(), segment_of, crossing, staged }
    }

    /// Bytes that each given node moves down and up in an execution, and the constants that it is the first to read.
    ///
    /// # Errors
    /// None for a graph that is valid.
    pub(crate) fn bytes(&self, draft: &Draft<'_>, homes: &[Home]) -> Result<Vec<[u64; 3]>> {
        let graph = &draft.graph;
        let mut all = vec![[0; 3]; draft.host.len()];
        let size = |id: TensorId| graph.desc(id).bytes().map(|bytes| bytes as u64);
        let mut seen = vec![false; graph.tensors().len()];
        let mut ups: Vec<Up> = self.after.clone();
        for segment in &self.segments {
            match segment {
                Segment::Device { up, .. } => ups.extend(up),
                Segment::Host { node, down } => {
                    let sums = &mut all[draft.origin[*node]];
                    for &id in down {
                        sums[0] += size(id)?;
                    }
                    for id in reads(graph, *node).filter(|&id| is_kept(graph, homes, id)) {
                        if !std::mem::replace(&mut seen[id.index()], true) {
                            sums[2] += size(id)?;
                        }
                    }
                }
            }
        }
        for up in ups {
            all[up.by][1] += size(up.root)?;
        }
        Ok(all)
    }
}

/// Whether a tensor is a constant on the device, of which the host keeps a copy where it reads it.
pub(crate) fn is_kept(graph: &Graph, homes: &[Home], id: TensorId) -> bool {
    let tensor = graph.tensor(id);
    tensor.desc.constant && matches!(tensor.storage, Storage::Bound(position) if homes[position] == Home::Device)
}

/// What each side holds while the nodes are walked.
struct Walk<'a> {
    graph: &'a Graph,
    homes: &'a [Home],
    device: Vec<bool>,
    host: Vec<bool>,
    /// The given node on the host that wrote a tensor last.
    writer: Vec<usize>,
}

impl<'a> Walk<'a> {
    fn new(graph: &'a Graph, homes: &'a [Home]) -> Self {
        let count = graph.tensors().len();
        let mut walk =
            Walk { graph, homes, device: vec![false; count], host: vec![false; count], writer: vec![0; count] };
        for (&id, home) in graph.bound().iter().zip(homes) {
            match home {
                Home::Device => walk.device[id.index()] = true,
                Home::Host => walk.host[id.index()] = true,
            }
        }
        walk
    }

    /// A node on the host: what it needs downloaded.
    fn host(&mut self, node: usize, given: usize) -> Vec<TensorId> {
        let mut down = Vec::new();
        for id in reads(self.graph, node).filter(|&id| !is_kept(self.graph, self.homes, id)) {
            if self.device[id.index()] && !self.host[id.index()] {
                self.host[id.index()] = true;
                down.push(id);
            }
        }
        for id in writes(self.graph, node) {
            (self.host[id.index()], self.device[id.index()], self.writer[id.index()]) = (true, false, given);
        }
        down
    }

    /// A node on the device: what it needs uploaded.
    fn device(&mut self, node: usize) -> Vec<Up> {
        let mut up = Vec::new();
        for id in reads(self.graph, node) {
            if self.host[id.index()] && !self.device[id.index()] {
                self.device[id.index()] = true;
                up.push(Up { root: id, by: self.writer[id.index()] });
            }
        }
        for id in writes(self.graph, node) {
            (self.host[id.index()], self.device[id.index()]) = (false, true);
        }
        up
    }

    /// What remains to be uploaded.
    fn end(self) -> Vec<Up> {
        let at_home = self.graph.bound().iter().zip(self.homes).filter(|(_, home)| **home == Home::Device);
        let stale = at_home.map(|(&id, _)| id).filter(|id| !self.device[id.index()]);
        stale.map(|root| Up { root, by: self.writer[root.index()] }).collect()
    }
}

/// The tensors that need room on the device outside of plans, and those that need room on the host.
fn rooms(graph: &Graph, homes: &[Home], segments: &[Segment], segment_of: &[usize]) -> (Vec<bool>, Vec<bool>) {
    let count = graph.tensors().len();
    let (mut first, mut crossing, mut staged) = (vec![None; count], vec![false; count], vec![false; count]);
    let mut by_device = vec![false; count];
    for (node, &segment) in segment_of.iter().enumerate() {
        let on_host = matches!(segments[segment], Segment::Host { .. });
        for (_, root) in touches(graph, node) {
            let at = root.index();
            let temporary = graph.tensor(root).storage == Storage::Temporary;
            crossing[at] |= temporary && *first[at].get_or_insert(segment) != segment;
            by_device[at] |= !on_host;
            let lives_there = matches!(graph.tensor(root).storage, Storage::Bound(p) if homes[p] == Home::Host);
            staged[at] |= on_host && !lives_there && !is_kept(graph, homes, root);
        }
    }
    crossing.iter_mut().zip(by_device).for_each(|(crossing, by_device)| *crossing &= by_device);
    (crossing, staged)
}
