//! Points in streams.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opencl3::event::{CL_PROFILING_COMMAND_END, get_event_profiling_info};
use qiao_core::patience::Watch;
use qiao_core::{Error, Event, Result};

use crate::context::{Context, Mark};

/// An event of a device.
pub(crate) struct OpenClEvent {
    context: Arc<Context>,
    recorded: Mutex<Recorded>,
}

/// What an event marks.
#[derive(Clone, Default)]
struct Recorded {
    mark: Option<Arc<Mark>>,
    /// The failure that the stream met before.
    failed: Option<Error>,
}

impl OpenClEvent {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        OpenClEvent { context: context.clone(), recorded: Mutex::default() }
    }

    /// The event behind a handle, if it is of this device.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn of<'a>(context: &Context, event: &'a dyn Event) -> Result<&'a OpenClEvent> {
        let own = (event as &dyn Any).downcast_ref::<OpenClEvent>().filter(|e| std::ptr::eq(&*e.context, context));
        own.ok_or_else(|| {
            Error::invalid("event", "it is of another device", "use events of the device that made the stream")
        })
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which point it marks, or why there is none.
    pub(crate) fn set(&self, mark: Result<Arc<Mark>>) {
        *self.lock() = match mark {
            Ok(mark) => Recorded { mark: Some(mark), failed: None },
            Err(failed) => Recorded { mark: None, failed: Some(failed) },
        };
    }

    /// The point that it marks now.
    ///
    /// # Errors
    /// The failure of the stream on which it was recorded.
    pub(crate) fn mark(&self) -> Result<Option<Arc<Mark>>> {
        let recorded = self.lock();
        recorded.failed.clone().map_or_else(|| Ok(recorded.mark.clone()), Err)
    }

    /// Nanoseconds at which the point was reached, by the device's clock; nothing where it is not, or where the driver does
    /// not say.
    fn time(&self) -> Option<u64> {
        let mark = self.mark().ok()??;
        if mark.is_reached() != Ok(true) {
            return None;
        }
        let time = u64::from(get_event_profiling_info(mark.0, CL_PROFILING_COMMAND_END).ok()?);
        (time > 0).then_some(time)
    }
}

impl Event for OpenClEvent {
    fn sync(&self, timeout: Duration) -> Result<()> {
        let mut watch = Watch::new("the event", timeout);
        while !self.is_reached()? {
            watch.pause()?;
        }
        Ok(())
    }

    fn is_reached(&self) -> Result<bool> {
        self.context.alive()?;
        match self.mark()? {
            Some(mark) => self.context.check("waiting for an event", mark.is_reached()),
            None => Ok(true),
        }
    }

    fn since(&self, earlier: &dyn Event) -> Option<Duration> {
        let earlier = OpenClEvent::of(&self.context, earlier).ok()?.time()?;
        self.time()?.checked_sub(earlier).map(Duration::from_nanos)
    }
}
