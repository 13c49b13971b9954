//! The CPU as a backend.

use std::sync::Arc;

use qiao_core::{Backend, Device, DeviceInfo, Error, Result};

use crate::device::{CpuDevice, CpuOptions};

/// The backend named `cpu`, with one device: the processor of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuBackend;

impl Backend for CpuBackend {
    fn name(&self) -> &str {
        "cpu"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        CpuOptions::from_env().and_then(|o| CpuDevice::describe(&o)).map(|info| vec![info])
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        if ordinal != 0 {
            return Err(Error::invalid("device", format!("cpu:{ordinal}"), "there is cpu:0 only"));
        }
        Ok(Arc::new(CpuDevice::with(&CpuOptions::from_env()?)?))
    }
}
