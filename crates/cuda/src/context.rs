//! The card's context: entered by each call, lost at most once, and the keeper of memory that is dropped while queued work may
//! still use it.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use qiao_core::{Error, Result};

use crate::blas::Library;
use crate::compile::{Modules, Target};
use crate::sys::{CUcontext, CUdevice, CUdeviceptr, CUevent, CUgraphExec, CUstream, Code, Driver, SUCCESS};
use crate::vendors::Meaning;

/// How long the last one out waits for work that was queued.
const LAST_WAIT: Duration = Duration::from_secs(30);

/// How long an allocation that does not fit waits for memory that was dropped while work was queued.
const DROPPED_WAIT: Duration = Duration::from_secs(10);

/// A card's primary context, with what every handle of the card shares.
pub(crate) struct Context {
    pub(crate) driver: &'static Driver,
    pub(crate) modules: Modules,
    pub(crate) blas: Library,
    pub(crate) device: CUdevice,
    /// The card's name, for errors.
    pub(crate) name: String,
    raw: CUcontext,
    lost: OnceLock<String>,
    yard: Mutex<Yard>,
    /// Whether a kernel may be started while the one before it ends.
    overlaps: AtomicBool,
}

// SAFETY: handles of the driver, which any thread may use once the context is entered.
unsafe impl Send for Context {}
// SAFETY: as above; what changes stands behind locks.
unsafe impl Sync for Context {}

/// A stream of the driver.
pub(crate) struct Queue {
    pub(crate) raw: CUstream,
    /// Held while commands are recorded for a graph instead of run, and by whoever asks the stream from elsewhere.
    pub(crate) gate: Mutex<()>,
}

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

#[derive(Default)]
struct Yard {
    /// Every stream that may have work queued.
    queues: Vec<Arc<Queue>>,
    /// Streams whose handle was dropped, with what they still need.
    orphans: Vec<(Arc<Queue>, Vec<Grave>)>,
    graves: Vec<(Grave, Vec<CUevent>)>,
    spare: Vec<CUevent>,
}

/// What is given back when no queued work uses it.
pub(crate) enum Grave {
    /// Memory of the card.
    Device(CUdeviceptr),
    /// Page-locked memory of the host.
    Host(*mut std::ffi::c_void),
    /// An event.
    Event(CUevent),
    /// A captured execution.
    Graph(CUgraphExec),
}

/// Whether the driver and the card have programmatic dependent launch, in captured graphs too, and nobody turned it off.
fn may_overlap(driver: &Driver, target: &Target) -> bool {
    /// sm_90, and the driver of CUDA 12.3.
    const FROM: (u32, i32) = (90, 12_030);
    let wanted = std::env::var("QIAO_CUDA_OVERLAP").map_or(true, |v| v != "0");
    wanted && driver.launch_with.is_some() && target.arch >= FROM.0 && target.driver >= FROM.1
}

/// The context is current to this thread while this lives; then that of before is.
pub(crate) struct Entered<'a> {
    context: &'a Context,
    before: CUcontext,
    /// It stays on its thread.
    _here: PhantomData<*const ()>,
}

impl Context {
    /// Retains the primary context of a card.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn new(driver: &'static Driver, device: CUdevice, name: String, target: Target) -> Result<Arc<Context>> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the device is one that the driver named.
        let code = unsafe { (driver.context_retain)(&mut raw, device) };
        match driver.means(code) {
            Meaning::Success => {}
            Meaning::OutOfMemory => return Err(Error::OutOfMemory { device: name, asked: 0, free: 0 }),
            _ => return Err(Error::not_present(name, format!("it can't be opened: {}", driver.describe(code)))),
        }
        let overlaps = AtomicBool::new(may_overlap(driver, &target));
        let modules = Modules::new(target);
        let blas = Library::default();
        Ok(Arc::new(Context {
            driver,
            modules,
            blas,
            device,
            name,
            raw,
            lost: OnceLock::new(),
            yard: Mutex::default(),
            overlaps,
        }))
    }

    /// Whether a kernel may be started while the one before it ends.
    pub(crate) fn overlaps(&self) -> bool {
        self.overlaps.load(Ordering::Relaxed)
    }

    /// From now on every kernel starts when the one before has ended. Whether that is new.
    pub(crate) fn stop_overlaps(&self) -> bool {
        self.overlaps.swap(false, Ordering::Relaxed)
    }

    fn yard(&self) -> MutexGuard<'_, Yard> {
        self.yard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// [`Error::DeviceLost`] once the card is lost.
    pub(crate) fn alive(&self) -> Result<()> {
        match self.lost.get() {
            None => Ok(()),
            Some(why) => Err(Error::DeviceLost { device: self.name.clone(), why: why.clone() }),
        }
    }

    /// Makes the context current to this thread.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub(crate) fn enter(&self) -> Result<Entered<'_>> {
        self.alive()?;
        self.enter_anyhow().map_err(|code| self.fault("entering the context", code))
    }

    /// Enters even a lost context, to give back what it held.
    fn enter_to_leave(&self) -> Option<Entered<'_>> {
        self.enter_anyhow().ok()
    }

    fn enter_anyhow(&self) -> Result<Entered<'_>, Code> {
        let mut before = std::ptr::null_mut();
        // SAFETY: writes a handle; the context is retained for as long as `self` lives.
        let code = unsafe {
            match (self.driver.context_get)(&mut before) {
                SUCCESS if before == self.raw => SUCCESS,
                _ => (self.driver.context_set)(self.raw),
            }
        };
        if code == SUCCESS { Ok(Entered { context: self, before, _here: PhantomData }) } else { Err(code) }
    }

    /// The error of a code; some of them lose the card.
    pub(crate) fn fault(&self, what: &str, code: Code) -> Error {
        let why = self.driver.describe(code);
        match self.driver.means(code) {
            Meaning::Lost => {
                let why = self.lost.get_or_init(|| format!("{what}: {why}")).clone();
                Error::DeviceLost { device: self.name.clone(), why }
            }
            Meaning::OutOfMemory => Error::OutOfMemory { device: self.name.clone(), asked: 0, free: 0 },
            _ => Error::internal(format!("{what} on {}", self.name), why),
        }
    }

    /// # Errors
    /// The error of a code other than success.
    pub(crate) fn check(&self, what: &str, code: Code) -> Result<()> {
        if code == SUCCESS { Ok(()) } else { Err(self.fault(what, code)) }
    }

    /// Bytes free and in all.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub(crate) fn memory(&self) -> Result<(usize, usize)> {
        let _entered = self.enter()?;
        self.memory_here()
    }

    fn memory_here(&self) -> Result<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers.
        self.check("asking for free memory", unsafe { (self.driver.memory_info)(&mut free, &mut total) })?;
        Ok((free, total))
    }

    /// Allocates on the card. What is more than it has left is refused before the driver is asked.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with what can be had; [`Error::DeviceLost`].
    pub(crate) fn alloc(&self, bytes: usize) -> Result<CUdeviceptr> {
        let _entered = self.enter()?;
        self.reap();
        let start = Instant::now();
        loop {
            let (free, _) = self.memory_here()?;
            let refused = Error::OutOfMemory { device: self.name.clone(), asked: bytes as u64, free: free as u64 };
            if bytes <= free {
                let mut address = 0;
                // SAFETY: writes an address.
                let code = unsafe { (self.driver.alloc)(&mut address, bytes) };
                match self.driver.means(code) {
                    Meaning::Success => return Ok(address),
                    Meaning::OutOfMemory => {}
                    _ => return Err(self.fault("allocating", code)),
                }
            }
            if self.reap() == 0 || start.elapsed() > DROPPED_WAIT {
                // What waited may have been given back just now.
                match self.memory_here()?.0 > free {
                    true if start.elapsed() <= DROPPED_WAIT => continue,
                    _ => return Err(refused),
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Allocates page-locked memory of the host.
    ///
    /// # Errors
    /// The driver's; the context is current.
    pub(crate) fn alloc_host(&self, bytes: usize) -> Result<*mut u8> {
        const PORTABLE: u32 = 1;
        let mut address = std::ptr::null_mut();
        // SAFETY: writes an address.
        let code = unsafe { (self.driver.host_alloc)(&mut address, bytes, PORTABLE) };
        match self.driver.means(code) {
            Meaning::OutOfMemory => {
                Err(Error::OutOfMemory { device: "page-locked host memory".into(), asked: bytes as u64, free: 0 })
            }
            _ => self.check("page-locking host memory", code).map(|()| address.cast()),
        }
    }

    /// An event, with or without a time. The context is current.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn new_event(&self, timed: bool) -> Result<CUevent> {
        const NO_TIMING: u32 = 2;
        let mut event = std::ptr::null_mut();
        // SAFETY: writes a handle.
        let code = unsafe { (self.driver.event_create)(&mut event, if timed { 0 } else { NO_TIMING }) };
        self.check("making an event", code).map(|()| event)
    }

    /// A stream that runs beside all others. The context is current.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn new_queue(&self) -> Result<Arc<Queue>> {
        const NON_BLOCKING: u32 = 1;
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes a handle.
        self.check("making a stream", unsafe { (self.driver.stream_create)(&mut raw, NON_BLOCKING) })?;
        let queue = Arc::new(Queue { raw, gate: Mutex::new(()) });
        self.yard().queues.push(queue.clone());
        Ok(queue)
    }

    /// A stream whose handle is gone: what is queued runs, then it and what it needs are given back.
    pub(crate) fn abandon(&self, queue: Arc<Queue>, needs: Vec<Grave>) {
        let Some(_entered) = self.enter_to_leave() else { return };
        self.yard().orphans.push((queue, needs));
        self.reap();
    }

    /// Gives something back once everything that is queued now is done.
    pub(crate) fn bury(&self, grave: Grave) {
        let Some(_entered) = self.enter_to_leave() else { return };
        let mut yard = self.yard();
        let waits = if self.lost.get().is_some() { Vec::new() } else { yard.marks(self) };
        if waits.is_empty() {
            self.give_back(grave);
        } else {
            yard.graves.push((grave, waits));
        }
        drop(yard);
        self.reap();
    }

    /// Gives back what nothing uses any more; how much waits still. The context is current.
    pub(crate) fn reap(&self) -> usize {
        let mut yard = self.yard();
        let Yard { queues, orphans, graves, spare } = &mut *yard;
        graves.retain_mut(|(grave, waits)| {
            // SAFETY: events of this context, recorded when the grave was dug.
            waits.retain(|&event| match self.driver.means(unsafe { (self.driver.event_query)(event) }) {
                Meaning::NotReady => true,
                _ => {
                    spare.push(event);
                    false
                }
            });
            if waits.is_empty() {
                self.give_back(std::mem::replace(grave, Grave::Event(std::ptr::null_mut())));
            }
            !waits.is_empty()
        });
        orphans.retain_mut(|(queue, needs)| {
            if self.is_busy(queue) {
                return true;
            }
            queues.retain(|q| !Arc::ptr_eq(q, queue));
            needs.drain(..).for_each(|grave| self.give_back(grave));
            // SAFETY: its handle is gone and nothing is queued on it.
            unsafe { (self.driver.stream_destroy)(queue.raw) };
            false
        });
        graves.len() + orphans.len()
    }

    /// Whether work is queued. The context is current.
    pub(crate) fn is_busy(&self, queue: &Queue) -> bool {
        let _gate = queue.gate.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the stream is destroyed only after it left the yard.
        self.driver.means(unsafe { (self.driver.stream_query)(queue.raw) }) == Meaning::NotReady
    }

    fn give_back(&self, grave: Grave) {
        // SAFETY: allocated in this context, and nothing uses it any more.
        unsafe {
            match grave {
                Grave::Device(address) => (self.driver.free)(address),
                Grave::Host(address) => (self.driver.host_free)(address),
                Grave::Event(event) if event.is_null() => SUCCESS,
                Grave::Event(event) => (self.driver.event_destroy)(event),
                Grave::Graph(graph) => self.driver.graph_exec_destroy.map_or(SUCCESS, |destroy| destroy(graph)),
            };
        }
    }
}

impl Yard {
    /// An event behind what is queued on each stream that is at work.
    fn marks(&mut self, context: &Context) -> Vec<CUevent> {
        let mut marks = Vec::new();
        for queue in &self.queues {
            let _gate = queue.gate.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: the stream is destroyed only after it left the yard.
            if context.driver.means(unsafe { (context.driver.stream_query)(queue.raw) }) != Meaning::NotReady {
                continue;
            }
            let Some(event) = self.spare.pop().or_else(|| context.new_event(false).ok()) else { continue };
            // SAFETY: event and stream are of this context.
            match unsafe { (context.driver.event_record)(event, queue.raw) } {
                SUCCESS => marks.push(event),
                _ => self.spare.push(event),
            }
        }
        marks
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.before != self.context.raw {
            // SAFETY: what was current to this thread before, or none.
            unsafe { (self.context.driver.context_set)(self.before) };
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(_entered) = self.enter_to_leave() {
            let start = Instant::now();
            let mut pause = Duration::from_micros(20);
            while self.lost.get().is_none() && self.reap() > 0 {
                if start.elapsed() > LAST_WAIT {
                    // What hangs on the card keeps what it uses; nothing else can be done about it.
                    return;
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            }
            let yard = std::mem::take(&mut *self.yard());
            let events = yard.graves.into_iter().flat_map(|(grave, waits)| {
                self.give_back(grave);
                waits
            });
            let of_orphans: Vec<Grave> = yard.orphans.into_iter().flat_map(|(_, needs)| needs).collect();
            events.chain(yard.spare).map(Grave::Event).for_each(|grave| self.give_back(grave));
            of_orphans.into_iter().for_each(|grave| self.give_back(grave));
            // SAFETY: every stream's handle is gone, and so is all that was queued on them.
            yard.queues.iter().for_each(|queue| unsafe {
                (self.driver.stream_destroy)(queue.raw);
            });
            self.blas.close(self.driver.row);
            self.modules.unload(self.driver);
        }
        // SAFETY: retained when this was made, and not used again.
        self.driver.context_release.map(|release| unsafe { release(self.device) });
    }
}
