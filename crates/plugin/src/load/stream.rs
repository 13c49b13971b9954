//! Streams of a plugin.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use qiao_core::{Binding, Error, Event, HostEvent, Result, Stream};

use super::calls::{Kind, Raw};
use super::event::{DeviceEvent, First, poisoned};
use super::failure::{Answer, Asked, Failure};
use super::opened::{Memory, Opened, nanos};
use crate::abi;
use crate::export::Level;

/// How many bytes at a time take the way through the host.
const STAGE: usize = 4 << 20;

/// A stream. Its first failure is kept here, so that it is told even by a plugin that forgets.
pub(super) struct DeviceStream {
    pub(super) device: Arc<Opened>,
    raw: Raw<abi::Stream>,
    first: First,
    patience: Option<Duration>,
}

impl DeviceStream {
    pub(super) fn new(device: &Arc<Opened>) -> Result<DeviceStream> {
        device.present()?;
        let raw = device.session.calls.handle("stream_create", Kind::Stream, |out, err| {
            // SAFETY: the device is open; the out-pointers are the call's.
            unsafe { (device.session.slots.required.stream_create)(device.raw(), 0, out, err) }
        });
        let raw = raw.map_err(|failure| device.error(&failure, Asked::default()))?;
        Ok(DeviceStream { device: device.clone(), raw, first: First::default(), patience: None })
    }

    /// How long a call may wait that was given no bound of its own.
    fn patience(&self) -> Duration {
        self.patience.unwrap_or(self.device.session.timeout)
    }

    /// The stream takes commands.
    fn healthy(&self) -> Result<()> {
        self.device.present()?;
        self.first.get().map_or(Ok(()), |first| Err(poisoned(first)))
    }

    /// Keeps a failure, unless there was one before; whichever was first.
    fn keep(&self, error: Error) -> Error {
        match error {
            lost @ Error::DeviceLost { .. } => lost,
            error => self.first.get_or_init(|| error).clone(),
        }
    }

    /// Waits until earlier commands are done, behind a failure too.
    fn settle(&mut self, limit: Duration) -> Result<()> {
        self.device.present()?;
        let waited = self.wait_for_device(limit);
        match (waited, self.first.get()) {
            (Err(f), _) if f.status == abi::ERR_TIMEOUT => {
                Err(self.device.error_of_command(&f, Asked { wait: limit, ..Asked::default() }))
            }
            (_, Some(first)) => Err(first.clone()),
            (Ok(()), None) => Ok(()),
            (Err(f), None) => Err(self.keep(self.first_of(&f))),
        }
    }

    /// The first failure as a sync tells it.
    fn first_of(&self, failure: &Failure) -> Error {
        match failure.status {
            abi::ERR_POISONED => Error::internal(self.device.name(), failure.words()),
            _ => self.device.error_of_command(failure, Asked::default()),
        }
    }

    fn wait_for_device(&self, limit: Duration) -> Answer<()> {
        let session = &self.device.session;
        session.calls.call("stream_sync", |err| {
            // SAFETY: the stream is alive, and nobody else names it at the moment.
            unsafe { (session.slots.required.stream_sync)(self.raw.get(), nanos(limit), err) }
        })
    }

    /// The first failure that the plugin knows of; it tells at a sync.
    fn failed(&self) -> Option<Error> {
        self.wait_for_device(Duration::ZERO).err().filter(|f| f.status != abi::ERR_TIMEOUT).map(|f| self.first_of(&f))
    }

    /// A command's answer: what was refused did nothing; what failed is kept.
    fn told(&self, answer: Answer<()>, bytes: usize) -> Result<()> {
        let Err(failure) = answer else { return Ok(()) };
        let asked = Asked { bytes: bytes as u64, ..Asked::default() };
        if failure.status == abi::ERR_POISONED {
            let first = self.failed().unwrap_or_else(|| self.first_of(&failure));
            return Err(poisoned(&self.keep(first)));
        }
        let error = self.device.error_of_command(&failure, asked);
        Err(if failure.did_nothing() { error } else { self.keep(error) })
    }

    /// Runs a plan on this stream; the bindings were checked.
    pub(super) fn execute(&mut self, run: impl FnOnce(*mut abi::Stream) -> Answer<()>) -> Result<()> {
        self.healthy()?;
        let answer = run(self.raw.get());
        self.told(answer, 0)
    }

    fn upload_part(&mut self, to: &Memory, offset: usize, src: &[u8]) -> Result<()> {
        let session = &self.device.session;
        let answer = session.calls.call("upload", |err| {
            // SAFETY: stream and buffer are alive; the range lies in the buffer; `src` is borrowed for the call.
            unsafe {
                let (stream, buffer) = (self.raw.get(), to.raw.get());
                let from = src.as_ptr().cast();
                (session.slots.required.upload)(stream, buffer, offset as u64, from, src.len() as u64, err)
            }
        });
        self.told(answer, src.len())
    }

    fn download_part(&mut self, dst: &mut [u8], from: &Memory, offset: usize) -> Result<()> {
        let session = &self.device.session;
        let answer = session.calls.call("download", |err| {
            // SAFETY: stream and buffer are alive; the range lies in the buffer; `dst` is borrowed for the call.
            unsafe {
                let (stream, buffer) = (self.raw.get(), from.raw.get());
                let to = dst.as_mut_ptr().cast();
                (session.slots.required.download)(stream, to, buffer, offset as u64, dst.len() as u64, err)
            }
        });
        self.told(answer, dst.len())
    }

    /// A copy through the host: in pieces, or in one where the ranges overlap.
    fn copy_staged(&mut self, to: &Memory, dst: usize, from: &Memory, src: usize, bytes: usize) -> Result<()> {
        self.settle(self.patience())?;
        let overlap = to.raw.get() == from.raw.get() && dst < src + bytes && src < dst + bytes;
        let most = if overlap { bytes } else { bytes.min(STAGE) };
        let mut stage = staging(most)?;
        let mut done = 0;
        while done < bytes {
            let part = &mut stage[..most.min(bytes - done)];
            self.download_part(part, from, src + done)?;
            self.upload_part(to, dst + done, part)?;
            done += part.len();
        }
        Ok(())
    }

    fn fill_staged(&mut self, to: &Memory, offset: usize, bytes: usize, byte: u8) -> Result<()> {
        self.settle(self.patience())?;
        let mut stage = staging(bytes.min(STAGE))?;
        stage.fill(byte);
        let mut done = 0;
        while done < bytes {
            let part = &stage[..stage.len().min(bytes - done)];
            self.upload_part(to, offset + done, part)?;
            done += part.len();
        }
        Ok(())
    }

    /// Whether an optional command was answered with "no such option", so that the default takes its place.
    fn is_declined(&self, answer: &Answer<()>) -> bool {
        let Some(failure) = answer.as_ref().err().filter(|f| f.status == abi::ERR_UNSUPPORTED) else { return false };
        let text = format!("{} declined ({}): it goes through the host", failure.slot, failure.words());
        self.device.session.note(Level::Warn, text);
        true
    }
}

/// Host memory for a way through the host.
fn staging(bytes: usize) -> Result<Vec<u8>> {
    let mut stage = Vec::new();
    stage.try_reserve_exact(bytes).map_err(|_| Error::OutOfMemory {
        device: "the host".into(),
        asked: bytes as u64,
        free: 0,
    })?;
    stage.resize(bytes, 0);
    Ok(stage)
}

impl Stream for DeviceStream {
    fn set_patience(&mut self, limit: Duration) {
        self.patience = Some(limit);
    }

    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        self.healthy()?;
        let to = self.device.own_writable(dst, "upload", src.len())?;
        if src.is_empty() {
            return Ok(());
        }
        self.settle(self.patience())?;
        self.upload_part(to, dst.offset, src)
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        self.healthy()?;
        let from = self.device.own(src, "download", dst.len())?;
        if dst.is_empty() {
            return Ok(());
        }
        self.settle(self.patience())?;
        self.download_part(dst, from, src.offset)
    }

    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        self.healthy()?;
        let from = self.device.own(src, "copy source", 0)?;
        let to = self.device.own_writable(dst, "copy destination", src.bytes)?;
        let bytes = src.bytes;
        if bytes == 0 {
            return Ok(());
        }
        let (at, into) = (src.offset, dst.offset);
        let overlap = to.raw.get() == from.raw.get() && into < at + bytes && at < into + bytes;
        let Some(copy) = self.device.session.slots.single.copy.filter(|_| !overlap) else {
            return self.copy_staged(to, into, from, at, bytes);
        };
        let answer = self.device.session.calls.call("copy", |err| {
            // SAFETY: stream and buffers are alive; the ranges lie in them and do not overlap.
            unsafe {
                let (to, from) = (to.raw.get(), from.raw.get());
                copy(self.raw.get(), to, into as u64, from, at as u64, bytes as u64, err)
            }
        });
        if self.is_declined(&answer) {
            return self.copy_staged(to, into, from, at, bytes);
        }
        self.told(answer, bytes)
    }

    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        self.healthy()?;
        let to = self.device.own_writable(dst, "fill", 0)?;
        if dst.bytes == 0 {
            return Ok(());
        }
        let Some(fill) = self.device.session.slots.single.fill else {
            return self.fill_staged(to, dst.offset, dst.bytes, byte);
        };
        let answer = self.device.session.calls.call("fill", |err| {
            // SAFETY: stream and buffer are alive; the range lies in the buffer.
            unsafe { fill(self.raw.get(), to.raw.get(), dst.offset as u64, dst.bytes as u64, byte.into(), err) }
        });
        if self.is_declined(&answer) {
            return self.fill_staged(to, dst.offset, dst.bytes, byte);
        }
        self.told(answer, dst.bytes)
    }

    fn sync(&mut self, timeout: Duration) -> Result<()> {
        self.settle(self.patience.map_or(timeout, |most| timeout.min(most)))
    }

    fn record(&mut self, event: &dyn Event) -> Result<()> {
        let any = event as &dyn Any;
        if let Some(event) = any.downcast_ref::<DeviceEvent>().filter(|e| Arc::ptr_eq(&e.device, &self.device)) {
            let answer = self.healthy().and_then(|()| {
                let answer = event.record(self.raw.get(), &self.first);
                self.told(answer, 0)
            });
            if let Err(error @ (Error::Poisoned { .. } | Error::DeviceLost { .. } | Error::Internal { .. })) = &answer {
                event.fail(error.clone());
            }
            return answer;
        }
        let Some(event) = any.downcast_ref::<HostEvent>().filter(|_| self.device.session.slots.events.is_none()) else {
            let found = format!("it is not of {}", self.device.name());
            return Err(Error::invalid("event", found, "record events on the device handle that made them"));
        };
        match self.settle(self.patience()) {
            // The point is not reached, so that it can't be marked on the host.
            Err(timeout @ Error::Timeout { .. }) => Err(timeout),
            result => {
                event.mark(result.clone().err());
                result
            }
        }
    }

    fn wait(&mut self, event: &dyn Event) -> Result<()> {
        self.healthy()?;
        let any = event as &dyn Any;
        match any.downcast_ref::<DeviceEvent>().filter(|e| Arc::ptr_eq(&e.device, &self.device)) {
            Some(event) => {
                let (answer, behind) = event.hold(self.raw.get())?;
                match (answer, behind) {
                    // This stream is the poisoned one, or it is well and the event's is.
                    (Err(f), Some(behind)) if f.status == abi::ERR_POISONED => Err(match self.failed() {
                        Some(own) => poisoned(&self.keep(own)),
                        None => poisoned(&behind),
                    }),
                    (answer, _) => self.told(answer, 0),
                }
            }
            None => event.sync(self.patience()),
        }
    }
}

impl Drop for DeviceStream {
    fn drop(&mut self) {
        let session = &self.device.session;
        session.calls.gone("stream_destroy", Kind::Stream, self.raw, |raw| {
            // SAFETY: the stream is alive; work that it was given goes on, and is the plugin's to mind.
            unsafe { (session.slots.required.stream_destroy)(raw) }
        });
    }
}
