//! Events of a plugin that has them.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use qiao_core::{Error, Event, Result};

use super::calls::{Kind, Raw};
use super::failure::{Answer, Asked, Failure};
use super::opened::{Opened, nanos};
use super::slots::Events;
use crate::abi;

/// The first failure of a stream.
pub(super) type First = Arc<OnceLock<Error>>;

/// How long a wait holds an event at a time: others that record or ask it come in between.
const SLICE: Duration = Duration::from_millis(10);

/// An event. Calls that name it are made one after the other.
pub(super) struct DeviceEvent {
    pub(super) device: Arc<Opened>,
    raw: Raw<abi::Event>,
    slots: Events,
    point: Mutex<Point>,
}

/// What an event marks.
#[derive(Default)]
pub(super) struct Point {
    recorded: bool,
    /// The failure that its stream had met already.
    failed: Option<Error>,
    /// Where its stream keeps its first failure.
    stream: First,
}

impl DeviceEvent {
    pub(super) fn new(device: &Arc<Opened>, slots: Events) -> Result<DeviceEvent> {
        device.present()?;
        let raw = device.session.calls.handle("event_create", Kind::Event, |out, err| {
            // SAFETY: the device is open; the out-pointers are the call's.
            unsafe { (slots.event_create)(device.raw(), 0, out, err) }
        });
        let raw = raw.map_err(|failure| device.error(&failure, Asked::default()))?;
        Ok(DeviceEvent { device: device.clone(), raw, slots, point: Mutex::default() })
    }

    /// The event for one call.
    fn turn(&self) -> MutexGuard<'_, Point> {
        self.point.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a point of a stream that has not failed.
    pub(super) fn record(&self, stream: *mut abi::Stream, first: &First) -> Answer<()> {
        let mut point = self.turn();
        self.device.session.calls.call("event_record", |err| {
            // SAFETY: event and stream are alive, and nobody else names either at the moment.
            unsafe { (self.slots.event_record)(self.raw.get(), stream, err) }
        })?;
        *point = Point { recorded: true, failed: None, stream: first.clone() };
        Ok(())
    }

    /// Marks a point of a stream that has failed.
    pub(super) fn fail(&self, error: Error) {
        *self.turn() = Point { recorded: true, failed: Some(error), stream: First::default() };
    }

    /// Makes a stream wait for the point. Beside the answer is the failure that the point's own stream has met, if any.
    pub(super) fn hold(&self, stream: *mut abi::Stream) -> Result<(Answer<()>, Option<Error>)> {
        let point = self.turn();
        if let Some(error) = &point.failed {
            return Err(error.clone());
        }
        let answer = self.device.session.calls.call("stream_wait", |err| {
            // SAFETY: event and stream are alive, and nobody else names either at the moment.
            unsafe { (self.slots.stream_wait)(stream, self.raw.get(), err) }
        });
        Ok((answer, point.stream.get().cloned()))
    }

    /// One call that asks or waits, and whether the point is reached.
    fn reached(&self, point: &Point, wait: Option<Duration>) -> Result<bool> {
        self.device.present()?;
        if let Some(error) = &point.failed {
            return Err(error.clone());
        }
        let calls = &self.device.session.calls;
        let answer = match (wait, self.device.session.slots.single.event_query) {
            (None, Some(query)) => calls.call("event_query", |err| {
                // SAFETY: the event is alive, and nobody else names it at the moment.
                unsafe { query(self.raw.get(), err) }
            }),
            (wait, _) => calls.call("event_sync", |err| {
                // SAFETY: as above.
                unsafe { (self.slots.event_sync)(self.raw.get(), nanos(wait.unwrap_or_default()), err) }
            }),
        };
        match answer {
            Ok(()) => Ok(true),
            Err(f) if f.status == abi::ERR_TIMEOUT || f.status == abi::ERR_NOT_READY => Ok(false),
            Err(f) => Err(self.error(point, &f)),
        }
    }

    /// The failure that the stream met before the point.
    fn error(&self, point: &Point, failure: &Failure) -> Error {
        match point.stream.get() {
            Some(first) if failure.status == abi::ERR_POISONED => poisoned(first),
            _ => self.device.error_of_command(failure, Asked::default()),
        }
    }

    /// Whether the event was recorded and its point is reached.
    fn is_mark(&self) -> bool {
        let point = self.turn();
        point.recorded && self.reached(&point, None).unwrap_or(false)
    }
}

/// The error of what comes behind a stream's first failure.
pub(super) fn poisoned(first: &Error) -> Error {
    match first {
        Error::Poisoned { .. } | Error::DeviceLost { .. } => first.clone(),
        first => Error::Poisoned { first: Box::new(first.clone()) },
    }
}

impl Event for DeviceEvent {
    fn sync(&self, timeout: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            let point = self.turn();
            if self.reached(&point, Some(left.min(SLICE)))? {
                return Ok(());
            }
            drop(point);
            if start.elapsed() >= timeout {
                let millis = timeout.as_millis().try_into().unwrap_or(u64::MAX);
                return Err(Error::Timeout { what: format!("an event of {}", self.device.name()), millis });
            }
            // A chance for whoever else wants the event.
            thread::yield_now();
        }
    }

    fn is_reached(&self) -> Result<bool> {
        let point = self.turn();
        self.reached(&point, None)
    }

    fn since(&self, earlier: &dyn Event) -> Option<Duration> {
        let elapsed = self.device.session.slots.single.event_elapsed_ns?;
        let earlier = (earlier as &dyn Any).downcast_ref::<DeviceEvent>()?;
        if !Arc::ptr_eq(&self.device, &earlier.device) || !self.is_mark() || !earlier.is_mark() {
            return None;
        }
        if self.raw.get() == earlier.raw.get() {
            return Some(Duration::ZERO);
        }
        // Both at once, always in one order, so that two threads never wait for each other.
        let (a, b) = if self.raw.get() < earlier.raw.get() { (self, earlier) } else { (earlier, self) };
        let (_a, _b) = (a.turn(), b.turn());
        let ns = self.device.session.calls.number("event_elapsed_ns", |out, err| {
            // SAFETY: both events are alive, and nobody else names either at the moment.
            unsafe { elapsed(earlier.raw.get(), self.raw.get(), out, err) }
        });
        ns.ok().map(Duration::from_nanos)
    }
}

impl Drop for DeviceEvent {
    fn drop(&mut self) {
        self.device.session.calls.gone("event_destroy", Kind::Event, self.raw, |raw| {
            // SAFETY: the event is alive; queued work that still uses it is the plugin's to mind.
            unsafe { (self.slots.event_destroy)(raw) }
        });
    }
}
