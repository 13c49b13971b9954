//! The suite is able to fail: every deliberately broken backend is caught, by the family that should catch it and by a check
//! that makes sense; the honest device that it is based on passes the very same cases.

#[path = "mutants/attention.rs"]
mod attention;
#[path = "mutants/choices.rs"]
mod choices;
#[path = "mutants/device.rs"]
mod device;
#[path = "mutants/faults.rs"]
mod faults;
#[path = "mutants/kernels.rs"]
mod kernels;
#[path = "mutants/movement.rs"]
mod movement;
#[path = "mutants/products.rs"]
mod products;
#[path = "mutants/queued.rs"]
mod queued;
#[path = "mutants/rows.rs"]
mod rows;
#[path = "mutants/scene.rs"]
mod scene;
#[path = "mutants/unusual.rs"]
mod unusual;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qiao_conformance::{Case, Check, Depth, Glob, Record, Status, Subject};
use qiao_core::Device;

use device::{Mutant, Sabotage, Saboteur};
use queued::{Fault, Queued};

const SEED: u64 = 1;

/// The groups of mutants, in order.
const GROUPS: &[(&str, &[Mutant])] = &[
    ("rows", rows::MUTANTS),
    ("choices", choices::MUTANTS),
    ("movement", movement::MUTANTS),
    ("products", products::MUTANTS),
    ("attention", attention::MUTANTS),
    ("kernels", kernels::MUTANTS),
    ("contract", faults::MUTANTS),
];

/// Every case down to the standard depth with its path, by what stands before its dtype or clause: `op/rope`.
struct Cases(HashMap<String, Vec<(String, Case)>>);

impl Cases {
    fn new() -> Cases {
        let mut by_family: HashMap<String, Vec<(String, Case)>> = HashMap::new();
        for case in Case::all(Depth::Standard) {
            let id = case.id();
            by_family.entry(family(&id)).or_default().push((id, case));
        }
        Cases(by_family)
    }

    fn of(&self, pattern: &str) -> Vec<&(String, Case)> {
        let glob = Glob::new(pattern);
        let star = pattern.find('*').unwrap_or(pattern.len());
        let whole = pattern[..star].matches('/').count() >= 2;
        let families = self.0.iter().filter(|(name, _)| match whole {
            true => **name == family(pattern),
            false => name.starts_with(&pattern[..star]),
        });
        let mut found: Vec<_> = families.flat_map(|(_, cases)| cases).filter(|(id, _)| glob.matches(id)).collect();
        found.sort_by_key(|(id, case)| (case.depth(), work(id)));
        found
    }
}

/// `op/rope` of `op/rope/f32/tokens=1`.
fn family(id: &str) -> String {
    id.splitn(3, '/').take(2).collect::<Vec<_>>().join("/")
}

/// Small cases come first: the product of the numbers in a path.
fn work(id: &str) -> u64 {
    let numbers = id.split([',', '/']).filter_map(|part| part.split_once('=')?.1.parse::<u64>().ok());
    numbers.fold(1, |product, n| product.saturating_mul(n.max(1)))
}

fn subject(shared: &Subject, mutant: &Mutant, honest: bool) -> Subject {
    let (sabotage, when, name, cases, checks) =
        (mutant.sabotage, mutant.when, mutant.name, mutant.caught_by, mutant.checks);
    let open = move || -> qiao_core::Result<Arc<dyn Device>> {
        let mutant = Mutant { name, caught_by: cases, checks, sabotage, when };
        Ok(match sabotage {
            Sabotage::Fault(_) if honest => Arc::new(Queued::new(Fault::None)),
            Sabotage::Fault(fault) => Arc::new(Queued::new(fault)),
            _ if honest => Arc::new(Saboteur::honest(&mutant)),
            _ => Arc::new(Saboteur::of(&mutant)),
        })
    };
    let mut subject = shared.beside(open).expect("a saboteur opens");
    let deadlocks = matches!(sabotage, Sabotage::Fault(Fault::WaitFollowsTheEvent)) && !honest;
    subject.timeout = Duration::from_secs(if deadlocks { 1 } else { 6 });
    if matches!(sabotage, Sabotage::Chip(_)) {
        let cpu = qiao_cpu::CpuDevice::with(&Default::default()).expect("every machine has a processor");
        subject.host = Some(Arc::new(cpu));
    }
    subject
}

/// What became of a mutant.
struct Verdict {
    mutant: &'static Mutant,
    group: &'static str,
    caught: Option<Record>,
    /// How many cases it was held to.
    cases: usize,
    /// Cases that the honest device does not pass.
    base: Vec<String>,
    time: Duration,
}

impl Verdict {
    fn check(&self) -> Option<Check> {
        self.caught.as_ref()?.failure.as_ref().map(|f| f.check)
    }

    fn killed(&self) -> bool {
        self.check().is_some_and(|c| self.mutant.checks.contains(&c))
    }

    fn line(&self) -> String {
        let how = match (&self.caught, self.check()) {
            (Some(record), Some(check)) => format!("{check} in {}", record.id),
            _ => "SURVIVES".into(),
        };
        let wrong = if self.caught.is_some() && !self.killed() { " BY THE WRONG CHECK" } else { "" };
        let (group, name) = (self.group, self.mutant.name);
        format!("{group:<9} {name:<58} {:>4} ms {:>3} cases  {how}{wrong}", self.time.as_millis(), self.cases)
    }
}

/// What honest devices came to, by device and case.
type Honest = Mutex<HashMap<(&'static str, String), bool>>;

fn judge(group: &'static str, mutant: &'static Mutant, all: &Cases, shared: &Subject, honest: &Honest) -> Verdict {
    let start = Instant::now();
    let (broken, base) = (subject(shared, mutant, false), subject(shared, mutant, true));
    let mut verdict = Verdict { mutant, group, caught: None, cases: 0, base: Vec::new(), time: Duration::ZERO };
    let kind = match mutant.sabotage {
        Sabotage::Fault(_) => "queued",
        Sabotage::Pack(_) | Sabotage::PackKeepsSource => "packing",
        Sabotage::Chip(_) => "chip",
        Sabotage::Workspace(..) | Sabotage::Scratch(_) => "working",
        _ => "saboteur",
    };
    for (id, case) in all.of(mutant.caught_by) {
        verdict.cases += 1;
        let record = case.run(&broken, SEED);
        let key = (kind, id.clone());
        let known = honest.lock().expect("no judge panics").get(&key).copied();
        let passes = known.unwrap_or_else(|| {
            let found = case.run(&base, SEED);
            let passes = matches!(found.status, Status::Passed | Status::Unsupported);
            if !passes {
                println!("the honest {kind} device fails: {found:?}");
            }
            passes
        });
        honest.lock().expect("no judge panics").insert(key, passes);
        if !passes {
            verdict.base.push(id.clone());
        }
        if record.status == Status::Failed {
            verdict.caught = Some(record);
            break;
        }
    }
    verdict.time = start.elapsed();
    verdict
}

#[test]
fn every_mutant_is_caught_by_the_family_that_should() {
    let start = Instant::now();
    // Mutants panic on purpose, on threads without a name or with a clause's; what a test says is heard.
    let heard = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name().is_some_and(|name| !name.contains('/')) {
            heard(panic);
        }
    }));
    let all = Cases::new();
    let only = std::env::var("QIAO_MUTANT").unwrap_or_else(|_| "*".into());
    let only = Glob::new(only);
    let wanted: Vec<_> = GROUPS
        .iter()
        .flat_map(|(group, mutants)| mutants.iter().map(move |m| (*group, m)))
        .filter(|(_, m)| only.matches(m.name))
        .collect();
    let shared = Subject::open(|| Ok(Arc::new(Queued::new(Fault::None)) as Arc<dyn Device>)).expect("it opens");
    let (honest, verdicts) = (Honest::default(), Mutex::new(Vec::new()));
    // What a process holds, and how long a wait takes, is only told while nothing else runs.
    let measures = |m: &Mutant| m.caught_by.starts_with("device/leaks") || m.caught_by.starts_with("device/time");
    let (alone, together): (Vec<_>, Vec<_>) = wanted.iter().copied().partition(|(_, m)| measures(m));
    for (group, mutant) in alone {
        let verdict = judge(group, mutant, &all, &shared, &honest);
        verdicts.lock().expect("no judge panics").push(verdict);
    }
    let next = Mutex::new(together.into_iter());
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                loop {
                    let Some((group, mutant)) = next.lock().expect("no judge panics").next() else { return };
                    let verdict = judge(group, mutant, &all, &shared, &honest);
                    verdicts.lock().expect("no judge panics").push(verdict);
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    let mut verdicts = verdicts.into_inner().expect("no judge panics");
    let place = |v: &Verdict| wanted.iter().position(|(_, m)| m.name == v.mutant.name);
    verdicts.sort_by_key(place);
    verdicts.iter().for_each(|v| println!("{}", v.line()));
    let killed = verdicts.iter().filter(|v| v.killed()).count();
    println!("mutation score: {killed} of {} in {:.1} s", verdicts.len(), start.elapsed().as_secs_f64());
    let bad: Vec<String> = verdicts.iter().filter(|v| !v.killed() || !v.base.is_empty()).map(Verdict::line).collect();
    let judged = |r: &&Record| r.failure.as_ref().is_some_and(|f| matches!(f.check, Check::Limit | Check::Special));
    for record in verdicts.iter().filter_map(|v| v.caught.as_ref()).filter(judged) {
        assert!(!record.measured.is_empty(), "a record of a failure says how far off it was: {record:?}");
    }
    assert!(bad.is_empty(), "{} mutants are not caught as they should be:\n{}", bad.len(), bad.join("\n"));
    assert!(verdicts.len() >= 60 || only.text() != "*", "{} mutants", verdicts.len());
}

/// Cases of more work than this are left to the devices that are walked whole.
const SMALL: u64 = 60_000;

#[test]
fn correct_but_unusual_devices_pass() {
    let all = Cases::new();
    let mut cases: Vec<&(String, Case)> = all.0.values().flatten().collect();
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases.retain(|(id, case)| matches!(case, Case::Op { .. }) && work(id) <= SMALL);
    let first = Subject::open(|| Ok(Arc::new(Saboteur::unusual(&unusual::DEVICES[0])) as Arc<dyn Device>));
    let first = first.expect("it opens");
    let beside = |u: &'static device::Unusual| {
        first.beside(move || Ok(Arc::new(Saboteur::unusual(u)) as Arc<dyn Device>)).expect("it opens")
    };
    let subjects: Vec<Subject> = unusual::DEVICES.iter().map(beside).collect();
    let (mut failures, mut passed) = (Vec::new(), vec![0; subjects.len()]);
    // A walk that meets every family in every dtype, and not every case.
    for (id, case) in cases.iter().step_by(17) {
        for (i, subject) in subjects.iter().enumerate() {
            let record = case.run(subject, SEED);
            passed[i] += usize::from(record.status == Status::Passed);
            if record.status == Status::Failed {
                failures.push(format!("{}: {id}: {:?}", subject.device.info().name, record.failure));
            }
        }
    }
    for (subject, passed) in subjects.iter().zip(&passed) {
        println!("passed {passed:>5} cases: a device that {}", subject.device.info().name);
        assert!(*passed > 200, "a device that {} passed {passed} cases only", subject.device.info().name);
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures[..failures.len().min(20)].join("\n"));
}

#[test]
fn mutants_have_names_of_their_own_and_cases() {
    let mut seen = std::collections::HashSet::new();
    let all = Cases::new();
    for (_, mutants) in GROUPS {
        for mutant in *mutants {
            assert!(seen.insert(mutant.name), "{} stands twice", mutant.name);
            assert!(!all.of(mutant.caught_by).is_empty(), "{}: no case matches {}", mutant.name, mutant.caught_by);
        }
    }
}
