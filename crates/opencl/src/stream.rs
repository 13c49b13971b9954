//! Streams: every call queues a command and returns, but for those that wait.

use std::sync::Arc;
use std::time::Duration;

use opencl3::command_queue::{
    enqueue_barrier_with_wait_list, enqueue_copy_buffer, enqueue_fill_buffer, enqueue_marker_with_wait_list, flush,
};
use opencl3::types::{cl_event, cl_int};
use qiao_core::patience::Watch;
use qiao_core::{Binding, Error, Event, Result, Stream};

use crate::context::{Context, Mark, Queue};
use crate::event::OpenClEvent;
use crate::memory::resolve;
use crate::staging::{Staging, Way};

/// A stream of a device.
pub(crate) struct OpenClStream {
    pub(crate) context: Arc<Context>,
    pub(crate) queue: Queue,
    patience: Duration,
    failed: Option<Error>,
    staging: Staging,
    /// The end of what was queued last, until it is seen to be done.
    last: Option<Arc<Mark>>,
    /// Whether commands may be queued behind that end.
    is_unmarked: bool,
    /// How long the last wait for queued work took.
    last_wait: Duration,
}

impl OpenClStream {
    /// # Errors
    /// The driver's.
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self> {
        context.alive()?;
        Ok(OpenClStream {
            context: context.clone(),
            queue: context.queue()?,
            patience: Duration::MAX,
            failed: None,
            staging: Staging::default(),
            last: None,
            is_unmarked: false,
            last_wait: Duration::ZERO,
        })
    }

    /// Whether the stream takes commands.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or [`Error::Poisoned`] with the stream's first failure.
    pub(crate) fn healthy(&self) -> Result<()> {
        self.context.alive()?;
        self.failed.clone().map_or(Ok(()), |first| Err(Error::Poisoned { first: Box::new(first) }))
    }

    /// Keeps a failure of the driver; a wait that was too long and memory that was too little are none. A call that any of them
    /// ended halfway leaves commands without a mark.
    pub(crate) fn keep<T>(&mut self, result: Result<T>) -> Result<T> {
        match &result {
            Err(error @ (Error::Internal { .. } | Error::DeviceLost { .. })) if self.failed.is_none() => {
                self.failed = Some(error.clone());
            }
            Err(Error::OutOfMemory { .. } | Error::Timeout { .. }) => {}
            _ => return result,
        }
        self.is_unmarked = true;
        // The next wait tries again.
        self.mark_all().ok();
        result
    }

    /// The end of a command that was queued, which begins as soon as those before it are done.
    fn queued(&mut self, what: &str, answer: std::result::Result<cl_event, cl_int>) -> Result<Arc<Mark>> {
        let mark = self.context.check(what, answer).map(|event| Arc::new(Mark(event)));
        let result = mark.and_then(|mark| self.context.check(what, flush(self.queue.0)).map(|()| mark));
        let mark = self.keep(result)?;
        self.last = Some(mark.clone());
        Ok(mark)
    }

    /// Marks the end of all that is queued. Where the queue takes no more, the last mark stays.
    fn mark_all(&mut self) -> Result<()> {
        // SAFETY: a queue of this context, and no other events.
        let answer = unsafe { enqueue_marker_with_wait_list(self.queue.0, 0, std::ptr::null()) };
        let end = self.context.check("marking the end of a stream", answer).map(|end| Arc::new(Mark(end)))?;
        self.context.check("marking the end of a stream", flush(self.queue.0))?;
        (self.last, self.is_unmarked) = (Some(end), false);
        Ok(())
    }

    /// Waits for all that is queued.
    fn finish(&mut self, timeout: Duration) -> Result<()> {
        if self.is_unmarked {
            match self.mark_all() {
                // The failure is told by whoever waits.
                Err(_) if self.failed.is_some() => {}
                marked => marked?,
            }
        }
        let mut watch = Watch::like("the stream", timeout, self.last_wait);
        while let Some(last) = &self.last {
            match self.context.check("waiting for a stream", last.is_reached())? {
                true => self.last = None,
                false => watch.pause()?,
            }
        }
        self.last_wait = watch.elapsed();
        self.context.reap();
        Ok(())
    }

    /// Launches were queued, of which this ends last.
    pub(crate) fn launched(&mut self, end: Option<Mark>) {
        if let Some(end) = end {
            self.last = Some(Arc::new(end));
        }
    }
}

impl Drop for OpenClStream {
    fn drop(&mut self) {
        self.context.adopt(std::mem::take(&mut self.staging).into_transfers());
    }
}

impl Stream for OpenClStream {
    fn set_patience(&mut self, limit: Duration) {
        self.patience = limit;
    }

    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        self.healthy()?;
        let to = resolve(&self.context, dst, "upload", src.len())?;
        let way = Way { context: &self.context, queue: &self.queue, patience: self.patience };
        let result = self.staging.upload(way, to, src);
        if let Some(end) = self.keep(result)? {
            self.last = Some(end);
        }
        Ok(())
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        self.healthy()?;
        let from = resolve(&self.context, src, "download", dst.len())?;
        let way = Way { context: &self.context, queue: &self.queue, patience: self.patience };
        let result = self.staging.download(way, dst, from, self.last_wait);
        self.last_wait = self.keep(result)?;
        if !dst.is_empty() {
            self.last = None;
        }
        Ok(())
    }

    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        self.healthy()?;
        let from = resolve(&self.context, src, "copy source", 0)?;
        let to = resolve(&self.context, dst, "copy destination", src.bytes)?;
        if src.bytes == 0 || from == to {
            return Ok(());
        }
        let apart = from.offset + src.bytes <= to.offset || to.offset + src.bytes <= from.offset;
        if from.memory == to.memory && !apart {
            let found = format!("{} bytes from {} to {} of one buffer", src.bytes, src.offset, dst.offset);
            return Err(Error::invalid("copy", found, "copy between ranges that do not overlap"));
        }
        // SAFETY: both ranges were checked.
        let answer = unsafe {
            let none = std::ptr::null();
            enqueue_copy_buffer(self.queue.0, from.memory, to.memory, from.offset, to.offset, src.bytes, 0, none)
        };
        self.queued("a copy", answer).map(drop)
    }

    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        self.healthy()?;
        let to = resolve(&self.context, dst, "fill", 0)?;
        if dst.bytes == 0 {
            return Ok(());
        }
        // SAFETY: the range was checked; the pattern is one byte, which the driver copies.
        let answer = unsafe {
            let pattern = std::ptr::from_ref(&byte).cast();
            enqueue_fill_buffer(self.queue.0, to.memory, pattern, 1, to.offset, dst.bytes, 0, std::ptr::null())
        };
        self.queued("a fill", answer).map(drop)
    }

    fn sync(&mut self, timeout: Duration) -> Result<()> {
        self.context.alive()?;
        let finished = match self.finish(timeout.min(self.patience)) {
            Err(late @ Error::Timeout { .. }) => return Err(late),
            finished => self.keep(finished),
        };
        self.failed.clone().map_or(finished, Err)
    }

    fn record(&mut self, event: &dyn Event) -> Result<()> {
        self.context.alive()?;
        let context = self.context.clone();
        let event = OpenClEvent::of(&context, event)?;
        if let Err(poisoned) = self.healthy() {
            if let Some(first) = self.failed.clone() {
                event.set(Err(first));
            }
            return Err(poisoned);
        }
        // SAFETY: a queue of this context, and no other events.
        let answer = unsafe { enqueue_marker_with_wait_list(self.queue.0, 0, std::ptr::null()) };
        let mark = self.queued("recording an event", answer);
        let recorded = mark.as_ref().map(|_| ()).map_err(Error::clone);
        event.set(mark);
        recorded
    }

    fn wait(&mut self, event: &dyn Event) -> Result<()> {
        self.healthy()?;
        let context = self.context.clone();
        let Some(mark) = OpenClEvent::of(&context, event)?.mark()? else { return Ok(()) };
        // SAFETY: queue and event are of this context; the driver keeps the event while it is waited for.
        let answer = unsafe { enqueue_barrier_with_wait_list(self.queue.0, 1, &raw const mark.0) };
        self.queued("waiting for an event", answer).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use qiao_core::{Buffer, Device};

    use super::*;
    use crate::device::{OpenClDevice, open_context, usable};
    use crate::sys::devices;

    /// A stream that a call left halfway: much is queued, and its end is not known.
    fn halfway() -> Option<(OpenClStream, [Binding; 2])> {
        const BYTES: usize = 64 << 20;
        let found = devices().ok().and_then(|all| all.into_iter().find(|found| usable(found).is_ok()));
        let Some(context) = found.and_then(|found| open_context(found).ok()) else {
            println!("skipped: no OpenCL");
            return None;
        };
        let device = OpenClDevice::new(context.clone());
        let mut stream = OpenClStream::new(&context).unwrap();
        let [from, to] = [0; 2].map(|_| Binding::whole(device.alloc(0, BYTES).unwrap() as Arc<dyn Buffer>));
        stream.fill(&from, 1).unwrap();
        for _ in 0..40 {
            stream.copy(&to, &from).unwrap();
        }
        stream.last = None;
        Some((stream, [from, to]))
    }

    #[test]
    fn what_is_no_failure_leaves_nothing_unmarked_either() {
        let full = Error::OutOfMemory { device: "it".into(), asked: 1, free: 0 };
        let late = Error::Timeout { what: "a transfer".into(), millis: 1 };
        for error in [full, late] {
            let Some((mut stream, [from, to])) = halfway() else { return };
            stream.keep::<()>(Err(error)).unwrap_err();
            assert!(matches!(stream.sync(Duration::ZERO), Err(Error::Timeout { .. })), "copies are left");
            stream.sync(Duration::from_secs(60)).unwrap();
            stream.copy(&to, &from).unwrap();
            // An end that could not be marked at once is marked by who waits.
            (stream.last, stream.is_unmarked) = (None, true);
            assert!(matches!(stream.sync(Duration::ZERO), Err(Error::Timeout { .. })), "a copy is left");
            stream.sync(Duration::from_secs(60)).unwrap();
        }
    }

    #[test]
    fn a_failure_is_told_when_all_that_was_queued_is_over() {
        let Some((mut stream, [from, to])) = halfway() else { return };
        stream.keep::<()>(Err(Error::internal("a launch", "it failed"))).unwrap_err();
        assert!(matches!(stream.sync(Duration::ZERO), Err(Error::Timeout { .. })), "copies are left");
        for limit in [Duration::from_secs(60), Duration::ZERO] {
            assert_eq!(stream.sync(limit).unwrap_err().to_string(), "a launch: it failed");
        }
        assert!(matches!(stream.copy(&to, &from), Err(Error::Poisoned { .. })));
    }
}
