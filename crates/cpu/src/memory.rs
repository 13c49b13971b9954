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
    /// Pages of the system, this many bytes from the start.
    #[cfg(target_os = "linux")]
    Mapped(usize),
    /// The caller's memory, from this byte on.
    Imported {
        memory: Arc<dyn HostMemory>,
        offset: usize,
    },
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
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            return Self::map(bytes).ok_or_else(out_of_memory);
        }
        let layout = Layout::from_size_align(bytes.max(1), ALIGN).map_err(|_| out_of_memory())?;
        // SAFETY: the layout has a size of at least one byte.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(out_of_memory)?;
        Ok(CpuBuffer { start, bytes, owner: Owner::Allocated(layout) })
    }

    /// Maps fresh pages, which are zero, starting on a huge page and backed by huge pages where the system has them.
    #[cfg(target_os = "linux")]
    fn map(bytes: usize) -> Option<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: asks for a number, nothing else.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        let len = bytes.checked_next_multiple_of(page)?;
        let whole = len.checked_add(HUGE)?;
        // SAFETY: a new private mapping touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), whole, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        let base = base as usize;
        let start = base.next_multiple_of(HUGE);
        // SAFETY: both ranges lie in the mapping, outside the part that is kept; the advice changes no contents, and
        // without huge pages the memory is the same, only slower to stream.
        unsafe {
            libc::munmap(base as *mut libc::c_void, start - base);
            libc::munmap((start + len) as *mut libc::c_void, base + whole - start - len);
            libc::madvise(start as *mut libc::c_void, bytes / HUGE * HUGE, libc::MADV_HUGEPAGE);
        }
        Some(CpuBuffer { start: NonNull::new(start as *mut u8)?, bytes, owner: Owner::Mapped(len) })
    }

    /// Borrows a range of host memory for reading.
    pub(crate) fn import(memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Self> {
        let whole = memory.bytes();
        let range = offset.checked_add(bytes).and_then(|end| whole.get(offset..end)).ok_or_else(|| {
            let found = format!("bytes {offset} + {bytes} of {}", whole.len());
            Error::invalid("import of host memory", found, "stay within the memory")
        })?;
        let start = NonNull::from(range).cast::<u8>();
        Ok(CpuBuffer { start, bytes, owner: Owner::Imported { memory, offset } })
    }

    /// Whether commands may write to it.
    pub(crate) fn is_writable(&self) -> bool {
        !matches!(self.owner, Owner::Imported { .. })
    }

    /// Tells the owner of borrowed memory that these bytes are not needed for now.
    pub(crate) fn cold(&self, range: Range<usize>) {
        if let Owner::Imported { memory, offset } = &self.owner {
            memory.cold(offset + range.start..offset + range.end);
        }
    }

    /// The address of a byte; `offset` is at most [`CpuBuffer::bytes`].
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset <= self.bytes);
        self.start.as_ptr().wrapping_add(offset)
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        match self.owner {
            // SAFETY: allocated with this layout, and released only here.
            Owner::Allocated(layout) => unsafe { dealloc(self.start.as_ptr(), layout) },
            #[cfg(target_os = "linux")]
            Owner::Mapped(len) => {
                // SAFETY: mapped with this length, and released only here.
                unsafe { libc::munmap(self.start.as_ptr().cast(), len) };
            }
            Owner::Imported { .. } => {}
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
