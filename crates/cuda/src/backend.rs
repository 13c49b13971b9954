//! CUDA as a backend.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use qiao_core::{Backend, Device, DeviceInfo, Error, Result};

use crate::context::Context;
use crate::device::{CudaDevice, count, describe, open_context};

/// The backend named `cuda`: NVIDIA cards of compute capability 8.0 and newer, as the driver lists them.
#[derive(Clone, Copy, Debug, Default)]
pub struct CudaBackend;

/// The context of a card, which all who opened it share.
fn context(ordinal: usize) -> Result<Arc<Context>> {
    static OPEN: Mutex<Option<HashMap<usize, Weak<Context>>>> = Mutex::new(None);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    if let Some(context) = open.get(&ordinal).and_then(Weak::upgrade) {
        context.alive()?;
        return Ok(context);
    }
    let context = open_context(ordinal)?;
    open.insert(ordinal, Arc::downgrade(&context));
    Ok(context)
}

impl Backend for CudaBackend {
    fn name(&self) -> &str {
        "cuda"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        usable()?.into_iter().map(describe).collect()
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        let usable = usable()?;
        let Some(&number) = usable.get(ordinal) else {
            let found = format!("cuda:{ordinal}");
            return Err(Error::invalid("device", found, format!("there are cuda:0 to cuda:{}", usable.len() - 1)));
        };
        Ok(Arc::new(CudaDevice::new(number, context(number)?)?))
    }
}

/// The driver's numbers of those cards that the kernels run on, at least one.
fn usable() -> Result<Vec<usize>> {
    let mut refused = None;
    let runs = |&number: &usize| describe(number).map_err(|why| refused.get_or_insert(why).clone()).is_ok();
    let usable: Vec<usize> = (0..count()?).filter(runs).collect();
    match refused {
        Some(why) if usable.is_empty() => Err(why),
        _ => Ok(usable),
    }
}
