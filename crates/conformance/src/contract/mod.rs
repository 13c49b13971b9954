//! The device contract without any operator: what every device must hold, whatever it computes.
//!
//! A clause knows the device through its traits alone, and holds it to what the documentation of those traits says; what
//! they leave open, a clause leaves open. A clause runs on a thread of its own: one that never ends is a time-out, and the
//! thread is left behind.
//!
//! Kinds, one file each: `info`, `memory`, `bounds`, `copies`, `import`, `streams`, `events`, `order`, `errors`, `time`,
//! `lives` (what is dropped while work is pending), `threads`, `leaks`; and for devices that run an operator, whichever:
//! `plans`, `graphs`, `bindings`, `compute`, `batches`. `far` is the clause of `memory` about large offsets. `scene`, `probe`
//! and `members` are what they stand on.

mod scene;

mod bounds;
mod copies;
mod errors;
mod events;
mod import;
mod info;
mod leaks;
mod lives;
mod memory;
mod order;
mod streams;
mod threads;
mod time;

mod members;
mod probe;

mod batches;
mod bindings;
mod compute;
mod far;
mod graphs;
mod plans;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use qiao_core::Error;

use crate::family::Depth;
use crate::subject::Subject;
use crate::verdict::{Check, Failure, Outcome};

/// One clause of the contract.
pub struct Clause {
    /// Its stable path, e.g. `device/memory/allocations_are_aligned`.
    pub id: &'static str,
    /// How deep it lies.
    pub depth: Depth,
    /// Holds a device to it. May wait for ever on a device that is broken: [`Clause::outcome`] does not.
    pub run: fn(&Subject) -> Held,
}

/// Whether a clause held.
pub type Held = Result<(), Broken>;

/// Why a clause did not hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Broken {
    /// The device breaks it.
    Failed(Failure),
    /// The device says that it has no such thing.
    Unsupported(String),
}

impl Broken {
    /// The device breaks the contract.
    pub fn contract(why: impl Into<String>) -> Broken {
        Broken::Failed(Failure::new(Check::Contract, why))
    }

    /// The device takes what it must refuse.
    pub fn refusal(why: impl Into<String>) -> Broken {
        Broken::Failed(Failure::new(Check::Refusal, why))
    }

    /// The device has no such thing, or it can't be told from here.
    pub fn unsupported(why: impl Into<String>) -> Broken {
        Broken::Unsupported(why.into())
    }
}

/// An error where the contract promises success.
impl From<Error> for Broken {
    fn from(error: Error) -> Broken {
        match error {
            Error::Timeout { .. } => Broken::Failed(Failure::new(Check::Timeout, error.to_string())),
            _ => Broken::contract(error.to_string()),
        }
    }
}

/// Breaks the clause unless `held`.
///
/// # Errors
/// What was found.
pub fn ensure(held: bool, why: impl FnOnce() -> String) -> Held {
    if held { Ok(()) } else { Err(Broken::contract(why())) }
}

/// How many waits a clause may take before it is given up.
const WAITS: u32 = 2;

impl Clause {
    /// Every clause, in order.
    pub fn all() -> impl Iterator<Item = &'static Clause> {
        CLAUSES.iter().flat_map(|c| c.iter())
    }

    /// The kind of clause: the middle of its path.
    pub fn kind(&self) -> &'static str {
        self.id.split('/').nth(1).unwrap_or_default()
    }

    /// Holds a device to the clause, for at most twice the subject's time-out. A clause that panics has failed.
    pub fn outcome(&self, subject: &Subject) -> Outcome {
        let (done, result) = channel();
        let (run, inner, limit) = (self.run, subject.clone(), subject.timeout.saturating_mul(WAITS));
        let started = thread::Builder::new().name(self.id.into()).spawn(move || {
            // Nobody listens any more where the clause was given up.
            let _ = done.send(run(&inner));
        });
        let Ok(thread) = started else {
            return Outcome::Failed(Failure::new(Check::Contract, "the system gives no thread for the clause"));
        };
        match result.recv_timeout(limit) {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(Broken::Failed(failure))) => Outcome::Failed(failure),
            Ok(Err(Broken::Unsupported(why))) => Outcome::Unsupported(why),
            Err(RecvTimeoutError::Timeout) => {
                let why = format!("it did not end within {} ms, and is left behind", limit.as_millis());
                Outcome::Failed(Failure::new(Check::Timeout, why))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let panic = thread.join().err();
                let text = panic.as_ref().and_then(|p| {
                    p.downcast_ref::<String>().cloned().or_else(|| p.downcast_ref::<&str>().map(|s| s.to_string()))
                });
                Outcome::Failed(Failure::new(Check::Panic, text.unwrap_or_else(|| "it said nothing".into())))
            }
        }
    }
}

const CLAUSES: &[&[Clause]] = &[
    info::CLAUSES,
    memory::CLAUSES,
    bounds::CLAUSES,
    copies::CLAUSES,
    import::CLAUSES,
    streams::CLAUSES,
    events::CLAUSES,
    order::CLAUSES,
    errors::CLAUSES,
    time::CLAUSES,
    lives::CLAUSES,
    threads::CLAUSES,
    leaks::CLAUSES,
    plans::CLAUSES,
    graphs::CLAUSES,
    bindings::CLAUSES,
    compute::CLAUSES,
    batches::CLAUSES,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clause_has_a_path_of_its_own_under_its_kind() {
        let mut seen = std::collections::HashSet::new();
        for clause in Clause::all() {
            assert!(seen.insert(clause.id), "{} stands twice", clause.id);
            let parts: Vec<_> = clause.id.split('/').collect();
            assert!(parts.len() == 3 && parts[0] == "device", "{}", clause.id);
            assert!(clause.id.bytes().all(|b| b.is_ascii_lowercase() || b"/_".contains(&b)), "{}", clause.id);
        }
        assert!(seen.len() >= 70, "{} clauses", seen.len());
    }
}
