//! The card as tests see it.
// Loading a library and calling into it is unsafe.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};
use std::mem::forget;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use qiao_kernels_cuda::{UNITS, Unit};

use crate::families::Family;
use crate::library;

/// What tests may set; the first values come from the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knob {
    /// Cards; grows only before the driver is initialised.
    Devices,
    /// Bytes of memory of each card.
    Memory,
    /// Compute capability: 90 for sm_90.
    Arch,
    /// Multiprocessors.
    Processors,
    /// 1: work is done at the call that asks for it.
    Eager,
    /// Allocations of more bytes are zero and not NaN.
    PoisonLimit,
    /// 1: no work is done, queries say that it is not ready, and waits wait.
    Stalled,
    /// Bytes of shared memory that a block may ask for; 0: as the architecture has it.
    Shared,
    /// 0: every block runs its threads from the first; 1: odd blocks from the last.
    BothWays,
}

/// What can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Allocations of device memory.
    Memory,
    /// Bytes of device memory.
    Bytes,
    /// Allocations of pinned memory.
    Pinned,
    /// Streams.
    Streams,
    /// Things in streams' queues.
    Queued,
    /// Events.
    Events,
    /// Modules.
    Modules,
    /// Captured graphs.
    Graphs,
    /// Graphs that can be launched.
    Executables,
    /// How often primary contexts are retained.
    Contexts,
}

impl Knob {
    fn name(self) -> &'static str {
        match self {
            Knob::Devices => "devices",
            Knob::Memory => "memory",
            Knob::Arch => "arch",
            Knob::Processors => "processors",
            Knob::Eager => "eager",
            Knob::PoisonLimit => "poison_limit",
            Knob::Stalled => "stalled",
            Knob::Shared => "shared",
            Knob::BothWays => "both_ways",
        }
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Memory => "memory",
            Kind::Bytes => "bytes",
            Kind::Pinned => "pinned",
            Kind::Streams => "streams",
            Kind::Queued => "queued",
            Kind::Events => "events",
            Kind::Modules => "modules",
            Kind::Graphs => "graphs",
            Kind::Executables => "executables",
            Kind::Contexts => "contexts",
        }
    }
}

/// The card that is installed in this process.
pub struct Card {
    set: unsafe extern "C" fn(*const c_char, u64, *mut u64) -> c_int,
    fail: unsafe extern "C" fn(*const c_char, u64, u64, c_int),
    lose: unsafe extern "C" fn(c_int, c_int),
    calls: unsafe extern "C" fn(*const c_char) -> u64,
    live: unsafe extern "C" fn(*const c_char) -> u64,
    forget: unsafe extern "C" fn(),
    name: unsafe extern "C" fn(*const c_char),
    fault: Words,
    mismatches: Words,
    fail_compilations: unsafe extern "C" fn(u64),
    compilations: unsafe extern "C" fn() -> u64,
    blas: Option<PathBuf>,
    program: Option<PathBuf>,
    alone: Mutex<()>,
}

/// A call that writes words into a buffer and answers how long they are.
type Words = unsafe extern "C" fn(*mut c_char, usize) -> usize;

/// Installs the card, if this process has none yet, with every unit of `qiao-kernels-cuda`.
///
/// It must come before the first call into CUDA.
///
/// # Panics
/// There is no C++ compiler, a text does not compile, or a text and its rows differ: the message says which and how.
pub fn install() -> &'static Card {
    install_with(&[])
}

/// As `install`, with more units. Only the first call in a process can add them.
///
/// # Panics
/// As `install`.
pub fn install_with(more: &[&Unit]) -> &'static Card {
    static CARD: OnceLock<Card> = OnceLock::new();
    CARD.get_or_init(|| {
        let family = Family::of_environment();
        let warp = match std::env::var("QIAO_SIMCUDA_WARP").as_deref() {
            Ok("64") => 64,
            Ok("32") => 32,
            Ok("") | Err(_) => family.warp(),
            Ok(other) => panic!("QIAO_SIMCUDA_WARP={other}: a warp has 32 or 64 lanes"),
        };
        let units: Vec<&Unit> = UNITS.iter().chain(more.iter().copied()).collect();
        let card = library::build(&units, warp, family).and_then(|built| Card::load(&built));
        let card = card.unwrap_or_else(|why| panic!("the simulated card: {why}"));
        let mismatches = card.words(card.mismatches);
        assert!(mismatches.is_empty(), "rows and texts differ:\n{mismatches}");
        card
    })
}

impl Card {
    fn load(built: &library::Built) -> Result<Card, String> {
        let driver = open(&built.driver)?;
        let compiler = open(&built.compiler)?;
        let aliases = built.aliases.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
        let card = Card {
            set: symbol(&driver, "simcuda_set")?,
            fail: symbol(&driver, "simcuda_fail")?,
            lose: symbol(&driver, "simcuda_lose")?,
            calls: symbol(&driver, "simcuda_calls")?,
            live: symbol(&driver, "simcuda_live")?,
            forget: symbol(&driver, "simcuda_forget")?,
            name: symbol(&driver, "simcuda_name")?,
            fault: symbol(&driver, "simcuda_fault")?,
            mismatches: symbol(&driver, "simcuda_mismatches")?,
            fail_compilations: symbol(&compiler, "simnvrtc_fail")?,
            compilations: symbol(&compiler, "simnvrtc_compiles")?,
            blas: built.blas.clone(),
            program: built.program.clone(),
            alone: Mutex::new(()),
        };
        // They stay for as long as the process does.
        forget((driver, compiler, aliases));
        Ok(card)
    }

    /// Takes the card for one test: others that ask wait. Knobs that are set through what this answers go back when it is
    /// dropped, and what broke the card is forgotten.
    pub fn alone(&self) -> Alone<'_> {
        let hold = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget();
        Alone { card: self, before: Mutex::new(Vec::new()), _hold: hold }
    }

    /// Sets a knob; the value that it had.
    fn turn(&self, knob: Knob, value: u64) -> u64 {
        let mut before = 0;
        // SAFETY: the name ends with a zero byte and is only read; the value goes to a number that is alive.
        let known = with(knob.name(), |name| unsafe { (self.set)(name, value, &mut before) });
        assert_eq!(known, 1, "the card knows {}", knob.name());
        before
    }

    /// Lets the driver's call of this name fail `times` times with this result, after `after` calls that do not.
    pub fn fail(&self, call: &str, after: u64, times: u64, code: i32) {
        // SAFETY: the name ends with a zero byte and is only read.
        with(call, |name| unsafe { (self.fail)(name, after, times, code) });
    }

    /// Lets every call on a device answer this result from now on; 0 brings the device back.
    pub fn lose(&self, device: usize, code: i32) {
        // SAFETY: the call takes numbers only, and minds devices that do not exist.
        unsafe { (self.lose)(device as c_int, code) };
    }

    /// How often the driver's call of this name was made.
    pub fn calls(&self, call: &str) -> u64 {
        // SAFETY: the name ends with a zero byte and is only read.
        with(call, |name| unsafe { (self.calls)(name) })
    }

    /// Lets this process find cuBLASLt from now on: descriptions of products of matrices, and plain loops. It must come before
    /// the first device is opened.
    ///
    /// # Panics
    /// The library does not load, or the vendor has none.
    pub fn install_blas(&self) {
        let library = self.blas.as_ref().ok_or("only NVIDIA's cards have one".into()).and_then(|path| open(path));
        forget(library.unwrap_or_else(|why: String| panic!("the simulated cuBLASLt: {why}")));
    }

    /// The compiler as a program, for the vendor that has no library of one.
    pub fn compiler(&self) -> Option<&Path> {
        self.program.as_deref()
    }

    /// Lets the cards call themselves this, until everything is forgotten.
    pub fn rename(&self, name: &str) {
        // SAFETY: the name ends with a zero byte and is copied.
        with(name, |name| unsafe { (self.name)(name) });
    }

    /// How many things of a kind there are now.
    pub fn live(&self, kind: Kind) -> u64 {
        // SAFETY: the name ends with a zero byte and is only read.
        with(kind.name(), |name| unsafe { (self.live)(name) })
    }

    /// What a program did wrong last, in words.
    pub fn fault(&self) -> Option<String> {
        Some(self.words(self.fault)).filter(|w| !w.is_empty())
    }

    /// Forgets what broke contexts and devices, failures that were asked for, counts of calls, names and the last fault.
    pub fn forget(&self) {
        // SAFETY: the call takes nothing.
        unsafe { (self.forget)() };
        self.fail_compilations(0);
    }

    /// Lets the next compilations fail.
    pub fn fail_compilations(&self, times: u64) {
        // SAFETY: the call takes a number only.
        unsafe { (self.fail_compilations)(times) };
    }

    /// How many compilations there were.
    pub fn compilations(&self) -> u64 {
        // SAFETY: the call takes nothing.
        unsafe { (self.compilations)() }
    }

    fn words(&self, call: Words) -> String {
        let mut bytes = vec![0u8; 1 << 16];
        // SAFETY: the call writes at most as many bytes as it is told, a zero byte last.
        let length = unsafe { call(bytes.as_mut_ptr().cast(), bytes.len()) };
        bytes.truncate(length.min(bytes.len() - 1));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The card, for one test alone.
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
}

impl std::ops::Deref for Alone<'_> {
    type Target = Card;
    fn deref(&self) -> &Card {
        self.card
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        for (knob, value) in before.drain(..).rev() {
            self.card.turn(knob, value);
        }
        self.card.forget();
    }
}

fn open(path: &Path) -> Result<Library, String> {
    // SAFETY: the library was built by this crate; its initialisers fill a table.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    library.map_err(|e| format!("{}: {e}", path.display()))
}

/// The function of this name.
fn symbol<F: Copy>(library: &Library, name: &str) -> Result<F, String> {
    // SAFETY: each name is asked for with the type that the library's source has for it.
    let found = unsafe { library.get::<F>(name.as_bytes()) };
    found.map(|f| *f).map_err(|e| format!("{name}: {e}"))
}

fn with<R>(name: &str, call: impl FnOnce(*const c_char) -> R) -> R {
    let name = CString::new(name).expect("names of calls hold no zero byte");
    call(name.as_ptr())
}
