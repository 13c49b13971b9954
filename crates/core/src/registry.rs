//! Which backends a program has. Built explicitly; nothing registers itself.

use std::sync::Arc;

use crate::device::{Backend, Device, DeviceInfo};
use crate::error::{Error, Result};

/// Backends, in order of preference.
#[derive(Clone, Default)]
pub struct Registry {
    backends: Vec<Arc<dyn Backend>>,
}

/// A backend and what it said when asked for its devices.
pub struct Listing {
    /// The backend's name.
    pub backend: String,
    /// Its devices, or why it has none.
    pub devices: Result<Vec<DeviceInfo>>,
}

impl Registry {
    /// A registry with no backends.
    pub fn new() -> Self {
        Registry::default()
    }

    /// Adds a backend.
    ///
    /// # Errors
    /// A backend of that name is there already.
    pub fn add(&mut self, backend: Arc<dyn Backend>) -> Result<()> {
        if self.backends.iter().any(|b| b.name() == backend.name()) {
            return Err(Error::invalid("backend", format!("'{}' is there already", backend.name()), "add each once"));
        }
        self.backends.push(backend);
        Ok(())
    }

    /// The backends' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.backends.iter().map(|b| b.name())
    }

    /// Every backend with its devices.
    pub fn list(&self) -> Vec<Listing> {
        self.backends.iter().map(|b| Listing { backend: b.name().into(), devices: b.devices() }).collect()
    }

    /// Opens `backend` or `backend:ordinal`.
    ///
    /// # Errors
    /// A name that is not there, with those that are; the backend's own error.
    pub fn open(&self, name: &str) -> Result<Arc<dyn Device>> {
        let (backend, ordinal) = match name.split_once(':') {
            Some((b, n)) => {
                (b, n.parse().map_err(|_| Error::invalid("device", format!("'{name}'"), "write it as cpu or cpu:0"))?)
            }
            None => (name, 0),
        };
        let found = self.backends.iter().find(|b| b.name() == backend).ok_or_else(|| {
            let known: Vec<_> = self.backends.iter().map(|b| b.name()).collect();
            Error::invalid("device", format!("no backend '{backend}'"), format!("use one of {}", known.join(", ")))
        })?;
        found.open(ordinal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noop::NoopBackend;

    #[test]
    fn devices_are_opened_by_name() {
        let mut r = Registry::new();
        r.add(Arc::new(NoopBackend)).unwrap();
        assert!(r.add(Arc::new(NoopBackend)).is_err());
        assert_eq!(r.open("noop:0").unwrap().info().name, "noop");
        assert!(r.open("noop:1").is_err());
        assert!(r.open("noop:x").is_err());
        let error = r.open("npu").err().unwrap().to_string();
        assert!(error.contains("use one of noop"), "{error}");
        assert_eq!(r.list().len(), 1);
    }
}
