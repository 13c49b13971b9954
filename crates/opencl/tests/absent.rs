//! A machine without a driver: asked in a process of its own, whose loader finds none.

use std::process::Command;

use qiao_core::{Backend, Error};
use qiao_opencl::OpenClBackend;

/// Says that this process is the one that asks.
const ALONE: &str = "QIAO_OPENCL_ALONE";

#[test]
fn without_a_driver_the_backend_is_not_present() {
    if std::env::var_os(ALONE).is_some() {
        match OpenClBackend.devices() {
            Err(Error::NotPresent { what, why }) => assert!(what == "opencl" && !why.is_empty(), "{what}: {why}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(OpenClBackend.open(0), Err(Error::NotPresent { .. })));
        return;
    }
    let (own, nowhere) = (std::env::current_exe().unwrap(), "/nonexistent/opencl");
    let mut child = Command::new(&own);
    child.args(["--exact", "without_a_driver_the_backend_is_not_present", "--nocapture"]).env(ALONE, "1");
    // The two loaders that are common read one of these.
    child.env("OCL_ICD_VENDORS", nowhere).env("OCL_ICD_FILENAMES", nowhere);
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_device_that_is_not_listed_can_not_be_opened() {
    let Ok(devices) = OpenClBackend.devices() else { return };
    match OpenClBackend.open(devices.len()) {
        Err(Error::Invalid { mend, .. }) => assert!(mend.contains("opencl:0"), "{mend}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn whoever_asks_first_or_meanwhile_gets_the_same_answer() {
    let said = std::thread::scope(|scope| {
        let ask = || OpenClBackend.devices().map(|found| found.len()).map_err(|why| why.to_string());
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(said.iter().all(|answer| *answer == said[0]), "{said:?}");
}
