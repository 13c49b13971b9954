//! The device's memory: private bytes that live as long as a buffer or a queued command needs them, full of dirt before
//! they are written.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use qiao_core::{Binding, Buffer, BufferExt, Error, HostMemory, Result};

/// What bytes hold that nobody has written: NaN in every float.
pub(crate) const DIRT: u8 = 0xff;

/// Bytes of freed storage that are kept to be handed out again.
const KEPT: usize = 16 << 20;

/// The memories of a device.
pub(crate) struct Arena {
    name: &'static str,
    total: u64,
    largest: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: [u64; 2],
    /// Freed storage by its size, dirty again.
    free: HashMap<usize, Vec<Vec<u8>>>,
    kept: usize,
}

impl Arena {
    pub(crate) fn new(name: &'static str, total: u64, largest: u64) -> Arena {
        Arena { name, total, largest, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that each memory still has.
    pub(crate) fn free(&self) -> [u64; 2] {
        self.state().used.map(|used| self.total - used)
    }

    /// The error of a memory that has no room.
    pub(crate) fn full(&self, memory: usize, bytes: usize) -> Error {
        Error::OutOfMemory { device: self.name.into(), asked: bytes as u64, free: self.free()[memory] }
    }

    /// Takes bytes of a memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn alloc(self: &Arc<Self>, memory: usize, bytes: usize) -> Result<Arc<Storage>> {
        let kept = {
            let mut state = self.state();
            let asked = bytes as u64;
            if asked > self.largest || asked > self.total - state.used[memory] {
                drop(state);
                return Err(self.full(memory, bytes));
            }
            state.used[memory] += asked;
            let kept = state.free.get_mut(&bytes).and_then(Vec::pop);
            state.kept -= kept.as_ref().map_or(0, Vec::len);
            kept
        };
        let taken = Taken { arena: self.clone(), memory, bytes };
        let data = match kept {
            Some(data) => data,
            None => {
                let mut data = Vec::new();
                data.try_reserve_exact(bytes).map_err(|_| self.full(memory, bytes))?;
                data.resize(bytes, DIRT);
                data
            }
        };
        Ok(Arc::new(Storage { bytes: Bytes::Own(RwLock::new(data)), len: bytes, taken: Some(taken) }))
    }
}

/// A share of a memory, given back when it goes.
struct Taken {
    arena: Arc<Arena>,
    memory: usize,
    bytes: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.arena.state().used[self.memory] -= self.bytes as u64;
    }
}

enum Bytes {
    Own(RwLock<Vec<u8>>),
    Host(Arc<dyn HostMemory>, usize),
}

/// Bytes of a memory.
pub(crate) struct Storage {
    bytes: Bytes,
    len: usize,
    taken: Option<Taken>,
}

/// Bytes that are being read.
pub(crate) enum Reading<'a> {
    Own(RwLockReadGuard<'a, Vec<u8>>),
    Host(&'a [u8]),
}

impl Deref for Reading<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Reading::Own(guard) => guard,
            Reading::Host(bytes) => bytes,
        }
    }
}

impl Storage {
    /// Host memory as it stands.
    pub(crate) fn import(memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Arc<Storage>> {
        let whole = memory.bytes().len();
        if offset.checked_add(bytes).is_none_or(|end| end > whole) {
            let found = format!("bytes {offset} + {bytes} of host memory of {whole}");
            return Err(Error::invalid("import", found, "stay within the host memory"));
        }
        Ok(Arc::new(Storage { bytes: Bytes::Host(memory, offset), len: bytes, taken: None }))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether it may be written: not where it is the host's.
    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.bytes, Bytes::Own(_))
    }

    /// The memory it was taken from; imported memory counts as the first.
    pub(crate) fn memory(&self) -> usize {
        self.taken.as_ref().map_or(0, |t| t.memory)
    }

    /// All bytes, for reading. Whoever holds several storages takes them in the order of their addresses.
    pub(crate) fn read(&self) -> Reading<'_> {
        match &self.bytes {
            Bytes::Own(bytes) => Reading::Own(bytes.read().unwrap_or_else(PoisonError::into_inner)),
            Bytes::Host(memory, start) => Reading::Host(&memory.bytes()[*start..*start + self.len]),
        }
    }

    /// Changes bytes. Nothing happens to imported memory, which is refused before.
    pub(crate) fn write(&self, range: Range<usize>, f: impl FnOnce(&mut [u8])) {
        if let Some(mut bytes) = self.writing() {
            f(&mut bytes[range]);
        }
    }

    fn writing(&self) -> Option<RwLockWriteGuard<'_, Vec<u8>>> {
        match &self.bytes {
            Bytes::Own(bytes) => Some(bytes.write().unwrap_or_else(PoisonError::into_inner)),
            Bytes::Host(..) => None,
        }
    }

    /// Copies bytes; within one storage, too.
    pub(crate) fn copy(from: &Arc<Storage>, range: Range<usize>, to: &Arc<Storage>, at: usize) {
        let end = at + range.len();
        if Arc::ptr_eq(from, to) {
            if let Some(mut bytes) = to.writing() {
                bytes.copy_within(range, at);
            }
            return;
        }
        // In the order of their addresses, as everybody takes them.
        if Arc::as_ptr(from) < Arc::as_ptr(to) {
            let source = from.read();
            to.write(at..end, |bytes| bytes.copy_from_slice(&source[range]));
        } else if let Some(mut bytes) = to.writing() {
            bytes[at..end].copy_from_slice(&from.read()[range]);
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let (Bytes::Own(bytes), Some(taken)) = (&mut self.bytes, &self.taken) else { return };
        let mut data = std::mem::take(bytes.get_mut().unwrap_or_else(PoisonError::into_inner));
        if data.is_empty() || data.len() > KEPT {
            return;
        }
        data.fill(DIRT);
        let mut state = taken.arena.state();
        if state.kept + data.len() <= KEPT {
            state.kept += data.len();
            state.free.entry(data.len()).or_default().push(data);
        }
    }
}

/// A buffer of a simulated device.
pub(crate) struct SimBuffer {
    storage: Arc<Storage>,
    owner: u64,
}

impl SimBuffer {
    /// A buffer of the device of this number.
    pub(crate) fn new(storage: Arc<Storage>, owner: u64) -> SimBuffer {
        SimBuffer { storage, owner }
    }
}

impl Buffer for SimBuffer {
    fn bytes(&self) -> usize {
        self.storage.len()
    }
}

/// The storage behind a range of at least `need` bytes of a device's buffer, and the range in it.
///
/// # Errors
/// The range does not fit, or the buffer is of another device.
pub(crate) fn resolve(owner: u64, binding: &Binding, what: &str, need: usize) -> Result<(Arc<Storage>, Range<usize>)> {
    binding.check(what, need)?;
    let own = binding.buffer.downcast::<SimBuffer>().filter(|b| b.owner == owner);
    let buffer = own.ok_or_else(|| {
        let mend = "copy it through the host with download and upload";
        Error::invalid(format!("buffer of {what}"), "it belongs to another device", mend)
    })?;
    Ok((buffer.storage.clone(), binding.offset..binding.offset + binding.bytes))
}

/// As [`resolve`], for writing.
///
/// # Errors
/// Also for imported memory.
pub(crate) fn resolve_mut(
    owner: u64,
    binding: &Binding,
    what: &str,
    need: usize,
) -> Result<(Arc<Storage>, Range<usize>)> {
    let found = resolve(owner, binding, what, need)?;
    if !found.0.is_writable() {
        let mend = "write to memory that the device allocated";
        return Err(Error::invalid(format!("buffer of {what}"), "it is imported, and so read-only", mend));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_and_freed_bytes_are_dirt() {
        let arena = Arc::new(Arena::new("test", 1000, 600));
        for _ in 0..3 {
            let storage = arena.alloc(0, 500).unwrap();
            assert!(storage.read().iter().all(|b| *b == DIRT));
            storage.write(0..500, |bytes| bytes.fill(7));
            assert_eq!(arena.free(), [500, 1000]);
        }
        assert_eq!((arena.free()[0], arena.state().kept), (1000, 500));
        assert!(f32::from_le_bytes([DIRT; 4]).is_nan());
    }

    #[test]
    fn a_memory_gives_no_more_than_it_has() {
        let arena = Arc::new(Arena::new("test", 1000, 600));
        assert!(matches!(arena.alloc(0, 601), Err(Error::OutOfMemory { asked: 601, free: 1000, .. })));
        let held = arena.alloc(0, 600).unwrap();
        assert!(matches!(arena.alloc(0, 401), Err(Error::OutOfMemory { free: 400, .. })));
        assert!(arena.alloc(1, 401).is_ok(), "the other memory has its own room");
        drop(held);
        assert!(arena.alloc(0, 600).is_ok());
    }

    #[test]
    fn copies_work_in_both_directions_and_within() {
        let arena = Arc::new(Arena::new("test", 1000, 600));
        let (a, b) = (arena.alloc(0, 8).unwrap(), arena.alloc(0, 8).unwrap());
        a.write(0..8, |bytes| bytes.copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]));
        Storage::copy(&a, 0..4, &b, 2);
        Storage::copy(&b, 2..4, &a, 6);
        Storage::copy(&a, 0..4, &a, 1);
        assert_eq!(&*a.read(), [1, 1, 2, 3, 4, 6, 1, 2]);
    }
}
