//! A correct backend passes every case: the reference, and the CPU on every tier of this machine.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use qiao_conformance::{Case, Depth, Status, Subject};
use qiao_core::Device;
use qiao_cpu::{CpuDevice, CpuOptions, Isa};
use qiao_reference::ReferenceDevice;

const SEED: u64 = 1;

/// The reference and every tier of the CPU; they share the truth of the case that is under way.
fn subjects() -> Vec<Subject> {
    let reference = Subject::open(|| Ok(Arc::new(ReferenceDevice::default()) as Arc<dyn Device>)).unwrap();
    let tiers = Isa::ALL.into_iter().filter_map(|isa| {
        let options = CpuOptions { isa: Some(isa), threads: Some(2), ..Default::default() };
        reference.beside(move || Ok(Arc::new(CpuDevice::with(&options)?) as Arc<dyn Device>)).ok()
    });
    std::iter::once(reference.clone()).chain(tiers).collect()
}

#[test]
fn reference_and_every_tier_of_the_cpu_pass() {
    // The contract without operators is held to in a test of its own.
    let operators = |case: &Case| matches!(case, Case::Op { .. });
    let cases: Vec<Case> = Case::all(Depth::Standard).into_iter().filter(operators).collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let walk = || {
        let subjects = subjects();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            for subject in &subjects {
                let record = case.run(subject, SEED);
                if record.status != Status::Passed {
                    let arch = &subject.device.info().arch;
                    failures.lock().expect("nothing panics here").push(format!("{arch}: {record:?}"));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(walk);
        walk();
    });
    let failures = failures.into_inner().expect("nothing panics here");
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures[..failures.len().min(12)].join("\n"));
}
