//! A device's context: entered by each call, lost at most once, and the keeper of what is dropped while queued work may still
//! use it.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use qiao_core::{Error, Result};

use crate::codes::{Code, SUCCESS, is_lost, is_out_of_memory};
use crate::sys::{Api, Handle};

/// How long the last one out waits for work that was queued.
const LAST_WAIT: Duration = Duration::from_secs(30);

/// How long an allocation that does not fit waits for memory that was dropped while work was queued.
const DROPPED_WAIT: Duration = Duration::from_secs(10);

/// `ACL_MEM_MALLOC_HUGE_FIRST`.
const HUGE_FIRST: i32 = 0;

/// `ACL_HBM_MEM` and `ACL_DDR_MEM`: a chip has the one or the other.
const MEMORIES: [i32; 2] = [1, 0];

/// `ACL_STOP_ON_FAILURE`: what is queued behind a failure is not run.
const STOP_ON_FAILURE: u64 = 1;

/// `ACL_EVENT_SYNC | ACL_EVENT_CAPTURE_STREAM_PROGRESS | ACL_EVENT_TIME_LINE`.
const EVENT_FLAGS: u32 = 1 | 2 | 8;

/// A device's context, with what every handle of the device shares.
pub(crate) struct Context {
    pub(crate) api: &'static Api,
    /// The device's name, for errors.
    pub(crate) name: String,
    raw: Handle,
    lost: OnceLock<String>,
    yard: Mutex<Yard>,
}

// SAFETY: handles of AscendCL, which any thread may use once the context is current to it.
unsafe impl Send for Context {}
// SAFETY: as above; what changes stands behind locks.
unsafe impl Sync for Context {}

/// A stream of AscendCL.
pub(crate) struct Queue {
    pub(crate) raw: Handle,
    /// What it met, once it is destroyed; that happens under the lock of the yard.
    end: OnceLock<Code>,
}

// SAFETY: a handle of AscendCL, which any thread may use.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

#[derive(Default)]
struct Yard {
    /// Every stream that may have work queued.
    queues: Vec<Arc<Queue>>,
    /// Streams whose handle was dropped, with what they still need.
    orphans: Vec<(Arc<Queue>, Vec<Grave>)>,
    graves: Vec<(Grave, Vec<Wait>)>,
    spare: Vec<Handle>,
}

/// What a grave waits for.
enum Wait {
    /// An event behind what was queued.
    Event(Handle),
    /// A stream that could not be marked: that it has nothing queued, or takes an event.
    Idle(Arc<Queue>),
}

/// What is given back when no queued work uses it.
pub(crate) enum Grave {
    /// Memory of the device.
    Device(Handle),
    /// Page-locked memory of the host.
    Host(Handle),
    /// An event.
    Event(Handle),
    /// Nothing.
    None,
}

/// The context is current to this thread while this lives; then that of before is.
pub(crate) struct Entered<'a> {
    context: &'a Context,
    before: Handle,
    /// It stays on its thread.
    _here: PhantomData<*const ()>,
}

impl Context {
    /// A context of its own on a device.
    ///
    /// # Errors
    /// [`Error::NotPresent`] where the device can't be opened.
    pub(crate) fn new(api: &'static Api, ordinal: usize) -> Result<Context> {
        let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let (mut before, mut raw) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: each writes a handle. Making a context makes it current, which is undone.
        let code = unsafe {
            (api.run.context_get)(&mut before);
            let code = (api.run.context_create)(&mut raw, number);
            if code == SUCCESS && !before.is_null() {
                (api.run.context_set)(before);
            }
            code
        };
        let name = format!("ascend:{ordinal}");
        match code {
            SUCCESS => Ok(Context { api, name, raw, lost: OnceLock::new(), yard: Mutex::default() }),
            code if is_lost(code) => Err(Error::DeviceLost { device: name, why: api.describe(code) }),
            code => Err(Error::not_present(name, format!("it can't be opened: {}", api.describe(code)))),
        }
    }

    fn yard(&self) -> MutexGuard<'_, Yard> {
        self.yard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// [`Error::DeviceLost`] once the device is lost.
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
        // SAFETY: writes a handle; the context lives for as long as `self`. No context at all is an error of the first call.
        let code = unsafe {
            if (self.api.run.context_get)(&mut before) != SUCCESS {
                before = std::ptr::null_mut();
            }
            if before == self.raw { SUCCESS } else { (self.api.run.context_set)(self.raw) }
        };
        if code == SUCCESS { Ok(Entered { context: self, before, _here: PhantomData }) } else { Err(code) }
    }

    /// The error of a code; some of them lose the device.
    pub(crate) fn fault(&self, what: &str, code: Code) -> Error {
        let why = self.api.describe(code);
        if is_lost(code) {
            let why = self.lost.get_or_init(|| format!("{what}: {why}")).clone();
            return Error::DeviceLost { device: self.name.clone(), why };
        }
        match is_out_of_memory(code) {
            true => Error::OutOfMemory { device: self.name.clone(), asked: 0, free: 0 },
            false => Error::internal(format!("{what} on {}", self.name), why),
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
    /// [`Error::DeviceLost`]; the driver's.
    pub(crate) fn memory(&self) -> Result<(usize, usize)> {
        let _entered = self.enter()?;
        self.memory_here()
    }

    fn memory_here(&self) -> Result<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        for attr in MEMORIES {
            // SAFETY: writes two numbers.
            let code = unsafe { (self.api.run.memory_info)(attr, &mut free, &mut total) };
            if is_lost(code) {
                return Err(self.fault("asking for free memory", code));
            }
            if code == SUCCESS && total > 0 {
                return Ok((free, total));
            }
        }
        // Not known.
        Ok((0, 0))
    }

    /// Allocates on the device: never 0 bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with what can be had; [`Error::DeviceLost`].
    pub(crate) fn alloc(&self, bytes: usize) -> Result<Handle> {
        let _entered = self.enter()?;
        self.reap();
        let start = Instant::now();
        loop {
            let (free, total) = self.memory_here()?;
            let refused = Error::OutOfMemory { device: self.name.clone(), asked: bytes as u64, free: free as u64 };
            if total == 0 || bytes <= free {
                let mut address = std::ptr::null_mut();
                // SAFETY: writes an address.
                match unsafe { (self.api.run.alloc)(&mut address, bytes, HUGE_FIRST) } {
                    SUCCESS => return Ok(address),
                    code if is_out_of_memory(code) => {}
                    code => return Err(self.fault("allocating", code)),
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

    /// Allocates page-locked memory of the host. The context is current.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; the driver's.
    pub(crate) fn alloc_host(&self, bytes: usize) -> Result<Handle> {
        let mut address = std::ptr::null_mut();
        // SAFETY: writes an address.
        match unsafe { (self.api.run.host_alloc)(&mut address, bytes) } {
            code if is_out_of_memory(code) => {
                Err(Error::OutOfMemory { device: "page-locked host memory".into(), asked: bytes as u64, free: 0 })
            }
            code => self.check("page-locking host memory", code).map(|()| address),
        }
    }

    /// An event. The context is current.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn new_event(&self) -> Result<Handle> {
        let mut event = std::ptr::null_mut();
        // SAFETY: writes a handle.
        self.check("making an event", unsafe { (self.api.run.event_create)(&mut event, EVENT_FLAGS) }).map(|()| event)
    }

    /// A stream that stops at its first failure. The context is current.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn new_queue(&self) -> Result<Arc<Queue>> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes a handle; the mode is set on a stream that was just made, and one that can't be set goes on as before.
        unsafe {
            self.check("making a stream", (self.api.run.stream_create)(&mut raw))?;
            (self.api.run.stream_failure_mode)(raw, STOP_ON_FAILURE);
        }
        let queue = Arc::new(Queue { raw, end: OnceLock::new() });
        self.yard().queues.push(queue.clone());
        Ok(queue)
    }

    /// Whether a stream has work queued. The context is current.
    ///
    /// # Errors
    /// The stream's failure.
    pub(crate) fn is_busy(&self, queue: &Queue) -> Result<bool, Code> {
        const NOT_READY: i32 = 1;
        let mut status = 0;
        // SAFETY: writes a number; the stream is destroyed only after it left the yard.
        match unsafe { (self.api.run.stream_query)(queue.raw, &mut status) } {
            SUCCESS => Ok(status == NOT_READY),
            code => Err(code),
        }
    }

    /// The failure that stopped a stream, which may be gone since. The context is current.
    pub(crate) fn stopped_by(&self, queue: &Queue) -> Option<Code> {
        let _kept = self.yard();
        match queue.end.get() {
            Some(&end) => (end != SUCCESS).then_some(end),
            None => self.is_busy(queue).err(),
        }
    }

    /// Whether an event's last record is reached. The context is current.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn is_reached(&self, event: Handle) -> Result<bool, Code> {
        const COMPLETE: i32 = 1;
        let mut status = 0;
        // SAFETY: writes a number; an event of this context.
        match unsafe { (self.api.run.event_query)(event, &mut status) } {
            SUCCESS => Ok(status == COMPLETE),
            code => Err(code),
        }
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
        match waits.is_empty() {
            true => self.give_back(grave),
            false => yard.graves.push((grave, waits)),
        }
        drop(yard);
        self.reap();
    }

    /// Gives back what nothing uses any more; how much waits still. The context is current.
    pub(crate) fn reap(&self) -> usize {
        let mut yard = self.yard();
        let Yard { queues, orphans, graves, spare } = &mut *yard;
        let stopped = queues.iter().any(|q| self.is_busy(q).is_err());
        graves.retain_mut(|(grave, waits)| {
            waits.retain_mut(|wait| {
                if let Wait::Idle(queue) = wait {
                    match queue.end.get().is_none() && self.is_busy(queue) == Ok(true) {
                        true => *wait = self.mark(queue, spare),
                        false => return false,
                    }
                }
                let Wait::Event(event) = *wait else { return true };
                // Behind a failure nothing runs any more, and no event is reached.
                let waits = self.is_reached(event) == Ok(false) && (!stopped || self.is_any_busy(queues));
                if !waits {
                    spare.push(event);
                }
                waits
            });
            if waits.is_empty() {
                self.give_back(std::mem::replace(grave, Grave::None));
            }
            !waits.is_empty()
        });
        orphans.retain_mut(|(queue, needs)| {
            let end = match self.is_busy(queue) {
                Ok(true) => return true,
                Ok(false) => SUCCESS,
                Err(code) => code,
            };
            let _ = queue.end.set(end);
            queues.retain(|q| !Arc::ptr_eq(q, queue));
            needs.drain(..).for_each(|grave| self.give_back(grave));
            // SAFETY: its handle is gone and nothing is queued on it.
            unsafe { (self.api.run.stream_destroy)(queue.raw) };
            false
        });
        graves.len() + orphans.len()
    }

    /// An event behind what is queued on a stream that is at work.
    fn mark(&self, queue: &Arc<Queue>, spare: &mut Vec<Handle>) -> Wait {
        let Some(event) = spare.pop().or_else(|| self.new_event().ok()) else { return Wait::Idle(queue.clone()) };
        // SAFETY: event and stream are of this context.
        match unsafe { (self.api.run.event_record)(event, queue.raw) } {
            SUCCESS => Wait::Event(event),
            _ => {
                spare.push(event);
                Wait::Idle(queue.clone())
            }
        }
    }

    fn is_any_busy(&self, queues: &[Arc<Queue>]) -> bool {
        queues.iter().any(|q| self.is_busy(q) == Ok(true))
    }

    fn give_back(&self, grave: Grave) {
        // SAFETY: made in this context, and nothing uses it any more.
        unsafe {
            match grave {
                Grave::Device(address) => (self.api.run.free)(address),
                Grave::Host(address) => (self.api.run.host_free)(address),
                Grave::Event(event) => (self.api.run.event_destroy)(event),
                Grave::None => SUCCESS,
            };
        }
    }
}

impl Yard {
    /// The end of what is queued on each stream that is at work.
    fn marks(&mut self, context: &Context) -> Vec<Wait> {
        let Yard { queues, spare, .. } = self;
        let busy = queues.iter().filter(|queue| context.is_busy(queue) == Ok(true));
        busy.map(|queue| context.mark(queue, spare)).collect()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.before != self.context.raw && !self.before.is_null() {
            // SAFETY: what was current to this thread before.
            unsafe { (self.context.api.run.context_set)(self.before) };
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let Some(entered) = self.enter_to_leave() else { return };
        let start = Instant::now();
        let mut pause = Duration::from_micros(20);
        while self.lost.get().is_none() && self.reap() > 0 {
            if start.elapsed() > LAST_WAIT {
                // What hangs on the device keeps what it uses; nothing else can be done about it.
                return;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
        let yard = std::mem::take(&mut *self.yard());
        let (graves, waits): (Vec<_>, Vec<_>) = yard.graves.into_iter().unzip();
        let needs = yard.orphans.into_iter().flat_map(|(queue, needs)| {
            // SAFETY: its handle is gone, and so is the device.
            unsafe { (self.api.run.stream_destroy)(queue.raw) };
            needs
        });
        needs.chain(graves).for_each(|grave| self.give_back(grave));
        let events = waits.into_iter().flatten().filter_map(|wait| match wait {
            Wait::Event(event) => Some(event),
            Wait::Idle(_) => None,
        });
        events.chain(yard.spare).for_each(|event| self.give_back(Grave::Event(event)));
        drop(entered);
        // SAFETY: nothing of the context is left, and it is current to nobody here.
        unsafe { (self.api.run.context_destroy)(self.raw) };
    }
}
