//! Points in streams.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qiao_core::patience::Watch;
use qiao_core::{Error, Event, Result};

use crate::codes::SUCCESS;
use crate::context::{Context, Grave, Queue};
use crate::sys::Handle;

/// An event of a device.
pub(crate) struct AscendEvent {
    context: Arc<Context>,
    pub(crate) raw: Handle,
    mark: Mutex<Mark>,
}

/// What an event marks.
#[derive(Clone, Default)]
struct Mark {
    /// The stream on which it was recorded last.
    on: Option<Arc<Queue>>,
    /// The failure that the stream met before.
    failed: Option<Error>,
}

// SAFETY: a handle of AscendCL, which any thread may use.
unsafe impl Send for AscendEvent {}
// SAFETY: as above.
unsafe impl Sync for AscendEvent {}

impl AscendEvent {
    /// # Errors
    /// The driver's.
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self> {
        let _entered = context.enter()?;
        Ok(AscendEvent { context: context.clone(), raw: context.new_event()?, mark: Mutex::default() })
    }

    /// The event behind a handle, if it is of this device.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn of<'a>(context: &Context, event: &'a dyn Event) -> Result<&'a AscendEvent> {
        let own = (event as &dyn Any).downcast_ref::<AscendEvent>().filter(|e| std::ptr::eq(&*e.context, context));
        own.ok_or_else(|| {
            Error::invalid("event", "it is of another device", "use events of the device that made the stream")
        })
    }

    fn lock(&self) -> MutexGuard<'_, Mark> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that it was recorded on a stream, or that the stream had failed before.
    pub(crate) fn set(&self, on: &Arc<Queue>, failed: Option<Error>) {
        *self.lock() = Mark { on: Some(on.clone()), failed };
    }

    /// The stream whose point it marks, if it marks one.
    ///
    /// # Errors
    /// The failure of the stream on which it was recorded.
    pub(crate) fn recorded_on(&self) -> Result<Option<Arc<Queue>>> {
        let mark = self.lock();
        mark.failed.clone().map_or(Ok(mark.on.clone()), Err)
    }
}

impl Event for AscendEvent {
    fn sync(&self, timeout: Duration) -> Result<()> {
        let mut watch = Watch::new("the event", timeout);
        while !self.is_reached()? {
            watch.pause()?;
        }
        Ok(())
    }

    fn is_reached(&self) -> Result<bool> {
        let context = &self.context;
        let _entered = context.enter()?;
        let Some(queue) = self.recorded_on()? else { return Ok(true) };
        let reached = context.is_reached(self.raw).map_err(|code| context.fault("asking an event", code))?;
        if !reached && let Some(code) = context.stopped_by(&queue) {
            // Behind a failure it is never reached.
            return Err(context.fault("a command before an event", code));
        }
        Ok(reached)
    }

    fn since(&self, earlier: &dyn Event) -> Option<Duration> {
        let earlier = AscendEvent::of(&self.context, earlier).ok()?;
        for event in [self, earlier] {
            if event.recorded_on().ok()?.is_none() || !event.is_reached().ok()? {
                return None;
            }
        }
        let _entered = self.context.enter().ok()?;
        let mut millis = 0f32;
        // SAFETY: both events are of this context, timed and reached.
        let code = unsafe { (self.context.api.run.event_elapsed)(&mut millis, earlier.raw, self.raw) };
        (code == SUCCESS && millis >= 0.0).then(|| Duration::from_secs_f64(f64::from(millis) / 1e3))
    }
}

impl Drop for AscendEvent {
    fn drop(&mut self) {
        self.context.bury(Grave::Event(self.raw));
    }
}
