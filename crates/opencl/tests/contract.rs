//! Devices hold the device contract, each beside the other.

mod rig;

use std::time::Duration;

use qiao_conformance::contract::Clause;
use qiao_conformance::{Outcome, Subject};
use qiao_core::Backend;
use qiao_opencl::OpenClBackend;

/// Clauses that a device has no use for: host memory is not imported, there is one memory, and rows depend on their batch.
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

/// Clauses that ask for an operator which fails by what its operands hold; kernels do not.
const NOTHING_FAILS: [&str; 4] = [
    "device/errors/a_failure_is_told_by_the_events_behind_it",
    "device/errors/a_failure_is_told_when_all_is_over",
    "device/errors/a_failure_stays_on_its_stream",
    "device/errors/the_first_failure_of_a_stream_is_kept",
];

/// Clauses that ask for a memory apart from the host's, and for work that outlasts the call that queues it: a processor has neither for
/// sure.
const OF_CHIPS: [&str; 3] = [
    "device/compute/results_are_not_the_hosts",
    "device/time/a_short_sync_ends_in_time",
    "device/time/a_short_wait_for_an_event_ends_in_time",
];

/// Runs where there is memory to spare.
const FAR_OFFSETS: &str = "device/memory/offsets_may_be_large";

#[test]
fn the_contract_holds() {
    for ordinal in 0..rig::devices() {
        let mut subject = Subject::open(move || OpenClBackend.open(ordinal)).unwrap();
        subject.timeout = Duration::from_secs(60);
        let (mut unsupported, mut failures) = (Vec::new(), Vec::new());
        for clause in Clause::all() {
            let start = std::time::Instant::now();
            match clause.outcome(&subject) {
                Outcome::Passed => {}
                Outcome::Unsupported(why) => {
                    println!("{}: {why}", clause.id);
                    unsupported.push(clause.id);
                }
                Outcome::Failed(failure) => {
                    failures.push(format!("{}: {}: {}", clause.id, failure.check, failure.why));
                }
            }
            println!("{:6} ms {}", start.elapsed().as_millis(), clause.id);
        }
        assert!(failures.is_empty(), "opencl:{ordinal}: {} clauses fail:\n{}", failures.len(), failures.join("\n"));
        unsupported.retain(|id| !NOTHING_FAILS.contains(id) && !OF_CHIPS.contains(id) && *id != FAR_OFFSETS);
        unsupported.sort_unstable();
        assert_eq!(unsupported, GAPS);
    }
}
