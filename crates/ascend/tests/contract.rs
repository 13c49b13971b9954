//! The device holds the contract over the simulated AscendCL.

mod rig;

use std::time::{Duration, Instant};

use qiao_conformance::contract::Clause;
use qiao_conformance::{Outcome, Subject};
use qiao_core::Backend;

/// Clauses for which the device has no use, as it declares itself: no import, one memory, no promise of batches.
const GAPS: &[&str] = &[
    "device/batches/rows_of_norms_stand_alone",
    "device/batches/rows_of_products_stand_alone",
    "device/batches/sequences_stand_alone",
    "device/bindings/an_imported_output_is_never_written",
    "device/copies/a_copy_between_memories_is_exact",
    "device/import/a_range_outside_the_memory_is_refused",
    "device/import/an_imported_buffer_is_never_written",
    "device/import/memory_lives_as_long_as_its_buffer",
    "device/import/what_is_imported_is_seen",
];

/// Runs where there is memory to spare.
const FAR_OFFSETS: &str = "device/memory/offsets_may_be_large";

#[test]
fn the_device_holds_every_clause() {
    let _card = rig::card().alone();
    let mut subject = Subject::open(|| rig::backend().open(0)).unwrap();
    subject.timeout = Duration::from_secs(60);
    let (mut unsupported, mut failures) = (Vec::new(), Vec::new());
    for clause in Clause::all() {
        let start = Instant::now();
        match clause.outcome(&subject) {
            Outcome::Passed => {}
            Outcome::Unsupported(_) => unsupported.push(clause.id),
            Outcome::Failed(failure) => failures.push(format!("{}: {}: {}", clause.id, failure.check, failure.why)),
        }
        println!("{:6} ms {}", start.elapsed().as_millis(), clause.id);
    }
    assert!(failures.is_empty(), "the contract is broken:\n{}\n{}", failures.join("\n"), rig::card().fault());
    unsupported.retain(|id| *id != FAR_OFFSETS);
    unsupported.sort_unstable();
    assert_eq!(unsupported, GAPS);
}
