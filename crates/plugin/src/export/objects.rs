//! What handles name: the objects of a Rust backend, each with the chip that it belongs to.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use qiao_core::{Backend, Binding, Buffer, Device, Error, Event, Graph, HostMemory, Plan, Stream};

use crate::export::fault::{Fault, Result, catch, first};
use crate::export::handles::{Handle, Kind, Table};
use crate::export::host::{Host, Level};

pub(super) static BACKENDS: Table<Arc<BackendObject>> = Table::new(Kind::Backend);
pub(super) static DEVICES: Table<DeviceObject> = Table::new(Kind::Device);
pub(super) static BUFFERS: Table<BufferObject> = Table::new(Kind::Buffer);
pub(super) static STREAMS: Table<Arc<StreamObject>> = Table::new(Kind::Stream);
pub(super) static EVENTS: Table<EventObject> = Table::new(Kind::Event);
pub(super) static PLANS: Table<Arc<PlanObject>> = Table::new(Kind::Plan);

/// A backend and the host that it was started for.
pub(super) struct BackendObject {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) host: Host,
}

/// An opened device, as everything made on it knows it. Once it is lost, every call that names it or them answers so.
pub(super) struct Chip {
    pub(super) host: Host,
    backend: Handle,
    ordinal: u32,
    lost: OnceLock<Error>,
}

impl Chip {
    pub(super) fn new(host: Host, backend: Handle, ordinal: u32) -> Self {
        Chip { host, backend, ordinal, lost: OnceLock::new() }
    }

    /// Runs code of the backend, unless the device is lost.
    pub(super) fn call<R>(&self, body: impl FnOnce() -> qiao_core::Result<R>) -> Result<R> {
        if let Some(lost) = self.lost.get() {
            return Err(lost.clone().into());
        }
        body().map_err(|error| match first(error.clone()) {
            lost @ Error::DeviceLost { .. } => self.lost.get_or_init(|| lost).clone().into(),
            _ => error.into(),
        })
    }

    /// Checks that what a call names together is of one chip.
    pub(super) fn check(&self, other: &Chip, what: &str) -> Result<()> {
        if self.backend == other.backend && self.ordinal == other.ordinal {
            return Ok(());
        }
        Err(Fault::invalid(what, "it is of another device", "use together what was made on one device"))
    }

    pub(super) fn is_of(&self, backend: Handle) -> bool {
        self.backend == backend
    }
}

/// A device.
#[derive(Clone)]
pub(super) struct DeviceObject {
    pub(super) device: Arc<dyn Device>,
    pub(super) chip: Arc<Chip>,
}

/// A buffer.
#[derive(Clone)]
pub(super) struct BufferObject {
    pub(super) buffer: Arc<dyn Buffer>,
    pub(super) chip: Arc<Chip>,
    /// Set where it borrows host memory.
    pub(super) borrowed: Option<Arc<Gone>>,
}

/// An event.
#[derive(Clone)]
pub(super) struct EventObject {
    pub(super) event: Arc<dyn Event>,
    pub(super) chip: Arc<Chip>,
}

/// A stream. Calls are taken one at a time, also from a host that does not keep to that.
pub(super) struct StreamObject {
    pub(super) device: Arc<dyn Device>,
    pub(super) chip: Arc<Chip>,
    state: Mutex<StreamState>,
}

struct StreamState {
    stream: Box<dyn Stream>,
    /// Set once a command panicked: the stream can't be trusted any more.
    broken: Option<Error>,
}

impl StreamObject {
    pub(super) fn new(device: DeviceObject, stream: Box<dyn Stream>) -> Self {
        let state = Mutex::new(StreamState { stream, broken: None });
        StreamObject { device: device.device, chip: device.chip, state }
    }

    /// Runs a command on the stream. One that panics is the stream's failure.
    pub(super) fn command<R>(&self, body: impl FnOnce(&mut dyn Stream) -> qiao_core::Result<R>) -> Result<R> {
        self.chip.call(|| run(lock(&self.state), body))
    }

    /// Waits for the stream: its first failure comes as it was met.
    pub(super) fn sync(&self, timeout: Duration) -> Result<()> {
        self.chip.call(|| run(lock(&self.state), |s| s.sync(timeout)).map_err(first))
    }

    /// Waits for the stream. `None` where another thread is in a call on it.
    fn try_sync(&self, timeout: Duration) -> Option<qiao_core::Result<()>> {
        let state = self.state.try_lock().ok()?;
        Some(run(state, |s| s.sync(timeout)))
    }
}

fn run<R>(
    mut state: MutexGuard<'_, StreamState>,
    body: impl FnOnce(&mut dyn Stream) -> qiao_core::Result<R>,
) -> qiao_core::Result<R> {
    if let Some(first) = &state.broken {
        return Err(Error::Poisoned { first: Box::new(first.clone()) });
    }
    let stream = &mut *state.stream;
    catch(|| body(stream)).unwrap_or_else(|panic| {
        state.broken = Some(panic.clone());
        Err(panic)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A plan, with what an execute needs.
pub(super) struct PlanObject {
    pub(super) plan: Arc<dyn Plan>,
    pub(super) graph: Graph,
    pub(super) chip: Arc<Chip>,
    pub(super) workspace_bytes: usize,
    /// Bound where the plan needs no workspace and is given none.
    pub(super) no_workspace: Option<Binding>,
    spare: Mutex<Vec<Vec<Binding>>>,
}

impl PlanObject {
    pub(super) fn new(
        device: DeviceObject,
        plan: Arc<dyn Plan>,
        graph: Graph,
        workspace_bytes: usize,
        no_workspace: Option<Binding>,
    ) -> Self {
        PlanObject { plan, graph, chip: device.chip, workspace_bytes, no_workspace, spare: Mutex::default() }
    }

    /// An empty list with room for the bindings, which goes back when it is dropped.
    pub(super) fn bindings(&self) -> Bindings<'_> {
        let list = lock(&self.spare).pop().unwrap_or_else(|| Vec::with_capacity(self.graph.bound().len()));
        Bindings { plan: self, list }
    }
}

/// The bindings of one execute.
pub(super) struct Bindings<'a> {
    plan: &'a PlanObject,
    pub(super) list: Vec<Binding>,
}

impl Drop for Bindings<'_> {
    fn drop(&mut self) {
        let mut list = std::mem::take(&mut self.list);
        list.clear();
        lock(&self.plan.spare).push(list);
    }
}

/// Memory of the host, lent until its buffer is freed.
pub(super) struct Borrowed {
    start: *const u8,
    bytes: usize,
    gone: Arc<Gone>,
}

// SAFETY: memory that is only read.
unsafe impl Send for Borrowed {}
// SAFETY: as above.
unsafe impl Sync for Borrowed {}

/// Tells when nobody uses borrowed memory any more.
#[derive(Default)]
pub(super) struct Gone {
    gone: Mutex<bool>,
    changed: Condvar,
}

impl Borrowed {
    /// # Safety
    /// The memory stays readable, and nobody writes to it, until the second value says that it is gone.
    pub(super) unsafe fn lend(start: *const u8, bytes: usize) -> (Arc<dyn HostMemory>, Arc<Gone>) {
        let gone = Arc::<Gone>::default();
        (Arc::new(Borrowed { start, bytes, gone: gone.clone() }), gone)
    }
}

impl HostMemory for Borrowed {
    fn bytes(&self) -> &[u8] {
        match self.bytes {
            0 => &[],
            // SAFETY: readable while this lives, as `lend` demands.
            bytes => unsafe { std::slice::from_raw_parts(self.start, bytes) },
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        *lock(&self.gone.gone) = true;
        self.gone.changed.notify_all();
    }
}

impl Gone {
    fn wait(&self, limit: Duration) -> bool {
        let guard = lock(&self.gone);
        *self.changed.wait_timeout_while(guard, limit, |gone| !*gone).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Frees a buffer. One that borrows host memory is gone when this returns, and with it every use of that memory: queued work
/// that reads it is waited for.
pub(super) fn free(object: BufferObject) {
    const PATIENCE: Duration = Duration::from_secs(10);
    let BufferObject { buffer, chip, borrowed } = object;
    release(&chip.host, "freeing a buffer", || drop(buffer));
    let Some(gone) = borrowed else { return };
    let (begun, mut warned) = (Instant::now(), false);
    let mut pause = Duration::ZERO;
    while !gone.wait(pause) {
        // Some backends let go of what a command used when its stream is next looked at.
        for stream in STREAMS.all(|s| s.chip.check(&chip, "").is_ok()) {
            stream.try_sync(Duration::from_millis(10));
        }
        if !warned && begun.elapsed() > PATIENCE {
            chip.host.log(Level::Warn, "buffer_free still waits for work that reads imported host memory");
            warned = true;
        }
        pause = Duration::from_millis(10);
    }
}

/// Drops objects of the backend, whose panic is told to the host and goes no further.
pub(super) fn release(host: &Host, what: &str, body: impl FnOnce()) {
    if let Err(error) = catch(body) {
        let _ = catch_unwind(AssertUnwindSafe(|| host.log(Level::Error, &format!("{what}: {error}"))));
    }
}

/// Takes a backend out with everything made on it that is still there, what uses other things first.
pub(super) fn shut_down(handle: Handle) {
    let Some(backend) = BACKENDS.remove(handle) else { return };
    let host = backend.host.clone();
    let what = "shutting down";
    for plan in PLANS.sweep(|o| o.chip.is_of(handle)) {
        release(&host, what, || drop(plan));
    }
    for event in EVENTS.sweep(|o| o.chip.is_of(handle)) {
        release(&host, what, || drop(event));
    }
    for stream in STREAMS.sweep(|o| o.chip.is_of(handle)) {
        release(&host, what, || drop(stream));
    }
    for buffer in BUFFERS.sweep(|o| o.chip.is_of(handle)) {
        release(&host, what, || drop(buffer));
    }
    for device in DEVICES.sweep(|o| o.chip.is_of(handle)) {
        release(&host, what, || drop(device));
    }
    release(&host, what, || drop(backend));
    host.revoke();
}
