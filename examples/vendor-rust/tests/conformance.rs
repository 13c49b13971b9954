//! The suite, on the chip: the device contract, and every case of the operators that it runs.

use std::sync::OnceLock;

use qiao_conformance::suite::Suite;
use qiao_conformance::{Profile, core};

fn suite() -> &'static Suite {
    static SUITE: OnceLock<Suite> = OnceLock::new();
    SUITE.get_or_init(|| Suite::new("acme_npu_rust::open", Profile::LlmCore, "", acme_npu_rust::open))
}

#[test]
fn the_device_contract_holds() {
    suite().contract();
}

#[test]
fn every_case_passes_that_is_not_refused() {
    for &kind in core::OpKind::ALL {
        suite().operator(kind);
    }
}
