//! The card runs the plain cases of every operator.

mod rig;

use std::collections::BTreeMap;

use qiao_conformance::{Case, Depth, Status, Subject};
use qiao_core::{Backend, OpKind};

#[test]
fn plain_cases_of_every_operator_pass() {
    let card = rig::card();
    let subject = Subject::open(|| rig::family().open(0)).unwrap();
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
    let (shown, said) = (failures[..failures.len().min(12)].join("\n"), card.fault().unwrap_or_default());
    assert!(failures.is_empty(), "{} cases failed:\n{shown}\n{said}", failures.len());
    let lacking: Vec<&str> = passed.into_iter().filter(|(_, n)| *n == 0).map(|(kind, _)| kind.name()).collect();
    assert!(lacking.is_empty(), "no case of these is run: {lacking:?}");
}
