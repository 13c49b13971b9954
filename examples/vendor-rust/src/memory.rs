//! The chip's memory and its queue.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use qiao_core::{Binding, Buffer, BufferExt, Error, Result, Stream};

/// The largest allocation, in bytes.
pub(crate) const LARGEST: usize = 1 << 30;

/// A buffer. YOUR DRIVER: in place of the vector, what its allocation returned; release it in `Drop`, once queued work that
/// uses it is done.
pub(crate) struct Memory {
    data: RwLock<Vec<u8>>,
    bytes: usize,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        let full = || Error::OutOfMemory { device: "ACME NPU".into(), asked: bytes as u64, free: 0 };
        let mut data = Vec::new();
        data.try_reserve_exact(bytes).ok().filter(|()| bytes <= LARGEST).ok_or_else(full)?;
        data.resize(bytes, 0);
        Ok(Memory { data: RwLock::new(data), bytes })
    }

    /// The memory behind a binding of at least `need` bytes: the bounds are checked here, once for every command.
    pub(crate) fn of<'a>(binding: &'a Binding, what: &str, need: usize) -> Result<&'a Memory> {
        binding.check(what, need)?;
        let other = || Error::invalid(what, "its buffer is of another device", "allocate it on this one");
        binding.buffer.downcast::<Memory>().ok_or_else(other)
    }

    pub(crate) fn read(&self, offset: usize, bytes: usize) -> Vec<u8> {
        self.data.read().unwrap_or_else(PoisonError::into_inner)[offset..offset + bytes].to_vec()
    }

    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let mut data = self.data.write().unwrap_or_else(PoisonError::into_inner);
        data[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl Buffer for Memory {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A queue whose commands are done when they are given, so that there is nothing to wait for and nothing fails later. YOUR
/// DRIVER: give it the commands here. One that fails while it runs is the queue's failure: keep the first, and answer
/// `Error::Poisoned` from then on.
pub(crate) struct Queue;

impl Stream for Queue {
    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        Memory::of(dst, "upload", src.len())?.write(dst.offset, src);
        Ok(())
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        let bytes = Memory::of(src, "download", dst.len())?.read(src.offset, dst.len());
        dst.copy_from_slice(&bytes);
        Ok(())
    }

    fn sync(&mut self, _: Duration) -> Result<()> {
        Ok(())
    }
}
