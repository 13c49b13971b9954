//! The device contract: honest devices hold every clause, and clauses can fail.

mod toy;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qiao_conformance::contract::Clause;
use qiao_conformance::{Outcome, Subject};
use qiao_core::noop::NoopDevice;
use qiao_core::{Device, Result};
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_layers::Validate;
use qiao_reference::ReferenceDevice;
use toy::{Chip, Fault};

/// One test at a time: what a process holds is looked at.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every clause of a device that is expected to hold them all; gives those that it has no use for.
fn holds(name: &str, open: impl Fn() -> Result<Arc<dyn Device>> + Send + Sync + 'static) -> Vec<&'static str> {
    let _alone = alone();
    let mut subject = Subject::open(open).unwrap();
    subject.timeout = Duration::from_secs(60);
    let (mut unsupported, mut failures) = (Vec::new(), Vec::new());
    for clause in Clause::all() {
        let start = std::time::Instant::now();
        match clause.outcome(&subject) {
            Outcome::Passed => {}
            Outcome::Unsupported(why) => {
                assert!(!why.trim().is_empty(), "{}: without a reason", clause.id);
                println!("{name}: {} is unsupported: {why}", clause.id);
                unsupported.push(clause.id);
            }
            Outcome::Failed(failure) => failures.push(format!("{}: {}: {}", clause.id, failure.check, failure.why)),
        }
        println!("{name}: {:6} ms {}", start.elapsed().as_millis(), clause.id);
    }
    assert!(failures.is_empty(), "{name} breaks the contract:\n{}", failures.join("\n"));
    unsupported
}

fn cpu() -> Result<Arc<dyn Device>> {
    Ok(Arc::new(CpuDevice::with(&CpuOptions { isa: None, threads: Some(2), ..Default::default() })?))
}

/// What a device whose memory is the host's and whose commands have run when their calls return has no use for.
const PLAIN: &[&str] = &[
    // It declares no largest allocation.
    "device/memory/more_than_the_largest_allocation_is_refused",
    // It has one memory.
    "device/copies/a_copy_between_memories_is_exact",
    // Nothing is ever waited for.
    "device/time/a_short_sync_ends_in_time",
    "device/time/a_short_wait_for_an_event_ends_in_time",
    // Its results are the host's.
    "device/compute/results_are_not_the_hosts",
];

/// What a device has no use for beyond that which does not say how much memory it has and imports none.
const SPARSE: &[&str] = &[
    "device/memory/a_full_memory_recovers",
    "device/import/what_is_imported_is_seen",
    "device/import/an_imported_buffer_is_never_written",
    "device/import/a_range_outside_the_memory_is_refused",
    "device/import/memory_lives_as_long_as_its_buffer",
    "device/bindings/an_imported_output_is_never_written",
];

/// Clauses that need an operator, whichever.
fn needs_an_operator(id: &str) -> bool {
    let failures = [
        "the_first_failure_of_a_stream_is_kept",
        "a_failure_stays_on_its_stream",
        "by_the_events_behind_it",
        "told_when_all_is_over",
    ];
    let kinds = ["device/plans/", "device/graphs/", "device/bindings/", "device/batches/", "device/leaks/plans_"];
    kinds.iter().any(|k| id.starts_with(k)) || failures.iter().any(|f| id.ends_with(f))
}

/// Runs where there is memory to spare.
const FAR_OFFSETS: &str = "device/memory/offsets_may_be_large";

fn none_but(found: &[&str], expected: impl Fn(&str) -> bool) {
    let more: Vec<_> = found.iter().filter(|id| !expected(id) && **id != FAR_OFFSETS).collect();
    assert!(more.is_empty(), "unsupported, too: {more:?}");
}

#[test]
fn noop_holds_all_that_needs_no_operator() {
    let unsupported = holds("noop", || Ok(Arc::new(NoopDevice::default())));
    none_but(&unsupported, |id| PLAIN.contains(&id) || SPARSE.contains(&id) || needs_an_operator(id));
}

#[test]
fn the_reference_holds_the_contract() {
    let unsupported = holds("reference", || Ok(Arc::new(ReferenceDevice::default())));
    none_but(&unsupported, |id| PLAIN.contains(&id) || SPARSE.contains(&id));
}

#[test]
fn the_cpu_holds_the_contract() {
    none_but(&holds("cpu", cpu), |id| PLAIN.contains(&id));
}

#[test]
fn a_device_behind_validation_holds_the_contract() {
    none_but(&holds("validated cpu", || Ok(Validate::wrap(cpu()?))), |id| PLAIN.contains(&id));
}

#[test]
fn an_asynchronous_chip_holds_every_clause() {
    let chip = Chip::new(Fault::None);
    let unsupported = holds("toy", move || chip.open());
    // Its products are of one size, it has no norms and no other operators that graphs are made of.
    none_but(&unsupported, |id| id.starts_with("device/batches/") || id.starts_with("device/graphs/"));
}

#[test]
fn every_broken_chip_is_caught_by_the_clause_that_should_catch_it() {
    let _alone = alone();
    let escaped = toy::escaped(Duration::from_secs(4), |clause| clause.kind() != "leaks");
    assert!(escaped.is_empty(), "{}:\n{}", escaped.len(), escaped.join("\n"));
}
