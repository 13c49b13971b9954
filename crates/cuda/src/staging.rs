//! Page-locked memory through which bytes go to the card and come from it, so that no transfer ever reads or writes the
//! caller's memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qiao_core::{Error, Result};

use crate::context::{Context, Grave, Queue};
use crate::sys::{CUdeviceptr, CUevent};
use crate::vendors::Meaning;
use qiao_core::patience::Watch;

/// Uploads from this size on are copied by several threads.
const MANY: usize = 16 << 20;

/// Threads that copy a large upload: one reads about a quarter of what the bus takes.
const THREADS: usize = 4;

/// Places of one size, used in turn.
pub(crate) struct Ring {
    slots: Vec<Slot>,
    /// The memory of all slots.
    host: *mut u8,
    next: usize,
    /// Bytes of a slot.
    bytes: usize,
}

struct Slot {
    host: *mut u8,
    /// Reached when the last transfer is done.
    done: CUevent,
    used: bool,
}

// SAFETY: page-locked memory that belongs to the slot alone, and a handle of the driver, which any thread may use.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Send for Ring {}

/// What a transfer needs.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) context: &'a Context,
    pub(crate) queue: &'a Queue,
    pub(crate) patience: Duration,
}

impl Slot {
    /// Waits until the last transfer is done.
    fn free(&mut self, way: Way<'_>, expected: Duration) -> Result<Duration> {
        let mut watch = Watch::like("a transfer", way.patience, expected);
        while self.used {
            // SAFETY: an event of this context.
            let code = unsafe { (way.context.driver.event_query)(self.done) };
            match way.context.driver.means(code) {
                Meaning::Success => self.used = false,
                Meaning::NotReady => watch.pause()?,
                _ => return Err(way.context.fault("a transfer", code)),
            }
        }
        Ok(watch.elapsed())
    }

    /// Marks the end of a transfer that was queued.
    fn mark(&mut self, way: Way<'_>) -> Result<()> {
        // SAFETY: event and stream are of this context.
        let code = unsafe { (way.context.driver.event_record)(self.done, way.queue.raw) };
        self.used = true;
        way.context.check("a transfer", code)
    }

    /// Queues an upload of bytes that fit.
    fn upload(&mut self, way: Way<'_>, to: CUdeviceptr, bytes: &[u8]) -> Result<()> {
        self.free(way, Duration::ZERO)?;
        // SAFETY: the slot holds as many bytes, and no transfer uses it; the caller checked the range on the card.
        let code = unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.host, bytes.len());
            (way.context.driver.upload)(to, self.host.cast(), bytes.len(), way.queue.raw)
        };
        way.context.check("an upload", code)?;
        self.mark(way)
    }

    /// Queues a download of bytes that fit.
    fn download(&mut self, way: Way<'_>, from: CUdeviceptr, bytes: usize) -> Result<()> {
        self.free(way, Duration::ZERO)?;
        // SAFETY: the slot holds as many bytes, and no transfer uses it; the caller checked the range on the card.
        let code = unsafe { (way.context.driver.download)(self.host.cast(), from, bytes, way.queue.raw) };
        way.context.check("a download", code)?;
        self.mark(way)
    }
}

impl Ring {
    /// So many places of so many bytes. The context is current.
    ///
    /// # Errors
    /// No page-locked memory is left.
    pub(crate) fn new(context: &Context, count: usize, bytes: usize) -> Result<Ring> {
        let host = context.alloc_host(count * bytes)?;
        let mut ring = Ring { slots: Vec::with_capacity(count), host, next: 0, bytes };
        for i in 0..count {
            match context.new_event(false) {
                Ok(done) => ring.slots.push(Slot { host: host.wrapping_add(i * bytes), done, used: false }),
                Err(error) => {
                    ring.into_graves().into_iter().for_each(|grave| context.bury(grave));
                    return Err(error);
                }
            }
        }
        Ok(ring)
    }

    /// What is to be given back when nothing uses it any more.
    pub(crate) fn into_graves(self) -> Vec<Grave> {
        let events = self.slots.into_iter().map(|slot| Grave::Event(slot.done));
        events.chain([Grave::Host(self.host.cast())]).collect()
    }

    fn turn(&mut self) -> usize {
        let now = self.next;
        self.next = (now + 1) % self.slots.len();
        now
    }

    /// Queues uploads of bytes. While the card takes one part the next is copied.
    ///
    /// # Errors
    /// [`Error::Timeout`] where no place came free in time; the driver's.
    pub(crate) fn upload(&mut self, way: Way<'_>, to: CUdeviceptr, bytes: &[u8]) -> Result<()> {
        if bytes.len() >= MANY && self.slots.len() >= 2 * THREADS {
            return self.upload_by_many(way, to, bytes);
        }
        for (i, part) in bytes.chunks(self.bytes).enumerate() {
            let slot = self.turn();
            self.slots[slot].upload(way, to + (i * self.bytes) as CUdeviceptr, part)?;
        }
        Ok(())
    }

    /// Every thread has places of its own and takes the next part that is left.
    fn upload_by_many(&mut self, way: Way<'_>, to: CUdeviceptr, bytes: &[u8]) -> Result<()> {
        let (size, taken) = (self.bytes, AtomicUsize::new(0));
        let places = self.slots.len() / THREADS;
        let work = |slots: &mut [Slot]| -> Result<()> {
            let _entered = way.context.enter()?;
            for turn in 0.. {
                let part = taken.fetch_add(1, Ordering::Relaxed);
                let Some(start) = part.checked_mul(size).filter(|&start| start < bytes.len()) else { break };
                let part = &bytes[start..bytes.len().min(start + size)];
                slots[turn % places].upload(way, to + start as CUdeviceptr, part)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = self.slots.chunks_mut(places).map(|slots| scope.spawn(|| work(slots))).collect();
            let died = |_| Err(Error::internal("an upload", "a thread ended early"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(died)).fold(Ok(()), Result::and)
        })
    }

    /// Downloads bytes: the next parts are on their way while one is copied out. Such a wait took `expected` before; gives how
    /// long the first part was waited for.
    ///
    /// # Errors
    /// [`Error::Timeout`]; the driver's.
    pub(crate) fn download(
        &mut self,
        way: Way<'_>,
        bytes: &mut [u8],
        from: CUdeviceptr,
        expected: Duration,
    ) -> Result<Duration> {
        let (size, count, len) = (self.bytes, self.slots.len(), bytes.len());
        let parts = len.div_ceil(size);
        let first = self.next;
        let mut queued = 0;
        let mut waited = Duration::ZERO;
        for (part, out) in bytes.chunks_mut(size).enumerate() {
            while queued < parts.min(part + count) {
                let slot = self.turn();
                let start = queued * size;
                self.slots[slot].download(way, from + start as CUdeviceptr, size.min(len - start))?;
                queued += 1;
            }
            let slot = &mut self.slots[(first + part) % count];
            let took = slot.free(way, if part == 0 { expected } else { Duration::ZERO })?;
            waited = if part == 0 { took } else { waited };
            // SAFETY: the transfer into the slot is done and no other was queued.
            unsafe { std::ptr::copy_nonoverlapping(slot.host, out.as_mut_ptr(), out.len()) };
        }
        Ok(waited)
    }
}
