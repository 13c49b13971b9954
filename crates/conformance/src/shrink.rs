//! A failing case made smaller while it still fails the same check.

use std::time::{Duration, Instant};

use crate::case::Case;
use crate::verdict::{Record, Status};

/// Walks from a failing case to smaller ones that fail the same check, until none does or the time is up. `run` runs a case;
/// points that are none are passed over.
pub fn shrink(case: &Case, failed: &Record, time: Duration, mut run: impl FnMut(&Case) -> Record) -> (Case, Record) {
    let start = Instant::now();
    let (mut case, mut record) = (case.clone(), failed.clone());
    let check = failed.failure.as_ref().map(|f| f.check);
    'smaller: loop {
        for candidate in case.smaller() {
            if start.elapsed() > time {
                return (case, record);
            }
            let found = run(&candidate);
            if found.status == Status::Failed && found.failure.as_ref().map(|f| f.check) == check {
                (case, record) = (candidate, found);
                continue 'smaller;
            }
        }
        return (case, record);
    }
}
