//! Streams: every call queues a command and returns, but for those that wait.

use std::sync::Arc;
use std::time::Duration;

use qiao_core::patience::Watch;
use qiao_core::{Binding, Error, Event, Result, Stream};

use crate::codes::{Code, WITHIN};
use crate::context::{Context, Queue};
use crate::event::AscendEvent;
use crate::memory::{AscendBuffer, resolve};
use crate::staging::{Ring, Way};
use crate::sys::Handle;

/// Bytes of a place for small transfers, and for large ones.
const PLACES: [usize; 2] = [16 << 10, 2 << 20];

/// A stream of a device.
pub(crate) struct AscendStream {
    pub(crate) context: Arc<Context>,
    pub(crate) queue: Arc<Queue>,
    patience: Duration,
    failed: Option<Error>,
    /// Made when first needed: for small transfers, for large ones.
    rings: [Option<Ring>; 2],
    /// What operators work in, one after the other.
    scratch: Option<Arc<AscendBuffer>>,
}

impl AscendStream {
    /// # Errors
    /// The driver's.
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self> {
        let _entered = context.enter()?;
        let queue = context.new_queue()?;
        let patience = Duration::MAX;
        Ok(AscendStream { context: context.clone(), queue, patience, failed: None, rings: [None, None], scratch: None })
    }

    /// Whether the stream takes commands.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or [`Error::Poisoned`] with the stream's first failure.
    pub(crate) fn healthy(&self) -> Result<()> {
        self.context.alive()?;
        self.failed.clone().map_or(Ok(()), |first| Err(Error::Poisoned { first: Box::new(first) }))
    }

    /// Keeps a failure of the device; a wait that was too long and memory that was too little are none.
    pub(crate) fn keep<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error @ (Error::Internal { .. } | Error::DeviceLost { .. })) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }

    /// The address of at least so many bytes for one operator to work in: in the order of the stream the next has them again.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    pub(crate) fn scratch(&mut self, bytes: usize) -> Result<usize> {
        use qiao_core::Buffer as _;
        if bytes == 0 {
            return Ok(0);
        }
        match &self.scratch {
            Some(buffer) if buffer.bytes() >= bytes => Ok(buffer.address()),
            _ => {
                // The old one goes once what is queued on it is done.
                self.scratch = None;
                let buffer = Arc::new(AscendBuffer::new(&self.context, bytes.next_multiple_of(64 << 10))?);
                Ok(self.scratch.insert(buffer).address())
            }
        }
    }

    /// Runs a transfer through the ring that fits its size.
    fn transfer<T>(&mut self, bytes: usize, run: impl FnOnce(&mut Ring, Way<'_>) -> Result<T>) -> Result<T> {
        let context = self.context.clone();
        let _entered = context.enter()?;
        let way = Way { context: &context, queue: &self.queue, patience: self.patience };
        let kind = usize::from(bytes > PLACES[0]);
        let ring = match &mut self.rings[kind] {
            Some(ring) => ring,
            none => none.insert(Ring::new(&context, PLACES[kind])?),
        };
        let result = run(ring, way);
        self.keep(result)
    }

    /// Queues one command.
    fn queue(&mut self, what: &str, run: impl FnOnce(&AscendStream) -> Code) -> Result<()> {
        let context = self.context.clone();
        let _entered = context.enter()?;
        let result = context.check(what, run(self));
        self.keep(result)
    }

    /// Reads device memory at an address that the caller checked, behind all that is queued.
    ///
    /// # Errors
    /// [`Error::Timeout`]; the stream's failure.
    pub(crate) fn read(&mut self, address: usize, bytes: &mut [u8]) -> Result<()> {
        self.transfer(bytes.len(), |ring, way| ring.download(way, bytes, address))
    }

    /// Sets device memory at an address that the caller checked to zero.
    ///
    /// # Errors
    /// The stream's failure.
    pub(crate) fn clear(&mut self, address: usize, bytes: usize) -> Result<()> {
        // SAFETY: the range was checked.
        self.queue("a fill", |s| unsafe {
            (s.context.api.run.set_bytes)(address as Handle, bytes, 0, bytes, s.queue.raw)
        })
    }

    /// Waits for all that is queued.
    fn finish(&mut self, timeout: Duration) -> Result<()> {
        let context = self.context.clone();
        let _entered = context.enter()?;
        let mut watch = Watch::new("the stream", timeout);
        let fault = |code| Err(context.fault("waiting for a stream", code));
        loop {
            match context.is_busy(&self.queue) {
                Ok(false) => break,
                Ok(true) => watch.pause()?,
                Err(code) => return fault(code),
            }
        }
        // Nothing is queued: this only tells what failed.
        // SAFETY: a stream of this context.
        match unsafe { (context.api.run.stream_sync)(self.queue.raw, -1) } {
            crate::codes::SUCCESS => {
                context.reap();
                Ok(())
            }
            code => fault(code),
        }
    }
}

impl Drop for AscendStream {
    fn drop(&mut self) {
        let needs = self.rings.iter_mut().filter_map(Option::take).flat_map(Ring::into_graves).collect();
        self.context.abandon(self.queue.clone(), needs);
    }
}

impl Stream for AscendStream {
    fn set_patience(&mut self, limit: Duration) {
        self.patience = limit;
    }

    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        self.healthy()?;
        let to = resolve(&self.context, dst, "upload", src.len())?;
        if src.is_empty() {
            return Ok(());
        }
        self.transfer(src.len(), |ring, way| ring.upload(way, to, src))
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        self.healthy()?;
        let from = resolve(&self.context, src, "download", dst.len())?;
        if dst.is_empty() {
            return Ok(());
        }
        self.transfer(dst.len(), |ring, way| ring.download(way, dst, from))
    }

    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        self.healthy()?;
        let from = resolve(&self.context, src, "copy source", 0)?;
        let to = resolve(&self.context, dst, "copy destination", src.bytes)?;
        let bytes = src.bytes;
        if bytes == 0 || from == to {
            return Ok(());
        }
        if from < to + bytes && to < from + bytes {
            let found = format!("{bytes} bytes from {} to {} of one buffer", src.offset, dst.offset);
            return Err(Error::invalid("copy", found, "copy between ranges that do not overlap"));
        }
        // SAFETY: both ranges were checked.
        self.queue("a copy", |s| unsafe {
            (s.context.api.run.copy)(to as Handle, bytes, from as Handle, bytes, WITHIN, s.queue.raw)
        })
    }

    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        self.healthy()?;
        let (to, bytes) = (resolve(&self.context, dst, "fill", 0)?, dst.bytes);
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the range was checked.
        self.queue("a fill", |s| unsafe {
            (s.context.api.run.set_bytes)(to as Handle, bytes, i32::from(byte), bytes, s.queue.raw)
        })
    }

    fn sync(&mut self, timeout: Duration) -> Result<()> {
        self.context.alive()?;
        let finished = self.finish(timeout.min(self.patience));
        match (self.keep(finished), &self.failed) {
            (Err(late @ Error::Timeout { .. }), _) => Err(late),
            (_, Some(first)) => Err(first.clone()),
            (finished, None) => finished,
        }
    }

    fn record(&mut self, event: &dyn Event) -> Result<()> {
        self.context.alive()?;
        let context = self.context.clone();
        let event = AscendEvent::of(&context, event)?;
        if let Err(poisoned) = self.healthy() {
            event.set(&self.queue, self.failed.clone());
            return Err(poisoned);
        }
        // SAFETY: event and stream are of this context.
        let recorded =
            self.queue("recording an event", |s| unsafe { (s.context.api.run.event_record)(event.raw, s.queue.raw) });
        event.set(&self.queue, recorded.clone().err());
        recorded
    }

    fn wait(&mut self, event: &dyn Event) -> Result<()> {
        self.healthy()?;
        let context = self.context.clone();
        let event = AscendEvent::of(&context, event)?;
        if event.recorded_on()?.is_none() {
            return Ok(());
        }
        // SAFETY: event and stream are of this context.
        self.queue("waiting for an event", |s| unsafe { (s.context.api.run.stream_wait)(s.queue.raw, event.raw) })
    }
}
