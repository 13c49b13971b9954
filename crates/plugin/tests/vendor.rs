//! The vendor's example in C, loaded.

mod built;

use std::sync::Arc;

use qiao_conformance::contract::Clause;
use qiao_conformance::{Outcome, Subject};
use qiao_core::{Backend, Error};
use qiao_plugin::{Options, Plugin, PluginBackend};

fn acme() -> Arc<PluginBackend> {
    Plugin::load(built::acme(), &Options::default()).unwrap()
}

#[test]
fn the_example_says_what_it_is() {
    let backend = acme();
    assert_eq!((backend.name(), backend.vendor(), backend.version()), ("acme", "ACME", "1.0.0"));
    let devices = backend.devices().unwrap();
    assert_eq!((devices.len(), devices[0].name.as_str(), devices[0].vendor.as_str()), (1, "ACME NPU", "ACME"));
    assert!(matches!(backend.open(1), Err(Error::Invalid { .. })));
    assert!(backend.notes().iter().any(|n| n.starts_with("events absent")), "{:?}", backend.notes());
    assert!(backend.interface("qiao.capture/1").is_none());
    assert_eq!(backend.path(), Some(built::acme().canonicalize().unwrap().as_path()));
}

#[test]
fn the_example_keeps_the_contract_of_devices() {
    let backend = acme();
    let subject = Subject::open(move || backend.open(0)).unwrap();
    let mut broken = Vec::new();
    // The example adds up in f64, which a chip may; its results are then those of the host's reference, bit for bit.
    for clause in Clause::all().filter(|c| c.id != "device/compute/results_are_not_the_hosts") {
        if let Outcome::Failed(failure) = clause.outcome(&subject) {
            broken.push(format!("{}: {}", clause.id, failure.why));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
