//! Devices as both kinds that kernels know, whatever they are: the first as a processor, the second as a chip that runs the items
//! of a group side by side. Trials must be within their limits on both.

#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::{Arc, OnceLock};

use qiao_core::{Backend, Device, Result};
use qiao_opencl::OpenClBackend;
use qiao_reference::Trial;

use crate::rig::{self, failures, hold};

/// The kinds, as `QIAO_OPENCL_TUNING` names them.
const KINDS: [&str; 2] = ["processor=1,rows=1", "processor=0,rows=64"];

/// Devices, each opened as another kind; of a machine with one device the first kind alone, which is told, and none where the machine
/// has no OpenCL.
pub(crate) fn kinds() -> &'static [(&'static str, Arc<dyn Device>)] {
    static OPENED: OnceLock<Vec<(&'static str, Arc<dyn Device>)>> = OnceLock::new();
    OPENED.get_or_init(|| {
        let there = rig::devices();
        if there == 1 {
            println!("skipped: {}: there is one device, and it is opened as {}", KINDS[1], KINDS[0]);
        }
        let opened = |(ordinal, &kind): (usize, &&'static str)| (kind, open(ordinal, kind).expect("the device opens"));
        KINDS.iter().enumerate().take(there).map(opened).collect()
    })
}

/// A device keeps the tuning that it was first opened with.
fn open(ordinal: usize, kind: &str) -> Result<Arc<dyn Device>> {
    // SAFETY: done while `kinds` holds every other test of this process back, and before a device of theirs is opened.
    unsafe { std::env::set_var("QIAO_OPENCL_TUNING", kind) };
    OpenClBackend.open(ordinal)
}

/// Every trial runs natively by a kernel whose name starts so, and is within its limits, on both kinds.
#[track_caller]
pub(crate) fn check(kernel: &str, trials: &[Trial]) {
    let of = |(kind, device): &(&str, Arc<dyn Device>)| {
        let wrong = failures(&**device, trials, |name| name.starts_with(kernel));
        wrong.into_iter().map(move |why| format!("{kind} {why}")).collect::<Vec<_>>()
    };
    hold(&kinds().iter().flat_map(of).collect::<Vec<_>>());
}
