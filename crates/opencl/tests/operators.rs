//! A device whose groups have many work-items runs the plain cases of every operator: what processors never do, teams that meet at
//! barriers, is held to the truth here.

mod rig;

use std::collections::BTreeMap;

use qiao_conformance::{Case, Depth, Status, Subject};
use qiao_core::{Backend, OpKind};
use qiao_opencl::OpenClBackend;

#[test]
fn plain_cases_of_every_operator_pass_by_teams() {
    // SAFETY: the only test of this process, before it opens a device.
    unsafe { std::env::set_var("QIAO_OPENCL_TUNING", "processor=0,walk=64,rows=64") };
    if rig::devices() == 0 {
        return;
    }
    let subject = Subject::open(|| OpenClBackend.open(0)).unwrap();
    let mut passed: BTreeMap<OpKind, usize> = OpKind::ALL.iter().map(|&kind| (kind, 0)).collect();
    let mut failures = Vec::new();
    for case in Case::all(Depth::Smoke) {
        let Case::Op { family, .. } = &case else { continue };
        let record = case.run(&subject, 1);
        match record.status {
            Status::Passed => *passed.entry(family.op).or_default() += 1,
            Status::Unsupported => {}
            _ => failures.push(format!("{}: {:?}", record.id, record.failure.map(|f| f.why))),
        }
    }
    let shown = failures[..failures.len().min(12)].join("\n");
    assert!(failures.is_empty(), "{} cases failed:\n{shown}", failures.len());
    let lacking: Vec<&str> = passed.into_iter().filter(|(_, n)| *n == 0).map(|(kind, _)| kind.name()).collect();
    assert!(lacking.is_empty(), "no case of these is run: {lacking:?}");
}
