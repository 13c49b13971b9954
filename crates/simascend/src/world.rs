//! Everything there is: devices, contexts, objects and knobs, behind one lock.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::codes::{CONTEXT_NULL, Code, PARAM_INVALID, SUCCESS, UNINITIALISED};
use crate::executors::Executor;
use crate::memory::Memory;
use crate::streams::{Event, Stream};
use crate::tensors::Shared;

/// What tests may set, by the names that `control` gives them.
#[derive(Clone, Debug)]
pub(crate) struct Knobs {
    pub(crate) devices: u64,
    pub(crate) memory: u64,
    pub(crate) soc: u64,
    pub(crate) stalled: u64,
    pub(crate) late: u64,
}

impl Default for Knobs {
    fn default() -> Self {
        Knobs { devices: 2, memory: 256 << 20, soc: 0, stalled: 0, late: 0 }
    }
}

/// The chips whose names a knob stands for.
pub(crate) const SOCS: &[&CStr] =
    &[c"Ascend910B3", c"Ascend910_9391", c"Ascend310P3", c"Ascend910A", c"Ascend950PR_9589", c"Ascend777"];

/// A call that is to fail.
pub(crate) struct Failing {
    pub(crate) after: u64,
    pub(crate) times: u64,
    pub(crate) code: Code,
}

/// A host array that an operator's first phase reads.
pub(crate) enum Object {
    /// A tensor.
    Tensor(Shared),
    /// Several tensors, by their handles.
    List(Vec<usize>),
    /// One value.
    Scalar(f64),
    /// Integers.
    Ints(Vec<i64>),
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) initialised: bool,
    pub(crate) knobs: Knobs,
    /// The code that calls on a device answer since it was lost.
    pub(crate) lost: HashMap<usize, Code>,
    /// Bytes allocated of each device.
    pub(crate) taken: HashMap<usize, u64>,
    /// The device of each context.
    pub(crate) contexts: HashMap<usize, usize>,
    pub(crate) memory: Memory,
    pub(crate) pinned: u64,
    pub(crate) streams: HashMap<usize, Stream>,
    pub(crate) events: HashMap<usize, Event>,
    pub(crate) objects: HashMap<usize, Object>,
    pub(crate) executors: HashMap<usize, Executor>,
    pub(crate) failing: HashMap<String, Failing>,
    pub(crate) calls: HashMap<String, u64>,
    /// What was done wrong last, in words.
    pub(crate) fault: String,
    next: usize,
    /// Time as commands see it: one tick each.
    pub(crate) clock: u64,
}

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
    /// The last message, for `aclGetRecentErrMsg`.
    static MESSAGE: RefCell<CString> = RefCell::new(CString::default());
}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

/// The world, entered alone.
pub(crate) fn world() -> Entered {
    let mut guard = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
    guard.get_or_insert_with(World::default);
    Entered(guard)
}

/// The world while it is entered.
pub(crate) struct Entered(MutexGuard<'static, Option<World>>);

impl std::ops::Deref for Entered {
    type Target = World;
    fn deref(&self) -> &World {
        self.0.as_ref().expect("it is made before it is entered")
    }
}

impl std::ops::DerefMut for Entered {
    fn deref_mut(&mut self) -> &mut World {
        self.0.as_mut().expect("it is made before it is entered")
    }
}

/// Why a call is refused: a code, and what was wrong.
pub(crate) type Refused = (Code, String);

/// A refusal with words.
pub(crate) fn refused<T>(code: Code, why: impl Into<String>) -> Result<T, Refused> {
    Err((code, why.into()))
}

/// Runs a call of this name: counts it, fails where it is to, and keeps the words of a refusal.
pub(crate) fn call(name: &str, run: impl FnOnce(&mut World) -> Result<(), Refused>) -> Code {
    let mut world = world();
    let code = match world.begin(name).and_then(|()| run(&mut world)) {
        Ok(()) => SUCCESS,
        Err((code, why)) => {
            world.say(&format!("{name}: {why}"));
            code
        }
    };
    let late = world.knobs.late;
    drop(world);
    if late > 0 && name == "aclrtQueryEventStatus" {
        std::thread::sleep(Duration::from_millis(late));
    }
    code
}

/// The last message of this thread, which stays until the next.
pub(crate) fn message() -> *const std::ffi::c_char {
    MESSAGE.with(|m| m.borrow().as_ptr())
}

/// The context that is current to this thread; 0 where none is.
pub(crate) fn current() -> usize {
    CURRENT.get()
}

pub(crate) fn set_current(context: usize) {
    CURRENT.set(context);
}

impl World {
    fn begin(&mut self, name: &str) -> Result<(), Refused> {
        *self.calls.entry(name.into()).or_default() += 1;
        if let Some(failing) = self.failing.get_mut(name) {
            if failing.after > 0 {
                failing.after -= 1;
            } else if failing.times > 0 {
                failing.times -= 1;
                return refused(failing.code, "it was asked to fail");
            }
        }
        if !self.initialised && name != "aclInit" {
            return refused(UNINITIALISED, "aclInit was not called");
        }
        Ok(())
    }

    /// Keeps words: for the thread's last message, and for tests.
    pub(crate) fn say(&mut self, words: &str) {
        self.fault = words.to_string();
        MESSAGE.with(|m| *m.borrow_mut() = CString::new(words.replace('\0', " ")).unwrap_or_default());
    }

    /// A number that nothing had before; a multiple of 16, as a pointer is.
    pub(crate) fn handle(&mut self) -> usize {
        self.next += 1;
        0x1000 + 16 * self.next
    }

    /// The device of the current context.
    pub(crate) fn device(&self) -> Result<usize, Refused> {
        let Some(&device) = self.contexts.get(&current()) else {
            return refused(CONTEXT_NULL, "no context is current to this thread");
        };
        match self.lost.get(&device) {
            Some(&code) => refused(code, format!("device {device} is lost")),
            None => Ok(device),
        }
    }

    /// A host pointer that is not null.
    pub(crate) fn some<T>(at: *mut T, what: &str) -> Result<*mut T, Refused> {
        if at.is_null() { refused(PARAM_INVALID, format!("{what} is null")) } else { Ok(at) }
    }
}
