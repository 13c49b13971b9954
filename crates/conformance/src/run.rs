//! A run: a selection of cases on a device, judged by expectations and profile.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use qiao_core::{Error, OpKind, Result};
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::expect::Expectations;
use crate::family::Depth;
use crate::glob::Glob;
use crate::journal::Journal;
use crate::platform::{DeviceFacts, Platform};
use crate::profile::{Held, Profile, Required, held, required};
use crate::replay::Replay;
use crate::select::Selection;
use crate::shrink::shrink;
use crate::subject::Subject;
use crate::verdict::{Check, Failure, Outcome, Record, Status};
use crate::worker::Worker;

/// The schema of a run's JSON.
pub const SCHEMA: &str = "qiao.check/1";

/// What runs cases.
pub enum Executor {
    /// This process: a crash of the backend is one of the run.
    Here(String, Box<Subject>),
    /// A process apart.
    Worker(Worker),
}

impl Executor {
    /// What the device is.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn device(&mut self) -> Result<DeviceFacts> {
        match self {
            Executor::Here(name, subject) => Ok(DeviceFacts::of(name, subject.device.info())),
            Executor::Worker(worker) => worker.device(),
        }
    }

    /// Runs a case.
    pub fn run(&mut self, case: &Case, seed: u64) -> Record {
        match self {
            Executor::Here(_, subject) => case.run(subject, seed),
            Executor::Worker(worker) => worker.run(&case.id(), seed),
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Cases that are done.
    pub done: usize,
    /// Cases in all.
    pub all: usize,
    /// The case that was done last.
    pub last: &'a Record,
}

/// How many cases came to each status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Every check held.
    pub passed: usize,
    /// A check did not hold.
    pub failed: usize,
    /// Not run by the device.
    pub unsupported: usize,
    /// Failed as expected.
    pub expected_failures: usize,
}

/// Everything about a run that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: String,
    /// The machine.
    pub platform: Platform,
    /// The device.
    pub device: DeviceFacts,
    /// The profile.
    pub profile: Profile,
    /// Which of its cases were asked for; empty = all.
    pub filter: Vec<String>,
    /// The seed.
    pub seed: u64,
    /// How long the run took.
    pub seconds: f64,
    /// Whether it was stopped before its last case.
    pub interrupted: bool,
    /// One record for every case that ran, in order.
    pub records: Vec<Record>,
    /// How many came to what.
    pub counts: Counts,
    /// Whether the profile is held, in each activation dtype. Empty for a filtered run.
    pub held: Vec<Held>,
    /// Whether each operator that was demanded by name is held. Empty where none was, and for a run that was stopped.
    #[serde(default)]
    pub required: Vec<Required>,
    /// Why the run fails; empty where it passes.
    pub faults: Vec<String>,
}

impl Run {
    /// Whether the device passes: nothing failed, something ran, the profile is held in at least one dtype, and so is every
    /// operator that was demanded by name.
    pub fn passes(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether no operator was demanded, neither by the profile nor by name: then a pass says nothing of any.
    pub fn demands_nothing(&self) -> bool {
        self.required.is_empty() && OpKind::ALL.iter().all(|k| !self.profile.asks(*k))
    }

    /// The records of a status.
    pub fn of(&self, status: Status) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |r| r.status == status)
    }
}

/// Failures that are made smaller; of more than these the whole case is kept.
const SHRUNK: usize = 24;

/// How long one failure may be made smaller.
const SHRINK_TIME: Duration = Duration::from_secs(10);

/// Runs a selection. `watch` hears of every case and says whether to go on.
///
/// # Errors
/// The device can't be opened; no case matches the filter; the journal is another file or can't be written.
pub fn run(selection: &Selection, on: &mut Executor, mut watch: impl FnMut(Progress<'_>) -> bool) -> Result<Run> {
    let (platform, start) = (Platform::here(), Instant::now());
    let cases = selection.cases();
    if cases.is_empty() {
        let filter: Vec<_> = selection.filter.iter().map(Glob::text).collect();
        let found = format!("no case of profile {} matches '{}'", selection.profile, filter.join("', '"));
        return Err(Error::invalid("selection", found, "see 'qiao check --list' for the paths of cases"));
    }
    let device = on.device()?;
    let mut journal = Journal::open(selection, &device)?;
    let mut records = Vec::with_capacity(cases.len());
    let mut shrunk: HashSet<(String, Check)> = HashSet::new();
    let mut interrupted = false;
    for (index, case) in cases.iter().enumerate() {
        let id = case.id();
        let record = match journal.done(&id) {
            Some(record) => record,
            None => {
                let record = selection.expectations.judge(on.run(case, selection.seed));
                let record = keep_replay(selection, on, &device, case, record, &mut shrunk);
                journal.keep(&record)?;
                record
            }
        };
        records.push(record);
        let last = &records[index];
        if !watch(Progress { done: index + 1, all: cases.len(), last }) && index + 1 < cases.len() {
            interrupted = true;
            break;
        }
    }
    let counts = count(&records);
    let held = if selection.filter.is_empty() && !interrupted { held(selection.profile, &records) } else { Vec::new() };
    let required = if interrupted { Vec::new() } else { required(&selection.required, &records) };
    let faults = faults(selection, &counts, &held, &required, interrupted);
    if !interrupted {
        journal.close()?;
    }
    Ok(Run {
        schema: SCHEMA.into(),
        platform,
        device,
        profile: selection.profile,
        filter: selection.filter.iter().map(|g| g.text().to_string()).collect(),
        seed: selection.seed,
        seconds: start.elapsed().as_secs_f64(),
        interrupted,
        records,
        counts,
        held,
        required,
        faults,
    })
}

/// Makes a failure smaller, once for each family and check, and writes its replay file; where that can't be written, the failure
/// says so.
fn keep_replay(
    selection: &Selection,
    on: &mut Executor,
    device: &DeviceFacts,
    case: &Case,
    mut record: Record,
    shrunk: &mut HashSet<(String, Check)>,
) -> Record {
    let (Some(folder), Some(failure)) = (&selection.replays, &record.failure) else { return record };
    if record.status != Status::Failed || failure.check == Check::UnexpectedPass {
        return record;
    }
    let kind = record.id.rsplit_once('/').map_or(record.id.as_str(), |(family, _)| family).to_string();
    let first = shrunk.len() < SHRUNK && shrunk.insert((kind, failure.check));
    let smallest = match first {
        true => shrink(case, &record, SHRINK_TIME, |c| on.run(c, selection.seed)).1,
        false => record.clone(),
    };
    let replay = Replay::of(&device.opened_as, selection.seed, &record.id, &smallest);
    match replay.write(folder) {
        Ok(path) => record.replay = Some(path.display().to_string()),
        Err(e) => {
            let note = format!("; no replay file in {}: {e}", folder.display());
            record.failure.iter_mut().for_each(|failure| failure.why.push_str(&note));
        }
    }
    record
}

fn count(records: &[Record]) -> Counts {
    let of = |status: Status| records.iter().filter(|r| r.status == status).count();
    Counts {
        passed: of(Status::Passed),
        failed: of(Status::Failed),
        unsupported: of(Status::Unsupported),
        expected_failures: of(Status::ExpectedFailure),
    }
}

fn faults(
    selection: &Selection,
    counts: &Counts,
    held: &[Held],
    required: &[Required],
    interrupted: bool,
) -> Vec<String> {
    let mut faults = Vec::new();
    if interrupted {
        faults.push("the run was stopped before its last case".into());
    }
    if counts.failed > 0 {
        faults.push(format!("{} cases failed", counts.failed));
    }
    if counts.passed == 0 {
        faults.push("no case was executed and passed: a device that supports nothing does not pass".into());
    }
    let all: Vec<String> = if selection.expectations == Expectations::default() {
        Vec::new()
    } else {
        Case::all(Depth::Full).iter().map(Case::id).collect()
    };
    for row in selection.expectations.stale(all.iter().map(String::as_str)) {
        faults.push(format!(
            "line {} of the expectations, '{}', names no case; take it away",
            row.line,
            row.cases.text()
        ));
    }
    if !held.is_empty() && held.iter().all(|h| !h.gaps.is_empty()) {
        let best = held.iter().min_by_key(|h| h.gaps.len()).expect("there is a dtype");
        let names: Vec<_> = best.gaps.iter().map(|g| g.what.as_str()).collect();
        let (profile, lacks) = (selection.profile, names.join(", "));
        faults.push(match best.dtype.as_str() {
            "" => format!("profile {profile} is not held and lacks {lacks}"),
            dtype => format!("profile {profile} is held in no dtype; {dtype} comes closest and lacks {lacks}"),
        });
    }
    for lacking in required.iter().filter(|r| r.held.is_empty()) {
        let why = lacking.gaps.first().map_or("", |g| g.why.as_str());
        faults.push(format!("operator {} is required and held in no dtype: {why}", lacking.op));
    }
    faults
}

/// How a run's cases came out, by what stands before the last part of their path: `op/rms_norm/f16`.
pub fn by_family(records: &[Record]) -> BTreeMap<String, HashMap<Status, usize>> {
    let mut table: BTreeMap<String, HashMap<Status, usize>> = BTreeMap::new();
    for record in records {
        let family = record.id.rsplit_once('/').map_or(record.id.as_str(), |(f, _)| f);
        *table.entry(family.into()).or_default().entry(record.status).or_default() += 1;
    }
    table
}

/// The run of a device that is not there: one record, so that a report can say so.
pub fn not_present(name: &str, profile: Profile, why: &str) -> Run {
    let mut record = Record::of(format!("device/{name}"), Outcome::Unsupported(why.into()));
    record.status = Status::NotPresent;
    let required = std::env::var("QIAO_REQUIRE").unwrap_or_default();
    let backend = name.split(':').next().unwrap_or(name);
    let faults = match required.split(',').any(|r| r.trim() == backend) {
        true => vec![format!("{name} is not present and QIAO_REQUIRE asks for it: {why}")],
        false => Vec::new(),
    };
    if !faults.is_empty() {
        record.failure = Some(Failure::new(Check::Contract, why));
    }
    Run {
        schema: SCHEMA.into(),
        platform: Platform::here(),
        device: DeviceFacts { opened_as: name.into(), ..Default::default() },
        profile,
        filter: Vec::new(),
        seed: 0,
        seconds: 0.0,
        interrupted: false,
        records: vec![record],
        counts: Counts::default(),
        held: Vec::new(),
        required: Vec::new(),
        faults,
    }
}
