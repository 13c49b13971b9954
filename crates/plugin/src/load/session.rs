//! A backend of a plugin while it is alive.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qiao_core::{Error, Result};

use super::calls::{Calls, Kind, Raw};
use super::failure::{Answer, Asked, Failure};
use super::options::Options;
use super::query;
use super::services::Services;
use super::slots::Slots;
use crate::abi;
use crate::export::Level;

/// No more notes are kept.
const NOTES: usize = 256;

/// A backend that was started. Devices hold it, so that it is shut down after all of them are closed.
pub(super) struct Session {
    pub(super) slots: Slots,
    pub(super) calls: Calls,
    pub(super) name: String,
    pub(super) vendor: String,
    pub(super) version: String,
    pub(super) minor: u32,
    pub(super) path: Option<PathBuf>,
    pub(super) timeout: Duration,
    raw: Raw<abi::Backend>,
    services: Services,
    notes: Mutex<Vec<String>>,
}

impl Session {
    /// Starts a backend.
    ///
    /// # Errors
    /// [`Error::NotPresent`] where driver or chip is not on this machine; what the plugin says else.
    pub(super) fn start(asked: query::Asked, path: Option<PathBuf>, options: &Options) -> Result<Arc<Session>> {
        let services = Services::new(&asked.name, options);
        let calls = Calls::new(&asked.name);
        let raw = calls.handle("backend_init", Kind::Backend, |out, err| {
            // SAFETY: the host struct never goes; the out-pointers are the call's.
            unsafe { (asked.slots.required.backend_init)(services.host(), out, err) }
        });
        let raw = raw.map_err(|failure| failure.error(&asked.name, Asked::default()))?;
        let session = Session {
            slots: asked.slots,
            calls,
            name: asked.name,
            vendor: asked.vendor,
            version: asked.version,
            minor: asked.minor,
            path,
            timeout: options.timeout,
            raw,
            services,
            notes: Mutex::default(),
        };
        asked.notes.into_iter().for_each(|note| session.note(Level::Info, note));
        Ok(Arc::new(session))
    }

    pub(super) fn raw(&self) -> *mut abi::Backend {
        self.raw.get()
    }

    /// Keeps something that the user should know of the plugin, and logs it, once.
    pub(super) fn note(&self, level: Level, text: String) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() < NOTES && !notes.contains(&text) {
            self.services.say(level, &text);
            notes.push(text);
        }
    }

    /// Writes a line to the log.
    pub(super) fn say(&self, level: Level, text: &str) {
        self.services.say(level, text);
    }

    pub(super) fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The error of a call that names the backend.
    pub(super) fn error(&self, failure: &Failure) -> Error {
        failure.error(&self.name, Asked::default())
    }

    /// How many devices there are.
    pub(super) fn count(&self) -> Answer<u32> {
        let count = self.calls.small("device_count", |out, err| {
            // SAFETY: the backend is alive; the out-pointers are the call's.
            unsafe { (self.slots.required.device_count)(self.raw(), out, err) }
        })?;
        if count > MOST_DEVICES {
            return Err(Failure::broke("device_count", format!("counts {count} devices, above {MOST_DEVICES}")));
        }
        Ok(count)
    }
}

/// No machine has more devices of one backend.
const MOST_DEVICES: u32 = 4096;

impl Drop for Session {
    fn drop(&mut self) {
        self.calls.gone("backend_shutdown", Kind::Backend, self.raw, |raw| {
            // SAFETY: the backend is alive, and nothing made on it is any more.
            unsafe { (self.slots.required.backend_shutdown)(raw) }
        });
    }
}
