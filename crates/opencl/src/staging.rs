//! Host bytes on their way, so that no transfer ever reads or writes the caller's memory after its call has ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use opencl3::command_queue::{CL_NON_BLOCKING, enqueue_read_buffer, enqueue_write_buffer, flush};
use qiao_core::Result;
use qiao_core::patience::Watch;

use crate::context::{Context, Mark, Queue, Transfer};
use crate::memory::Start;

/// Bytes that go at once.
const PART: usize = 8 << 20;

/// Parts on their way at once, at most.
const PARTS: usize = 8;

/// Transfers of a stream, oldest first.
#[derive(Default)]
pub(crate) struct Staging {
    queued: VecDeque<Transfer>,
    spare: Vec<Vec<u8>>,
}

/// What a transfer needs.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) context: &'a Context,
    pub(crate) queue: &'a Queue,
    pub(crate) patience: Duration,
}

impl Way<'_> {
    fn wait(self, mark: &Mark, expected: Duration) -> Result<Duration> {
        let mut watch = Watch::like("a transfer", self.patience, expected);
        while !self.context.check("a transfer", mark.is_reached())? {
            watch.pause()?;
        }
        Ok(watch.elapsed())
    }
}

impl Staging {
    /// Room for so many bytes, when no more than the most are on their way.
    fn room(&mut self, way: Way<'_>, bytes: usize) -> Result<Vec<u8>> {
        while let Some(first) = self.queued.front() {
            match first.done.is_reached() {
                Ok(false) if self.queued.len() < PARTS => break,
                Ok(true) => {}
                _ => drop(way.wait(&first.done, Duration::ZERO)?),
            }
            let done = self.queued.pop_front().expect("there is a first one");
            if done.bytes.capacity() >= PART && self.spare.len() < PARTS {
                self.spare.push(done.bytes);
            }
        }
        let mut room = if bytes > PART / 2 { self.spare.pop().unwrap_or_default() } else { Vec::new() };
        room.clear();
        room.reserve_exact(if bytes > PART / 2 { PART } else { bytes });
        Ok(room)
    }

    /// Queues an upload: its end, if there are bytes.
    ///
    /// # Errors
    /// [`qiao_core::Error::Timeout`] where no room came free in time; the driver's.
    pub(crate) fn upload(&mut self, way: Way<'_>, to: Start, bytes: &[u8]) -> Result<Option<Arc<Mark>>> {
        let mut end = None;
        for (i, part) in bytes.chunks(PART).enumerate() {
            let mut room = self.room(way, part.len())?;
            room.extend_from_slice(part);
            let at = to.offset + i * PART;
            // SAFETY: the range was checked; the bytes stay where they are until the mark is reached.
            let queued = unsafe {
                let from = room.as_ptr().cast_mut().cast();
                let none = std::ptr::null();
                enqueue_write_buffer(way.queue.0, to.memory, CL_NON_BLOCKING, at, part.len(), from, 0, none)
            };
            let done = Arc::new(Mark(way.context.check("an upload", queued)?));
            end = Some(done.clone());
            self.queued.push_back(Transfer { done, bytes: room });
            way.context.check("an upload", flush(way.queue.0))?;
        }
        Ok(end)
    }

    /// Downloads. Such a wait took `expected` before; gives how long the first part was waited for.
    ///
    /// # Errors
    /// [`qiao_core::Error::Timeout`]; the driver's.
    pub(crate) fn download(
        &mut self,
        way: Way<'_>,
        bytes: &mut [u8],
        from: Start,
        expected: Duration,
    ) -> Result<Duration> {
        let mut first = None;
        for (i, part) in bytes.chunks_mut(PART).enumerate() {
            let mut room = self.room(way, part.len())?;
            room.resize(part.len(), 0);
            let at = from.offset + i * PART;
            // SAFETY: the range was checked; the bytes stay where they are until the mark is reached.
            let queued = unsafe {
                let (to, none) = (room.as_mut_ptr().cast(), std::ptr::null());
                enqueue_read_buffer(way.queue.0, from.memory, CL_NON_BLOCKING, at, part.len(), to, 0, none)
            };
            let done = Arc::new(Mark(way.context.check("a download", queued)?));
            let flushed = way.context.check("a download", flush(way.queue.0));
            let waited = flushed.and_then(|()| way.wait(&done, if i == 0 { expected } else { Duration::ZERO }));
            if waited.is_ok() {
                part.copy_from_slice(&room);
            }
            self.queued.push_back(Transfer { done, bytes: room });
            first = first.or(Some(waited?));
        }
        Ok(first.unwrap_or_default())
    }

    /// What the device may still read or write.
    pub(crate) fn into_transfers(self) -> impl Iterator<Item = Transfer> {
        self.queued.into_iter()
    }
}
