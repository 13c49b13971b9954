//! Points in a stream.

use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// A point in a stream.
pub trait Event: Any + Send + Sync {
    /// Waits until the point is reached, at most this long; an event never recorded is reached already.
    ///
    /// # Errors
    /// The failure that the stream met before the point; [`Error::Timeout`], after which it can be waited for again.
    fn sync(&self, timeout: Duration) -> Result<()>;

    /// Whether the point is reached: if so, what was done before it is seen by every later command of any stream.
    ///
    /// # Errors
    /// The failure that the stream met before the point.
    fn is_reached(&self) -> Result<bool>;

    /// The time from `earlier` to this event, where both are reached and the device can tell.
    fn since(&self, earlier: &dyn Event) -> Option<Duration> {
        let _ = earlier;
        None
    }
}

/// An event that is reached when it is recorded.
#[derive(Debug, Default)]
pub struct HostEvent {
    state: Mutex<(Option<Instant>, Option<Error>)>,
}

impl HostEvent {
    /// Marks the event as reached now, with the stream's failure if it met one.
    pub fn mark(&self, error: Option<Error>) {
        *self.lock() = (Some(Instant::now()), error);
    }

    fn lock(&self) -> MutexGuard<'_, (Option<Instant>, Option<Error>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Event for HostEvent {
    fn sync(&self, _: Duration) -> Result<()> {
        self.lock().1.clone().map_or(Ok(()), Err)
    }

    fn is_reached(&self) -> Result<bool> {
        self.sync(Duration::ZERO).map(|()| true)
    }

    fn since(&self, earlier: &dyn Event) -> Option<Duration> {
        let earlier = (earlier as &dyn Any).downcast_ref::<HostEvent>()?;
        let from = earlier.lock().0?;
        self.lock().0?.checked_duration_since(from)
    }
}
