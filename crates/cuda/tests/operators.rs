//! The card runs the plain cases of the operators that it has.

mod rig;

use std::collections::{BTreeMap, BTreeSet};

use qiao_conformance::{Case, Depth, Status, Subject};
use qiao_core::{Backend, OpKind};
use qiao_cuda::CudaBackend;

/// Operators of which no plain case is run.
const LACKING: &[&str] = &[
    "add_rms_norm",
    "argmax",
    "attention_decode",
    "attention_prefill",
    "kv_write",
    "layer_norm",
    "matmul",
    "matmul_quant",
    "quantize_dynamic",
    "quantize_static",
    "reduce",
    "rms_norm",
    "rope",
    "sample",
    "scaled_matmul",
    "softmax",
    "top_k",
];

#[test]
fn plain_cases_pass() {
    let card = rig::card();
    let subject = Subject::open(|| CudaBackend.open(0)).unwrap();
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
    let lacking: BTreeSet<&str> = passed.into_iter().filter(|(_, n)| *n == 0).map(|(kind, _)| kind.name()).collect();
    assert_eq!(lacking, LACKING.iter().copied().collect());
}
