//! Chips that come as a shared library of their vendor.
//!
//! [`load`] opens one by its path; from then on [`registry`](crate::registry) lists it. Those that `QIAO_PLUGIN` or a manifest
//! names are listed without being asked for; a manifest's is opened when one of its devices is.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use qiao_core::{Backend, Device, DeviceInfo, Error, Result};
pub use qiao_plugin::load::{Finding, Found, discover, probe};
pub use qiao_plugin::{Options, Plugin, PluginBackend};

/// Plugins that were loaded by path; never unloaded.
static LOADED: Mutex<Vec<Arc<PluginBackend>>> = Mutex::new(Vec::new());

/// How plugins that the machine names are opened.
static CONFIGURED: OnceLock<Options> = OnceLock::new();

/// Says how plugins that `QIAO_PLUGIN` or a manifest names are opened. Counts when it is said before
/// [`registry`](crate::registry) is first called, once.
pub fn configure(options: Options) {
    CONFIGURED.set(options).ok();
}

/// Loads a plugin and adds it to what [`registry`](crate::registry) lists.
///
/// A library runs code when it is opened: one that is not trusted not to crash is tried with [`probe::in_child`] first, for
/// which [`Options::with_before`] is the place.
///
/// # Errors
/// A file that is not there or is no plugin; versions that do not meet; a table that lacks a required function; a driver that
/// is not present; a backend of that name that is there already.
pub fn load(path: impl AsRef<Path>, options: &Options) -> Result<Arc<PluginBackend>> {
    let backend = Plugin::load(path.as_ref(), options)?;
    let what = || format!("plugin {}", path.as_ref().display());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if crate::devices::built_in().iter().any(|own| own.name() == backend.name())
        || loaded.iter().any(|b| b.name() == backend.name())
    {
        let found = format!("a backend '{}' is there already", backend.name());
        return Err(Error::invalid(what(), found, "load each once, and give each backend a name of its own"));
    }
    loaded.push(backend.clone());
    Ok(backend)
}

/// Every plugin that was loaded or that the machine names.
pub(crate) fn all() -> Vec<Arc<dyn Backend>> {
    static FOUND: OnceLock<Vec<Arc<dyn Backend>>> = OnceLock::new();
    let options = || CONFIGURED.get().cloned().unwrap_or_default();
    let found = FOUND.get_or_init(|| discover().iter().map(|found| backend(found, &options())).collect());
    let loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    loaded.iter().map(|b| b.clone() as Arc<dyn Backend>).chain(found.iter().cloned()).collect()
}

/// What was found as a backend; one that can't be opened says so when it is asked.
fn backend(found: &Found, options: &Options) -> Arc<dyn Backend> {
    found.backend(options).unwrap_or_else(|error| {
        let name = found.place.file_stem().and_then(OsStr::to_str).unwrap_or("plugin");
        Arc::new(Absent { name: name.into(), error })
    })
}

/// A plugin that was named and can't be opened.
struct Absent {
    name: String,
    error: Error,
}

impl Backend for Absent {
    fn name(&self) -> &str {
        &self.name
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Err(self.error.clone())
    }

    fn open(&self, _: usize) -> Result<Arc<dyn Device>> {
        Err(self.error.clone())
    }
}
