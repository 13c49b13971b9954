//! Chips that come as a shared library of their vendor.
//!
//! [`load`] opens one by its path; from then on [`registry`](crate::registry) lists it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use qiao_core::{Backend, Error, Result};
pub use qiao_plugin::{Options, Plugin, PluginBackend};

/// Plugins that were loaded by path; never unloaded.
static LOADED: Mutex<Vec<Arc<PluginBackend>>> = Mutex::new(Vec::new());

/// Loads a plugin and adds it to what [`registry`](crate::registry) lists.
///
/// # Errors
/// A file that is not there or is no plugin; versions that do not meet; a table that lacks a required function; a driver that
/// is not present; a backend of that name that is there already.
pub fn load(path: impl AsRef<Path>, options: &Options) -> Result<Arc<PluginBackend>> {
    let backend = Plugin::load(path.as_ref(), options)?;
    if crate::registry().names().any(|name| name == backend.name()) {
        let found = format!("a backend '{}' is there already", backend.name());
        return Err(Error::invalid(format!("plugin {}", path.as_ref().display()), found, "load each once"));
    }
    LOADED.lock().unwrap_or_else(PoisonError::into_inner).push(backend.clone());
    Ok(backend)
}

/// Every plugin that was loaded.
pub(crate) fn all() -> Vec<Arc<dyn Backend>> {
    let loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    loaded.iter().map(|b| b.clone() as Arc<dyn Backend>).collect()
}
