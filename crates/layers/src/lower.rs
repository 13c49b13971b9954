//! A graph onto a device: native where it has a kernel, decomposed where it has none, on a host where the policy says so.
//!
//! 1. The graph is rewritten until the device runs every node or refuses it with all its pieces ([`survey`] stops here).
//! 2. What it refuses is an error, or runs on the host of a [`Fallback`], as it was given and never half decomposed.
//! 3. Every bound tensor gets its [`Home`]: state stays where it is, what only host nodes touch lives on the host.
//! 4. Runs of device nodes are planned as a whole, or node by node on a device without
//!    [`Caps::multi_op`](qiao_core::Caps); host nodes one by one, so that each has its own figures.
//! 5. What moves between them is worked out once, and no more than what the other side reads.

use std::collections::HashMap;
use std::sync::Arc;

use qiao_core::{Binding, Device, Error, Graph, NodeSupport, Plan, PlanInfo, Reason, Result, Stream, Support};

use crate::account::{Account, Hosted, Way};
use crate::body::Body;
use crate::draft::{Draft, Pack};
use crate::hosted::{self, Rooms};
use crate::mixed::Mixed;
use crate::places::{homes, settle};
use crate::policy::{Fallback, Home, Policy};
use crate::schedule::Schedule;

/// A graph on a device, ready to run: a [`Plan`] over the bound tensors of the graph that was lowered, in its order.
///
/// An execution with host nodes waits for the device at each of them, for as long as the stream's patience lasts
/// ([`Stream::set_patience`]); otherwise it returns when the device has been told.
pub struct Lowered {
    /// The graph as it runs: with refused composites as their pieces, and nodes on the host as they were given.
    pub graph: Graph,
    /// The constants to pack, on the device where they live; their bindings at execute are the packed bytes.
    pub packs: Vec<Pack>,
    /// Where every bound tensor lives: its binding at execute is a buffer of the device, or of the policy's host.
    pub homes: Vec<Home>,
    /// What became of every node, with nothing measured yet; [`Lowered::account`] has what was.
    pub account: Account,
    /// The constants that are packed on the device and that host nodes read, by position among the bound tensors: the host
    /// must be given copies of them, by [`Fallback::keep`].
    pub unpacked: Vec<usize>,
    needs: Vec<usize>,
    info: PlanInfo,
    runs: Runs,
}

enum Runs {
    OnDevice(Body),
    Mixed(Box<Mixed>),
}

/// Lowers a graph onto a device; homes follow from where nodes run.
///
/// # Errors
/// As [`lower_with`].
pub fn lower(device: &Arc<dyn Device>, graph: Graph, policy: &Policy) -> Result<Lowered> {
    lower_with(device, graph, policy, &[])
}

/// Lowers a graph onto a device. `homes` fixes where bound tensors live, `None` for those that are free; empty for no
/// constraint. State whose home is fixed moves, where a node on the other side touches it.
///
/// # Errors
/// [`Error::Unsupported`] with every node that the device refuses and that no decomposition saves, each with the reason for
/// the node as it was given; with a host, [`Error::UnsupportedByBoth`] with every node that the host refuses, too, and both
/// reasons. [`Error::Invalid`] where nodes want one constant in different layouts, or homes do not fit the graph;
/// [`Error::Internal`] where the device contradicts itself; the device's own errors of planning.
pub fn lower_with(device: &Arc<dyn Device>, graph: Graph, policy: &Policy, fixed: &[Option<Home>]) -> Result<Lowered> {
    let settled = Settled::new(&**device, graph, policy, fixed)?;
    if !settled.refused.is_empty() {
        return Err(settled.error());
    }
    let Settled { draft, mut account, homes, mixed, .. } = settled;
    let mut packs = draft.packs()?;
    let (runs, unpacked) = match mixed {
        Some((fallback, schedule)) => {
            let mixed = Mixed::new(&**device, fallback, &draft, &homes, &schedule, &mut packs)?;
            if account.on_host() > 0 {
                account.host = fallback.host().info().name.clone();
            }
            let unpacked = mixed.unpacked();
            (Runs::Mixed(Box::new(mixed)), unpacked)
        }
        None => (Runs::OnDevice(Body::new(&**device, &draft.graph)?), Vec::new()),
    };
    let info = match &runs {
        Runs::OnDevice(body) => body.info(),
        Runs::Mixed(mixed) => mixed.info(),
    };
    let mut graph = draft.graph;
    packs.sort_by_key(|pack| pack.bound);
    for pack in packs.iter().filter(|pack| pack.home == Home::Host) {
        graph.set_layout(graph.bound()[pack.bound], pack.layout)?;
    }
    let needs = bound_bytes(&graph, &packs)?;
    Ok(Lowered { graph, packs, homes, account, unpacked, needs, info, runs })
}

/// What a device, and the host of a policy, would make of a graph, asked without planning anything: [`lower()`] for whoever
/// wants to hear of every node that is refused, not only that there are such.
pub struct Survey {
    /// The graph as it would run, with what is refused left in.
    pub graph: Graph,
    /// For each node of `graph`, the node of the graph that was given for which it stands.
    pub origin: Vec<usize>,
    /// The device's answer for each node of `graph`: native, or refused. Those of nodes on the host say nothing.
    pub answers: Vec<NodeSupport>,
    /// For each node that was given, how it would run, or why it would not.
    pub ways: Vec<Result<Way, Refusal>>,
    /// The constants that would be packed on the device.
    pub packs: Vec<Pack>,
    /// Where every bound tensor would live.
    pub homes: Vec<Home>,
}

/// Why a node does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The device's reason for the node as it was given.
    pub reason: Reason,
    /// Where the node is composite: those of its smaller operators that the device refuses too, with its reasons, each once.
    pub pieces: Vec<(&'static str, Reason)>,
    /// The host's reason, where the policy has a host.
    pub host: Option<Reason>,
}

/// Asks a device about every node of a graph as [`lower_with`] does, and plans nothing.
///
/// # Errors
/// [`Error::Invalid`] where nodes want one constant in different layouts, or homes do not fit the graph;
/// [`Error::Internal`] where the device contradicts itself.
pub fn survey(device: &dyn Device, graph: Graph, policy: &Policy, fixed: &[Option<Home>]) -> Result<Survey> {
    let Settled { draft, answers, account, homes, refused, .. } = Settled::new(device, graph, policy, fixed)?;
    let packs = draft.packs()?;
    let mut ways: Vec<Result<Way, Refusal>> = Vec::with_capacity(account.entries.len());
    for entry in account.entries {
        ways.push(Ok(entry.way));
    }
    for (u, host) in refused {
        ways[u.node] = Err(Refusal { reason: u.reason, pieces: Vec::new(), host });
    }
    let mut pieces = vec![0; ways.len()];
    draft.origin.iter().for_each(|&origin| pieces[origin] += 1);
    for ((node, &origin), answer) in draft.graph.views().zip(&draft.origin).zip(&answers) {
        let Support::No(why) = &answer.answer else { continue };
        let composite = pieces[origin] > 1 || node.kind().name() != draft.given(origin);
        let piece = (node.kind().name(), why.clone());
        if let (Err(refusal), true) = (&mut ways[origin], composite)
            && !refusal.pieces.contains(&piece)
        {
            refusal.pieces.push(piece);
        }
    }
    Ok(Survey { graph: draft.graph, origin: draft.origin, answers, ways, packs, homes })
}

/// A graph of which is known where everything runs and lives.
struct Settled<'a> {
    draft: Draft<'a>,
    answers: Vec<NodeSupport>,
    account: Account,
    homes: Vec<Home>,
    /// The nodes that run nowhere, with the host's reasons where there is a host.
    refused: Vec<(qiao_core::error::Unsupported, Option<Reason>)>,
    /// The host and what moves, where anything runs or lives there.
    mixed: Option<(&'a Fallback, Schedule)>,
}

impl<'a> Settled<'a> {
    fn new(device: &'a dyn Device, graph: Graph, policy: &'a Policy, fixed: &[Option<Home>]) -> Result<Self> {
        let fallback = match policy {
            Policy::DeviceOnly => None,
            Policy::Fallback(fallback) => Some(fallback),
        };
        let (draft, answers) = settle(device, graph, fixed, fallback.is_some())?;
        let homes = homes(&draft, fixed);
        let account = draft.account(&answers);
        let refused = draft.refused(&answers).into_iter().map(|u| (u, None)).collect();
        let mut settled = Settled { draft, answers, account, homes, refused, mixed: None };
        if let Some(fallback) = fallback {
            settled.host(fallback)?;
        }
        Ok(settled)
    }

    /// Adds what the host says and what moves.
    fn host(&mut self, fallback: &'a Fallback) -> Result<()> {
        let anything = self.draft.host.iter().any(Option::is_some) || self.homes.contains(&Home::Host);
        if !anything {
            return Ok(());
        }
        let host = &**fallback.host();
        let schedule = Schedule::new(&self.draft, &self.homes);
        let mut rooms = Rooms::new(host, &self.draft, &self.homes, &schedule)?;
        let answers = hosted::ask(host, &self.draft, &self.homes, &mut rooms)?;
        self.refused.extend(answers.refused.into_iter().map(|(u, why)| (u, Some(why))));
        let bytes = schedule.bytes(&self.draft, &self.homes)?;
        for (given, kernel) in answers.kernels {
            let Some(reason) = self.draft.host[given].clone() else { continue };
            let [down, up, once] = bytes[given];
            let hosted = Hosted { down, up, once, ..Hosted::default() };
            self.account.entries[given].way = Way::Host { kernel, reason, hosted };
        }
        self.mixed = Some((fallback, schedule));
        Ok(())
    }

    fn error(self) -> Error {
        let device = self.draft.name().to_string();
        match self.mixed {
            None => Error::Unsupported { device, list: self.refused.into_iter().map(|(u, _)| u).collect() },
            Some((fallback, _)) => {
                let list = self.refused.into_iter().filter_map(|(u, host)| Some((u, host?))).collect();
                Error::UnsupportedByBoth { device, host: fallback.host().info().name.clone(), list }
            }
        }
    }
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

impl Lowered {
    /// What became of every node, with how often those on the host ran so far, and for how long.
    pub fn account(&self) -> Account {
        let mut account = self.account.clone();
        if let Runs::Mixed(mixed) = &self.runs {
            mixed.measured(&mut account);
        }
        account
    }
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
        match &self.runs {
            Runs::OnDevice(body) => body.run(stream, bindings, workspace),
            Runs::Mixed(mixed) => mixed.run(stream, bindings, workspace),
        }
    }
}
