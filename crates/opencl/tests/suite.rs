//! The whole suite at the profile that serving needs, on the first device.

mod rig;

use std::sync::Arc;

use qiao_core::{Backend, Device, Result};
use qiao_opencl::OpenClBackend;

fn first_device() -> Result<Arc<dyn Device>> {
    rig::devices();
    OpenClBackend.open(0)
}

qiao_conformance::suite!(first_device, profile = LlmServing);
