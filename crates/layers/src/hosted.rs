//! A host's part in a graph: what it answers for the nodes that a device refuses, and their plans.

use qiao_core::error::Unsupported;
use qiao_core::{Device, Error, Graph, Placement, Reason, Result, Storage, TensorDesc, TensorId, place::place_where};

use crate::account::{Piece, Way};
use crate::body::Body;
use crate::draft::{Draft, Pack};
use crate::flow::touches;
use crate::places::settle;
use crate::policy::Home;
use crate::schedule::{Schedule, is_kept};
use crate::steps::{Base, Root, Single, Source};

/// Where the host finds the tensors of a graph: in what is bound, in copies of constants, or in its own memory.
pub(crate) struct Rooms {
    placement: Placement,
    /// Where copies of bound tensors that live on the device lie, by tensor index.
    copies: Vec<Option<usize>>,
    /// The constants of which copies are kept; they follow the bound tensors as further bindings.
    pub(crate) kept: Vec<KeptAs>,
    /// For each bound tensor, whether host nodes are told that it is a constant.
    packable: Vec<bool>,
    /// Bytes of the host's memory.
    pub(crate) bytes: usize,
}

/// A constant that lives on the device, as a host node reads it.
pub(crate) struct KeptAs {
    /// Its position among the bound tensors.
    pub(crate) bound: usize,
    /// What it is in no private layout.
    pub(crate) tensor: TensorDesc,
    /// Its private layout on the device; 0 = none.
    pub(crate) packed_on_device: u64,
    /// The private layout in which the host wants it; 0 = none.
    pub(crate) layout: u64,
    /// Bytes in that layout.
    pub(crate) bytes: usize,
}

impl Rooms {
    /// Places what host nodes touch and nobody binds on the host.
    pub(crate) fn new(host: &dyn Device, draft: &Draft<'_>, homes: &[Home], schedule: &Schedule) -> Result<Rooms> {
        let (graph, info) = (&draft.graph, host.info());
        let align = info.tensor_align.max(1).next_power_of_two();
        let placement = place_where(
            graph,
            align,
            info.tensor_tail_pad,
            |id| schedule.staged[id.index()],
            |node| schedule.segment_of[node],
        )?;
        let mut copies = vec![None; graph.tensors().len()];
        let mut bytes = placement.bytes;
        for &id in graph.bound().iter().filter(|id| schedule.staged[id.index()]) {
            bytes = bytes.checked_next_multiple_of(align).ok_or_else(too_large)?;
            copies[id.index()] = Some(bytes);
            let room = graph.desc(id).bytes()?.checked_add(info.tensor_tail_pad);
            bytes = room.and_then(|room| bytes.checked_add(room)).ok_or_else(too_large)?;
        }
        let packable = (0..homes.len()).map(|position| is_packable(draft, homes, position)).collect();
        Ok(Rooms { placement, copies, kept: Vec::new(), packable, bytes })
    }

    /// Where the host's copy of a tensor lies in its own memory.
    pub(crate) fn at(&self, id: TensorId) -> usize {
        self.placement.offsets[id.index()].or(self.copies[id.index()]).expect("what moves has room on the host")
    }

    /// The position in `kept` of a constant as it is.
    fn plain(&self, bound: usize) -> usize {
        self.kept.iter().position(|k| k.bound == bound && k.layout == 0).expect("it was entered before")
    }

    /// Enters every constant on the device that a node reads.
    fn enter(&mut self, graph: &Graph, homes: &[Home], node: usize) -> Result<()> {
        for (_, id) in touches(graph, node).filter(|&(_, id)| is_kept(graph, homes, id)) {
            let Storage::Bound(bound) = graph.tensor(id).storage else { continue };
            if self.kept.iter().all(|k| k.bound != bound || k.layout != 0) {
                let desc = graph.desc(id);
                let tensor = TensorDesc { layout: 0, ..desc.clone() };
                let bytes = tensor.bytes()?;
                self.kept.push(KeptAs { bound, tensor, packed_on_device: desc.layout, layout: 0, bytes });
            }
        }
        Ok(())
    }

    fn root(&self, graph: &Graph, homes: &[Home], id: TensorId) -> Root {
        match graph.tensor(id).storage {
            Storage::Bound(p) if homes[p] == Home::Host => {
                Root { base: Base::Bound(p), constant: self.packable[p] || graph.desc(id).layout != 0, layout: true }
            }
            Storage::Bound(p) if is_kept(graph, homes, id) => {
                Root { base: Base::Bound(homes.len() + self.plain(p)), constant: self.packable[p], layout: false }
            }
            _ => Root { base: Base::Workspace(self.at(id)), constant: false, layout: false },
        }
    }

    /// The graph of one node as the host runs it, and where its operands come from.
    fn single(
        &mut self,
        host: &dyn Device,
        draft: &Draft<'_>,
        homes: &[Home],
        node: usize,
    ) -> Result<(Graph, Vec<Source>)> {
        self.enter(&draft.graph, homes, node)?;
        let align = host.info().tensor_align.max(1).next_power_of_two();
        let roots = |id| self.root(&draft.graph, homes, id);
        let single = Single::new(&draft.graph, node, align, &roots)?;
        Ok((single.graph, single.operands))
    }
}

fn too_large() -> Error {
    Error::invalid("memory of the host", "its size overflows", "use a smaller batch or context")
}

/// Whether a host node may be told that a constant is one, and so ask for it in a private layout: not where only a part of it is
/// read, nor where it lives on the host and another node reads it, too.
fn is_packable(draft: &Draft<'_>, homes: &[Home], position: usize) -> bool {
    let graph = &draft.graph;
    let id = graph.bound()[position];
    let viewed = graph.tensors().iter().any(|t| matches!(t.storage, Storage::View(root, _) if root == id));
    let readers = (0..graph.nodes().len()).filter(|&node| touches(graph, node).any(|(_, root)| root == id)).count();
    graph.desc(id).constant && !viewed && (homes[position] == Home::Device || readers == 1)
}

/// The host's kernels for every host node, by given node; and the nodes that it refuses, with its reasons.
pub(crate) struct Answers {
    pub(crate) kernels: Vec<(usize, String)>,
    pub(crate) refused: Vec<(Unsupported, Reason)>,
}

/// Asks the host about every host node, and plans nothing.
pub(crate) fn ask(host: &dyn Device, draft: &Draft<'_>, homes: &[Home], rooms: &mut Rooms) -> Result<Answers> {
    let mut answers = Answers { kernels: Vec::new(), refused: Vec::new() };
    for node in (0..draft.origin.len()).filter(|&node| draft.on_host(node)) {
        let given = draft.origin[node];
        let (single, _) = rooms.single(host, draft, homes, node)?;
        let (own, found) = settle(host, single, &[], false)?;
        match own.refused(&found).into_iter().next() {
            Some(refused) => {
                let reason = draft.host[given].clone().unwrap_or_else(Reason::operator);
                answers.refused.push((Unsupported { node: given, op: refused.op, reason }, refused.reason));
            }
            None => answers.kernels.push((given, kernels(&own.account(&found).entries[0].way))),
        }
    }
    Ok(answers)
}

/// The kernels of a node that runs, in one line.
fn kernels(way: &Way) -> String {
    match way {
        Way::Native { kernel } | Way::Host { kernel, .. } => kernel.clone(),
        Way::Decomposed { into, .. } => {
            let name = |p: &Piece| if p.kernel.is_empty() { p.op.to_string() } else { p.kernel.clone() };
            into.iter().map(name).collect::<Vec<_>>().join(" + ")
        }
    }
}

/// One host node, planned.
pub(crate) struct HostNode {
    pub(crate) body: Body,
    /// Where its operands come from: what is bound, what is kept, or the host's own memory.
    pub(crate) operands: Vec<Source>,
    /// The constants that it reads, by position in [`Rooms::kept`].
    pub(crate) kept: Vec<usize>,
}

/// Plans a host node. What the host wants packed of the constants that live there goes to `packs`.
pub(crate) fn plan(
    host: &dyn Device,
    draft: &Draft<'_>,
    homes: &[Home],
    rooms: &mut Rooms,
    node: usize,
    packs: &mut Vec<Pack>,
) -> Result<HostNode> {
    let (single, mut operands) = rooms.single(host, draft, homes, node)?;
    let (own, _) = settle(host, single, &[], false)?;
    for pack in &own.packs()? {
        let position = match operands[pack.bound] {
            Source::Whole(position) | Source::Bound { position, .. } => position,
            Source::Workspace { .. } => return Err(Error::internal("packing for the host", "it is no constant")),
        };
        let whole = match position.checked_sub(homes.len()) {
            None => {
                packs.push(Pack { bound: position, home: Home::Host, ..pack.clone() });
                position
            }
            Some(kept) => homes.len() + rooms.packed(kept, pack),
        };
        operands[pack.bound] = Source::Whole(whole);
    }
    let kept = operands.iter().filter_map(|source| match source {
        Source::Whole(position) | Source::Bound { position, .. } => position.checked_sub(homes.len()),
        Source::Workspace { .. } => None,
    });
    let kept = kept.collect();
    Ok(HostNode { body: Body::new(host, &own.graph)?, operands, kept })
}

impl Rooms {
    /// The position in `kept` of a constant in a private layout of the host.
    fn packed(&mut self, plain: usize, pack: &Pack) -> usize {
        let (bound, packed_on_device) = (self.kept[plain].bound, self.kept[plain].packed_on_device);
        let same = |k: &KeptAs| k.bound == bound && k.layout == pack.layout;
        self.kept.iter().position(same).unwrap_or_else(|| {
            let tensor = pack.tensor.clone();
            self.kept.push(KeptAs { bound, tensor, packed_on_device, layout: pack.layout, bytes: pack.bytes });
            self.kept.len() - 1
        })
    }
}
