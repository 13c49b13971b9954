//! What a case came to, and what it measured on the way.

use std::fmt;

use qiao_reference::Comparison;
use serde::{Deserialize, Serialize};

/// The status of a case. Every result is one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Every check held.
    Passed,
    /// A check did not hold; an expected failure that passed is one too.
    Failed,
    /// The device says that it does not run this, and why. Permanent.
    Unsupported,
    /// A check did not hold, as the expectations file says. Temporary.
    ExpectedFailure,
    /// The device is not on this machine.
    NotPresent,
}

impl Status {
    /// Every status.
    pub const ALL: [Status; 5] =
        [Status::Passed, Status::Failed, Status::Unsupported, Status::ExpectedFailure, Status::NotPresent];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Passed => "passed",
            Status::Failed => "failed",
            Status::Unsupported => "unsupported",
            Status::ExpectedFailure => "expected_failure",
            Status::NotPresent => "not_present",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a case holds a device to. A failure names the first check that did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Check {
    /// `support` answers once per node, the same each time, and what it answers is so.
    Support,
    /// A graph that the device calls its own can be planned, and needs what it says.
    Plan,
    /// It runs without an error.
    Execute,
    /// NaN and ∞ stand where the truth has them, with its sign.
    Special,
    /// Every element is within its limit.
    Limit,
    /// Every element of an output is written.
    Unwritten,
    /// Inputs are as they were.
    Inputs,
    /// Bytes around operands, in the gaps of outputs and around the workspace are as they were.
    Guards,
    /// The same bytes give the same bytes again, where the device claims that.
    Repeat,
    /// The same plan is right for other bindings and other data.
    Rebind,
    /// Bad input is refused, with an error and nothing worse.
    Refusal,
    /// The contract holds.
    Contract,
    /// The backend does not panic.
    Panic,
    /// The backend does not take its process with it.
    Crash,
    /// The backend answers in time.
    Timeout,
    /// An expected failure fails.
    UnexpectedPass,
    /// What the profile asks for is supported.
    Profile,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Check::Support => "support",
            Check::Plan => "plan",
            Check::Execute => "execute",
            Check::Special => "special",
            Check::Limit => "limit",
            Check::Unwritten => "unwritten",
            Check::Inputs => "inputs",
            Check::Guards => "guards",
            Check::Repeat => "repeat",
            Check::Rebind => "rebind",
            Check::Refusal => "refusal",
            Check::Contract => "contract",
            Check::Panic => "panic",
            Check::Crash => "crash",
            Check::Timeout => "timeout",
            Check::UnexpectedPass => "unexpected_pass",
            Check::Profile => "profile",
        })
    }
}

/// A check that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which.
    pub check: Check,
    /// What was found.
    pub why: String,
}

impl Failure {
    /// A check that did not hold, and what was found.
    pub fn new(check: Check, why: impl Into<String>) -> Failure {
        Failure { check, why: why.into() }
    }
}

/// How far one output was from the truth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The output's position.
    pub output: usize,
    /// How many elements were compared.
    pub elements: usize,
    /// The largest |result − golden|.
    pub max_abs: f64,
    /// The same in units in the last place.
    pub max_ulp: f64,
    /// The limit of the worst element, the one with the largest error/limit. No number where it has none.
    pub limit: Option<f64>,
    /// error/limit of the worst element: above 1 is a failure. No number where it is beyond all.
    pub margin: Option<f64>,
    /// The smallest r that would have passed as `|error| ≤ r·max(|golden|, rms of golden)`. No number where none would have.
    pub smallest_tolerance: Option<f64>,
    /// Σ error² / Σ golden². For triage.
    pub nmse: Option<f64>,
    /// The cosine between result and golden. For triage.
    pub cosine: Option<f64>,
    /// Subnormal results that were flushed to zero: reported, not failed.
    pub flushed: usize,
    /// Elements above their limit.
    pub failures: usize,
    /// The worst element, in row-major order.
    pub worst: Option<usize>,
    /// What stands there, as text, so that NaN and ∞ survive.
    pub got: String,
    /// What should stand there.
    pub want: String,
}

impl Measured {
    /// What a comparison found; `got`, `golden` and `limits` are what was compared.
    pub fn of(output: usize, c: &Comparison, got: &[f64], golden: &[f64], limits: &[f64]) -> Measured {
        let finite = |x: f64| x.is_finite().then_some(x);
        let limit = c.worst.and_then(|i| finite(limits[if limits.len() == 1 { 0 } else { i }]));
        let at = |values: &[f64]| c.worst.map_or(String::new(), |i| format!("{:e}", values[i]));
        Measured {
            output,
            elements: c.elements,
            max_abs: c.max_abs.min(f64::MAX),
            max_ulp: c.max_ulp.min(f64::MAX),
            limit,
            margin: finite(c.margin),
            smallest_tolerance: finite(c.smallest_tolerance),
            nmse: finite(c.nmse),
            cosine: finite(c.cosine),
            flushed: c.flushed,
            failures: c.failures,
            worst: c.worst,
            got: at(got),
            want: at(golden),
        }
    }
}

/// What a case came to, before expectations are looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Every check held.
    Passed,
    /// A check did not hold.
    Failed(Failure),
    /// The device does not run this, and why.
    Unsupported(String),
}

/// The record of one case: everything that a report says about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The case's stable path, e.g. `op/rms_norm/f16/rows=7,cols=4096`.
    pub id: String,
    /// What it came to.
    pub status: Status,
    /// Which check did not hold, and what was found; with the reason of an expected failure.
    pub failure: Option<Failure>,
    /// Why the device does not run it, or why its failure was expected.
    pub reason: Option<String>,
    /// Whether it is unsupported because it keeps its cache in pages that the device does not declare, so that no profile
    /// asks the device for it.
    #[serde(default)]
    pub elective: bool,
    /// How it ran: `native <kernel>` or `decomposed: <operators>`; empty where nothing ran.
    pub way: String,
    /// How far each output was from the truth, in the worst of the case's runs.
    pub measured: Vec<Measured>,
    /// How long the case took, the truth included.
    pub millis: f64,
    /// The file that repeats a failure alone.
    pub replay: Option<String>,
}

impl Record {
    /// A record of nothing but an outcome.
    pub fn of(id: impl Into<String>, outcome: Outcome) -> Record {
        let (status, failure, reason) = match outcome {
            Outcome::Passed => (Status::Passed, None, None),
            Outcome::Failed(failure) => (Status::Failed, Some(failure), None),
            Outcome::Unsupported(reason) => (Status::Unsupported, None, Some(reason)),
        };
        Record {
            id: id.into(),
            status,
            failure,
            reason,
            elective: false,
            way: String::new(),
            measured: Vec::new(),
            millis: 0.0,
            replay: None,
        }
    }

    /// The largest error/limit of the record, where one was measured.
    pub fn margin(&self) -> Option<f64> {
        self.measured.iter().map(|m| m.margin.unwrap_or(f64::INFINITY)).reduce(f64::max)
    }
}
