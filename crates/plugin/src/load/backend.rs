//! A plugin as a backend.

use std::ffi::{CString, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use qiao_core::{Backend, Device, DeviceInfo, Error, Result};

use super::device::PluginDevice;
use super::opened::Opened;
use super::options::Options;
use super::session::Session;
use super::{library, query};
use crate::abi::QueryFn;

/// A way to load plugins.
pub struct Plugin;

impl Plugin {
    /// Loads a plugin and starts its backend. A library stays in memory until the process ends.
    ///
    /// This runs the code of the file, its constructors included: [`super::probe`] runs it in another process first, where
    /// [`Options::before`] says so.
    ///
    /// # Errors
    /// [`Error::NotPresent`] where the driver or the chip is not on this machine. A file that is no plugin, of another
    /// machine, or of an ABI that this host does not speak, with what was found and how to mend it.
    pub fn load(path: impl AsRef<Path>, options: &Options) -> Result<Arc<PluginBackend>> {
        if let Some(before) = &options.before {
            before(path.as_ref(), options)?;
        }
        let library = library::open(path.as_ref())?;
        let place = library.path.display().to_string();
        // SAFETY: the function carries the name that the header gives it, so that it keeps what the header says.
        let mut asked = unsafe { query::ask(library.query, &place, query::sanitizer_here()) }?;
        asked.notes.extend(library.notes);
        Ok(Arc::new(PluginBackend { session: Session::start(asked, Some(library.path), options)? }))
    }

    /// A plugin that is part of this process.
    ///
    /// # Errors
    /// As [`Plugin::load`].
    ///
    /// # Safety
    /// `query` keeps the contract of the header: it answers with a table of functions that do.
    pub unsafe fn of_query(query: QueryFn, options: &Options) -> Result<Arc<PluginBackend>> {
        // SAFETY: by the contract of this function.
        let asked = unsafe { query::ask(query, "in this process", query::sanitizer_here()) }?;
        Ok(Arc::new(PluginBackend { session: Session::start(asked, None, options)? }))
    }
}

/// The backend of a plugin. It is shut down when it and everything that was opened on it is gone.
pub struct PluginBackend {
    session: Arc<Session>,
}

impl PluginBackend {
    /// Who made the plugin, for people.
    pub fn vendor(&self) -> &str {
        &self.session.vendor
    }

    /// The plugin's version.
    pub fn version(&self) -> &str {
        &self.session.version
    }

    /// The minor of the header that the plugin was built with.
    pub fn abi_minor(&self) -> u32 {
        self.session.minor
    }

    /// The file that it was loaded from.
    pub fn path(&self) -> Option<&Path> {
        self.session.path.as_deref()
    }

    /// What the user should know: which defaults stand in for what the plugin does not have, and what was odd about it.
    pub fn notes(&self) -> Vec<String> {
        self.session.notes()
    }

    /// An extra of the plugin by name, such as `qiao.capture/1`: a struct that begins with its `struct_size` and lives as
    /// long as the process.
    pub fn interface(&self, id: &str) -> Option<NonNull<c_void>> {
        let ask = self.session.slots.single.get_interface?;
        let id = CString::new(id).ok()?;
        let mut found = std::ptr::null();
        self.session.calls.done("get_interface", || {
            // SAFETY: the backend is alive; the name is borrowed for the call.
            found = unsafe { ask(self.session.raw(), id.as_ptr()) };
        });
        NonNull::new(found.cast_mut())
    }

    fn opened(&self, ordinal: usize) -> Result<Arc<Opened>> {
        let count = self.session.count().map_err(|failure| self.session.error(&failure))?;
        match u32::try_from(ordinal).ok().filter(|&n| n < count) {
            Some(n) => Opened::open(&self.session, n),
            None if count == 0 => Err(Error::not_present(self.name(), "its driver counts no device")),
            None => {
                let name = self.name();
                let mend = format!("there is {name}:0 to {name}:{}", count - 1);
                Err(Error::invalid("device", format!("{name}:{ordinal}"), mend))
            }
        }
    }
}

impl Backend for PluginBackend {
    fn name(&self) -> &str {
        &self.session.name
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let count = self.session.count().map_err(|failure| self.session.error(&failure))?;
        if count == 0 {
            return Err(Error::not_present(self.name(), "its driver counts no device"));
        }
        (0..count as usize).map(|i| Ok(self.opened(i)?.info.clone())).collect()
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        Ok(Arc::new(PluginDevice(self.opened(ordinal)?)))
    }
}
