//! A case: one thing that a device is held to, with a stable path.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use qiao_core::{DType, Error, KvLayout, Result, Tier};

use crate::contract::Clause;
use crate::family::{Depth, Family};
use crate::harness;
use crate::point::Point;
use crate::refusal::Refusal;
use crate::subject::Subject;
use crate::verdict::{Check, Failure, Outcome, Record, Status};

/// One thing that a device is held to.
#[derive(Clone)]
pub enum Case {
    /// An operator at a point: `op/<family>/<dtype>/<point>`.
    Op {
        /// The family.
        family: &'static Family,
        /// The dtype in its path.
        dtype: DType,
        /// The point.
        point: Point,
        /// How deep it lies.
        depth: Depth,
    },
    /// A clause of the device contract: `device/<kind>/<clause>`.
    Device(&'static Clause),
    /// A description that is wrong in one thing and must be refused: `refuse/<operator>/<change>`.
    Refusal(&'static Refusal),
}

impl Case {
    /// Every case down to a depth: the device contract first, then operators in the order of the list, then what must be
    /// refused.
    pub fn all(depth: Depth) -> Vec<Case> {
        let clauses = Clause::all().filter(|c| c.depth <= depth).map(Case::Device);
        let ops = Family::all().flat_map(|family| {
            let points = family.points(depth);
            let at = move |&dtype: &DType| {
                let case = move |(depth, point): &(Depth, Point)| Case::Op {
                    family,
                    dtype,
                    point: point.clone(),
                    depth: *depth,
                };
                points.iter().map(case).collect::<Vec<_>>()
            };
            family.dtypes.iter().flat_map(at).collect::<Vec<_>>()
        });
        let refusals = Refusal::all().iter().filter(|_| Refusal::DEPTH <= depth).map(Case::Refusal);
        clauses.chain(ops).chain(refusals).collect()
    }

    /// The case of a path. Any point of a family is a case, whether or not its walk names it.
    ///
    /// # Errors
    /// What in the path stands for nothing.
    pub fn parse(id: &str) -> Result<Case> {
        let bad = |found: String, mend: &str| Error::invalid(format!("case '{id}'"), found, mend);
        if let Some(clause) = Clause::all().find(|c| c.id == id) {
            return Ok(Case::Device(clause));
        }
        if let Some(refusal) = Refusal::all().iter().find(|r| r.id == id) {
            return Ok(Case::Refusal(refusal));
        }
        let mut parts = id.splitn(4, '/');
        let (Some("op"), Some(name), Some(dtype), Some(text)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad("no such case".into(), "write it as op/<operator>/<dtype>/<parameters>, as records do"));
        };
        let family = Family::all()
            .find(|f| f.name() == name)
            .ok_or_else(|| bad(format!("no family '{name}'"), "see the op list for names"))?;
        let dtype = family
            .dtypes
            .iter()
            .copied()
            .find(|d| d.name() == dtype)
            .ok_or_else(|| bad(format!("the family has no dtype '{dtype}'"), "use one that its records have"))?;
        Ok(Case::Op { family, dtype, point: Point::parse(family.params, text)?, depth: Depth::Full })
    }

    /// Its stable path.
    pub fn id(&self) -> String {
        match self {
            Case::Op { family, dtype, point, .. } => format!("op/{}/{dtype}/{}", family.name(), point.text()),
            Case::Device(clause) => clause.id.into(),
            Case::Refusal(refusal) => refusal.id.clone(),
        }
    }

    /// The smallest profile whose operators it belongs to.
    pub fn tier(&self) -> Tier {
        match self {
            Case::Op { family, .. } => family.tier(),
            Case::Device(_) => Tier::LlmCore,
            Case::Refusal(refusal) => refusal.op.tier(),
        }
    }

    /// How deep it lies.
    pub fn depth(&self) -> Depth {
        match self {
            Case::Op { depth, .. } => *depth,
            Case::Device(clause) => clause.depth,
            Case::Refusal(_) => Refusal::DEPTH,
        }
    }

    /// Valid cases next to this one that are smaller, the boldest step first.
    pub fn smaller(&self) -> Vec<Case> {
        let Case::Op { family, dtype, point, depth } = self else { return Vec::new() };
        let valid = |p: &Point| family.trial(*dtype, p, 0).is_ok_and(|t| t.build().is_ok());
        let case = |point| Case::Op { family, dtype: *dtype, point, depth: *depth };
        point.smaller().into_iter().filter(valid).map(case).collect()
    }

    /// Runs it. A backend that panics fails the case and no more.
    pub fn run(&self, subject: &Subject, seed: u64) -> Record {
        let (id, start) = (self.id(), Instant::now());
        let mut record = match catch_unwind(AssertUnwindSafe(|| self.attempt(&id, subject, seed))) {
            Ok(record) => record,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
                let why = text.unwrap_or_else(|| "it said nothing".into());
                Record::of(&id, Outcome::Failed(Failure::new(Check::Panic, why)))
            }
        };
        record.elective = record.status == Status::Unsupported && !self.is_declared(subject);
        record.millis = start.elapsed().as_secs_f64() * 1e3;
        record
    }

    /// Whether the device declares the pages in which the case keeps its cache, if it has one.
    fn is_declared(&self, subject: &Subject) -> bool {
        let Case::Op { point, .. } = self else { return true };
        let (Some(pages), kv) = (point.word_if("pages"), &subject.device.info().kv) else { return true };
        let block = point.size("block");
        let alike = |layout: KvLayout| match layout {
            KvLayout::BlockTokenHead => pages == "token_head",
            KvLayout::BlockHeadToken => pages == "head_token",
        };
        kv.is_empty() || kv.iter().any(|k| alike(k.layout) && (k.block_size == 0 || k.block_size == block))
    }

    fn attempt(&self, id: &str, subject: &Subject, seed: u64) -> Record {
        match self {
            Case::Device(clause) => Record::of(id, clause.outcome(subject)),
            Case::Refusal(refusal) => Record::of(id, refusal.outcome()),
            Case::Op { family, dtype, point, .. } => {
                let seed = seed_of(id, seed);
                let trials = family.trial(*dtype, point, seed).and_then(|first| {
                    let second = family.trial(*dtype, point, seed ^ 0x5555_5555)?;
                    let second = second.with_constants_of(&first);
                    Ok((first, second))
                });
                let (first, second) = match trials {
                    Ok(trials) => trials,
                    Err(e) => {
                        let why = format!("the case is not valid: {e}");
                        return Record::of(id, Outcome::Failed(Failure::new(Check::Support, why)));
                    }
                };
                let found = harness::run(subject, &format!("{id}@{seed}"), &first, &second);
                Record { way: found.way, measured: found.measured, ..Record::of(id, found.outcome) }
            }
        }
    }
}

/// The seed of a case's data: of the run's seed and the case's path, so that it does not depend on what else runs. FNV-1a.
fn seed_of(id: &str, seed: u64) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3))
}
