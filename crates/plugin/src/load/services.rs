//! What the host gives a plugin: a log and the user's options.

use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Arc, Weak};

use super::options::{self, Log, Options};
use super::words;
use crate::abi;
use crate::export::Level;

/// No line of a plugin's log is longer; what is behind is cut.
const LINE: u64 = 16 << 10;

/// Services of the host for one backend. They stay where they are for as long as the backend lives.
pub(super) struct Services {
    plugin: String,
    log: Log,
    options: Vec<(CString, CString)>,
    host: abi::Host,
}

// SAFETY: `host` points to its own `Services`, which nobody changes after it was made.
unsafe impl Send for Services {}
// SAFETY: as above.
unsafe impl Sync for Services {}

impl Services {
    pub(super) fn new(plugin: &str, options: &Options) -> Arc<Services> {
        let pair = |(k, v): (&str, &str)| Some((CString::new(k).ok()?, CString::new(v).ok()?));
        Arc::new_cyclic(|own: &Weak<Services>| Services {
            plugin: plugin.into(),
            log: options.sink(),
            options: options.pairs().filter_map(pair).collect(),
            host: abi::Host {
                abi_minor: abi::MINOR,
                ctx: own.as_ptr().cast_mut().cast(),
                log: Some(log),
                get_option: Some(get_option),
                ..abi::Sized32::sized()
            },
        })
    }

    /// The struct that the plugin is given.
    pub(super) fn host(&self) -> *const abi::Host {
        &self.host
    }

    /// Writes a line of the host's own to the log.
    pub(super) fn say(&self, level: Level, text: &str) {
        (self.log)(&self.plugin, level, text);
    }
}

unsafe extern "C" fn log(ctx: *mut c_void, level: u32, msg: *const c_char, len: u64) {
    if ctx.is_null() || msg.is_null() {
        return;
    }
    // No panic crosses the boundary; a sink that panics has lost its line.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `ctx` is what the host struct carries, the services that made it, and they outlive the backend.
        let services = unsafe { &*ctx.cast::<Services>() };
        // SAFETY: the plugin gives `len` bytes at `msg`, borrowed for the call.
        let bytes = unsafe { std::slice::from_raw_parts(msg.cast::<u8>(), len.min(LINE) as usize) };
        services.say(options::level(level), &words::line(bytes));
    }));
}

unsafe extern "C" fn get_option(ctx: *mut c_void, key: *const c_char) -> *const c_char {
    if ctx.is_null() || key.is_null() {
        return ptr::null();
    }
    // SAFETY: `ctx` is what the host struct carries, the services that made it, and they outlive the backend.
    let services = unsafe { &*ctx.cast::<Services>() };
    // SAFETY: the plugin gives a text that ends with a NUL, borrowed for the call.
    let key = unsafe { CStr::from_ptr(key) };
    let found = services.options.iter().find(|(k, _)| k.as_c_str() == key);
    found.map_or(ptr::null(), |(_, value)| value.as_ptr())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_plugin_logs_and_reads_options_through_the_struct_alone() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        let options = Options::parse(["k=v"]).unwrap();
        let options = options.with_log(move |who, level, text| {
            kept.lock().unwrap().push(format!("{who} {level:?} {text}"));
            assert!(text != "panic", "the sink panics");
        });
        let services = Services::new("acme", &options);
        // SAFETY: the struct is the services' own.
        let host = unsafe { *services.host() };
        let (say, ask) = (host.log.unwrap(), host.get_option.unwrap());
        // SAFETY: texts and context are valid for the calls.
        unsafe {
            say(host.ctx, abi::LOG_WARN, c"two\nlines".as_ptr(), 9);
            say(host.ctx, 77, c"panic".as_ptr(), 5);
            say(host.ctx, 1, ptr::null(), 5);
            say(ptr::null_mut(), 1, c"x".as_ptr(), 1);
            assert_eq!(CStr::from_ptr(ask(host.ctx, c"k".as_ptr())), c"v");
            assert!(ask(host.ctx, c"K".as_ptr()).is_null());
            assert!(ask(host.ctx, ptr::null()).is_null());
        }
        assert_eq!(*lines.lock().unwrap(), ["acme Warn two lines", "acme Debug panic"]);
    }
}
