//! A backend with memory and streams and no operator passes the smallest profile, which says so. Alone in its process, since
//! the contract's clauses on leaks measure it.

use std::sync::Arc;

use qiao_conformance::report::{Report, words};
use qiao_conformance::{Executor, Profile, Selection, Subject, run};
use qiao_core::Device;
use qiao_core::noop::NoopDevice;

#[test]
fn the_device_contract_is_all_that_it_passes() {
    let subject = Subject::open(|| Ok(Arc::new(NoopDevice::default()) as Arc<dyn Device>)).unwrap();
    let mut here = Executor::Here("new".into(), Box::new(subject));
    let found = run(&Selection::new(Profile::Device), &mut here, |_| true).unwrap();
    assert!(found.passes() && found.demands_nothing(), "{:?}", found.faults);
    assert!(found.counts.unsupported > found.counts.passed);
    let said = words::outcome_line(&Report::of_run(found));
    assert!(said.en.ends_with("The device contract only; no operator was demanded."), "{}", said.en);
}
