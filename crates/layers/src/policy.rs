//! Where nodes may run that the device does not, and where tensors live.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use qiao_core::{Binding, Buffer, Device};

/// On which side a bound tensor lives: the caller binds a buffer of that side's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Home {
    /// In memory of the device.
    Device,
    /// In memory of the host that nodes fall back to.
    Host,
}

/// Where nodes may run that neither the device nor its decompositions cover.
#[derive(Clone, Debug, Default)]
pub enum Policy {
    /// Nowhere: every node runs on the device or lowering fails.
    #[default]
    DeviceOnly,
    /// On a host: refused nodes run there, and the account says which, why, how many bytes they moved and how long they took.
    Fallback(Fallback),
}

impl Policy {
    /// The host, where there is one.
    pub fn host(&self) -> Option<&Arc<dyn Device>> {
        match self {
            Policy::DeviceOnly => None,
            Policy::Fallback(fallback) => Some(fallback.host()),
        }
    }
}

/// A host to fall back to. Clones are the same host and share what it keeps: constants that live on the device and that
/// host nodes read are downloaded once for all plans.
#[derive(Clone)]
pub struct Fallback {
    host: Arc<dyn Device>,
    kept: Arc<Mutex<HashMap<Key, Kept>>>,
}

/// A range of a device's buffer, and the private layout of the host in which it is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    buffer: usize,
    offset: usize,
    layout: u64,
}

struct Kept {
    /// As long as this is held the address is that buffer's alone.
    of: Weak<dyn Buffer>,
    host: Binding,
}

impl Fallback {
    /// A host of this device, which must be able to allocate, copy and run what is refused elsewhere.
    pub fn new(host: Arc<dyn Device>) -> Fallback {
        Fallback { host, kept: Arc::default() }
    }

    /// The host.
    pub fn host(&self) -> &Arc<dyn Device> {
        &self.host
    }

    /// Gives the host's own copy of a constant that lives on the device, in no private layout. Needed only for those that are
    /// packed on the device ([`crate::Lowered::unpacked`]); others are downloaded when first read.
    pub fn keep(&self, constant: &Binding, copy: Binding) {
        self.insert(constant, 0, copy);
    }

    /// Whether the host has a copy of a constant in no private layout.
    pub fn has(&self, constant: &Binding) -> bool {
        self.find(constant, 0, 0).is_some()
    }

    /// Bytes of constants that the host keeps copies of.
    pub fn kept_bytes(&self) -> u64 {
        let alive = |kept: &&Kept| kept.of.strong_count() > 0;
        self.lock().values().filter(alive).map(|kept| kept.host.bytes as u64).sum()
    }

    /// The host's copy of a constant, in a private layout of the host or in none, of at least so many bytes.
    pub(crate) fn find(&self, constant: &Binding, layout: u64, bytes: usize) -> Option<Binding> {
        self.lock().get(&key(constant, layout)).map(|kept| kept.host.clone()).filter(|copy| copy.bytes >= bytes)
    }

    pub(crate) fn insert(&self, constant: &Binding, layout: u64, copy: Binding) {
        let mut kept = self.lock();
        kept.retain(|_, kept| kept.of.strong_count() > 0);
        kept.insert(key(constant, layout), Kept { of: Arc::downgrade(&constant.buffer), host: copy });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(constant: &Binding, layout: u64) -> Key {
    let buffer = Arc::as_ptr(&constant.buffer).cast::<()>() as usize;
    Key { buffer, offset: constant.offset, layout }
}

impl fmt::Debug for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fallback({})", self.host.info().name)
    }
}

#[cfg(test)]
mod tests {
    use qiao_core::noop::NoopDevice;

    use super::*;

    #[test]
    fn what_is_kept_goes_with_the_buffer_that_it_is_a_copy_of() {
        let device: Arc<dyn Device> = Arc::new(NoopDevice::default());
        let fallback = Fallback::new(device.clone());
        let constant = Binding::whole(device.alloc(0, 8).unwrap());
        let copy = Binding::whole(device.alloc(0, 8).unwrap());
        fallback.keep(&constant, copy.clone());
        assert!(Arc::ptr_eq(&fallback.clone().find(&constant, 0, 8).unwrap().buffer, &copy.buffer));
        assert!(fallback.find(&constant, 1, 8).is_none() && fallback.find(&constant, 0, 9).is_none());
        assert!(fallback.find(&Binding::part(&constant.buffer, 4, 4), 0, 4).is_none());
        assert_eq!(fallback.kept_bytes(), 8);
        drop(constant);
        assert_eq!(fallback.kept_bytes(), 0);
        fallback.keep(&copy, copy.clone());
        assert_eq!(fallback.lock().len(), 1);
    }
}
