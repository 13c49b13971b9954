//! The CPU stream: every command has run when its call returns. Bad arguments are refused and leave it as it was; a step
//! that fails while a plan runs poisons it.

use std::time::Duration;

use qiao_core::{Binding, Error, Result, Stream};

use crate::memory::{resolve, resolve_mut};

/// A stream of the CPU device, with the address list that plans fill on execute.
#[derive(Default)]
pub(crate) struct CpuStream {
    /// One address per bound tensor of the plan being executed; kept to save the allocation.
    pub(crate) bound: Vec<usize>,
    /// One address per tensor of that plan.
    pub(crate) addresses: Vec<usize>,
    /// The first failure of a plan's step.
    pub(crate) failed: Option<Error>,
}

impl CpuStream {
    /// # Errors
    /// [`Error::Poisoned`] after a failure.
    pub(crate) fn healthy(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), |first| Err(Error::Poisoned { first: Box::new(first) }))
    }
}

impl Stream for CpuStream {
    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        self.healthy()?;
        let (buffer, range) = resolve_mut(dst, "upload", src.len())?;
        // SAFETY: the range was checked to lie in the buffer and to hold `src`; `src` is a live slice, which cannot
        // overlap memory that a command may write.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), buffer.at(range.start), src.len()) };
        Ok(())
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        self.healthy()?;
        let (buffer, range) = resolve(src, "download", dst.len())?;
        // SAFETY: the range was checked to lie in the buffer and to fill `dst`; the buffer's memory is initialised.
        unsafe { std::ptr::copy_nonoverlapping(buffer.at(range.start), dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }

    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        self.healthy()?;
        let (to, to_range) = resolve_mut(dst, "copy destination", src.bytes)?;
        let (from, from_range) = resolve(src, "copy source", 0)?;
        // SAFETY: both ranges were checked; they may overlap.
        unsafe { std::ptr::copy(from.at(from_range.start), to.at(to_range.start), from_range.len()) };
        Ok(())
    }

    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        self.healthy()?;
        let (buffer, range) = resolve_mut(dst, "fill", 0)?;
        // SAFETY: the range was checked to lie in the buffer.
        unsafe { std::ptr::write_bytes(buffer.at(range.start), byte, range.len()) };
        Ok(())
    }

    fn sync(&mut self, _: Duration) -> Result<()> {
        self.healthy()
    }
}
