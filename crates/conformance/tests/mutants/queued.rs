//! A device that runs behind its caller, in safe code: each stream is a thread with a queue. Honest, or with one fault
//! against the device contract.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use qiao_core::host::{HostBuffer, HostStream, host_range};
use qiao_core::{
    Binding, Buffer, BufferExt, Device, DeviceInfo, Error, Event, Graph, MemoryInfo, MemoryKind, NodeSupport, OpKind,
    Plan, PlanInfo, Result, Stream,
};
use qiao_reference::ReferenceDevice;

/// One clause of the contract that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// `sync` returns at once.
    SyncDoesNotWait,
    /// `sync` waits until all is done, however short the time.
    SyncIgnoresItsTime,
    /// An event is reached when it is recorded, with the work before it still to do.
    EventReachedEarly,
    /// An event keeps the first point it was given.
    EventKeepsItsFirstPoint,
    /// An event that was never recorded is not reached.
    FreshEventIsNotReached,
    /// A stream does not wait for events.
    WaitIsIgnored,
    /// A wait is for the point that the event marks when the stream comes to it.
    WaitFollowsTheEvent,
    /// The time between events is a thousand times as long.
    TimeIsInWrongUnits,
    /// Fills do not wait for their turn.
    FillsOvertake,
    /// Downloads do not wait for their turn.
    DownloadsOvertake,
    /// Every second buffer is the one before it.
    BuffersOverlap,
    /// A buffer has one byte less than was asked.
    BufferIsShort,
    /// Room for anything, of which nothing is there.
    AbsurdSizesAreGranted,
    /// What is freed is never given again.
    FreedMemoryIsLost,
    /// Once out of memory, always out of memory.
    OutOfMemoryIsForEver,
    /// Every memory is the first.
    AnyMemoryWillDo,
    /// Ranges are not looked at; what lies outside is left alone.
    RangesAreNotChecked,
    /// The end of a range is added up with wrap-round.
    RangesWrap,
    /// A range may be shorter than what is put there; what does not fit is cut.
    ShortRangesAreCut,
    /// A fill sets one byte more.
    FillsOneByteMore,
    /// A copy loses the bytes behind the last multiple of 64.
    CopiesLoseTheirTail,
    /// An upload to an odd offset goes to the even one before it.
    OddOffsetsAreRoundedDown,
    /// A copy within a buffer reads what it has just written.
    OverlappingCopiesSmear,
    /// A copy drops the higher bits of its offsets.
    OffsetsAreOf32Bits,
    /// An execution drops the higher bits of its operands' offsets.
    PlansHave32Bits,
    /// An execution drops all but 31 bits, on a device with no room for more than 2^31 bytes at once.
    PlansHave31Bits,
    /// A copy moves at most 1 MiB.
    LargeCopiesAreCut,
    /// A refused call poisons its stream.
    RefusalsPoison,
    /// `sync` tells a failure and waits for nothing.
    FailuresAreToldAtOnce,
    /// `sync` forgets the failure that it tells.
    FailuresAreForgotten,
    /// An event does not tell the failure before it.
    EventsTellNoFailure,
    /// A failure on one stream is one of all streams.
    FailuresSpread,
    /// Dropping a stream cancels its work.
    DroppedStreamsStop,
    /// Queued work does not keep its buffers alive.
    QueuedWorkLosesItsBuffers,
    /// Streams stop when the device handle is dropped.
    StreamsDieWithTheDevice,
    /// A foreign buffer is a panic.
    ForeignBuffersPanic,
    /// A foreign event is recorded in silence.
    ForeignEventsAreTaken,
    /// Commands go to the stream that was made last on the device.
    CurrentStream,
    /// An event leaves something behind.
    EventsLeak,
    /// Tensors start on multiples of 48.
    OddAlignment,
    /// A declared peak without a source.
    PeakOfUnknownSource,
    /// The name has a line break.
    NameOfTwoLines,
    /// A plan does not look at its bindings: one too few is a panic.
    BindingsAreNotCounted,
    /// A plan takes bindings that are too short, and does nothing.
    ShortBindingsAreTaken,
    /// A plan takes a workspace that is too small.
    ShortWorkspaceIsTaken,
    /// A plan runs on the stream's thread without waiting for its turn.
    PlansOvertake,
    /// Executions that are pending have the operands of the one that was asked for last.
    PlansShareOperands,
    /// Norms on any stream put their result through one scratch.
    NormsShareScratch,
}

/// Bytes of the one memory.
const TOTAL: u64 = 48 << 20;

/// The same, where offsets are to be large.
const fn total(fault: Fault) -> u64 {
    match fault {
        Fault::OffsetsAreOf32Bits | Fault::PlansHave32Bits => 64 << 30,
        Fault::PlansHave31Bits => 5 << 30,
        _ => TOTAL,
    }
}

/// How long a copy takes beyond itself, so that whoever does not wait is found out. Where it is to be measured, it is much
/// longer than what a busy machine adds.
fn slow(fault: Fault) -> Duration {
    Duration::from_micros(if fault == Fault::SyncIgnoresItsTime { 3000 } else { 150 })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn out_of_time(what: &str, timeout: Duration) -> Error {
    Error::Timeout { what: what.into(), millis: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) }
}

/// The device.
pub(crate) struct Queued {
    info: DeviceInfo,
    fault: Fault,
    shared: Arc<Shared>,
    /// The buffer that was made last.
    last: Mutex<Option<Weak<HostBuffer>>>,
    full: AtomicBool,
}

/// What buffers and streams know of their device.
struct Shared {
    fault: Fault,
    used: AtomicU64,
    failure: Mutex<Option<Error>>,
    current: Mutex<Option<Arc<Lane>>>,
    /// What leaks.
    kept: Mutex<Vec<Vec<u8>>>,
    scratch: Mutex<Vec<u8>>,
    closed: AtomicBool,
}

impl Queued {
    /// A device with this fault.
    pub(crate) fn new(fault: Fault) -> Queued {
        let mut info = ReferenceDevice::default().info().clone();
        let kind = MemoryKind { device_local: true, host_visible: true, ..Default::default() };
        let memory = MemoryInfo {
            kind,
            total_bytes: total(fault),
            max_alloc: total(fault),
            base_align: 64,
            ..Default::default()
        };
        info.name = "queued".into();
        info.memories = vec![memory];
        info.tensor_align = 64;
        match fault {
            Fault::OddAlignment => info.tensor_align = 48,
            Fault::PeakOfUnknownSource => info.memories[0].peak_bytes_per_s = 1e12,
            Fault::NameOfTwoLines => info.name = "queued\ndevice".into(),
            _ => {}
        }
        let shared = Shared {
            fault,
            used: AtomicU64::new(0),
            failure: Mutex::default(),
            current: Mutex::default(),
            kept: Mutex::default(),
            scratch: Mutex::default(),
            closed: AtomicBool::new(false),
        };
        Queued { info, fault, shared: Arc::new(shared), last: Mutex::default(), full: AtomicBool::new(false) }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.shared.closed.store(self.fault == Fault::StreamsDieWithTheDevice, Ordering::SeqCst);
        // The lane that was made last would keep itself alive.
        lock(&self.shared.current).take();
    }
}

/// Memory of the device.
struct QueuedBuffer {
    host: Arc<HostBuffer>,
    bytes: usize,
    counted: u64,
    shared: Arc<Shared>,
}

impl Buffer for QueuedBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for QueuedBuffer {
    fn drop(&mut self) {
        if self.shared.fault != Fault::FreedMemoryIsLost {
            self.shared.used.fetch_sub(self.counted, Ordering::SeqCst);
        }
    }
}

impl Device for Queued {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        if memory != 0 && self.fault != Fault::AnyMemoryWillDo {
            return Err(Error::invalid("memory", format!("position {memory}"), "there is memory 0 only"));
        }
        let buffer = |host: Arc<HostBuffer>, bytes: usize, counted: u64| -> Arc<dyn Buffer> {
            Arc::new(QueuedBuffer { host, bytes, counted, shared: self.shared.clone() })
        };
        let none = || Error::OutOfMemory {
            device: self.info.name.clone(),
            asked: bytes as u64,
            free: total(self.fault).saturating_sub(self.shared.used.load(Ordering::SeqCst)),
        };
        if bytes as u64 > total(self.fault) && self.fault == Fault::AbsurdSizesAreGranted {
            return Ok(buffer(Arc::new(HostBuffer::new(&self.info.name, 0)?), bytes, 0));
        }
        let counted = (bytes as u64).max(1);
        let taken = self.shared.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
            used.checked_add(counted).filter(|sum| *sum <= total(self.fault))
        });
        if taken.is_err() || self.full.load(Ordering::SeqCst) {
            if taken.is_ok() {
                self.shared.used.fetch_sub(counted, Ordering::SeqCst);
            }
            self.full.store(self.fault == Fault::OutOfMemoryIsForEver, Ordering::SeqCst);
            return Err(none());
        }
        let mut last = lock(&self.last);
        if self.fault == Fault::BuffersOverlap
            && let Some(host) = last.take().and_then(|w| w.upgrade()).filter(|h| h.bytes() >= bytes)
        {
            return Ok(buffer(host, bytes, counted));
        }
        let spare = if self.fault == Fault::BuffersOverlap { bytes + 64 } else { 0 };
        let host = Arc::new(HostBuffer::new(&self.info.name, bytes + spare)?);
        *last = Some(Arc::downgrade(&host));
        Ok(buffer(host, bytes - (self.fault == Fault::BufferIsShort && bytes > 0) as usize, counted))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        let lane = Arc::new(Lane::start(self.shared.clone()));
        *lock(&self.shared.current) = Some(lane.clone());
        Ok(Box::new(QueuedStream { lane, shared: self.shared.clone(), told: Mutex::default() }))
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        if self.fault == Fault::EventsLeak {
            lock(&self.shared.kept).push(vec![1; 16 << 10]);
        }
        Ok(Arc::new(QueuedEvent { point: Mutex::default(), fault: self.fault }))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        ReferenceDevice::default().support(graph)
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let inner = ReferenceDevice::default().plan(graph)?;
        Ok(Arc::new(QueuedPlan { inner, graph: graph.clone(), shared: self.shared.clone(), latest: Arc::default() }))
    }
}

type Command = Box<dyn FnOnce() -> Result<()> + Send>;

/// The queue of a stream and its thread.
struct Lane {
    sender: Mutex<Option<Sender<(bool, Command)>>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    progress: Mutex<Progress>,
    changed: Condvar,
    cancelled: AtomicBool,
}

#[derive(Default)]
struct Progress {
    queued: u64,
    done: u64,
    failure: Option<Error>,
}

impl Lane {
    fn start(shared: Arc<Shared>) -> Lane {
        let (sender, receiver) = channel::<(bool, Command)>();
        let state = Arc::new(State::default());
        let inner = state.clone();
        std::thread::spawn(move || {
            for (always, command) in receiver {
                let healthy = lock(&inner.progress).failure.is_none();
                let stopped = inner.cancelled.load(Ordering::SeqCst) || shared.closed.load(Ordering::SeqCst);
                let result = if always || healthy && !stopped { command() } else { Ok(()) };
                let mut progress = lock(&inner.progress);
                if let Err(error) = result {
                    if shared.fault == Fault::FailuresSpread {
                        *lock(&shared.failure) = Some(error.clone());
                    }
                    progress.failure.get_or_insert(error);
                }
                progress.done += 1;
                inner.changed.notify_all();
            }
        });
        Lane { sender: Mutex::new(Some(sender)), state }
    }

    fn queue(&self, always: bool, command: Command) {
        lock(&self.state.progress).queued += 1;
        if let Some(sender) = &*lock(&self.sender) {
            // The thread ends with the sender, not before.
            let _ = sender.send((always, command));
        }
    }

    /// Waits until all that was queued is done. `false` where the time is up first.
    fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut progress = lock(&self.state.progress);
        let until = progress.queued;
        while progress.done < until {
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600),
            };
            if left.is_zero() {
                return false;
            }
            progress = self.state.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn failure(&self) -> Option<Error> {
        lock(&self.state.progress).failure.clone()
    }
}

struct QueuedStream {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    /// A failure that is told without a wait.
    told: Mutex<Option<Error>>,
}

impl Drop for QueuedStream {
    fn drop(&mut self) {
        self.lane.state.cancelled.store(self.shared.fault == Fault::DroppedStreamsStop, Ordering::SeqCst);
    }
}

/// A range of a buffer of this device: checked, and how much of it is asked for.
fn range(shared: &Shared, binding: &Binding, need: usize) -> Result<(Arc<HostBuffer>, usize, usize)> {
    let size = binding.buffer.bytes();
    let fault = shared.fault;
    let Some(buffer) = binding.buffer.downcast::<QueuedBuffer>() else {
        assert!(fault != Fault::ForeignBuffersPanic, "a buffer of this device");
        return Err(Error::invalid("buffer", "it belongs to another device", "copy it through the host"));
    };
    let end = match fault {
        Fault::RangesWrap => Some(binding.offset.wrapping_add(binding.bytes)),
        _ => binding.offset.checked_add(binding.bytes),
    };
    let inside = end.is_some_and(|end| end <= size) || fault == Fault::RangesAreNotChecked;
    if !inside || binding.bytes < need && fault != Fault::ShortRangesAreCut {
        let found = format!("{} + {} of {size} bytes", binding.offset, binding.bytes);
        return Err(Error::invalid("range", found, format!("stay inside, with {need} bytes")));
    }
    let start = binding.offset.min(buffer.host.bytes());
    let most = buffer.host.bytes() - start;
    Ok((buffer.host.clone(), start, need.min(binding.bytes).min(most)))
}

impl QueuedStream {
    fn healthy(&self) -> Result<()> {
        let failure = match self.shared.fault {
            Fault::FailuresSpread => lock(&self.shared.failure).clone(),
            _ => self.lane.failure(),
        };
        failure.map_or(Ok(()), |first| Err(Error::Poisoned { first: Box::new(first) }))
    }

    /// A checked range; what is refused is told, and poisons the stream where that is the fault.
    fn range(&self, binding: &Binding, need: usize) -> Result<(Arc<HostBuffer>, usize, usize)> {
        let result = range(&self.shared, binding, need);
        if let (Err(error), Fault::RefusalsPoison) = (&result, self.shared.fault) {
            lock(&self.lane.state.progress).failure.get_or_insert(error.clone());
        }
        result
    }

    fn lane(&self) -> Arc<Lane> {
        match self.shared.fault {
            Fault::CurrentStream => lock(&self.shared.current).clone().unwrap_or_else(|| self.lane.clone()),
            _ => self.lane.clone(),
        }
    }

    fn queue(&self, command: impl FnOnce() -> Result<()> + Send + 'static) {
        self.lane().queue(false, Box::new(command));
    }

    /// The buffer as queued work holds it.
    fn hold(&self, host: Arc<HostBuffer>) -> impl Fn() -> Option<Arc<HostBuffer>> + Send + use<> {
        let weak = Arc::downgrade(&host);
        let strong = (self.shared.fault != Fault::QueuedWorkLosesItsBuffers).then_some(host);
        move || strong.clone().or_else(|| weak.upgrade())
    }
}

impl Stream for QueuedStream {
    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        self.healthy()?;
        let (host, mut start, bytes) = self.range(dst, src.len())?;
        if self.shared.fault == Fault::OddOffsetsAreRoundedDown && bytes > 1 {
            start &= !1;
        }
        let (data, held) = (src[..bytes].to_vec(), self.hold(host));
        self.queue(move || {
            if let Some(host) = held() {
                host.write(start..start + data.len(), |b| b.copy_from_slice(&data));
            }
            Ok(())
        });
        Ok(())
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        self.healthy()?;
        let (host, start, bytes) = self.range(src, dst.len())?;
        if self.shared.fault != Fault::DownloadsOvertake {
            self.lane.wait(Duration::MAX);
        }
        self.healthy()?;
        host.read(start..start + bytes, |b| dst[..bytes].copy_from_slice(b));
        Ok(())
    }

    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        self.healthy()?;
        let (from, at, bytes) = self.range(src, src.bytes)?;
        let (to, start, room) = self.range(dst, src.bytes)?;
        let fault = self.shared.fault;
        let bytes = match fault {
            Fault::CopiesLoseTheirTail => bytes.min(room) / 64 * 64,
            Fault::LargeCopiesAreCut => bytes.min(room).min(1 << 20),
            _ => bytes.min(room),
        };
        let narrow = |at: usize| if fault == Fault::OffsetsAreOf32Bits { at as u32 as usize } else { at };
        let (at, start) = (narrow(at), narrow(start));
        let smears = fault == Fault::OverlappingCopiesSmear && Arc::ptr_eq(&from, &to);
        let (from, to) = (self.hold(from), self.hold(to));
        self.queue(move || {
            std::thread::sleep(slow(fault));
            let (Some(from), Some(to)) = (from(), to()) else { return Ok(()) };
            if smears && at < start {
                to.write(0..to.bytes(), |b| (0..bytes).for_each(|i| b[start + i] = b[at + i]));
                return Ok(());
            }
            let data = from.read(at..at + bytes, <[u8]>::to_vec);
            to.write(start..start + bytes, |b| b.copy_from_slice(&data));
            Ok(())
        });
        Ok(())
    }

    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        self.healthy()?;
        let (host, start, mut bytes) = self.range(dst, dst.bytes)?;
        if self.shared.fault == Fault::FillsOneByteMore && start + bytes < host.bytes() && bytes > 0 {
            bytes += 1;
        }
        let held = self.hold(host);
        let command = move || {
            if let Some(host) = held() {
                host.write(start..start + bytes, |b| b.fill(byte));
            }
            Ok(())
        };
        match self.shared.fault {
            Fault::FillsOvertake => command(),
            _ => {
                self.queue(command);
                Ok(())
            }
        }
    }

    fn sync(&mut self, timeout: Duration) -> Result<()> {
        let fault = self.shared.fault;
        let timeout = if fault == Fault::SyncIgnoresItsTime { Duration::MAX } else { timeout };
        if let Some(first) = &*lock(&self.told) {
            return Err(first.clone());
        }
        if fault != Fault::SyncDoesNotWait && !self.lane.wait(timeout) {
            return Err(out_of_time("stream", timeout));
        }
        let told = self.healthy();
        if fault == Fault::FailuresAreForgotten {
            lock(&self.lane.state.progress).failure = None;
        }
        told
    }

    fn record(&mut self, event: &dyn Event) -> Result<()> {
        let Some(event) = (event as &dyn Any).downcast_ref::<QueuedEvent>() else {
            if self.shared.fault == Fault::ForeignEventsAreTaken {
                return Ok(());
            }
            return Err(Error::invalid("event", "it is of another device", "record events on their own device"));
        };
        let point = Arc::new(Point::default());
        let mut held = lock(&event.point);
        if let (Some(before), Fault::WaitFollowsTheEvent) = (&*held, self.shared.fault) {
            // It was set before where two streams record at once.
            let _ = before.next.set(point.clone());
        }
        if held.is_none() || self.shared.fault != Fault::EventKeepsItsFirstPoint {
            *held = Some(point.clone());
        }
        drop(held);
        if self.shared.fault == Fault::EventReachedEarly {
            point.reach(None);
            return self.healthy();
        }
        let lane = self.lane();
        let (state, fault) = (lane.state.clone(), self.shared.fault);
        let mark = move || {
            let failure = lock(&state.progress).failure.clone();
            point.reach(failure.filter(|_| fault != Fault::EventsTellNoFailure));
            Ok(())
        };
        lane.queue(true, Box::new(mark));
        self.healthy()
    }

    fn wait(&mut self, event: &dyn Event) -> Result<()> {
        self.healthy()?;
        let Some(event) = (event as &dyn Any).downcast_ref::<QueuedEvent>() else {
            return event.sync(Duration::MAX);
        };
        let (fault, slot) = (self.shared.fault, lock(&event.point).clone());
        let Some(point) = slot.filter(|_| fault != Fault::WaitIsIgnored) else { return Ok(()) };
        self.queue(move || point.wait(Duration::MAX));
        Ok(())
    }
}

/// A point in a stream.
#[derive(Default)]
struct Point {
    reached: Mutex<Option<(Instant, Option<Error>)>>,
    changed: Condvar,
    /// The point that took its place, where waits follow the event.
    next: OnceLock<Arc<Point>>,
}

impl Point {
    fn reach(&self, failure: Option<Error>) {
        *lock(&self.reached) = Some((Instant::now(), failure));
        self.changed.notify_all();
    }

    fn wait(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now().checked_add(timeout);
        let mut reached = lock(&self.reached);
        loop {
            if let (Some(_), Some(next)) = (&*reached, self.next.get()) {
                drop(reached);
                return next.wait(timeout);
            }
            if let Some((_, failure)) = &*reached {
                return failure.clone().map_or(Ok(()), Err);
            }
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600),
            };
            if left.is_zero() {
                return Err(out_of_time("event", timeout));
            }
            reached = self.changed.wait_timeout(reached, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

struct QueuedEvent {
    point: Mutex<Option<Arc<Point>>>,
    fault: Fault,
}

impl Event for QueuedEvent {
    fn sync(&self, timeout: Duration) -> Result<()> {
        let point = lock(&self.point).clone();
        point.map_or(Ok(()), |p| p.wait(timeout))
    }

    fn is_reached(&self) -> Result<bool> {
        let Some(point) = lock(&self.point).clone() else { return Ok(self.fault != Fault::FreshEventIsNotReached) };
        let reached = lock(&point.reached).clone();
        match reached {
            Some((_, Some(failure))) => Err(failure),
            Some((_, None)) => Ok(true),
            None => Ok(false),
        }
    }

    fn since(&self, earlier: &dyn Event) -> Option<Duration> {
        let at = |e: &QueuedEvent| Some(lock(&lock(&e.point).clone()?.reached).as_ref()?.0);
        let earlier = (earlier as &dyn Any).downcast_ref::<QueuedEvent>()?;
        let span = at(self)?.checked_duration_since(at(earlier)?)?;
        Some(if self.fault == Fault::TimeIsInWrongUnits { span * 1000 } else { span })
    }
}

struct QueuedPlan {
    inner: Arc<dyn Plan>,
    graph: Graph,
    shared: Arc<Shared>,
    /// The operands of the execution that was asked for last.
    latest: Arc<Mutex<Vec<Binding>>>,
}

impl QueuedPlan {
    /// The same range, as the reference knows it.
    fn inside(&self, binding: &Binding, need: usize) -> Result<Binding> {
        let (host, start, bytes) = range(&self.shared, binding, need.max(binding.bytes))?;
        let host: Arc<dyn Buffer> = host;
        let start = match self.shared.fault {
            Fault::PlansHave32Bits => start & u32::MAX as usize,
            Fault::PlansHave31Bits => start & i32::MAX as usize,
            _ => start,
        };
        Ok(Binding::part(&host, start, bytes))
    }

    fn has(&self, kind: OpKind) -> bool {
        self.graph.nodes().iter().any(|n| n.op.kind() == kind)
    }
}

/// A range goes through what everybody uses, slowly.
fn through(scratch: &Mutex<Vec<u8>>, binding: &Binding) -> Result<()> {
    let (host, range) = host_range(binding)?;
    *lock(scratch) = host.read(range.clone(), <[u8]>::to_vec);
    std::thread::sleep(Duration::from_millis(2));
    let held = lock(scratch).clone();
    host.write(range, |b| b.iter_mut().zip(held).for_each(|(b, held)| *b = held));
    Ok(())
}

impl Plan for QueuedPlan {
    fn info(&self) -> PlanInfo {
        self.inner.info()
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let fault = self.shared.fault;
        let stream = (stream as &mut dyn Any).downcast_mut::<QueuedStream>().ok_or_else(|| {
            Error::invalid("stream", "it belongs to another device", "make it with the device that made the plan")
        })?;
        stream.healthy()?;
        if fault == Fault::BindingsAreNotCounted {
            let _ = self.graph.bound().iter().enumerate().map(|(i, _)| bindings[i].bytes).sum::<usize>();
        }
        let checked = self.graph.check_bindings(bindings);
        if fault == Fault::ShortBindingsAreTaken && checked.is_err() && bindings.len() == self.graph.bound().len() {
            return Ok(());
        }
        checked?;
        if fault == Fault::ShortWorkspaceIsTaken && workspace.bytes < self.inner.info().workspace_bytes {
            return Ok(());
        }
        workspace.check("workspace", self.inner.info().workspace_bytes)?;
        let inner = bindings.iter().map(|b| self.inside(b, 0)).collect::<Result<Vec<_>>>()?;
        let room = self.inside(workspace, 0)?;
        lock(&self.latest).clone_from(&inner);
        let (plan, latest, shared) = (self.inner.clone(), self.latest.clone(), self.shared.clone());
        let scratched = fault == Fault::NormsShareScratch && self.has(OpKind::RmsNorm);
        let command = move || {
            std::thread::sleep(slow(fault));
            let operands = if fault == Fault::PlansShareOperands { lock(&latest).clone() } else { inner };
            plan.execute(&mut HostStream::default(), &operands, &room)?;
            match operands.last().filter(|_| scratched) {
                Some(result) => through(&shared.scratch, result),
                None => Ok(()),
            }
        };
        if fault == Fault::PlansOvertake {
            return command();
        }
        if fault == Fault::FailuresAreToldAtOnce {
            let result = command();
            if let Err(error) = &result {
                lock(&stream.told).get_or_insert(error.clone());
            }
            return result;
        }
        stream.queue(command);
        Ok(())
    }
}
