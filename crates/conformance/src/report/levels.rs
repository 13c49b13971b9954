//! The verdict: which levels the facts of a report reach, in which dtypes, and exactly what is missing for the next one.
//!
//! Levels follow from records and from the suite that the report carries, and are stored nowhere. A profile is reached in a
//! dtype where
//! 1. every plain case of each of its operators passed in that dtype (in at least one dtype for operators whose cases are not
//!    named by an activation dtype), as [`crate::profile::held`] says;
//! 2. every other case of the profile in that dtype, and every one that has no dtype, was walked;
//! 3. none of them failed.
//!
//! Profile `device` is no level: a run of it walks what shows the level of the device contract, and as much of the others as the
//! device supports.
//!
//! What a device refuses beyond the plain cases, with a reason, and what failed as its expectations say, hinders no level and is
//! told beside it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::family::Depth;
use crate::profile::Profile;
use crate::verdict::{Record, Status};

use super::facts::{Report, Step, StepOutcome};
use super::suite::{Group, Suite, dtype_of};

/// The dtypes in which a model runs from its first operator to its last.
pub const ACTIVATIONS: [&str; 3] = ["f32", "f16", "bf16"];

/// The levels, each of which holds those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The device is there and opens.
    Present,
    /// The plain clauses of the device contract hold, and no clause that was walked is broken.
    DeviceContract,
    /// Profile `smoke`.
    Smoke,
    /// Profile `llm-core`.
    LlmCore,
    /// Profile `llm-serving`.
    LlmServing,
    /// Profile `full`.
    Full,
}

impl Level {
    /// Every level, lowest first.
    pub const ALL: [Level; 6] =
        [Level::Present, Level::DeviceContract, Level::Smoke, Level::LlmCore, Level::LlmServing, Level::Full];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Present => "present",
            Level::DeviceContract => "device-contract",
            Level::Smoke => "smoke",
            Level::LlmCore => "llm-core",
            Level::LlmServing => "llm-serving",
            Level::Full => "full",
        }
    }

    /// The profile that it stands for.
    pub const fn profile(self) -> Option<Profile> {
        match self {
            Level::Present | Level::DeviceContract => None,
            Level::Smoke => Some(Profile::Smoke),
            Level::LlmCore => Some(Profile::LlmCore),
            Level::LlmServing => Some(Profile::LlmServing),
            Level::Full => Some(Profile::Full),
        }
    }
}

/// How a device stands to a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The records show that it is reached.
    Reached,
    /// Nothing speaks against it, and not everything was asked.
    NotAsked,
    /// Something that was asked speaks against it.
    Missed,
}

/// What kind of thing is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingKind {
    /// The device is not on the machine.
    Absent,
    /// Cases failed.
    Failed,
    /// Plain cases failed as the expectations file says.
    ExpectedFailure,
    /// Plain cases that the device does not run.
    Unsupported,
    /// Cases that were not walked.
    NotAsked,
    /// An operator for which the suite has no case.
    NoCases,
}

/// One thing that is missing for a level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What kind.
    pub kind: MissingKind,
    /// The path of the cases, e.g. `op/rms_norm/f16`, or the operator where there are none.
    pub what: String,
    /// How many cases.
    pub count: usize,
    /// Of how many that the level asks for under this path.
    pub of: usize,
    /// What the first of them came to; empty where it was not asked.
    pub why: String,
}

/// How a device stands to a level in one dtype.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InDtype {
    /// The activation dtype; empty for levels that have none.
    pub dtype: String,
    /// How it stands.
    pub standing: Standing,
    /// What is missing; empty where it is reached.
    pub missing: Vec<Missing>,
}

impl InDtype {
    /// Whether two dtypes lack the same things, their own names apart.
    fn is_alike(&self, other: &InDtype) -> bool {
        fn plain(d: &InDtype) -> impl Iterator<Item = (MissingKind, &str, usize, usize, &str)> {
            d.missing.iter().map(|m| {
                let own = m.what.rsplit_once('/').filter(|(_, last)| *last == d.dtype);
                (m.kind, own.map_or(m.what.as_str(), |(path, _)| path), m.count, m.of, m.why.as_str())
            })
        }
        plain(self).eq(plain(other))
    }
}

/// How a device stands to a level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelVerdict {
    /// The level.
    pub level: Level,
    /// How it stands, in the dtype in which it stands best.
    pub standing: Standing,
    /// Each dtype; one without a name for levels that have none.
    pub dtypes: Vec<InDtype>,
    /// Cases that the level asks for, all dtypes together.
    pub asks: usize,
    /// Of those, how many have a record.
    pub walked: usize,
}

impl LevelVerdict {
    /// The dtypes in which it is reached.
    pub fn reached_in(&self) -> Vec<&str> {
        let reached = self.dtypes.iter().filter(|d| d.standing == Standing::Reached);
        reached.map(|d| d.dtype.as_str()).filter(|d| !d.is_empty()).collect()
    }

    /// The dtype that is closest to reaching it: where least fails, then where least is missing.
    pub fn closest(&self) -> &InDtype {
        let weight = |d: &&InDtype| {
            let of = |want: fn(MissingKind) -> bool| d.missing.iter().filter(|m| want(m.kind)).count();
            let open = |k| matches!(k, MissingKind::NotAsked | MissingKind::NoCases);
            (d.standing, of(|k| !matches!(k, MissingKind::NotAsked | MissingKind::NoCases)), of(open))
        };
        self.dtypes.iter().min_by_key(weight).expect("every level has an entry")
    }
}

/// Dtypes that lack the same things for the same next level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking<'a> {
    /// The level.
    pub level: Level,
    /// What they lack, as the first of them does.
    pub lacks: &'a InDtype,
    /// The dtypes; one without a name for levels that have none.
    pub dtypes: Vec<&'a str>,
}

/// What a report shows of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Every level, lowest first.
    pub levels: Vec<LevelVerdict>,
}

impl Verdict {
    /// What the facts of a report come to.
    pub fn of(report: &Report) -> Verdict {
        let records = report.check.as_ref().map_or(&[][..], |run| &run.records);
        let walked = Walked::of(&report.suite, records);
        let levels = Level::ALL.into_iter().map(|level| match level.profile() {
            Some(profile) => walked.profile(level, profile, &report.suite),
            None if level == Level::Present => present(report),
            None => walked.contract(&report.suite),
        });
        let mut levels: Vec<LevelVerdict> = levels.collect();
        // Nobody stands on a level without standing on those below.
        if levels[0].standing != Standing::Reached {
            let missing = levels[0].dtypes[0].missing.clone();
            for level in &mut levels[1..] {
                level.standing = Standing::Missed;
                level.dtypes = vec![InDtype { dtype: "".into(), standing: Standing::Missed, missing: missing.clone() }];
            }
        }
        Verdict { levels }
    }

    /// The highest level that is reached with all below it.
    pub fn reached(&self) -> Option<&LevelVerdict> {
        self.levels.iter().take_while(|l| l.standing == Standing::Reached).last()
    }

    /// The first level that is not reached.
    pub fn next(&self) -> Option<&LevelVerdict> {
        self.levels.iter().find(|l| l.standing != Standing::Reached)
    }

    /// The first level that is not reached in an activation dtype, and what is missing there.
    pub fn next_in(&self, dtype: &str) -> Option<(Level, &InDtype)> {
        let own = |d: &&InDtype| d.dtype == dtype || d.dtype.is_empty();
        let standings = self.levels.iter().filter_map(|l| Some((l.level, l.dtypes.iter().find(own)?)));
        standings.into_iter().find(|(_, d)| d.standing != Standing::Reached)
    }

    /// What every activation dtype lacks for its next level, the dtype that stands best first. Empty where all levels are
    /// reached.
    pub fn lacking(&self) -> Vec<Lacking<'_>> {
        let Some(next) = self.next() else { return Vec::new() };
        let closest = next.closest().dtype.as_str();
        let mut told: Vec<Lacking<'_>> = Vec::new();
        for dtype in std::iter::once(closest).chain(ACTIVATIONS.into_iter().filter(|d| *d != closest)) {
            let Some((level, lacks)) = self.next_in(dtype).filter(|(level, _)| *level <= next.level) else { continue };
            match told.iter_mut().find(|t| t.level == level && t.lacks.is_alike(lacks)) {
                Some(same) => same.dtypes.push(dtype),
                None => told.push(Lacking { level, lacks, dtypes: vec![dtype] }),
            }
        }
        told
    }

    /// How the device stands to a level.
    pub fn at(&self, level: Level) -> &LevelVerdict {
        self.levels.iter().find(|l| l.level == level).expect("every level is there")
    }
}

fn present(report: &Report) -> LevelVerdict {
    let opening = report.steps.iter().find(|s| s.name == Step::OPEN).map(|s| &s.outcome);
    let refused = match opening {
        Some(StepOutcome::Skipped(why) | StepOutcome::Broken(why)) => Some(why.clone()),
        _ => None,
    };
    let record = report.check.iter().flat_map(|run| &run.records).find(|r| r.status == Status::NotPresent);
    let told = record.and_then(|r| r.reason.clone()).or(refused.clone()).unwrap_or_default();
    let seen = opening == Some(&StepOutcome::Done) || report.check.as_ref().is_some_and(|run| !run.records.is_empty());
    let there = seen && refused.is_none() && !report.is_absent();
    let missing = Missing {
        kind: if seen || refused.is_some() { MissingKind::Absent } else { MissingKind::NotAsked },
        what: report.device.opened_as.clone(),
        count: 1,
        of: 1,
        why: told,
    };
    let missing = if there { Vec::new() } else { vec![missing] };
    let standing = standing_of(&missing);
    let dtypes = vec![InDtype { dtype: String::new(), standing, missing }];
    LevelVerdict { level: Level::Present, standing, dtypes, asks: 1, walked: usize::from(seen) }
}

fn standing_of(missing: &[Missing]) -> Standing {
    let open = |m: &Missing| matches!(m.kind, MissingKind::NotAsked | MissingKind::NoCases);
    match missing.is_empty() {
        true => Standing::Reached,
        false if missing.iter().all(open) => Standing::NotAsked,
        false => Standing::Missed,
    }
}

/// How many cases of one path and depth came to what.
#[derive(Clone, Debug, Default)]
struct Tally {
    of: usize,
    walked: usize,
    failed: usize,
    expected: usize,
    unsupported: usize,
    /// Of those, unsupported for pages that the device does not declare.
    elective: usize,
    /// What the first failed, the first expected and the first unsupported case came to.
    why: [String; 3],
}

impl Tally {
    fn add(&mut self, record: Option<&Record>) {
        self.of += 1;
        let Some(record) = record.filter(|r| r.status != Status::NotPresent) else { return };
        self.walked += 1;
        self.elective += usize::from(record.elective && record.status == Status::Unsupported);
        let (count, at) = match record.status {
            Status::Failed => (&mut self.failed, 0),
            Status::ExpectedFailure => (&mut self.expected, 1),
            Status::Unsupported => (&mut self.unsupported, 2),
            Status::Passed | Status::NotPresent => return,
        };
        *count += 1;
        if self.why[at].is_empty() {
            let failure = record.failure.as_ref().map(|f| format!("{}: {}", f.check, f.why));
            self.why[at] = failure.filter(|_| at == 0).or_else(|| record.reason.clone()).unwrap_or_default();
        }
    }

    fn join(&mut self, other: &Tally) {
        self.of += other.of;
        self.walked += other.walked;
        self.failed += other.failed;
        self.expected += other.expected;
        self.unsupported += other.unsupported;
        self.elective += other.elective;
        for (mine, theirs) in self.why.iter_mut().zip(&other.why).filter(|(mine, _)| mine.is_empty()) {
            mine.clone_from(theirs);
        }
    }
}

/// How plain cases count that the device does not run.
#[derive(Clone, Copy)]
enum Plain {
    /// They do not: another dtype may stand in.
    Open,
    /// A clause for which a device says that it has no use is no gap, but its expected failure is.
    Clauses,
    /// Each is a gap, apart from those for pages that the device does not declare where `elective`: where it has the operator
    /// for others.
    Asked {
        /// Whether some plain case of the operator passed.
        elective: bool,
    },
}

/// What was walked: for each path the tallies of its plain, standard and deep cases.
struct Walked<'a>(HashMap<&'a str, [Tally; 3]>);

impl<'a> Walked<'a> {
    fn of(suite: &'a Suite, records: &[Record]) -> Walked<'a> {
        let by_id: HashMap<&str, &Record> = records.iter().map(|r| (r.id.as_str(), r)).collect();
        let mut walked: HashMap<&str, [Tally; 3]> = HashMap::new();
        for group in &suite.groups {
            for path in &group.paths {
                let tallies = walked.entry(path).or_default();
                for (tally, tails) in tallies.iter_mut().zip([&group.plain, &group.standard, &group.deep]) {
                    tails.iter().for_each(|tail| tally.add(by_id.get(format!("{path}/{tail}").as_str()).copied()));
                }
            }
        }
        Walked(walked)
    }

    /// A path's tally over all cases of a profile, and over its plain ones.
    fn at(&self, path: &str, profile: Profile) -> (Tally, &Tally) {
        let [plain, standard, deep] = &self.0[path];
        let mut all = plain.clone();
        if profile.depth() >= Depth::Standard {
            all.join(standard);
        }
        if profile.depth() >= Depth::Full {
            all.join(deep);
        }
        (all, plain)
    }

    /// Whether some plain case of these paths passed.
    fn any_passed(&self, paths: &[&str]) -> bool {
        let passed = |t: &Tally| t.walked - t.failed - t.expected - t.unsupported;
        paths.iter().any(|path| passed(&self.0[path][0]) > 0)
    }

    /// What is missing of a path's cases; plain ones that are not run or failed as expected as `judged` says.
    fn missing(&self, path: &str, profile: Profile, judged: Plain) -> Vec<Missing> {
        let (all, plain) = self.at(path, profile);
        let mut missing = Vec::new();
        let mut add = |kind, count: usize, of: usize, why: &str| {
            if count > 0 {
                missing.push(Missing { kind, what: path.into(), count, of, why: why.into() });
            }
        };
        add(MissingKind::Failed, all.failed, all.of, &all.why[0]);
        let refused = match judged {
            Plain::Open => None,
            Plain::Clauses => Some(0),
            Plain::Asked { elective: true } => Some(plain.unsupported - plain.elective),
            Plain::Asked { elective: false } => Some(plain.unsupported),
        };
        if let Some(refused) = refused {
            add(MissingKind::ExpectedFailure, plain.expected, plain.of, &plain.why[1]);
            add(MissingKind::Unsupported, refused, plain.of, &plain.why[2]);
        }
        add(MissingKind::NotAsked, all.of - all.walked, all.of, "");
        missing
    }

    fn contract(&self, suite: &Suite) -> LevelVerdict {
        let paths: Vec<&str> = shared_paths(suite, Profile::Full).filter(|p| p.starts_with("device/")).collect();
        let mut missing: Vec<Missing> =
            paths.iter().flat_map(|path| self.missing(path, Profile::Smoke, Plain::Clauses)).collect();
        for path in &paths {
            let (all, plain) = self.at(path, Profile::Full);
            let deeper = all.failed - plain.failed;
            if deeper > 0 {
                let (what, why) = (path.to_string(), all.why[0].clone());
                missing.push(Missing { kind: MissingKind::Failed, what, count: deeper, of: all.of - plain.of, why });
            }
        }
        if paths.is_empty() {
            missing.push(no_cases("device"));
        }
        let standing = standing_of(&missing);
        let plain: Vec<&Tally> = paths.iter().map(|path| &self.0[path][0]).collect();
        LevelVerdict {
            level: Level::DeviceContract,
            standing,
            dtypes: vec![InDtype { dtype: String::new(), standing, missing }],
            asks: plain.iter().map(|t| t.of).sum(),
            walked: plain.iter().map(|t| t.walked).sum(),
        }
    }

    fn profile(&self, level: Level, profile: Profile, suite: &Suite) -> LevelVerdict {
        let clauses: Vec<Missing> =
            shared_paths(suite, profile).flat_map(|path| self.missing(path, profile, Plain::Clauses)).collect();
        let operators = suite.operators.iter().filter(|o| o.tier.tier() <= profile.tier());
        let families: Vec<(&str, Vec<&Group>)> = operators
            .map(|o| {
                let of_operator = suite.groups.iter().filter(|g| g.op == o.name && g.tier.tier() <= profile.tier());
                (o.name.as_str(), of_operator.collect())
            })
            .collect();
        let in_dtype = |dtype: &str| {
            let mut missing = clauses.clone();
            families.iter().for_each(|(op, groups)| missing.extend(self.operator(op, groups, profile, dtype)));
            InDtype { dtype: dtype.into(), standing: standing_of(&missing), missing }
        };
        let dtypes = ACTIVATIONS.map(in_dtype).to_vec();
        let standing = dtypes.iter().map(|d| d.standing).min().expect("there are dtypes");
        let walked = suite.of(profile).flat_map(|(g, _)| &g.paths).map(|path| self.at(path, profile).0.walked).sum();
        LevelVerdict { level, standing, dtypes, asks: suite.count(profile), walked }
    }

    /// What is missing of an operator in an activation dtype.
    fn operator(&self, op: &str, groups: &[&Group], profile: Profile, dtype: &str) -> Vec<Missing> {
        let paths: Vec<&str> = groups.iter().flat_map(|g| &g.paths).map(String::as_str).collect();
        if paths.is_empty() {
            return vec![no_cases(op)];
        }
        let named: Vec<&str> = paths.iter().copied().filter(|p| dtype_of(p) == dtype).collect();
        if !named.is_empty() {
            let plain = Plain::Asked { elective: self.any_passed(&named) };
            return named.iter().flat_map(|path| self.missing(path, profile, plain)).collect();
        }
        let mut missing: Vec<Missing> =
            paths.iter().flat_map(|path| self.missing(path, profile, Plain::Open)).collect();
        // Any one of its own dtypes will do; without one, the closest tells what is missing.
        let mut dtypes: Vec<&str> = paths.iter().map(|p| dtype_of(p)).collect();
        dtypes.dedup();
        let plain = |dtype: &str| -> Vec<Missing> {
            let own: Vec<&str> = paths.iter().copied().filter(|p| dtype_of(p) == dtype).collect();
            let plain = Plain::Asked { elective: self.any_passed(&own) };
            own.iter().flat_map(|path| self.missing(path, Profile::Smoke, plain)).collect()
        };
        let closest = dtypes.into_iter().map(plain).min_by_key(|m| m.iter().map(|m| m.count).sum::<usize>());
        let strict = |m: &Missing| matches!(m.kind, MissingKind::Unsupported | MissingKind::ExpectedFailure);
        missing.extend(closest.unwrap_or_default().into_iter().filter(strict));
        missing
    }
}

/// The paths of cases that have no dtype: every dtype needs them.
fn shared_paths(suite: &Suite, profile: Profile) -> impl Iterator<Item = &str> {
    let asked = move |g: &&Group| g.op.is_empty() && g.tier.tier() <= profile.tier();
    suite.groups.iter().filter(asked).flat_map(|g| &g.paths).map(String::as_str)
}

fn no_cases(what: &str) -> Missing {
    Missing { kind: MissingKind::NoCases, what: what.into(), count: 0, of: 0, why: String::new() }
}
