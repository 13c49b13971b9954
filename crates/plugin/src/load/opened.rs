//! A device that was opened, and the memory that was taken from it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use qiao_core::{Binding, Buffer, BufferExt, DeviceInfo, Error, HostMemory, Result};

use super::calls::{Kind, Raw};
use super::failure::{Asked, Failure};
use super::info;
use super::session::Session;
use crate::abi;
use crate::export::Level;

/// An open device. What is made on it holds it, so that it is closed after all of that is gone.
pub(super) struct Opened {
    pub(super) session: Arc<Session>,
    pub(super) info: DeviceInfo,
    raw: Raw<abi::Device>,
    lost: OnceLock<Error>,
}

impl Opened {
    /// Opens a device and reads what it is.
    ///
    /// # Errors
    /// The plugin's, or what makes no sense.
    pub(super) fn open(session: &Arc<Session>, ordinal: u32) -> Result<Arc<Opened>> {
        let what = format!("{}:{ordinal}", session.name);
        let raw = session.calls.handle("device_open", Kind::Device, |out, err| {
            // SAFETY: the backend is alive; the out-pointers are the call's.
            unsafe { (session.slots.required.device_open)(session.raw(), ordinal, out, err) }
        });
        let raw = raw.map_err(|failure| failure.error(&what, Asked::default()))?;
        // Closed again by its drop where it makes no sense.
        let mut opened = Opened { session: session.clone(), info: DeviceInfo::default(), raw, lost: OnceLock::new() };
        opened.info = info::read(session, raw, ordinal as usize)?;
        Ok(Arc::new(opened))
    }

    pub(super) fn raw(&self) -> *mut abi::Device {
        self.raw.get()
    }

    pub(super) fn name(&self) -> &str {
        &self.info.name
    }

    /// The device is there: once it was lost, no call but those that give back reaches the plugin.
    pub(super) fn present(&self) -> Result<()> {
        self.lost.get().map_or(Ok(()), |lost| Err(lost.clone()))
    }

    /// The error of a call; a lost device stays lost.
    pub(super) fn error(&self, failure: &Failure, asked: Asked) -> Error {
        self.lasting(failure, failure.error(self.name(), asked))
    }

    /// The error of a stream's command; a lost device stays lost.
    pub(super) fn error_of_command(&self, failure: &Failure, asked: Asked) -> Error {
        self.lasting(failure, failure.error_of_command(self.name(), asked))
    }

    fn lasting(&self, failure: &Failure, error: Error) -> Error {
        if failure.status == abi::ERR_OUT_OF_MEMORY {
            // The error of the contract has figures and no room for words.
            self.session.say(Level::Debug, &format!("{}: {}", failure.slot, failure.words()));
        }
        if failure.status == abi::ERR_DEVICE_LOST {
            return self.lost.get_or_init(|| error).clone();
        }
        error
    }

    /// The error of a call that took memory: how much was asked for, and how much there is.
    pub(super) fn error_of_memory(&self, failure: &Failure, memory: usize, bytes: u64) -> Error {
        let mut asked = Asked { bytes, ..Asked::default() };
        if failure.status == abi::ERR_OUT_OF_MEMORY {
            let now = info::memory(&self.session, self.raw, memory as u32).ok();
            // A figure that would have been enough tells nothing: memory may be in pieces.
            asked.free = now.map(|m| m.free_bytes).filter(|&free| free < bytes).unwrap_or(0);
        }
        self.error(failure, asked)
    }

    /// The device's own buffer behind a binding whose range lies in it.
    ///
    /// # Errors
    /// A range outside of its buffer, too short for `need`, or a buffer of another device.
    pub(super) fn own<'a>(self: &Arc<Self>, binding: &'a Binding, what: &str, need: usize) -> Result<&'a Memory> {
        binding.check(what, need)?;
        match binding.buffer.downcast::<Memory>() {
            Some(memory) if Arc::ptr_eq(&memory.device, self) => Ok(memory),
            _ => Err(Error::invalid(
                format!("buffer of '{what}'"),
                format!("it is not of {}", self.name()),
                "use a buffer of the same device handle; copy through the host with download and upload",
            )),
        }
    }

    /// As [`Opened::own`], for a buffer that is written.
    ///
    /// # Errors
    /// As [`Opened::own`]; also imported memory, which is read-only.
    pub(super) fn own_writable<'a>(
        self: &Arc<Self>,
        binding: &'a Binding,
        what: &str,
        need: usize,
    ) -> Result<&'a Memory> {
        let memory = self.own(binding, what, need)?;
        if memory.host.is_some() {
            let found = "it is imported host memory, which is read-only";
            return Err(Error::invalid(format!("buffer of '{what}'"), found, "write to a buffer of the device"));
        }
        Ok(memory)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.session.calls.gone("device_close", Kind::Device, self.raw, |raw| {
            // SAFETY: the device is open, and nothing made on it is alive any more.
            unsafe { (self.session.slots.required.device_close)(raw) }
        });
    }
}

/// Memory of a device.
pub(super) struct Memory {
    pub(super) device: Arc<Opened>,
    pub(super) raw: Raw<abi::Buffer>,
    bytes: usize,
    /// The host memory that an imported buffer borrows, and where in it the buffer starts.
    host: Option<(Arc<dyn HostMemory>, usize)>,
}

impl Memory {
    /// Takes memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Invalid`] for a memory that is not there; the plugin's.
    pub(super) fn alloc(device: &Arc<Opened>, memory: usize, bytes: usize) -> Result<Memory> {
        device.present()?;
        let Some(info) = device.info.memories.get(memory) else {
            let found = format!("memory {memory}; {} has {}", device.name(), device.info.memories.len());
            return Err(Error::invalid("allocation", found, "count memories from 0"));
        };
        let asked = bytes as u64;
        if isize::try_from(bytes).is_err() || info.max_alloc != 0 && asked > info.max_alloc {
            let free = info.max_alloc;
            return Err(Error::OutOfMemory { device: device.name().into(), asked, free });
        }
        let raw = device.session.calls.handle("buffer_alloc", Kind::Buffer, |out, err| {
            // SAFETY: the device is open; the out-pointers are the call's.
            unsafe { (device.session.slots.required.buffer_alloc)(device.raw(), memory as u32, asked, out, err) }
        });
        let raw = raw.map_err(|failure| device.error_of_memory(&failure, memory, asked))?;
        Ok(Memory { device: device.clone(), raw, bytes, host: None })
    }

    /// Borrows host memory until the plugin's `buffer_free` has returned.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the device does not import, or not this memory; a range outside of it.
    pub(super) fn import(
        device: &Arc<Opened>,
        memory: Arc<dyn HostMemory>,
        offset: usize,
        bytes: usize,
    ) -> Result<Memory> {
        let unsupported = || Error::Unsupported { device: device.name().into(), list: Vec::new() };
        let import = device.session.slots.single.buffer_import.filter(|_| device.info.caps.import_host);
        let import = import.ok_or_else(unsupported)?;
        device.present()?;
        let whole = memory.bytes();
        let Some(range) = offset.checked_add(bytes).and_then(|end| whole.get(offset..end)) else {
            let found = format!("bytes {offset} + {bytes} of {}", whole.len());
            return Err(Error::invalid("import of host memory", found, "stay within the memory"));
        };
        let start = range.as_ptr();
        let raw = device.session.calls.handle("buffer_import", Kind::Buffer, |out, err| {
            // SAFETY: the device is open; the bytes stay where they are until `buffer_free` has returned, since the
            // buffer holds what they belong to; the out-pointers are the call's.
            unsafe { import(device.raw(), start.cast(), bytes as u64, out, err) }
        });
        let raw = raw.map_err(|failure| match failure.status {
            abi::ERR_UNSUPPORTED => unsupported(),
            _ => device.error(&failure, Asked { bytes: bytes as u64, ..Asked::default() }),
        })?;
        Ok(Memory { device: device.clone(), raw, bytes, host: Some((memory, offset)) })
    }

    /// Whether a tensor that starts at this offset starts on a multiple of `align`.
    pub(super) fn is_aligned(&self, offset: usize, align: usize) -> bool {
        let base = self.host.as_ref().map_or(0, |(memory, start)| memory.bytes().as_ptr().addr().wrapping_add(*start));
        base.wrapping_add(offset).is_multiple_of(align)
    }

    /// A range of it as the plugin takes it.
    pub(super) fn range(&self, binding: &Binding) -> abi::Binding {
        abi::Binding { buffer: self.raw.get(), offset: binding.offset as u64, bytes: binding.bytes as u64 }
    }
}

impl Buffer for Memory {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let session = &self.device.session;
        session.calls.gone("buffer_free", Kind::Buffer, self.raw, |raw| {
            // SAFETY: the buffer is alive and its device open; queued work that still uses it is the plugin's to mind.
            unsafe { (session.slots.required.buffer_free)(raw) }
        });
    }
}

/// Nanoseconds as the boundary counts them.
pub(super) fn nanos(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos()).unwrap_or(abi::WAIT_FOREVER)
}
