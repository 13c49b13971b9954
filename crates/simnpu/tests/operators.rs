//! Every preset runs the plain cases of the operators it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use qiao_conformance::{Case, Depth, Status, Subject};
use qiao_core::{Backend, OpKind};
use qiao_simnpu::{Settings, SimBackend};

/// Cases that a chip fails by right: one that flushes takes the smallest numbers for zeros, and zero times infinity is none.
fn by_right(id: &str, flushes: bool) -> bool {
    flushes && (id.starts_with("op/mul/") || id.starts_with("op/div/")) && id.contains("fill=notable")
}

/// Runs the plain cases of every operator; gives the operators of which none passed.
fn lacks(options: &str) -> BTreeSet<&'static str> {
    let settings = Settings::from_words(options.split(' ').chain(["sim.jitter_us=0"])).unwrap();
    let backend = Arc::new(SimBackend::new(settings));
    let subject = Subject::open(move || backend.open(0)).unwrap();
    let mut passed: BTreeMap<OpKind, usize> = OpKind::ALL.iter().map(|&k| (k, 0)).collect();
    let mut failures = Vec::new();
    for case in Case::all(Depth::Smoke) {
        let Case::Op { family, .. } = &case else { continue };
        let record = case.run(&subject, 1);
        match record.status {
            Status::Passed => *passed.entry(family.op).or_default() += 1,
            Status::Unsupported => {}
            _ if by_right(&record.id, subject.device.info().caps.flush_subnormals) => {}
            _ => failures.push(format!("{}: {:?}", record.id, record.failure.map(|f| f.why))),
        }
    }
    let shown = failures[..failures.len().min(12)].join("\n");
    assert!(failures.is_empty(), "{options}: {} cases failed:\n{shown}", failures.len());
    passed.into_iter().filter(|(_, n)| *n == 0).map(|(kind, _)| kind.name()).collect()
}

/// The preset runs every operator in some dtype, but for these.
fn runs_all_but(preset: &str, gaps: &[&'static str]) {
    assert_eq!(lacks(&format!("sim.preset={preset}")), gaps.iter().copied().collect(), "{preset}");
}

#[test]
fn plain_runs_every_operator() {
    runs_all_but("plain", &[]);
}

#[test]
fn ascend_like_runs_every_operator() {
    runs_all_but("ascend-like", &[]);
}

#[test]
fn ascend_310p_like_runs_every_operator() {
    runs_all_but("ascend-310p-like", &[]);
}

#[test]
fn cambricon_like_runs_every_operator() {
    runs_all_but("cambricon-like", &[]);
}

#[test]
fn kunlun_like_runs_every_operator() {
    runs_all_but("kunlun-like", &[]);
}

#[test]
fn musa_like_runs_every_operator() {
    runs_all_but("musa-like", &[]);
}

#[test]
fn edge_unified_runs_every_operator() {
    runs_all_but("edge-unified", &[]);
}

#[test]
fn aot_like_runs_every_operator() {
    runs_all_but("aot-like sim.plan_ms=0", &[]);
}

#[test]
fn a_narrow_accumulator_is_caught_by_the_suite() {
    let settings = Settings::from_words(["sim.accumulate=f16"]).unwrap();
    let backend = Arc::new(SimBackend::new(settings));
    let subject = Subject::open(move || backend.open(0)).unwrap();
    let products = |case: &Case| matches!(case, Case::Op { family, .. } if family.op == OpKind::Matmul);
    let failed = |case: Case| case.run(&subject, 1).status == Status::Failed;
    assert!(Case::all(Depth::Smoke).into_iter().filter(products).any(failed));
}
