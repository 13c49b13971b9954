//! Ascend as a backend.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use qiao_core::{Backend, Device, DeviceInfo, Error, Result};

use crate::context::Context;
use crate::device::{AscendDevice, count, describe};
use crate::sys::{Places, api};

/// The backend named `ascend`: Huawei's NPUs, as AscendCL lists them.
///
/// Its libraries are looked for by name where the loader looks, then in `$ASCEND_TOOLKIT_HOME/lib64`, then in
/// `/usr/local/Ascend/ascend-toolkit/latest/lib64`.
#[derive(Clone, Debug, Default)]
pub struct AscendBackend {
    places: Places,
}

impl AscendBackend {
    /// The backend over the libraries of this folder, and of no other.
    pub fn with_libraries(folder: impl Into<PathBuf>) -> AscendBackend {
        AscendBackend { places: Places { folder: Some(folder.into()) } }
    }

    /// The context of a device, which all who opened it share.
    fn context(&self, ordinal: usize) -> Result<Arc<Context>> {
        type Open = HashMap<(Places, usize), Weak<Context>>;
        static OPEN: Mutex<Option<Open>> = Mutex::new(None);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, key) = (open.get_or_insert_default(), (self.places.clone(), ordinal));
        if let Some(context) = open.get(&key).and_then(Weak::upgrade) {
            context.alive()?;
            return Ok(context);
        }
        let context = Arc::new(Context::new(api(&self.places)?, ordinal)?);
        open.insert(key, Arc::downgrade(&context));
        Ok(context)
    }
}

impl Backend for AscendBackend {
    fn name(&self) -> &str {
        "ascend"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let api = api(&self.places)?;
        // How much memory each has is known once it is opened.
        (0..count(api)?).map(|_| describe(api, (0, 0))).collect()
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        let api = api(&self.places)?;
        let devices = count(api)?;
        if ordinal >= devices {
            let found = format!("ascend:{ordinal}");
            return Err(Error::invalid("device", found, format!("there are ascend:0 to ascend:{}", devices - 1)));
        }
        describe(api, (0, 0))?;
        Ok(Arc::new(AscendDevice::new(&self.places, self.context(ordinal)?)?))
    }
}
