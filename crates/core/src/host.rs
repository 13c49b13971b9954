//! Host memory behind the contract, in safe code: what the noop and the reference device are made of.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::device::{Binding, Buffer, BufferExt, Stream};
use crate::error::{Error, Result};

/// Host bytes behind a lock.
#[derive(Debug)]
pub struct HostBuffer {
    data: RwLock<Vec<u8>>,
    bytes: usize,
}

impl HostBuffer {
    /// Allocates zeroed bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] under the device's name.
    pub fn new(device: &str, bytes: usize) -> Result<Self> {
        // Asked for first, since what fails behind it would abort. The system's zeroes cost nothing until they are touched.
        Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| Error::OutOfMemory {
            device: device.into(),
            asked: bytes as u64,
            free: 0,
        })?;
        let data = vec![0; bytes];
        Ok(HostBuffer { data: RwLock::new(data), bytes })
    }

    /// Reads the bytes of a range that was checked.
    pub fn read<R>(&self, range: std::ops::Range<usize>, f: impl FnOnce(&[u8]) -> R) -> R {
        f(&self.data.read().unwrap_or_else(PoisonError::into_inner)[range])
    }

    /// Changes the bytes of a range that was checked.
    pub fn write<R>(&self, range: std::ops::Range<usize>, f: impl FnOnce(&mut [u8]) -> R) -> R {
        f(&mut self.data.write().unwrap_or_else(PoisonError::into_inner)[range])
    }
}

impl Buffer for HostBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The host buffer behind a binding, and the range in it.
///
/// # Errors
/// The buffer is of another device, or the range is outside it.
pub fn host_range(binding: &Binding) -> Result<(&HostBuffer, std::ops::Range<usize>)> {
    binding.check("host memory", 0)?;
    let buffer = binding.buffer.downcast::<HostBuffer>().ok_or_else(|| {
        Error::invalid("buffer", "it belongs to another device", "copy it through the host with download and upload")
    })?;
    Ok((buffer, binding.offset..binding.offset + binding.bytes))
}

/// A stream whose every command has run when the call returns. Bad arguments are refused and leave it as it was; a
/// command that fails while it runs poisons it.
#[derive(Debug, Default)]
pub struct HostStream {
    first: Option<Error>,
}

impl HostStream {
    /// Runs a command and keeps its failure, unless an earlier one failed.
    ///
    /// # Errors
    /// The command's own, or [`Error::Poisoned`].
    pub fn run(&mut self, command: impl FnOnce() -> Result<()>) -> Result<()> {
        self.healthy()?;
        let result = command();
        self.first = result.clone().err();
        result
    }

    fn healthy(&self) -> Result<()> {
        self.first.clone().map_or(Ok(()), |first| Err(Error::Poisoned { first: Box::new(first) }))
    }
}

impl Stream for HostStream {
    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        self.healthy()?;
        dst.check("upload", src.len())?;
        let (buffer, range) = host_range(dst)?;
        buffer.write(range, |b| b[..src.len()].copy_from_slice(src));
        Ok(())
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        self.healthy()?;
        src.check("download", dst.len())?;
        let (buffer, range) = host_range(src)?;
        let n = dst.len();
        buffer.read(range, |b| dst.copy_from_slice(&b[..n]));
        Ok(())
    }

    fn sync(&mut self, _: Duration) -> Result<()> {
        self.healthy()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, HostEvent};

    #[test]
    fn the_first_failure_of_a_stream_is_kept() {
        let mut stream = HostStream::default();
        stream.run(|| Ok(())).unwrap();
        assert!(matches!(stream.run(|| Err(Error::internal("kernel", "it failed"))), Err(Error::Internal { .. })));
        let later = stream.run(|| Err(Error::internal("kernel", "it failed again")));
        assert!(later.unwrap_err().to_string().contains("it failed;"));
        assert!(matches!(stream.sync(Duration::ZERO), Err(Error::Poisoned { .. })));
        let event = HostEvent::default();
        assert!(stream.record(&event).is_err());
        assert!(matches!(event.is_reached(), Err(Error::Poisoned { .. })));
    }
}
