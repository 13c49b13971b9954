//! What tests on OpenCL devices share: the devices, makers of operands, and trials that must be within their limits.

#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

use std::path::Path;
use std::sync::{Arc, OnceLock};

pub(crate) use qiao_conformance::trials::run::Run;
pub(crate) use qiao_conformance::trials::*;
use qiao_core::*;
use qiao_opencl::OpenClBackend;
use qiao_reference::Trial;

/// The devices of this machine, after two of PoCL's were asked for; none where the machine has no OpenCL, which is told.
/// Programs are kept in a folder of this test's, which is empty at its start.
///
/// # Panics
/// There is none, and `QIAO_REQUIRE_OPENCL=1`.
pub(crate) fn devices() -> usize {
    static FOUND: OnceLock<usize> = OnceLock::new();
    let open = || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(concat!("opencl-", env!("CARGO_CRATE_NAME")));
        std::fs::remove_dir_all(&folder).ok();
        // SAFETY: done once, before the first device is opened; nothing else of this process reads the environment yet.
        unsafe {
            if std::env::var_os("POCL_DEVICES").is_none() {
                std::env::set_var("POCL_DEVICES", "pthread pthread");
            }
            // Binaries would be for later processes, and PoCL compiles a kernel once more for them.
            if std::env::var_os("QIAO_OPENCL_BINARIES").is_none() {
                std::env::set_var("QIAO_OPENCL_BINARIES", "0");
            }
            if std::env::var_os("QIAO_CACHE_DIR").is_none() {
                std::env::set_var("QIAO_CACHE_DIR", folder);
            }
        }
        match OpenClBackend.devices() {
            Ok(found) => found.len(),
            Err(why) if std::env::var("QIAO_REQUIRE_OPENCL").is_ok_and(|v| v == "1") => panic!("{why}"),
            Err(why) => {
                println!("skipped: OpenCL: {why}");
                0
            }
        }
    };
    *FOUND.get_or_init(open)
}

/// The first device, opened, where there is one.
pub(crate) fn device() -> Option<Arc<dyn Device>> {
    (devices() > 0).then(|| OpenClBackend.open(0).expect("the device opens"))
}

/// Every trial is within its limits on the first device.
#[track_caller]
pub(crate) fn check_all(trials: &[Trial]) {
    let Some(device) = device() else { return };
    hold(&failures(&*device, trials, |_| true));
}
