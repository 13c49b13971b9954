//! A plugin that is loaded when it is first asked for something.

use std::sync::{Arc, Mutex, PoisonError};

use qiao_core::{Backend, Device, DeviceInfo, Error, Result};

use super::backend::{Plugin, PluginBackend};
use super::manifest::Manifest;
use super::options::Options;

/// The backend that a manifest names.
pub struct LazyBackend {
    manifest: Manifest,
    options: Options,
    loaded: Mutex<Option<Arc<PluginBackend>>>,
}

impl LazyBackend {
    /// A backend whose file is not touched yet.
    ///
    /// # Errors
    /// An option of the manifest that can't be one.
    pub fn new(manifest: Manifest, options: &Options) -> Result<LazyBackend> {
        let options = manifest.options(options)?;
        Ok(LazyBackend { manifest, options, loaded: Mutex::default() })
    }

    /// The plugin, loaded now if it was not before. What fails is tried again the next time.
    ///
    /// # Errors
    /// As [`Plugin::load`]; also a plugin that has another name than its manifest.
    pub fn plugin(&self) -> Result<Arc<PluginBackend>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plugin) = &*loaded {
            return Ok(plugin.clone());
        }
        let plugin = Plugin::load(&self.manifest.library, &self.options)?;
        if plugin.name() != self.manifest.name {
            let found = format!("its manifest calls it '{}', it calls itself '{}'", self.manifest.name, plugin.name());
            let what = format!("plugin {}", self.manifest.library.display());
            return Err(Error::invalid(what, found, "write its own name into the manifest"));
        }
        *loaded = Some(plugin.clone());
        Ok(plugin)
    }
}

impl Backend for LazyBackend {
    fn name(&self) -> &str {
        &self.manifest.name
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        self.plugin()?.devices()
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        self.plugin()?.open(ordinal)
    }
}
