//! Points in streams.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use qiao_core::{Event, Result};

use crate::chip::Chip;
use crate::schedule::Point;

/// What an event marks.
#[derive(Clone)]
pub(crate) struct Mark {
    pub(crate) point: Point,
    pub(crate) stamp: Arc<OnceLock<Instant>>,
}

/// An event of a simulated device.
pub(crate) struct SimEvent {
    pub(crate) chip: Arc<Chip>,
    mark: Mutex<Option<Mark>>,
}

impl SimEvent {
    pub(crate) fn new(chip: Arc<Chip>) -> SimEvent {
        SimEvent { chip, mark: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Mark>> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, mark: Mark) {
        *self.lock() = Some(mark);
    }

    pub(crate) fn mark(&self) -> Option<Mark> {
        self.lock().clone()
    }

    fn stamp(&self) -> Option<Instant> {
        self.mark()?.stamp.get().copied()
    }
}

impl Event for SimEvent {
    fn sync(&self, timeout: Duration) -> Result<()> {
        self.chip.referee.alive()?;
        self.mark().map_or(Ok(()), |mark| mark.point.wait(timeout))
    }

    fn is_reached(&self) -> Result<bool> {
        self.chip.referee.alive()?;
        self.mark().map_or(Ok(true), |mark| mark.point.is_reached())
    }

    fn since(&self, earlier: &dyn Event) -> Option<Duration> {
        if !self.chip.limits().event_timing {
            return None;
        }
        let earlier = (earlier as &dyn Any).downcast_ref::<SimEvent>()?;
        self.stamp()?.checked_duration_since(earlier.stamp()?)
    }
}
