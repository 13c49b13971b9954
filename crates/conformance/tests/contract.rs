//! The device contract: honest devices hold every clause, and clauses can fail.

use std::sync::Arc;
use std::time::Duration;

use qiao_conformance::contract::Clause;
use qiao_conformance::{Outcome, Subject};
use qiao_core::noop::NoopDevice;
use qiao_core::{Device, Result};
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_layers::Validate;
use qiao_reference::ReferenceDevice;

/// Every clause of a device that is expected to hold them all; gives those that it has no use for.
fn holds(name: &str, open: impl Fn() -> Result<Arc<dyn Device>> + Send + Sync + 'static) -> Vec<&'static str> {
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
    Ok(Arc::new(CpuDevice::with(&CpuOptions { isa: None, threads: Some(2) })?))
}

#[test]
fn noop_holds_all_that_needs_no_operator() {
    let unsupported = holds("noop", || Ok(Arc::new(NoopDevice::default())));
    println!("{unsupported:?}");
}

#[test]
fn the_reference_holds_the_contract() {
    holds("reference", || Ok(Arc::new(ReferenceDevice::default())));
}

#[test]
fn the_cpu_holds_the_contract() {
    holds("cpu", cpu);
}

#[test]
fn a_device_behind_validation_holds_the_contract() {
    holds("validated cpu", || Ok(Validate::wrap(cpu()?)));
}
