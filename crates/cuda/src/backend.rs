//! A vendor's cards as a backend.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use qiao_core::{Backend, Device, DeviceInfo, Error, Result};

use crate::context::Context;
use crate::device::{CudaDevice, count, describe, open_context};
use crate::vendors::Row;

/// The cards of a vendor whose driver is shaped like CUDA's: the backend of its row.
#[derive(Clone, Copy)]
pub struct Family(pub(crate) &'static Row);

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Family({})", self.0.name)
    }
}

/// The backend named `cuda`, [`Family::CUDA`]: NVIDIA cards of compute capability 8.0 and newer, as the driver lists them.
#[derive(Clone, Copy, Debug, Default)]
pub struct CudaBackend;

/// Contexts of cards, by the backend's name and the driver's number.
type Opened = HashMap<(&'static str, usize), Weak<Context>>;

impl Family {
    /// The context of a card, which all who opened it share.
    fn context(self, number: usize) -> Result<Arc<Context>> {
        static OPEN: Mutex<Option<Opened>> = Mutex::new(None);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.get_or_insert_default();
        if let Some(context) = open.get(&(self.0.name, number)).and_then(Weak::upgrade) {
            context.alive()?;
            return Ok(context);
        }
        let context = open_context(self.0, number)?;
        open.insert((self.0.name, number), Arc::downgrade(&context));
        Ok(context)
    }

    /// The driver's numbers of those cards that are the vendor's and that the kernels run on, at least one.
    fn usable(self) -> Result<Vec<usize>> {
        let mut refused = None;
        let mut runs =
            |&number: &usize| describe(self.0, number).map_err(|why| refused.get_or_insert(why).clone()).is_ok();
        let usable: Vec<usize> = (0..count(self.0)?).filter(&mut runs).collect();
        match refused {
            Some(why) if usable.is_empty() => Err(why),
            _ => Ok(usable),
        }
    }
}

impl Backend for Family {
    fn name(&self) -> &str {
        self.0.name
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        self.usable()?.into_iter().map(|number| describe(self.0, number)).collect()
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        let usable = self.usable()?;
        let Some(&number) = usable.get(ordinal) else {
            let name = self.0.name;
            let found = format!("{name}:{ordinal}");
            return Err(Error::invalid("device", found, format!("there are {name}:0 to {name}:{}", usable.len() - 1)));
        };
        Ok(Arc::new(CudaDevice::new(number, self.context(number)?)?))
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> &str {
        Family::CUDA.name()
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Family::CUDA.devices()
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        Family::CUDA.open(ordinal)
    }
}
