//! A device with a stream, and what clauses do with the two again and again.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_core::{Binding, Buffer, Device, Error, Event, MemoryInfo, Result, Stream};

use super::{Broken, Held, ensure};
use crate::subject::Subject;

/// What a clause comes to while it runs.
pub(crate) type Found<T> = std::result::Result<T, Broken>;

/// No buffer of a clause is larger, however much room a device has.
const LARGEST: usize = 64 << 20;

/// A device with a stream.
pub(crate) struct Scene {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) timeout: Duration,
}

impl Scene {
    /// The device under test, with a stream of its own.
    pub(crate) fn new(subject: &Subject) -> Found<Scene> {
        Scene::on(subject.device.clone(), subject)
    }

    /// The device, opened once more.
    pub(crate) fn reopened(subject: &Subject) -> Found<Scene> {
        Scene::on((subject.open)()?, subject)
    }

    fn on(device: Arc<dyn Device>, subject: &Subject) -> Found<Scene> {
        let stream = device.stream()?;
        Ok(Scene { device, stream, timeout: subject.timeout })
    }

    /// A range of `bytes` bytes in a buffer of its own.
    pub(crate) fn alloc(&self, bytes: usize) -> Found<Binding> {
        Ok(Binding { bytes, ..Binding::whole(self.device.alloc(0, bytes)?) })
    }

    /// A buffer that holds these bytes.
    pub(crate) fn holding(&mut self, data: &[u8]) -> Found<Binding> {
        let binding = self.alloc(data.len())?;
        self.stream.upload(&binding, data)?;
        Ok(binding)
    }

    /// What a range holds.
    pub(crate) fn read(&mut self, from: &Binding) -> Found<Vec<u8>> {
        read(&mut *self.stream, from)
    }

    /// The range must hold these bytes.
    pub(crate) fn expect(&mut self, at: &Binding, want: &[u8], what: &str) -> Held {
        same(&self.read(at)?, want, what)
    }

    /// Waits for the stream, no longer than the subject's time-out.
    pub(crate) fn done(&mut self) -> Held {
        Ok(self.stream.sync(self.timeout)?)
    }

    /// The stream takes commands and runs them.
    pub(crate) fn usable(&mut self, after: &str) -> Held {
        let data = pattern(after.len() as u64, 777);
        let held = (|| -> Held {
            let a = self.holding(&data)?;
            let b = self.alloc(data.len())?;
            self.stream.copy(&b, &a)?;
            self.done()?;
            self.expect(&b, &data, "a copy")
        })();
        held.map_err(|broken| match broken {
            Broken::Failed(f) => Broken::contract(format!("after {after} the stream is no longer usable: {}", f.why)),
            other => other,
        })
    }
}

/// What a range holds, as a stream sees it.
pub(crate) fn read(stream: &mut dyn Stream, from: &Binding) -> Found<Vec<u8>> {
    let mut bytes = vec![0xee; from.bytes];
    stream.download(&mut bytes, from)?;
    Ok(bytes)
}

/// Bytes that differ from those of every other seed.
pub(crate) fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        // xorshift64*.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// Two lists of bytes must be the same.
pub(crate) fn same(got: &[u8], want: &[u8], what: &str) -> Held {
    match got.iter().zip(want).position(|(g, w)| g != w) {
        Some(at) => {
            let wrong = got.iter().zip(want).filter(|(g, w)| g != w).count();
            let (found, wanted) = (got[at], want[at]);
            Err(Broken::contract(format!(
                "{what}: {wrong} of {} bytes are wrong; byte {at} is {found:#04x} instead of {wanted:#04x}",
                want.len()
            )))
        }
        None => ensure(got.len() == want.len(), || format!("{what}: {} bytes instead of {}", got.len(), want.len())),
    }
}

/// The call must have been refused, with words, and without poisoning or losing anything.
pub(crate) fn refused<T>(result: Result<T>, what: &str) -> Found<Error> {
    match result {
        Ok(_) => Err(Broken::refusal(format!("{what} was accepted"))),
        Err(error @ (Error::Poisoned { .. } | Error::DeviceLost { .. } | Error::Timeout { .. })) => {
            Err(Broken::contract(format!("{what} was not refused as what it is, but: {error}")))
        }
        Err(error) if error.to_string().trim().is_empty() => {
            Err(Broken::refusal(format!("{what} was refused without a word")))
        }
        Err(error) => Ok(error),
    }
}

/// The largest buffer that a clause may take of a memory: it never fills a machine.
pub(crate) fn room(memory: &MemoryInfo) -> usize {
    let eighth = |bytes: u64| if bytes == 0 { u64::MAX } else { bytes / 8 };
    let single = if memory.max_alloc == 0 { u64::MAX } else { memory.max_alloc };
    let most = single.min(eighth(memory.free_bytes)).min(eighth(memory.total_bytes));
    usize::try_from(most).unwrap_or(LARGEST).min(LARGEST)
}

/// Work that keeps a stream busy for a while, where the device runs behind its caller: copies from one buffer to another.
pub(crate) struct Busy {
    from: Binding,
    to: Binding,
    times: usize,
}

impl Busy {
    /// Room for the work. Every stream needs its own.
    pub(crate) fn new(device: &dyn Device) -> Found<Busy> {
        let memory = &device.info().memories[0];
        let (bytes, times) = if memory.kind.host_visible { (256 << 10, 4) } else { (2 << 20, 24) };
        let bytes = bytes.min(room(memory) / 4).max(1);
        let (from, to) = (device.alloc(0, bytes)?, device.alloc(0, bytes)?);
        Ok(Busy { from: Binding::part(&from, 0, bytes), to: Binding::part(&to, 0, bytes), times })
    }

    /// Gives a stream the work.
    pub(crate) fn queue(&self, stream: &mut dyn Stream) -> Held {
        for _ in 0..self.times {
            stream.copy(&self.to, &self.from)?;
        }
        Ok(())
    }
}

/// A buffer that no device has made.
pub(crate) struct Stranger(pub(crate) usize);

impl Buffer for Stranger {
    fn bytes(&self) -> usize {
        self.0
    }
}

/// A range of a buffer that no device has made.
pub(crate) fn strange(bytes: usize) -> Binding {
    Binding { buffer: Arc::new(Stranger(bytes)), offset: 0, bytes }
}

/// An event that no device has made. It counts as never recorded.
pub(crate) struct StrangeEvent;

impl Event for StrangeEvent {
    fn sync(&self, _: Duration) -> Result<()> {
        Ok(())
    }

    fn is_reached(&self) -> Result<bool> {
        Ok(true)
    }
}

/// A stream that no device has made.
pub(crate) struct StrangeStream;

impl StrangeStream {
    fn none<T>() -> Result<T> {
        Err(Error::internal("stream", "it is of no device"))
    }
}

impl Stream for StrangeStream {
    fn upload(&mut self, _: &Binding, _: &[u8]) -> Result<()> {
        StrangeStream::none()
    }

    fn download(&mut self, _: &mut [u8], _: &Binding) -> Result<()> {
        StrangeStream::none()
    }

    fn sync(&mut self, _: Duration) -> Result<()> {
        StrangeStream::none()
    }
}

/// What a thread of a clause came to; one that panicked has broken it.
pub(crate) fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Found<T>>) -> Found<T> {
    thread.join().unwrap_or_else(|panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
        Err(Broken::contract(format!("a thread panicked: {}", text.unwrap_or_default())))
    })
}

/// Whether something comes true within a time: asked again and again, at least once.
pub(crate) fn eventually(timeout: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if start.elapsed() >= timeout {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
