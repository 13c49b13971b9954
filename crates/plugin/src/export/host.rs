//! What the host offers a plugin.

use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, PoisonError, RwLock};

use crate::abi;

/// How grave a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something may be amiss.
    Warn,
    /// For whoever runs the program.
    Info,
    /// For whoever works on the backend.
    Debug,
}

/// The host of a backend: its options and its log. May be kept and used from any thread; once the backend is shut down
/// there are no options, and messages go nowhere.
#[derive(Clone, Default)]
pub struct Host {
    services: Arc<RwLock<Option<Services>>>,
}

/// The functions of a host struct.
struct Services {
    ctx: *mut c_void,
    log: Option<unsafe extern "C" fn(*mut c_void, u32, *const std::ffi::c_char, u64)>,
    get_option: Option<unsafe extern "C" fn(*mut c_void, *const std::ffi::c_char) -> *const std::ffi::c_char>,
}

// SAFETY: the header lets any thread call `log`, and `get_option` is called under the exclusive lock.
unsafe impl Send for Services {}
// SAFETY: as above.
unsafe impl Sync for Services {}

impl Host {
    /// A host with no options and no log, to open a backend from Rust.
    pub fn detached() -> Self {
        Host::default()
    }

    /// The host behind a struct of the boundary.
    ///
    /// # Safety
    /// Its functions may be called until [`Host::revoke`] returns.
    pub(super) unsafe fn new(host: &abi::Host) -> Self {
        let services = Services { ctx: host.ctx, log: host.log, get_option: host.get_option };
        Host { services: Arc::new(RwLock::new(Some(services))) }
    }

    /// What the user gave as `key=value`.
    pub fn option(&self, key: &str) -> Option<String> {
        let key = CString::new(key).ok()?;
        let services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        let services = services.as_ref()?;
        let get = services.get_option?;
        // SAFETY: the host is there while the lock is held; what it returns lives at least as long and ends in NUL.
        unsafe {
            let value = get(services.ctx, key.as_ptr());
            (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
        }
    }

    /// Tells the host something.
    pub fn log(&self, level: Level, message: &str) {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        let Some(services) = services.as_ref() else { return };
        let level = match level {
            Level::Error => abi::LOG_ERROR,
            Level::Warn => abi::LOG_WARN,
            Level::Info => abi::LOG_INFO,
            Level::Debug => abi::LOG_DEBUG,
        };
        if let (Some(log), Ok(text)) = (services.log, CString::new(message.replace('\0', " "))) {
            // SAFETY: the host is there while the lock is held; the text is borrowed for the call.
            unsafe { log(services.ctx, level, text.as_ptr(), text.as_bytes().len() as u64) }
        }
    }

    /// Ends the use of the host, once calls that are under way have returned.
    pub(super) fn revoke(&self) {
        *self.services.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::c_char;
    use std::sync::Mutex;

    use super::*;
    use crate::abi::Sized32;

    unsafe extern "C" fn log(ctx: *mut c_void, level: u32, text: *const c_char, len: u64) {
        // SAFETY: the test gives a mutex as context, and the text is as long as it says.
        let (seen, text) = unsafe {
            (&*ctx.cast::<Mutex<Vec<String>>>(), std::slice::from_raw_parts(text.cast::<u8>(), len as usize))
        };
        seen.lock().unwrap().push(format!("{level} {}", String::from_utf8_lossy(text)));
    }

    unsafe extern "C" fn get_option(_: *mut c_void, key: *const c_char) -> *const c_char {
        // SAFETY: a key ends in NUL.
        let key = unsafe { CStr::from_ptr(key) };
        if key == c"threads" { c"4".as_ptr() } else { std::ptr::null() }
    }

    #[test]
    fn a_host_is_heard_until_it_is_revoked() {
        let seen = Mutex::new(Vec::<String>::new());
        let raw = abi::Host {
            ctx: (&raw const seen).cast_mut().cast(),
            log: Some(log),
            get_option: Some(get_option),
            ..abi::Host::sized()
        };
        // SAFETY: the functions live as long as the test.
        let host = unsafe { Host::new(&raw) };
        let kept = host.clone();
        assert_eq!(kept.option("threads").as_deref(), Some("4"));
        assert_eq!(kept.option("other"), None);
        assert_eq!(kept.option("no\0key"), None);
        kept.log(Level::Warn, "a\0b");
        host.revoke();
        kept.log(Level::Error, "unheard");
        assert_eq!(kept.option("threads"), None);
        assert_eq!(*seen.lock().unwrap(), ["2 a b"]);
        assert_eq!(Host::detached().option("threads"), None);
    }
}
