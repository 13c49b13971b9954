//! The backend of the truth.

use std::sync::Arc;

use qiao_core::{Backend, Device, DeviceInfo, Error, Result};

use crate::device::ReferenceDevice;

/// The backend `reference`: one device, on every machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceBackend;

impl Backend for ReferenceBackend {
    fn name(&self) -> &str {
        "reference"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![ReferenceDevice::default().info().clone()])
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        match ordinal {
            0 => Ok(Arc::new(ReferenceDevice::default())),
            n => Err(Error::invalid("device", format!("reference:{n}"), "there is reference:0 only")),
        }
    }
}
