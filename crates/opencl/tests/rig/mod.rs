//! What tests on OpenCL devices share: the devices, makers of operands, and trials that must be within their limits.

#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

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

/// A plan with buffers of its own on one stream.
pub(crate) struct Run {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) bindings: Vec<Binding>,
    pub(crate) workspace: Binding,
}

impl Run {
    /// Uploads what every bound tensor holds.
    pub(crate) fn new(device: &dyn Device, plan: &dyn Plan, bytes: &[Vec<u8>]) -> Result<Run> {
        let mut stream = device.stream()?;
        let bindings =
            bytes.iter().map(|b| device.alloc(0, b.len()).map(Binding::whole)).collect::<Result<Vec<_>>>()?;
        for (binding, bytes) in bindings.iter().zip(bytes) {
            stream.upload(binding, bytes)?;
        }
        let workspace = Binding::whole(device.alloc(0, plan.info().workspace_bytes)?);
        Ok(Run { stream, bindings, workspace })
    }

    pub(crate) fn execute(&mut self, plan: &dyn Plan) -> Result<()> {
        plan.execute(&mut *self.stream, &self.bindings, &self.workspace)
    }

    /// What a bound tensor holds.
    pub(crate) fn read(&mut self, position: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; self.bindings[position].bytes];
        self.stream.download(&mut out, &self.bindings[position])?;
        self.stream.sync(Duration::from_secs(60))?;
        Ok(out)
    }
}
