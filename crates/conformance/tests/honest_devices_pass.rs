//! A correct backend passes every case: the reference, and the CPU on every tier of this machine.

use std::sync::Arc;

use qiao_conformance::{Case, Depth, Status, Subject};
use qiao_core::Device;
use qiao_cpu::{CpuDevice, CpuOptions, Isa};
use qiao_reference::ReferenceDevice;

const SEED: u64 = 1;

#[test]
fn reference_and_every_tier_of_the_cpu_pass() {
    let reference = Subject::open(|| Ok(Arc::new(ReferenceDevice::default()) as Arc<dyn Device>)).unwrap();
    let tiers = Isa::ALL.into_iter().filter_map(|isa| {
        let options = CpuOptions { isa: Some(isa), threads: Some(2) };
        reference.beside(move || Ok(Arc::new(CpuDevice::with(&options)?) as Arc<dyn Device>)).ok()
    });
    let subjects: Vec<Subject> = std::iter::once(reference.clone()).chain(tiers).collect();
    let mut failures = Vec::new();
    for case in Case::all(Depth::Standard) {
        for subject in &subjects {
            let record = case.run(subject, SEED);
            if record.status != Status::Passed {
                failures.push(format!("{}: {record:?}", subject.device.info().arch));
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures[..failures.len().min(12)].join("\n"));
}
