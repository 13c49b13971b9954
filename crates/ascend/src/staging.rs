//! Transfers through page-locked memory: an asynchronous copy takes no other.

use std::sync::Arc;
use std::time::Duration;

use qiao_core::Result;
use qiao_core::patience::Watch;

use crate::codes::{DOWNLOAD, UPLOAD};
use crate::context::{Context, Grave, Queue};
use crate::sys::Handle;

/// Places of a ring, and the bytes of each.
const PLACES: usize = 8;

/// Page-locked places that transfers take in turn.
pub(crate) struct Ring {
    host: Handle,
    /// Bytes of a place.
    bytes: usize,
    slots: Vec<Slot>,
    next: usize,
}

// SAFETY: memory and events of AscendCL, which any thread may use, one at a time.
unsafe impl Send for Ring {}

struct Slot {
    host: *mut u8,
    done: Handle,
    used: bool,
}

/// The stream that a transfer goes through, and how long it may wait.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) context: &'a Context,
    pub(crate) queue: &'a Arc<Queue>,
    pub(crate) patience: Duration,
}

impl Slot {
    /// Waits until the last transfer through the place is done.
    fn free(&mut self, way: Way<'_>) -> Result<()> {
        let mut watch = Watch::new("a transfer", way.patience);
        while self.used {
            let reached = way.context.is_reached(self.done);
            match reached.map_err(|code| way.context.fault("waiting for a transfer", code))? {
                true => self.used = false,
                false => {
                    if let Err(code) = way.context.is_busy(way.queue) {
                        return Err(way.context.fault("waiting for a transfer", code));
                    }
                    watch.pause()?;
                }
            }
        }
        Ok(())
    }

    /// Marks that a transfer of the place was queued.
    fn mark(&mut self, way: Way<'_>) -> Result<()> {
        // SAFETY: event and stream are of this context.
        let code = unsafe { (way.context.api.run.event_record)(self.done, way.queue.raw) };
        way.context.check("recording an event", code)?;
        self.used = true;
        Ok(())
    }
}

impl Ring {
    /// A ring of places of so many bytes. The context is current.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn new(context: &Context, bytes: usize) -> Result<Ring> {
        let host = context.alloc_host(PLACES * bytes)?;
        let mut ring = Ring { host, bytes, slots: Vec::with_capacity(PLACES), next: 0 };
        for i in 0..PLACES {
            match context.new_event() {
                Ok(done) => {
                    let host = host.cast::<u8>().wrapping_add(i * bytes);
                    ring.slots.push(Slot { host, done, used: false });
                }
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
        events.chain([Grave::Host(self.host)]).collect()
    }

    fn turn(&mut self) -> usize {
        let now = self.next;
        self.next = (now + 1) % self.slots.len();
        now
    }

    /// Queues uploads of bytes: while the device takes one part the next is copied.
    ///
    /// # Errors
    /// [`qiao_core::Error::Timeout`] where no place came free in time; the driver's.
    pub(crate) fn upload(&mut self, way: Way<'_>, to: usize, bytes: &[u8]) -> Result<()> {
        for (i, part) in bytes.chunks(self.bytes).enumerate() {
            let (at, slot) = (to + i * self.bytes, self.turn());
            let slot = &mut self.slots[slot];
            slot.free(way)?;
            // SAFETY: the place holds a part, and no transfer uses it; the caller checked where the bytes go.
            let code = unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), slot.host, part.len());
                let run = &way.context.api.run;
                (run.copy)(at as Handle, part.len(), slot.host.cast(), part.len(), UPLOAD, way.queue.raw)
            };
            way.context.check("an upload", code)?;
            slot.mark(way)?;
        }
        Ok(())
    }

    /// Downloads bytes: the next parts are on their way while one is copied out.
    ///
    /// # Errors
    /// As [`Ring::upload`].
    pub(crate) fn download(&mut self, way: Way<'_>, bytes: &mut [u8], from: usize) -> Result<()> {
        let (size, count, len) = (self.bytes, self.slots.len(), bytes.len());
        let (parts, first) = (len.div_ceil(size), self.next);
        let mut queued = 0;
        for (part, out) in bytes.chunks_mut(size).enumerate() {
            while queued < parts.min(part + count) {
                let (start, slot) = (queued * size, self.turn());
                let (slot, n) = (&mut self.slots[slot], size.min(len - queued * size));
                slot.free(way)?;
                // SAFETY: the place holds a part, and no transfer uses it; the caller checked where the bytes come from.
                let code = unsafe {
                    let (run, from) = (&way.context.api.run, (from + start) as Handle);
                    (run.copy)(slot.host.cast(), n, from, n, DOWNLOAD, way.queue.raw)
                };
                way.context.check("a download", code)?;
                slot.mark(way)?;
                queued += 1;
            }
            let slot = &mut self.slots[(first + part) % count];
            slot.free(way)?;
            // SAFETY: the transfer into the place is done and no other was queued.
            unsafe { std::ptr::copy_nonoverlapping(slot.host, out.as_mut_ptr(), out.len()) };
        }
        Ok(())
    }
}
