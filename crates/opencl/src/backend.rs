//! OpenCL as a backend.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use qiao_core::{Backend, Device, DeviceInfo, Error, Result};

use crate::context::Context;
use crate::device::{OpenClDevice, describe, open_context, usable};
use crate::sys::{Found, devices};

/// The backend named `opencl`: every device of every platform that the loader knows, with OpenCL 1.2 or newer, in the loader's
/// order.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenClBackend;

/// The context of a device, which all who opened it share.
fn context(found: Found) -> Result<Arc<Context>> {
    static OPEN: Mutex<Option<HashMap<usize, Weak<Context>>>> = Mutex::new(None);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    let key = found.device.0 as usize;
    if let Some(context) = open.get(&key).and_then(Weak::upgrade) {
        context.alive()?;
        return Ok(context);
    }
    let context = open_context(found)?;
    open.insert(key, Arc::downgrade(&context));
    Ok(context)
}

impl Backend for OpenClBackend {
    fn name(&self) -> &str {
        "opencl"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(those_usable()?.iter().map(describe).collect())
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        let usable = those_usable()?;
        let Some(&found) = usable.get(ordinal) else {
            let found = format!("opencl:{ordinal}");
            return Err(Error::invalid("device", found, format!("there are opencl:0 to opencl:{}", usable.len() - 1)));
        };
        Ok(Arc::new(OpenClDevice::new(context(found)?)))
    }
}

/// Those devices that the kernels run on, at least one.
fn those_usable() -> Result<Vec<Found>> {
    let mut refused = None;
    let all = devices()?;
    let runs = |found: &Found| usable(found).map_err(|why| refused.get_or_insert(why).clone()).is_ok();
    let usable: Vec<Found> = all.into_iter().filter(runs).collect();
    match refused {
        Some(why) if usable.is_empty() => Err(why),
        _ => Ok(usable),
    }
}
