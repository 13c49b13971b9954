//! A correct backend passes every case: the reference, and the CPU on every tier of this machine.

use std::sync::Arc;

use qiao_conformance::{Case, Depth, Record, Status, Subject};
use qiao_core::Device;
use qiao_cpu::{CpuDevice, CpuOptions, Isa};
use qiao_reference::ReferenceDevice;

const SEED: u64 = 1;

/// What the CPU says that it does not run, and no profile asks for: how ids begin, what they hold, and its reason.
const DECLINED: &[(&str, &str, &str)] = &[
    // The last group of a row, or the last row of a block of scales, is not whole.
    ("op/matmul_quant.grouped/", "k=70,", "no kernel"),
    ("op/matmul_quant.grouped/", "k=100,", "no kernel"),
    ("op/matmul_quant.grouped/", "n=100,", "no kernel"),
    ("op/matmul_quant.grouped/", "n=200,", "no kernel"),
    ("op/scaled_matmul/", "layout=strided", "contiguous within a row"),
    ("op/scaled_matmul/", "layout=transposed", "contiguous within a row"),
    ("op/scaled_matmul/", "layout=repeated", "contiguous within a row"),
];

/// The row of [`DECLINED`] that a record stands for.
fn declined(case: &Case, record: &Record) -> Option<usize> {
    let reason = record.reason.as_deref().unwrap_or_default();
    let row = |(op, part, why): &(&str, &str, &str)| {
        record.id.starts_with(op) && record.id.contains(part) && reason.contains(why)
    };
    let asked_for = record.status != Status::Unsupported || case.depth() == Depth::Smoke;
    if asked_for { None } else { DECLINED.iter().position(row) }
}

#[test]
fn reference_and_every_tier_of_the_cpu_pass() {
    let reference = Subject::open(|| Ok(Arc::new(ReferenceDevice::default()) as Arc<dyn Device>)).unwrap();
    let tiers = Isa::ALL.into_iter().filter_map(|isa| {
        let options = CpuOptions { isa: Some(isa), threads: Some(2) };
        reference.beside(move || Ok(Arc::new(CpuDevice::with(&options)?) as Arc<dyn Device>)).ok()
    });
    let subjects: Vec<Subject> = std::iter::once(reference.clone()).chain(tiers).collect();
    let mut failures = Vec::new();
    let mut used = [false; DECLINED.len()];
    // The contract without operators is held to in a test of its own.
    let operators = |case: &Case| matches!(case, Case::Op { .. });
    for case in Case::all(Depth::Standard).into_iter().filter(operators) {
        for (i, subject) in subjects.iter().enumerate() {
            let record = case.run(subject, SEED);
            let row = if i == 0 { None } else { declined(&case, &record) };
            if let Some(row) = row {
                used[row] = true;
            } else if record.status != Status::Passed {
                failures.push(format!("{}: {record:?}", subject.device.info().arch));
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures[..failures.len().min(12)].join("\n"));
    let stale: Vec<_> = DECLINED.iter().zip(used).filter(|(_, used)| !used).collect();
    assert!(stale.is_empty(), "the CPU runs what is said to be declined: {stale:?}");
}
