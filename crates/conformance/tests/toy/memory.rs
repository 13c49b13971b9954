//! The chip's memory: bytes that live as long as a buffer or a queued command needs them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use qiao_core::{Binding, Buffer, BufferExt, Error, HostMemory, Result};

use super::{Fault, LARGEST};

/// What is taken of each memory, and what is left to be taken.
pub(crate) struct Arena {
    fault: Fault,
    total: [u64; 2],
    used: Mutex<[u64; 2]>,
    full: AtomicBool,
    last: Mutex<Option<Arc<Storage>>>,
    free: Mutex<Vec<Arc<Storage>>>,
}

impl Arena {
    pub(crate) fn new(fault: Fault, total: [u64; 2]) -> Arena {
        let (used, full, last, free) = Default::default();
        Arena { fault, total, used, full, last, free }
    }

    pub(crate) fn used(&self, memory: usize) -> u64 {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)[memory]
    }

    fn take(&self, memory: usize, bytes: u64) -> Result<()> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.total[memory] - used[memory];
        let single = bytes <= LARGEST || self.fault == Fault::LargestIgnored;
        if bytes > left || !single || self.full.load(Ordering::SeqCst) {
            let recovers = self.fault != Fault::NeverRecovers || bytes > LARGEST;
            self.full.store(!recovers, Ordering::SeqCst);
            return Err(Error::OutOfMemory { device: "toy".into(), asked: bytes, free: left });
        }
        used[memory] += bytes;
        Ok(())
    }
}

enum Bytes {
    Own(RwLock<Vec<u8>>),
    Host(Arc<dyn HostMemory>, usize),
}

/// Bytes of a memory.
pub(crate) struct Storage {
    bytes: Bytes,
    taken: Option<(Arc<Arena>, usize, u64)>,
}

impl Storage {
    pub(crate) fn read(&self, range: Range<usize>) -> Vec<u8> {
        match &self.bytes {
            Bytes::Own(bytes) => bytes.read().unwrap_or_else(PoisonError::into_inner)[range].to_vec(),
            Bytes::Host(memory, start) => memory.bytes()[start + range.start..start + range.end].to_vec(),
        }
    }

    pub(crate) fn write(&self, at: usize, data: &[u8]) {
        if let Bytes::Own(bytes) = &self.bytes {
            let mut bytes = bytes.write().unwrap_or_else(PoisonError::into_inner);
            // A chip that does not look writes as far as it can.
            let end = (at + data.len()).min(bytes.len());
            if at < end {
                bytes[at..end].copy_from_slice(&data[..end - at]);
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match &self.bytes {
            Bytes::Own(bytes) => bytes.read().unwrap_or_else(PoisonError::into_inner).len(),
            Bytes::Host(memory, start) => memory.bytes().len() - start,
        }
    }

    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.bytes, Bytes::Own(_))
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Some((arena, memory, bytes)) = &self.taken {
            arena.used.lock().unwrap_or_else(PoisonError::into_inner)[*memory] -= bytes;
        }
    }
}

/// The chip's buffer.
pub(crate) struct ToyBuffer {
    storage: Arc<Storage>,
    bytes: usize,
    arena: Option<Arc<Arena>>,
}

impl Drop for ToyBuffer {
    fn drop(&mut self) {
        if let Some(arena) = &self.arena
            && arena.fault == Fault::FreedAtOnce
        {
            arena.free.lock().unwrap().push(self.storage.clone());
        }
    }
}

impl Buffer for ToyBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

pub(crate) fn alloc(arena: &Arc<Arena>, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
    let buffer = |storage, bytes| ToyBuffer { storage, bytes, arena: Some(arena.clone()) };
    if arena.fault == Fault::AbsurdGranted && bytes > 1 << 50 {
        return Ok(Arc::new(buffer(storage(arena, memory, 4096)?, bytes)));
    }
    if arena.fault == Fault::FreedAtOnce {
        let mut free = arena.free.lock().unwrap();
        if let Some(at) = free.iter().position(|s| s.bytes() == bytes) {
            return Ok(Arc::new(buffer(free.swap_remove(at), bytes)));
        }
    }
    let mut last = arena.last.lock().unwrap();
    if let Some(storage) = last.take().filter(|s| arena.fault == Fault::AllocOverlaps && s.bytes() >= bytes) {
        return Ok(Arc::new(buffer(storage, bytes)));
    }
    let storage = storage(arena, memory, bytes)?;
    if arena.fault == Fault::AllocOverlaps {
        *last = Some(storage.clone());
    }
    if arena.fault == Fault::LeaksBuffers {
        std::mem::forget(storage.clone());
    }
    let found = if arena.fault == Fault::AllocTooSmall && bytes > 4096 { bytes - 1 } else { bytes };
    Ok(Arc::new(buffer(storage, found)))
}

fn storage(arena: &Arc<Arena>, memory: usize, bytes: usize) -> Result<Arc<Storage>> {
    arena.take(memory, bytes as u64)?;
    let taken = Some((arena.clone(), memory, bytes as u64));
    Ok(Arc::new(Storage { bytes: Bytes::Own(RwLock::new(vec![0xcd; bytes])), taken }))
}

pub(crate) fn import(
    fault: Fault,
    memory: Arc<dyn HostMemory>,
    offset: usize,
    bytes: usize,
) -> Result<Arc<dyn Buffer>> {
    let whole = memory.bytes().len();
    if offset.checked_add(bytes).is_none_or(|end| end > whole) {
        let found = format!("bytes {offset} + {bytes} of {whole}");
        return Err(Error::invalid("import", found, "stay within the memory"));
    }
    if fault == Fault::ImportKeeps {
        std::mem::forget(memory.clone());
    }
    let offset = if fault == Fault::ImportIgnoresOffset { 0 } else { offset };
    let storage = Arc::new(Storage { bytes: Bytes::Host(memory, offset), taken: None });
    Ok(Arc::new(ToyBuffer { storage, bytes, arena: None }))
}

/// The storage behind a range that was checked, and the range in it.
pub(crate) fn resolve(binding: &Binding, what: &str, need: usize) -> Result<(Arc<Storage>, Range<usize>)> {
    binding.check(what, need)?;
    Ok((storage_of(binding)?, binding.offset..binding.offset + binding.bytes))
}

/// The storage behind a range, wherever the range lies.
pub(crate) fn storage_of(binding: &Binding) -> Result<Arc<Storage>> {
    let buffer = binding.buffer.downcast::<ToyBuffer>();
    buffer
        .map(|b| b.storage.clone())
        .ok_or_else(|| Error::invalid("buffer", "it is of another device", "copy it first"))
}

/// As [`resolve`], for writing.
pub(crate) fn resolve_mut(binding: &Binding, what: &str, need: usize) -> Result<(Arc<Storage>, Range<usize>)> {
    let found = resolve(binding, what, need)?;
    match found.0.is_writable() {
        true => Ok(found),
        false => Err(Error::invalid(what, "it is imported", "write to memory of the device")),
    }
}
