//! The device runs the plain cases of every operator that it supports, whatever suits it best.

mod rig;

use qiao_conformance::{Case, Depth, Status, Subject};
use qiao_core::Backend;
use qiao_opencl::OpenClBackend;

#[test]
fn plain_cases_of_every_operator_pass() {
    if rig::devices() == 0 {
        return;
    }
    let subject = Subject::open(|| OpenClBackend.open(0)).unwrap();
    let mut failures = Vec::new();
    for case in Case::all(Depth::Smoke) {
        let Case::Op { .. } = &case else { continue };
        let record = case.run(&subject, 1);
        match record.status {
            Status::Passed | Status::Unsupported => {}
            _ => failures.push(format!("{}: {:?}", record.id, record.failure.map(|f| f.why))),
        }
    }
    let shown = failures[..failures.len().min(12)].join("\n");
    assert!(failures.is_empty(), "{} cases failed:\n{shown}", failures.len());
}
