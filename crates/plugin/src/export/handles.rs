//! Handles: integers that name objects in tables of the process.
//!
//! A handle is no address and can't be taken for one: its upper bits lie where no pointer of a 64-bit machine does. It
//! carries its kind, its place and the generation of that place, so that one that is stale, foreign or of another kind is
//! told apart without touching memory.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::export::fault::{Fault, Result};

const _: () = assert!(size_of::<usize>() == 8, "the plugin ABI is for 64-bit targets");

/// What a handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Kind {
    Backend = 1,
    Device = 2,
    Buffer = 3,
    Stream = 4,
    Event = 5,
    Plan = 6,
}

impl Kind {
    const ALL: [Kind; 6] = [Kind::Backend, Kind::Device, Kind::Buffer, Kind::Stream, Kind::Event, Kind::Plan];

    fn name(self) -> &'static str {
        match self {
            Kind::Backend => "backend",
            Kind::Device => "device",
            Kind::Buffer => "buffer",
            Kind::Stream => "stream",
            Kind::Event => "event",
            Kind::Plan => "plan",
        }
    }
}

/// `tag:12 kind:4 generation:24 index:24`, from the highest bit down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle(u64);

/// Not canonical on x86-64, and beyond the address space of aarch64 also where the top byte is ignored.
const TAG: u64 = 0x51A;
const MASK: u64 = (1 << 24) - 1;

impl Handle {
    fn new(kind: Kind, generation: u32, index: u32) -> Self {
        Handle(TAG << 52 | (kind as u64) << 48 | u64::from(generation) << 24 | u64::from(index))
    }

    /// The handle behind a pointer of the boundary.
    pub(super) fn of<T>(ptr: *mut T) -> Self {
        Handle(ptr.addr() as u64)
    }

    /// The handle as a pointer of the boundary.
    pub(super) fn ptr<T>(self) -> *mut T {
        std::ptr::without_provenance_mut(self.0 as usize)
    }

    fn index(self) -> usize {
        (self.0 & MASK) as usize
    }

    fn kind(self) -> Option<Kind> {
        Kind::ALL.into_iter().find(|&k| self.0 >> 48 == TAG << 4 | k as u64)
    }

    /// Why it names nothing in a table of this kind.
    fn refused(self, kind: Kind) -> Fault {
        let found = match self.kind() {
            _ if self.0 == 0 => "NULL".to_string(),
            Some(other) if other != kind => format!("{:#x} is a {}", self.0, other.name()),
            Some(_) => format!("{:#x} was given back already", self.0),
            None => format!("{:#x} is no handle of this plugin", self.0),
        };
        Fault::invalid(format!("{} handle", kind.name()), found, format!("give a live {} of this plugin", kind.name()))
    }
}

/// The objects of one kind. `T` is cheap to clone: what a call uses lives on while it runs, whatever is destroyed meanwhile.
pub(super) struct Table<T> {
    kind: Kind,
    slab: RwLock<Slab<T>>,
}

struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

struct Place<T> {
    generation: u32,
    object: Option<T>,
}

/// A table that is held for several look-ups.
pub(super) struct Reading<'a, T> {
    kind: Kind,
    slab: RwLockReadGuard<'a, Slab<T>>,
}

impl<T> Reading<'_, T> {
    pub(super) fn get(&self, handle: Handle) -> Result<&T> {
        self.slab.find(self.kind, handle).ok_or_else(|| handle.refused(self.kind))
    }
}

impl<T> Slab<T> {
    fn find(&self, kind: Kind, handle: Handle) -> Option<&T> {
        let place = self.places.get(handle.index())?;
        place.object.as_ref().filter(|_| handle == Handle::new(kind, place.generation, handle.index() as u32))
    }

    fn take(&mut self, index: usize) -> Option<T> {
        let place = &mut self.places[index];
        let object = place.object.take()?;
        // A place whose generations are used up is not used again.
        if u64::from(place.generation) < MASK {
            place.generation += 1;
            self.free.push(index as u32);
        }
        Some(object)
    }
}

impl<T: Clone> Table<T> {
    pub(super) const fn new(kind: Kind) -> Self {
        Table { kind, slab: RwLock::new(Slab { places: Vec::new(), free: Vec::new() }) }
    }

    /// Takes an object in and names it.
    pub(super) fn insert(&self, object: T) -> Result<Handle> {
        let mut slab = self.slab.write().unwrap_or_else(PoisonError::into_inner);
        let index = match slab.free.pop() {
            Some(index) => index,
            None if (slab.places.len() as u64) <= MASK => {
                slab.places.push(Place { generation: 1, object: None });
                slab.places.len() as u32 - 1
            }
            None => {
                let found = format!("there are {} already", slab.places.len());
                return Err(Fault::invalid(format!("{} handle", self.kind.name()), found, "give some back first"));
            }
        };
        let place = &mut slab.places[index as usize];
        place.object = Some(object);
        Ok(Handle::new(self.kind, place.generation, index))
    }

    /// The object that a handle names.
    pub(super) fn get(&self, handle: Handle) -> Result<T> {
        self.read().get(handle).cloned()
    }

    /// Holds the table for several look-ups. Code of a backend must not run meanwhile.
    pub(super) fn read(&self) -> Reading<'_, T> {
        Reading { kind: self.kind, slab: self.slab.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Takes the object out. Nothing where the handle names none.
    pub(super) fn remove(&self, handle: Handle) -> Option<T> {
        let mut slab = self.slab.write().unwrap_or_else(PoisonError::into_inner);
        slab.find(self.kind, handle)?;
        slab.take(handle.index())
    }

    /// Takes out every object of which this is true.
    pub(super) fn sweep(&self, gone: impl Fn(&T) -> bool) -> Vec<T> {
        let mut slab = self.slab.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<usize> =
            (0..slab.places.len()).filter(|&i| slab.places[i].object.as_ref().is_some_and(&gone)).collect();
        gone.into_iter().filter_map(|i| slab.take(i)).collect()
    }

    /// Every object of which this is true.
    pub(super) fn all(&self, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        let slab = self.slab.read().unwrap_or_else(PoisonError::into_inner);
        slab.places.iter().filter_map(|p| p.object.clone()).filter(wanted).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi;

    fn words(handle: Handle, table: &Table<u32>) -> String {
        table.get(handle).unwrap_err().message
    }

    #[test]
    fn a_handle_names_its_object_until_it_is_given_back() {
        let table = Table::new(Kind::Buffer);
        let (a, b) = (table.insert(1).unwrap(), table.insert(2).unwrap());
        assert_eq!((table.get(a).unwrap(), table.get(b).unwrap()), (1, 2));
        assert_eq!(Handle::of(a.ptr::<abi::Buffer>()), a);
        assert_eq!(table.remove(a), Some(1));
        assert_eq!(table.remove(a), None);
        let c = table.insert(3).unwrap();
        assert_eq!(c.index(), a.index(), "the place is used again");
        assert_eq!(table.get(a).unwrap_err().code, abi::ERR_INVALID_ARG);
        assert!(words(a, &table).contains("was given back already"));
        assert_eq!(table.get(c).unwrap(), 3);
    }

    #[test]
    fn null_foreign_and_wrong_handles_are_told_apart() {
        let table = Table::new(Kind::Buffer);
        let there = table.insert(1).unwrap();
        assert!(words(Handle(0), &table).contains("NULL"));
        assert!(words(Handle(0x7fff_1234_5678), &table).contains("is no handle of this plugin"));
        assert!(words(Handle(there.0 ^ 1 << 60), &table).contains("is no handle of this plugin"));
        let stream = Handle::new(Kind::Stream, 1, 0);
        assert!(words(stream, &table).contains("is a stream"));
        assert!(words(Handle::new(Kind::Buffer, 1, 7), &table).contains("given back"));
    }

    #[test]
    fn no_handle_is_an_address() {
        for kind in Kind::ALL {
            let handle = Handle::new(kind, MASK as u32, MASK as u32).0;
            let upper = handle >> 47;
            assert!(upper != 0 && upper != (1 << 17) - 1, "{handle:#x} is canonical with 48 bits");
            let upper = handle >> 56;
            assert!(upper != 0 && upper != 255, "{handle:#x} is canonical with 57 bits");
            assert!(handle << 8 >> 60 != 0, "{handle:#x} is an address of 52 bits where the top byte is ignored");
        }
    }

    #[test]
    fn a_place_whose_generations_are_used_up_is_not_used_again() {
        let table = Table::new(Kind::Event);
        let first = table.insert(1).unwrap();
        table.slab.write().unwrap().places[first.index()].generation = MASK as u32;
        let last = Handle::new(Kind::Event, MASK as u32, first.index() as u32);
        assert_eq!(table.remove(last), Some(1));
        assert_ne!(table.insert(2).unwrap().index(), first.index());
        assert!(table.get(last).is_err());
    }

    #[test]
    fn a_sweep_takes_what_it_is_asked_for() {
        let table = Table::new(Kind::Plan);
        let handles: Vec<_> = (0..6).map(|i| table.insert(i).unwrap()).collect();
        assert_eq!(table.all(|o| o % 2 == 1), [1, 3, 5]);
        assert_eq!(table.sweep(|o| o % 2 == 0), [0, 2, 4]);
        assert!(table.get(handles[0]).is_err() && table.get(handles[1]).is_ok());
    }
}
