//! Streams: every call queues a command and returns, but for those that wait.

use std::any::Any;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use qiao_core::{Binding, Error, Event, Result, Stream};

use crate::chip::Chip;
use crate::event::{Mark, SimEvent};
use crate::memory::{Storage, resolve, resolve_mut};
use crate::schedule::{Lane, Outcome, Point, Step};

/// A stream of a simulated device.
pub(crate) struct SimStream {
    pub(crate) chip: Arc<Chip>,
    lane: Arc<Lane>,
    patience: Duration,
}

impl SimStream {
    pub(crate) fn new(chip: Arc<Chip>) -> Result<SimStream> {
        let lane = chip.referee.lane(chip.limits().streams)?;
        Ok(SimStream { chip, lane, patience: Duration::MAX })
    }

    /// Whether the stream takes commands.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or [`Error::Poisoned`] with the stream's first failure.
    pub(crate) fn healthy(&self) -> Result<()> {
        self.chip.referee.alive()?;
        match self.lane.failure() {
            Some(first) => Err(Error::Poisoned { first: Box::new(first) }),
            None => Ok(()),
        }
    }

    pub(crate) fn push(&self, step: Step) -> Result<Point> {
        self.chip.referee.push(&self.lane, step)
    }

    /// Queues work that can't fail.
    fn work(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        self.push(done(work)).map(|_| ())
    }
}

fn done(work: impl FnOnce() + Send + 'static) -> Step {
    Step::Run(Box::new(move || {
        work();
        Outcome::Done(Ok(()))
    }))
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.chip.referee.release(&self.lane);
    }
}

fn foreign_event() -> Error {
    Error::invalid("event", "it is of another device", "use events of the device that made the stream")
}

impl Stream for SimStream {
    fn set_patience(&mut self, limit: Duration) {
        self.patience = limit;
    }

    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        self.healthy()?;
        let (storage, range) = resolve_mut(self.chip.number, dst, "upload", src.len())?;
        let short = self.chip.faults.strikes_upload(&self.chip.counters);
        let data = src[..if short { src.len() / 2 } else { src.len() }].to_vec();
        self.work(move || storage.write(range.start..range.start + data.len(), |bytes| bytes.copy_from_slice(&data)))
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        self.healthy()?;
        let (storage, range) = resolve(self.chip.number, src, "download", dst.len())?;
        let (start, len) = (range.start, dst.len());
        let slot: Arc<Mutex<Vec<u8>>> = Arc::default();
        let filled = slot.clone();
        let end = self.push(done(move || {
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = storage.read()[start..start + len].to_vec();
        }))?;
        end.wait(self.patience)?;
        dst.copy_from_slice(&slot.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        self.healthy()?;
        let (from, range) = resolve(self.chip.number, src, "copy source", 0)?;
        let (to, to_range) = resolve_mut(self.chip.number, dst, "copy destination", src.bytes)?;
        self.work(move || Storage::copy(&from, range, &to, to_range.start))
    }

    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        self.healthy()?;
        let (storage, range) = resolve_mut(self.chip.number, dst, "fill", 0)?;
        if !self.chip.limits().fill {
            return self.upload(dst, &vec![byte; dst.bytes]);
        }
        self.work(move || storage.write(range, |bytes| bytes.fill(byte)))
    }

    fn sync(&mut self, timeout: Duration) -> Result<()> {
        self.chip.referee.alive()?;
        self.lane.end().drain(timeout.min(self.patience))
    }

    fn record(&mut self, event: &dyn Event) -> Result<()> {
        self.chip.referee.alive()?;
        let own = (event as &dyn Any).downcast_ref::<SimEvent>().filter(|e| e.chip.number == self.chip.number);
        let event = own.ok_or_else(foreign_event)?;
        let stamp: Arc<OnceLock<_>> = Arc::default();
        if let Err(poisoned) = self.healthy() {
            event.set(Mark { point: self.lane.end(), stamp });
            return Err(poisoned);
        }
        let point = self.push(Step::Stamp(stamp.clone()))?;
        event.set(Mark { point, stamp });
        Ok(())
    }

    fn wait(&mut self, event: &dyn Event) -> Result<()> {
        self.healthy()?;
        let own = (event as &dyn Any).downcast_ref::<SimEvent>().filter(|e| e.chip.number == self.chip.number);
        match own.ok_or_else(foreign_event)?.mark() {
            Some(mark) => self.push(Step::Wait(mark.point)).map(|_| ()),
            None => Ok(()),
        }
    }
}
