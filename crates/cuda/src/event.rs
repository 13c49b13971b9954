//! Points in streams.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qiao_core::{Error, Event, Result};

use crate::context::{Context, Grave};
use crate::sys::{CUevent, SUCCESS};
use crate::vendors::Meaning;
use qiao_core::patience::Watch;

/// An event of a card.
pub(crate) struct CudaEvent {
    context: Arc<Context>,
    pub(crate) raw: CUevent,
    mark: Mutex<Mark>,
}

/// What an event marks.
#[derive(Clone, Default)]
struct Mark {
    recorded: bool,
    /// The failure that the stream met before.
    failed: Option<Error>,
}

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for CudaEvent {}
// SAFETY: as above.
unsafe impl Sync for CudaEvent {}

impl CudaEvent {
    /// # Errors
    /// The driver's.
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self> {
        let _entered = context.enter()?;
        Ok(CudaEvent { context: context.clone(), raw: context.new_event(true)?, mark: Mutex::default() })
    }

    /// The event behind a handle, if it is of this card.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn of<'a>(context: &Context, event: &'a dyn Event) -> Result<&'a CudaEvent> {
        let own = (event as &dyn Any).downcast_ref::<CudaEvent>().filter(|e| std::ptr::eq(&*e.context, context));
        own.ok_or_else(|| {
            Error::invalid("event", "it is of another device", "use events of the device that made the stream")
        })
    }

    fn lock(&self) -> MutexGuard<'_, Mark> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that it was recorded, or that its stream had failed before.
    pub(crate) fn set(&self, failed: Option<Error>) {
        *self.lock() = Mark { recorded: true, failed };
    }

    /// Whether it marks a point.
    ///
    /// # Errors
    /// The failure of the stream on which it was recorded.
    pub(crate) fn was_recorded(&self) -> Result<bool> {
        let mark = self.lock();
        mark.failed.clone().map_or(Ok(mark.recorded), Err)
    }
}

impl Event for CudaEvent {
    fn sync(&self, timeout: Duration) -> Result<()> {
        let mut watch = Watch::new("the event", timeout);
        while !self.is_reached()? {
            watch.pause()?;
        }
        Ok(())
    }

    fn is_reached(&self) -> Result<bool> {
        let _entered = self.context.enter()?;
        if !self.was_recorded()? {
            return Ok(true);
        }
        // SAFETY: an event of this context.
        let code = unsafe { (self.context.driver.event_query)(self.raw) };
        match self.context.driver.means(code) {
            Meaning::Success => Ok(true),
            Meaning::NotReady => Ok(false),
            _ => Err(self.context.fault("waiting for an event", code)),
        }
    }

    fn since(&self, earlier: &dyn Event) -> Option<Duration> {
        let earlier = CudaEvent::of(&self.context, earlier).ok()?;
        for event in [self, earlier] {
            if !event.was_recorded().ok()? || !event.is_reached().ok()? {
                return None;
            }
        }
        let _entered = self.context.enter().ok()?;
        let mut millis = 0f32;
        // SAFETY: both events are of this context, timed and reached.
        let code = unsafe { (self.context.driver.event_elapsed)(&mut millis, earlier.raw, self.raw) };
        (code == SUCCESS && millis >= 0.0).then(|| Duration::from_secs_f64(f64::from(millis) / 1e3))
    }
}

impl Drop for CudaEvent {
    fn drop(&mut self) {
        self.context.bury(Grave::Event(self.raw));
    }
}
