//! Host memory of the CPU device: allocated here, or borrowed from the caller without a copy.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use qiao_core::{Binding, Buffer, BufferExt, Error, HostMemory, Result};

/// Every allocation starts on a multiple of this: a cache line, and what the widest loads like.
pub(crate) const ALIGN: usize = 64;

/// Allocations from this size on start on a huge page and ask for huge pages.
const HUGE: usize = 2 << 20;

enum Owner {
    Allocated(Layout),
    Imported { _memory: Arc<dyn HostMemory> },
}

/// Bytes of host memory.
pub(crate) struct CpuBuffer {
    start: NonNull<u8>,
    bytes: usize,
    owner: Owner,
}

// SAFETY: the buffer is plain memory; the contract orders commands that touch the same bytes.
unsafe impl Send for CpuBuffer {}
// SAFETY: as above; a shared buffer gives out addresses only inside commands.
unsafe impl Sync for CpuBuffer {}

impl CpuBuffer {
    /// Allocates zeroed bytes.
    pub(crate) fn new(device: &str, bytes: usize) -> Result<Self> {
        let out_of_memory = || Error::OutOfMemory { device: device.into(), asked: bytes as u64, free: 0 };
        let align = if bytes >= HUGE { HUGE } else { ALIGN };
        let layout = Layout::from_size_align(bytes.max(1), align).map_err(|_| out_of_memory())?;
        // SAFETY: the layout has a size of at least one byte.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(out_of_memory)?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            // Best effort: without huge pages the memory is the same, only slower to stream.
            // SAFETY: the range is this allocation, and the advice changes no contents.
            unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Ok(CpuBuffer { start, bytes, owner: Owner::Allocated(layout) })
    }

    /// Borrows a range of host memory for reading.
    pub(crate) fn import(memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Self> {
        let whole = memory.bytes();
        let range = offset.checked_add(bytes).and_then(|end| whole.get(offset..end)).ok_or_else(|| {
            let found = format!("bytes {offset} + {bytes} of {}", whole.len());
            Error::invalid("import of host memory", found, "stay within the memory")
        })?;
        let start = NonNull::from(range).cast::<u8>();
        Ok(CpuBuffer { start, bytes, owner: Owner::Imported { _memory: memory } })
    }

    /// Whether commands may write to it.
    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.owner, Owner::Allocated(_))
    }

    /// The address of a byte; `offset` is at most [`CpuBuffer::bytes`].
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset <= self.bytes);
        self.start.as_ptr().wrapping_add(offset)
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        if let Owner::Allocated(layout) = self.owner {
            // SAFETY: allocated with this layout, and released only here.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}

impl Buffer for CpuBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The buffer behind a binding and its range.
///
/// # Errors
/// The buffer is of another device, or the range is outside it or shorter than `need`.
pub(crate) fn resolve<'a>(binding: &'a Binding, what: &str, need: usize) -> Result<(&'a CpuBuffer, Range<usize>)> {
    binding.check(what, need)?;
    let buffer = binding.buffer.downcast::<CpuBuffer>().ok_or_else(|| {
        Error::invalid(
            format!("buffer of '{what}'"),
            "it belongs to another device",
            "copy it with download and upload",
        )
    })?;
    Ok((buffer, binding.offset..binding.offset + binding.bytes))
}

/// As [`resolve`], for a command that writes.
///
/// # Errors
/// As [`resolve`]; also where the buffer is imported.
pub(crate) fn resolve_mut<'a>(binding: &'a Binding, what: &str, need: usize) -> Result<(&'a CpuBuffer, Range<usize>)> {
    let found = resolve(binding, what, need)?;
    if found.0.is_writable() {
        return Ok(found);
    }
    Err(Error::invalid(
        format!("buffer of '{what}'"),
        "it is imported, for reading only",
        "write to an allocated buffer",
    ))
}
