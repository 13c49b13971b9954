//! The library as tests see it.

use std::env;
use std::ffi::{CString, c_char};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// The names under which the library is found.
const NAMES: [&str; 3] = ["libascendcl.so", "libnnopbase.so", "libopapi.so"];

/// What tests may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knob {
    /// Devices.
    Devices,
    /// Bytes of memory of each device.
    Memory,
    /// The chip, as a [`Soc`].
    Soc,
    /// 1: no work is done, and waits wait.
    Stalled,
    /// Milliseconds by which answers about events come late.
    Late,
}

/// A chip that the library can pretend to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soc {
    /// `Ascend910B3`.
    Ascend910B3,
    /// `Ascend910_9391`.
    Ascend910_9391,
    /// `Ascend310P3`.
    Ascend310P3,
    /// `Ascend910A`.
    Ascend910A,
    /// `Ascend950PR_9589`.
    Ascend950,
    /// A name that nobody knows.
    Unknown,
}

/// What can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of device memory.
    Bytes,
    /// Allocations of page-locked memory.
    Pinned,
    /// Streams.
    Streams,
    /// Events.
    Events,
    /// Contexts.
    Contexts,
    /// Tensor objects.
    Tensors,
    /// Lists of tensors.
    Lists,
    /// Scalars.
    Scalars,
    /// Arrays of integers.
    Arrays,
    /// Executors that did not run.
    Executors,
}

impl Kind {
    /// Every kind of object that an execution makes and must give back.
    pub const OBJECTS: [Kind; 5] = [Kind::Tensors, Kind::Lists, Kind::Scalars, Kind::Arrays, Kind::Executors];

    fn name(self) -> &'static str {
        match self {
            Kind::Bytes => "bytes",
            Kind::Pinned => "pinned",
            Kind::Streams => "streams",
            Kind::Events => "events",
            Kind::Contexts => "contexts",
            Kind::Tensors => "tensors",
            Kind::Lists => "lists",
            Kind::Scalars => "scalars",
            Kind::Arrays => "arrays",
            Kind::Executors => "executors",
        }
    }
}

impl Knob {
    fn name(self) -> &'static str {
        match self {
            Knob::Devices => "devices",
            Knob::Memory => "memory",
            Knob::Soc => "soc",
            Knob::Stalled => "stalled",
            Knob::Late => "late",
        }
    }
}

type Words = unsafe extern "C" fn(*mut c_char, usize) -> usize;

/// The library that is installed in this process.
pub struct Card {
    set: unsafe extern "C" fn(*const c_char, u64, *mut u64) -> i32,
    fail: unsafe extern "C" fn(*const c_char, u64, u64, i32),
    lose: unsafe extern "C" fn(i32, i32),
    break_kernels: unsafe extern "C" fn(),
    calls: unsafe extern "C" fn(*const c_char) -> u64,
    live: unsafe extern "C" fn(*const c_char) -> u64,
    forget: unsafe extern "C" fn(),
    fault: Words,
    folder: PathBuf,
    library: Library,
    alone: Mutex<()>,
}

/// Lays the library down under Ascend's names, if this process has not done so yet.
///
/// # Panics
/// Cargo did not build it beside the tests, or it does not load: the message says which.
pub fn install() -> &'static Card {
    static CARD: OnceLock<Card> = OnceLock::new();
    CARD.get_or_init(|| Card::new().unwrap_or_else(|why| panic!("the simulated AscendCL: {why}")))
}

/// The built library, beside the running program or in a folder above it.
fn built() -> Result<PathBuf, String> {
    let program = env::current_exe().map_err(|e| e.to_string())?;
    let folders = program.ancestors().skip(1).take(3);
    let mut places = folders.flat_map(|f| ["libqiao_simascend.so", "deps/libqiao_simascend.so"].map(|n| f.join(n)));
    places.find(|p| p.is_file()).ok_or_else(|| format!("libqiao_simascend.so is not beside {}", program.display()))
}

/// A folder with links of each name to one file, which the loader therefore opens once.
fn linked(library: &Path) -> Result<PathBuf, String> {
    let folder = library.with_file_name("simascend");
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    for name in NAMES {
        let link = folder.join(name);
        if fs::read_link(&link).is_ok_and(|to| to == library) {
            continue;
        }
        // Another process may do the same: whoever is last puts the same link there.
        let part = folder.join(format!("{name}.{}", std::process::id()));
        fs::remove_file(&part).ok();
        std::os::unix::fs::symlink(library, &part).map_err(failed)?;
        fs::rename(&part, &link).map_err(failed)?;
    }
    Ok(folder)
}

/// The function of this name.
fn symbol<F: Copy>(library: &Library, name: &str) -> Result<F, String> {
    // SAFETY: each name is asked for with the type that `control` has for it.
    let found = unsafe { library.get::<F>(name) };
    found.map(|f| *f).map_err(|e| format!("{name}: {e}"))
}

fn with<R>(name: &str, call: impl FnOnce(*const c_char) -> R) -> R {
    let name = CString::new(name).expect("names of calls hold no zero byte");
    call(name.as_ptr())
}

impl Card {
    fn new() -> Result<Card, String> {
        let folder = linked(&built()?)?;
        let path = folder.join(NAMES[0]);
        // SAFETY: the library is this crate's own; it has no initialisers that do anything.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Card {
            set: symbol(&library, "simascend_set")?,
            fail: symbol(&library, "simascend_fail")?,
            lose: symbol(&library, "simascend_lose")?,
            break_kernels: symbol(&library, "simascend_break_kernels")?,
            calls: symbol(&library, "simascend_calls")?,
            live: symbol(&library, "simascend_live")?,
            forget: symbol(&library, "simascend_forget")?,
            fault: symbol(&library, "simascend_fault")?,
            folder,
            library,
            alone: Mutex::new(()),
        })
    }

    /// The folder that holds the library under each of Ascend's names.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A function of the library by its name, for tests that call it as a program would.
    ///
    /// # Safety
    /// The type is that of the function.
    ///
    /// # Panics
    /// There is none of that name.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> F {
        symbol(&self.library, name).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Takes the library for one test: others that ask wait. Knobs go back when the answer is dropped.
    pub fn alone(&self) -> Alone<'_> {
        let hold = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget();
        Alone { card: self, before: Mutex::new(Vec::new()), _hold: hold }
    }

    fn turn(&self, knob: Knob, value: u64) -> u64 {
        let mut before = 0;
        // SAFETY: the name ends with a zero byte, and the number has a place.
        let known = with(knob.name(), |name| unsafe { (self.set)(name, value, &mut before) });
        assert_eq!(known, 1, "the library knows {}", knob.name());
        before
    }

    /// Lets the call of this name fail `times` times with this code, after `after` calls that do not.
    pub fn fail(&self, call: &str, after: u64, times: u64, code: i32) {
        // SAFETY: the name ends with a zero byte.
        with(call, |name| unsafe { (self.fail)(name, after, times, code) });
    }

    /// Lets every call on a device answer this code from now on; 0 brings it back.
    pub fn lose(&self, device: i32, code: i32) {
        // SAFETY: it takes numbers only.
        unsafe { (self.lose)(device, code) };
    }

    /// Lets a kernel of each stream that exists raise an exception, behind what is queued.
    pub fn break_kernels(&self) {
        // SAFETY: it takes nothing.
        unsafe { (self.break_kernels)() };
    }

    /// How often the call of this name was made.
    pub fn calls(&self, call: &str) -> u64 {
        // SAFETY: the name ends with a zero byte.
        with(call, |name| unsafe { (self.calls)(name) })
    }

    /// How many things of a kind there are.
    pub fn live(&self, kind: Kind) -> u64 {
        // SAFETY: the name ends with a zero byte.
        with(kind.name(), |name| unsafe { (self.live)(name) })
    }

    /// What was done wrong last, in words.
    pub fn fault(&self) -> String {
        let mut bytes = vec![0u8; 4096];
        // SAFETY: the buffer is as long as is said.
        let n = unsafe { (self.fault)(bytes.as_mut_ptr().cast(), bytes.len()) };
        String::from_utf8_lossy(&bytes[..n.min(bytes.len())]).into_owned()
    }

    /// Forgets failures that were asked for, lost devices, counts of calls and the last fault.
    pub fn forget(&self) {
        // SAFETY: it takes nothing.
        unsafe { (self.forget)() };
    }
}

/// The library, for one test alone.
pub struct Alone<'a> {
    card: &'a Card,
    before: Mutex<Vec<(Knob, u64)>>,
    _hold: MutexGuard<'a, ()>,
}

impl Alone<'_> {
    /// Sets a knob until this is dropped.
    pub fn set(&self, knob: Knob, value: u64) {
        let before = self.card.turn(knob, value);
        self.before.lock().unwrap_or_else(PoisonError::into_inner).push((knob, before));
    }

    /// Pretends to be a chip until this is dropped.
    pub fn pretend(&self, soc: Soc) {
        self.set(Knob::Soc, soc as u64);
    }
}

impl std::ops::Deref for Alone<'_> {
    type Target = Card;
    fn deref(&self) -> &Card {
        self.card
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        for (knob, value) in self.before.lock().unwrap_or_else(PoisonError::into_inner).drain(..).rev() {
            self.card.turn(knob, value);
        }
        self.card.forget();
    }
}
