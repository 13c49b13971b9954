//! The device contract without any operator: what every device must hold, whatever it computes.

mod memory;

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
    /// Holds a device to it.
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

impl Clause {
    /// Every clause, in order.
    pub fn all() -> impl Iterator<Item = &'static Clause> {
        CLAUSES.iter().flat_map(|c| c.iter())
    }

    /// Holds a device to the clause.
    pub fn outcome(&self, subject: &Subject) -> Outcome {
        match (self.run)(subject) {
            Ok(()) => Outcome::Passed,
            Err(Broken::Failed(failure)) => Outcome::Failed(failure),
            Err(Broken::Unsupported(why)) => Outcome::Unsupported(why),
        }
    }
}

const CLAUSES: &[&[Clause]] = &[memory::CLAUSES];
