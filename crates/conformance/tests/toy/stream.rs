//! The chip's streams: a thread for each, which takes its time; and events.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use qiao_core::{Binding, Error, Event, Result, Stream};

use super::Fault;
use super::memory::{Storage, resolve, resolve_mut, storage_of};

type Command = Box<dyn FnOnce() -> Result<()> + Send>;

/// How far a stream has come.
#[derive(Default)]
struct State {
    submitted: u64,
    done: u64,
    failed: Option<Error>,
    /// Somebody waits: where a chip is lazy, nothing runs before.
    pushed: bool,
    cancelled: bool,
    /// The stream's handle is gone.
    dropped: bool,
}

/// What a stream, its thread and its events share.
#[derive(Default)]
struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a point is reached; the failure met before it.
    fn reach(&self, point: u64, timeout: Duration) -> Result<()> {
        let start = Instant::now();
        let mut state = self.lock();
        while state.done < point {
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::Timeout { what: "a stream of the toy".into(), millis: timeout.as_millis() as u64 });
            }
            let wait = left.min(Duration::from_secs(3600));
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.failed.clone().map_or(Ok(()), Err)
    }
}

/// A stream of the chip.
pub(crate) struct ToyStream {
    fault: Fault,
    queue: Sender<Command>,
    progress: Arc<Progress>,
    alive: Arc<AtomicBool>,
    /// Whether any stream of the chip has failed.
    failed: Arc<AtomicBool>,
    home: ThreadId,
    complaints: usize,
}

impl ToyStream {
    pub(crate) fn new(fault: Fault, alive: Arc<AtomicBool>, failed: Arc<AtomicBool>) -> ToyStream {
        let (queue, commands) = channel::<Command>();
        let progress = Arc::new(Progress::default());
        let (shared, anywhere) = (progress.clone(), failed.clone());
        thread::spawn(move || {
            let mut random = 1u64;
            while let Ok(command) = commands.recv() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if (random >> 60) == 0 {
                    thread::sleep(Duration::from_micros(60));
                }
                let mut batch = vec![command];
                // Every now and then a command waits for the next one to go first.
                if fault == Fault::Reorders
                    && (random >> 40) & 7 == 0
                    && let Ok(next) = commands.recv_timeout(Duration::from_micros(50))
                {
                    batch.insert(0, next);
                }
                for command in batch {
                    run(fault, &shared, &anywhere, command);
                }
            }
            if fault == Fault::LeaksThreads {
                thread::sleep(Duration::from_secs(20));
            }
        });
        ToyStream { fault, queue, progress, alive, failed, home: thread::current().id(), complaints: 0 }
    }

    /// Whether the stream takes commands.
    fn healthy(&mut self) -> Result<()> {
        if self.fault == Fault::BoundToThread && thread::current().id() != self.home {
            return Err(Error::internal("stream", "no current device on this thread"));
        }
        if self.fault == Fault::HandleKills && !self.alive.load(Ordering::SeqCst) {
            return Err(Error::internal("stream", "the device is closed"));
        }
        if self.fault == Fault::FailsEverywhere && self.failed.load(Ordering::SeqCst) {
            return Err(Error::internal("stream", "something failed"));
        }
        match &self.progress.lock().failed {
            Some(_) if self.fault == Fault::ErrorReplaced => {
                self.complaints += 1;
                let text = format!("complaint {}", self.complaints);
                Err(Error::Poisoned { first: Box::new(Error::internal("stream", text)) })
            }
            Some(first) if self.fault != Fault::ErrorForgotten => {
                Err(Error::Poisoned { first: Box::new(first.clone()) })
            }
            _ => Ok(()),
        }
    }

    /// Queues a command.
    pub(crate) fn push(&mut self, command: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        self.healthy()?;
        self.progress.lock().submitted += 1;
        if self.fault == Fault::LeaksCommands {
            std::mem::forget(vec![1u8; 1000]);
        }
        self.queue.send(Box::new(command)).map_err(|_| Error::internal("stream", "its thread is gone"))
    }

    /// Keeps what a call was refused for, where a chip does not know a mistake from a failure.
    pub(crate) fn checked<T>(&mut self, result: Result<T>) -> Result<T> {
        if self.fault == Fault::RefusedPoisons
            && let Err(e) = &result
        {
            self.progress.lock().failed = Some(e.clone());
        }
        result
    }

    fn finish(&mut self, timeout: Duration) -> Result<()> {
        if self.fault == Fault::LongWaitsPanic {
            let _ = Instant::now() + timeout;
        }
        let point = {
            let mut state = self.progress.lock();
            state.pushed = state.done < state.submitted;
            state.submitted
        };
        self.progress.changed.notify_all();
        let timeout = if self.fault == Fault::SyncIgnoresTimeout { Duration::MAX } else { timeout };
        match self.progress.reach(point, timeout) {
            Err(Error::Timeout { .. }) if self.fault == Fault::SyncLies => Ok(()),
            // Told once, and forgotten.
            Err(e) if self.fault == Fault::ErrorForgotten => {
                self.progress.lock().failed.take().map_or(Ok(()), |_| Err(e))
            }
            result => result,
        }
    }
}

fn run(fault: Fault, progress: &Progress, anywhere: &AtomicBool, command: Command) {
    let skip = {
        let mut state = progress.lock();
        while fault == Fault::Lazy && !state.pushed {
            state = progress.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.cancelled || state.failed.is_some() && fault != Fault::ErrorForgotten
    };
    let result = if skip { Ok(()) } else { command() };
    let mut state = progress.lock();
    if let Err(e) = result {
        anywhere.store(true, Ordering::SeqCst);
        state.failed.get_or_insert(e);
    }
    state.done += 1;
    if state.done == state.submitted {
        state.pushed = false;
    }
    drop(state);
    progress.changed.notify_all();
}

impl Drop for ToyStream {
    fn drop(&mut self) {
        let mut state = self.progress.lock();
        state.cancelled = self.fault == Fault::DropCancels;
        // What nobody waits for any more runs all the same.
        state.pushed = true;
        state.dropped = true;
        drop(state);
        self.progress.changed.notify_all();
    }
}

/// A range to write of as many bytes as lie in the buffer, where a chip cuts ranges to size.
fn cut(binding: &Binding) -> Binding {
    let have = binding.buffer.bytes();
    let offset = binding.offset.min(have);
    Binding { offset, bytes: binding.bytes.min(have - offset), ..binding.clone() }
}

impl Stream for ToyStream {
    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        self.healthy()?;
        if self.fault == Fault::NoBytesPanic {
            assert!(!src.is_empty(), "no bytes");
        }
        let src = if self.fault == Fault::LongUploadCut { &src[..src.len().min(dst.bytes)] } else { src };
        let found = self.checked(resolve_mut(dst, "upload", src.len()));
        if self.fault == Fault::ForeignBufferTaken && storage_of(dst).is_err() {
            return Ok(());
        }
        if let (Err(_), Fault::RefusedUploadWritesPart, Ok(storage)) = (&found, self.fault, storage_of(dst)) {
            storage.write(dst.offset.min(storage.bytes()), src);
        }
        let (storage, range) = found?;
        let mut data = src.to_vec();
        if self.fault == Fault::UploadLosesTail && data.len() > 64 && data.len() % 64 != 0 {
            data.pop();
        }
        if self.fault == Fault::UploadClearsRest {
            data.resize(data.len().next_multiple_of(64), 0);
        }
        self.push(move || {
            storage.write(range.start, &data);
            Ok(())
        })
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        self.healthy()?;
        let src = if self.fault == Fault::DownloadClamps { &cut(src) } else { src };
        let need = if self.fault == Fault::DownloadClamps { dst.len().min(src.bytes) } else { dst.len() };
        let (storage, range) = self.checked(resolve(src, "download", need))?;
        if self.fault != Fault::DownloadOvertakes {
            self.finish(Duration::MAX)?;
        }
        let start = if self.fault == Fault::DownloadIgnoresOffset { 0 } else { range.start };
        dst[..need].copy_from_slice(&storage.read(start..start + need));
        Ok(())
    }

    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        self.healthy()?;
        let src = if self.fault == Fault::CopySourceUnchecked { &cut(src) } else { src };
        let found = resolve_mut(dst, "copy destination", src.bytes);
        let (to, to_range) = self.checked(found)?;
        let (from, mut range) = self.checked(resolve(src, "copy source", 0))?;
        if self.fault == Fault::CopyOneMore && range.end < from.bytes() && !range.is_empty() {
            range.end += 1;
        }
        let forwards = self.fault == Fault::CopyForwards;
        self.push(move || {
            copy(&to, to_range.start, &from, range, forwards);
            Ok(())
        })
    }

    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        self.healthy()?;
        let dst = if self.fault == Fault::FillClamps { &cut(dst) } else { dst };
        let (storage, range) = self.checked(resolve_mut(dst, "fill", 0))?;
        let byte = if self.fault == Fault::FillZero { 0 } else { byte };
        self.push(move || {
            storage.write(range.start, &vec![byte; range.len()]);
            Ok(())
        })
    }

    fn sync(&mut self, timeout: Duration) -> Result<()> {
        self.healthy()?;
        self.finish(timeout)
    }

    fn record(&mut self, event: &dyn Event) -> Result<()> {
        let Some(event) = (event as &dyn Any).downcast_ref::<ToyEvent>() else {
            if self.fault == Fault::ForeignEventTaken {
                return Ok(());
            }
            return Err(Error::invalid("event", "it is of another device", "record events on their own device"));
        };
        let mut point = event.point();
        if self.fault == Fault::RecordsOnce && point.is_some() {
            return Ok(());
        }
        let stamp: Arc<Mutex<Option<Instant>>> = Arc::default();
        let marked = stamp.clone();
        let result = self.push(move || {
            *marked.lock().unwrap() = Some(Instant::now());
            Ok(())
        });
        if result.is_err() && self.fault == Fault::EventsHideErrors {
            return result;
        }
        let at = self.progress.lock().submitted;
        *point = Some(Point { progress: self.progress.clone(), at, stamp });
        result
    }

    fn wait(&mut self, event: &dyn Event) -> Result<()> {
        let Some(event) = (event as &dyn Any).downcast_ref::<ToyEvent>() else {
            return Err(Error::invalid("event", "it is of another device", "wait for events of this device"));
        };
        match self.fault {
            Fault::WaitIgnored => Ok(()),
            Fault::WaitIsLate => {
                let late = event.point.clone();
                self.push(move || {
                    let point = late.lock().unwrap().clone();
                    point.map_or(Ok(()), |p| p.progress.reach(p.at, Duration::MAX))
                })
            }
            _ => match event.point().clone() {
                Some(p) => self.push(move || p.progress.reach(p.at, Duration::MAX)),
                None => Ok(()),
            },
        }
    }
}

fn copy(to: &Storage, at: usize, from: &Storage, range: std::ops::Range<usize>, forwards: bool) {
    if !forwards {
        return to.write(at, &from.read(range));
    }
    for (i, byte) in range.enumerate() {
        to.write(at + i, &from.read(byte..byte + 1));
    }
}

/// What an event marks.
#[derive(Clone)]
struct Point {
    progress: Arc<Progress>,
    at: u64,
    stamp: Arc<Mutex<Option<Instant>>>,
}

/// An event of the chip.
pub(crate) struct ToyEvent {
    fault: Fault,
    point: Arc<Mutex<Option<Point>>>,
}

impl ToyEvent {
    pub(crate) fn new(fault: Fault) -> ToyEvent {
        if fault == Fault::LeaksEvents {
            std::mem::forget(vec![1u8; 3000]);
        }
        ToyEvent { fault, point: Arc::default() }
    }

    fn point(&self) -> MutexGuard<'_, Option<Point>> {
        self.point.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self) -> Option<Instant> {
        *self.point().as_ref()?.stamp.lock().unwrap()
    }
}

impl Event for ToyEvent {
    fn sync(&self, timeout: Duration) -> Result<()> {
        let timeout = if self.fault == Fault::EventIgnoresTimeout { Duration::MAX } else { timeout };
        match self.point().clone() {
            Some(p) if self.fault != Fault::EventSyncAtOnce => p.progress.reach(p.at, timeout),
            _ => Ok(()),
        }
    }

    fn is_reached(&self) -> Result<bool> {
        match self.point().clone() {
            _ if self.fault == Fault::AlwaysReached => Ok(true),
            None => Ok(self.fault != Fault::NeverReachedUnrecorded),
            Some(p) => match p.progress.reach(p.at, Duration::ZERO) {
                Err(Error::Timeout { .. }) if self.fault == Fault::EventNeedsItsStream && p.progress.lock().dropped => {
                    Err(Error::internal("event", "no stream"))
                }
                Err(Error::Timeout { .. }) => Ok(false),
                result => result.map(|()| true),
            },
        }
    }

    fn since(&self, earlier: &dyn Event) -> Option<Duration> {
        let earlier = (earlier as &dyn Any).downcast_ref::<ToyEvent>()?;
        let span = self.stamp()?.checked_duration_since(earlier.stamp()?)?;
        Some(if self.fault == Fault::TimeInOtherUnits { span * 1000 } else { span })
    }
}
