//! Streams: every call queues a command and returns, but for those that wait.

use std::sync::Arc;
use std::time::Duration;

use qiao_core::{Binding, Error, Event, Result, Stream};

use crate::context::{Context, Queue};
use crate::event::CudaEvent;
use crate::memory::resolve;
use crate::staging::{Ring, Way};
use crate::sys::CUdeviceptr;
use crate::vendors::Meaning;
use qiao_core::patience::Watch;

/// Places for small transfers: how many, and their bytes.
const SMALL: (usize, usize) = (32, 16 << 10);

/// Places for large ones.
const LARGE: (usize, usize) = (8, 4 << 20);

/// A stream of a card.
pub(crate) struct CudaStream {
    pub(crate) context: Arc<Context>,
    pub(crate) queue: Arc<Queue>,
    patience: Duration,
    failed: Option<Error>,
    /// Made when first needed: for small transfers, for large ones.
    rings: [Option<Ring>; 2],
    /// How long the last wait for queued work took.
    last_wait: Duration,
}

impl CudaStream {
    /// # Errors
    /// The driver's.
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self> {
        let _entered = context.enter()?;
        Ok(CudaStream {
            context: context.clone(),
            queue: context.new_queue()?,
            patience: Duration::MAX,
            failed: None,
            rings: [None, None],
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

    /// Keeps a failure of the driver; a wait that was too long and memory that was too little are none.
    pub(crate) fn keep<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error @ (Error::Internal { .. } | Error::DeviceLost { .. })) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }

    /// Runs a transfer through the ring that fits its size.
    fn transfer<T>(&mut self, bytes: usize, run: impl FnOnce(&mut Ring, Way<'_>) -> Result<T>) -> Result<T> {
        let context = self.context.clone();
        let _entered = context.enter()?;
        let way = Way { context: &context, queue: &self.queue, patience: self.patience };
        let (kind, (count, size)) = if bytes <= SMALL.1 { (0, SMALL) } else { (1, LARGE) };
        let ring = match &mut self.rings[kind] {
            Some(ring) => ring,
            none => none.insert(Ring::new(&context, count, size)?),
        };
        let result = run(ring, way);
        self.keep(result)
    }

    /// Waits for all that is queued.
    fn finish(&mut self, timeout: Duration) -> Result<()> {
        let context = self.context.clone();
        let _entered = context.enter()?;
        let mut watch = Watch::like("the stream", timeout, self.last_wait);
        loop {
            // SAFETY: a stream of this context.
            let code = unsafe { (context.driver.stream_query)(self.queue.raw) };
            match context.driver.means(code) {
                Meaning::Success => break,
                Meaning::NotReady => watch.pause()?,
                _ => return Err(context.fault("waiting for a stream", code)),
            }
        }
        self.last_wait = watch.elapsed();
        context.reap();
        Ok(())
    }

    /// Queues one command of the driver.
    fn queue(&mut self, what: &str, run: impl FnOnce(&CudaStream) -> u32) -> Result<()> {
        let context = self.context.clone();
        let _entered = context.enter()?;
        let result = context.check(what, run(self));
        self.keep(result)
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        let needs = self.rings.iter_mut().filter_map(Option::take).flat_map(Ring::into_graves).collect();
        self.context.abandon(self.queue.clone(), needs);
    }
}

impl Stream for CudaStream {
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
        let expected = self.last_wait;
        self.last_wait = self.transfer(dst.len(), |ring, way| ring.download(way, dst, from, expected))?;
        Ok(())
    }

    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        self.healthy()?;
        let from = resolve(&self.context, src, "copy source", 0)?;
        let to = resolve(&self.context, dst, "copy destination", src.bytes)?;
        let bytes = src.bytes as CUdeviceptr;
        if bytes == 0 || from == to {
            return Ok(());
        }
        if from < to + bytes && to < from + bytes {
            let found = format!("{bytes} bytes from {} to {} of one buffer", src.offset, dst.offset);
            return Err(Error::invalid("copy", found, "copy between ranges that do not overlap"));
        }
        // SAFETY: both ranges were checked.
        self.queue("a copy", |s| unsafe { (s.context.driver.copy)(to, from, src.bytes, s.queue.raw) })
    }

    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        self.healthy()?;
        let to = resolve(&self.context, dst, "fill", 0)?;
        if dst.bytes == 0 {
            return Ok(());
        }
        // SAFETY: the range was checked.
        self.queue("a fill", |s| unsafe { (s.context.driver.set_bytes)(to, byte.into(), dst.bytes, s.queue.raw) })
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
        let event = CudaEvent::of(&context, event)?;
        if let Err(poisoned) = self.healthy() {
            event.set(self.failed.clone());
            return Err(poisoned);
        }
        // SAFETY: event and stream are of this context.
        let recorded =
            self.queue("recording an event", |s| unsafe { (s.context.driver.event_record)(event.raw, s.queue.raw) });
        event.set(recorded.clone().err());
        recorded
    }

    fn wait(&mut self, event: &dyn Event) -> Result<()> {
        self.healthy()?;
        let context = self.context.clone();
        let event = CudaEvent::of(&context, event)?;
        if !event.was_recorded()? {
            return Ok(());
        }
        // SAFETY: event and stream are of this context.
        self.queue("waiting for an event", |s| unsafe { (s.context.driver.stream_wait)(s.queue.raw, event.raw, 0) })
    }
}
