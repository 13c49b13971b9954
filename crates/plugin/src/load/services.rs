//! What the host gives a plugin: a log and the user's options.

use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::options::{self, Log, Options};
use super::words;
use crate::abi;
use crate::export::Level;

/// No line of a plugin's log is longer; what is behind is cut.
const LINE: u64 = 16 << 10;

/// Services of the host for one backend, taken back when dropped: from then on its callbacks do nothing.
pub(super) struct Services {
    given: Arc<Given>,
    host: *const abi::Host,
}

// SAFETY: the host struct is one of [`SLOTS`], which never goes and never changes.
unsafe impl Send for Services {}
// SAFETY: as above.
unsafe impl Sync for Services {}

/// What one backend is given.
struct Given {
    plugin: String,
    log: Log,
    options: Vec<(CString, CString)>,
    taken_back: AtomicBool,
}

/// The structs that plugins are given, for as long as the process lives: a thread that a plugin has left behind finds its own
/// there. A place is given again once it was taken back, and what was given last stays until then.
static SLOTS: RwLock<Vec<Slot>> = RwLock::new(Vec::new());

struct Slot {
    host: &'static HostStruct,
    given: Arc<Given>,
}

struct HostStruct(abi::Host);

// SAFETY: its pointers are functions and a number.
unsafe impl Sync for HostStruct {}

impl Services {
    pub(super) fn new(plugin: &str, options: &Options) -> Services {
        let pair = |(k, v): (&str, &str)| Some((CString::new(k).ok()?, CString::new(v).ok()?));
        let given = Arc::new(Given {
            plugin: plugin.into(),
            log: options.sink(),
            options: options.pairs().filter_map(pair).collect(),
            taken_back: AtomicBool::new(false),
        });
        let mut slots = SLOTS.write().unwrap_or_else(PoisonError::into_inner);
        let free = slots.iter_mut().find(|slot| slot.given.taken_back.load(Ordering::Acquire));
        let host = match free {
            Some(slot) => {
                slot.given = given.clone();
                slot.host
            }
            None => {
                let host = &*Box::leak(Box::new(HostStruct(abi::Host {
                    abi_minor: abi::MINOR,
                    // No address: the place in the list, counted from 1.
                    ctx: ptr::without_provenance_mut(slots.len() + 1),
                    log: Some(log),
                    get_option: Some(get_option),
                    ..abi::Sized32::sized()
                })));
                slots.push(Slot { host, given: given.clone() });
                host
            }
        };
        Services { given, host: &host.0 }
    }

    /// The struct that the plugin is given.
    pub(super) fn host(&self) -> *const abi::Host {
        self.host
    }

    /// Writes a line of the host's own to the log.
    pub(super) fn say(&self, level: Level, text: &str) {
        self.given.say(level, text);
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.given.taken_back.store(true, Ordering::Release);
    }
}

impl Given {
    /// What the plugin with this context was given; nothing where it was taken back.
    fn of(ctx: *mut c_void) -> Option<Arc<Given>> {
        let slots = SLOTS.read().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.get(ctx.addr().checked_sub(1)?)?;
        Some(slot.given.clone()).filter(|given| !given.taken_back.load(Ordering::Acquire))
    }

    fn say(&self, level: Level, text: &str) {
        (self.log)(&self.plugin, level, text);
    }
}

unsafe extern "C" fn log(ctx: *mut c_void, level: u32, msg: *const c_char, len: u64) {
    if msg.is_null() {
        return;
    }
    // No panic crosses the boundary; a sink that panics has lost its line.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let Some(given) = Given::of(ctx) else { return };
        // SAFETY: the plugin gives `len` bytes at `msg`, borrowed for the call.
        let bytes = unsafe { std::slice::from_raw_parts(msg.cast::<u8>(), len.min(LINE) as usize) };
        given.say(options::level(level), &words::line(bytes));
    }));
}

unsafe extern "C" fn get_option(ctx: *mut c_void, key: *const c_char) -> *const c_char {
    let Some(given) = Given::of(ctx).filter(|_| !key.is_null()) else { return ptr::null() };
    // SAFETY: the plugin gives a text that ends with a NUL, borrowed for the call.
    let key = unsafe { CStr::from_ptr(key) };
    let found = given.options.iter().find(|(k, _)| k.as_c_str() == key);
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

    #[test]
    fn a_thread_that_a_plugin_left_behind_reaches_nothing() {
        let lines = Arc::new(Mutex::new(0));
        let kept = lines.clone();
        let options = Options::parse(["late=1"]).unwrap().with_log(move |_, _, _| *kept.lock().unwrap() += 1);
        let services = Services::new("acme", &options);
        let host = services.host();
        drop(services);
        // SAFETY: host structs never go; texts are valid for the calls.
        unsafe {
            let (say, ask) = ((*host).log.unwrap(), (*host).get_option.unwrap());
            say((*host).ctx, abi::LOG_WARN, c"late".as_ptr(), 4);
            assert!(ask((*host).ctx, c"late".as_ptr()).is_null());
            say(ptr::without_provenance_mut(usize::MAX), abi::LOG_WARN, c"lost".as_ptr(), 4);
        }
        assert_eq!(*lines.lock().unwrap(), 0);
    }

    #[test]
    fn places_are_given_again() {
        let hosts: std::collections::HashSet<_> =
            (0..1000).map(|_| Services::new("acme", &Options::default()).host().addr()).collect();
        assert!(hosts.len() < 100, "{} host structs for one backend at a time", hosts.len());
    }
}
