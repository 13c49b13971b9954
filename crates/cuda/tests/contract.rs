//! The simulated card holds the device contract.

mod rig;

use std::time::Duration;

use qiao_conformance::contract::Clause;
use qiao_conformance::{Outcome, Subject};
use qiao_core::Backend;
use qiao_simcuda::Knob;

/// Clauses that a card has no use for: host memory is not imported, there is one memory, and rows depend on their batch.
const GAPS: [&str; 9] = [
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

/// Clauses that ask for an operator which fails by what its operands hold; kernels of a card do not.
const NOTHING_FAILS: [&str; 4] = [
    "device/errors/a_failure_is_told_by_the_events_behind_it",
    "device/errors/a_failure_is_told_when_all_is_over",
    "device/errors/a_failure_stays_on_its_stream",
    "device/errors/the_first_failure_of_a_stream_is_kept",
];

/// Runs where there is memory to spare.
const FAR_OFFSETS: &str = "device/memory/offsets_may_be_large";

/// A clause that asks for sums in f32.
const SUMS: &str = "device/compute/results_are_not_the_hosts";

#[test]
fn it_holds_for_other_vendors() {
    rig::run_for_other_vendors("it_holds_for_other_vendors");
}

#[test]
fn the_contract_holds() {
    let card = rig::card().alone();
    let mut subject = Subject::open(|| rig::family().open(0)).unwrap();
    subject.timeout = Duration::from_secs(60);
    let (mut unsupported, mut failures) = (Vec::new(), Vec::new());
    for clause in Clause::all() {
        let start = std::time::Instant::now();
        // Thousands of commands, of which each question does one.
        card.set(Knob::Eager, u64::from(clause.id.starts_with("device/leaks/")));
        match clause.outcome(&subject) {
            Outcome::Passed => {}
            Outcome::Unsupported(why) => {
                println!("{}: {why}", clause.id);
                unsupported.push(clause.id);
            }
            Outcome::Failed(failure) => failures.push(format!("{}: {}: {}", clause.id, failure.check, failure.why)),
        }
        println!("{:6} ms {}", start.elapsed().as_millis(), clause.id);
    }
    let said = card.fault().unwrap_or_default();
    assert!(failures.is_empty(), "{} clauses fail:\n{}\n{said}", failures.len(), failures.join("\n"));
    unsupported.retain(|id| !NOTHING_FAILS.contains(id) && *id != SUMS && *id != FAR_OFFSETS);
    unsupported.sort_unstable();
    assert_eq!(unsupported, GAPS);
}
