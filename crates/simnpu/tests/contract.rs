//! Every preset holds the device contract.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use qiao_conformance::contract::Clause;
use qiao_conformance::{Outcome, Subject};
use qiao_core::Backend;
use qiao_simnpu::{Settings, SimBackend};

/// Holds a chip to every clause; gives those that it has no use for.
fn holds(options: &str) -> Vec<&'static str> {
    // One at a time: what a process holds is looked at.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let settings = Settings::from_words(options.split(' ').chain(["sim.memory=256m", "sim.max_alloc=64m"])).unwrap();
    let backend = Arc::new(SimBackend::new(settings));
    let mut subject = Subject::open(move || backend.open(0)).unwrap();
    subject.timeout = Duration::from_secs(60);
    let (mut unsupported, mut failures) = (Vec::new(), Vec::new());
    for clause in Clause::all() {
        let start = Instant::now();
        match clause.outcome(&subject) {
            Outcome::Passed => {}
            Outcome::Unsupported(_) => unsupported.push(clause.id),
            Outcome::Failed(failure) => failures.push(format!("{}: {}: {}", clause.id, failure.check, failure.why)),
        }
        println!("{options}: {:6} ms {}", start.elapsed().as_millis(), clause.id);
    }
    assert!(failures.is_empty(), "{options} breaks the contract:\n{}", failures.join("\n"));
    unsupported
}

const NO_IMPORT: [&str; 5] = [
    "device/import/what_is_imported_is_seen",
    "device/import/an_imported_buffer_is_never_written",
    "device/import/a_range_outside_the_memory_is_refused",
    "device/import/memory_lives_as_long_as_its_buffer",
    "device/bindings/an_imported_output_is_never_written",
];
const NO_TIMING: &str = "device/events/time_between_them_is_told_rightly";
const ONE_MEMORY: &str = "device/copies/a_copy_between_memories_is_exact";
const UNKNOWN_SIZE: &str = "device/memory/a_full_memory_recovers";

/// Runs where there is memory to spare.
const FAR_OFFSETS: &str = "device/memory/offsets_may_be_large";

/// Rows of an operand lie side by side there.
const WHOLE_ROWS: &str = "device/graphs/operands_are_parts_of_rows";

/// The chip holds every clause but those of the documented gaps.
fn holds_all_but(options: &str, gaps: &[&str]) {
    let mut gaps = gaps.to_vec();
    let mut found = holds(options);
    found.retain(|id| *id != FAR_OFFSETS);
    gaps.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, gaps, "{options}");
}

fn with_no_import(more: &[&'static str]) -> Vec<&'static str> {
    NO_IMPORT.iter().chain(more).copied().collect()
}

#[test]
fn plain_holds_the_contract() {
    holds_all_but("sim.preset=plain", &with_no_import(&[]));
}

#[test]
fn ascend_like_holds_the_contract() {
    holds_all_but("sim.preset=ascend-like", &with_no_import(&[NO_TIMING, ONE_MEMORY, WHOLE_ROWS]));
}

#[test]
fn ascend_310p_like_holds_the_contract() {
    let more = [NO_TIMING, ONE_MEMORY, WHOLE_ROWS, "device/bindings/a_workspace_that_does_not_fit_is_refused"];
    holds_all_but("sim.preset=ascend-310p-like", &with_no_import(&more));
}

#[test]
fn cambricon_like_holds_the_contract() {
    holds_all_but("sim.preset=cambricon-like", &with_no_import(&[NO_TIMING, ONE_MEMORY]));
}

#[test]
fn kunlun_like_holds_the_contract() {
    holds_all_but("sim.preset=kunlun-like", &with_no_import(&[NO_TIMING, UNKNOWN_SIZE]));
}

#[test]
fn musa_like_holds_the_contract() {
    holds_all_but("sim.preset=musa-like", &with_no_import(&[UNKNOWN_SIZE]));
}

#[test]
fn edge_unified_holds_the_contract() {
    holds_all_but("sim.preset=edge-unified", &[ONE_MEMORY, "device/compute/results_are_not_the_hosts"]);
}

#[test]
fn aot_like_holds_the_contract() {
    holds_all_but("sim.preset=aot-like", &with_no_import(&[]));
}

#[test]
fn a_slow_chip_with_one_engine_holds_the_contract() {
    holds_all_but("sim.engines=1 sim.seed=99 sim.jitter_us=300 sim.latency_us=20", &with_no_import(&[]));
}
