//! Calls of a plugin's functions: the layer that watches over what comes back.
//!
//! Every out-parameter is poisoned before its call and must be written by one that answers OK. Sizes of structs must stay
//! as they were. A handle is not NULL and is not given out again while it is alive. `QIAO_PLUGIN_TRACE=1` writes a line to
//! stderr for every call, with its duration and its answer.

use std::collections::HashSet;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::failure::{Answer, Failure, name};
use crate::abi::{self, ErrorRecord, Sized32, Status};

/// A handle of a plugin: never NULL, never dereferenced.
pub(super) struct Raw<T>(NonNull<T>);

impl<T> Raw<T> {
    pub(super) fn get(self) -> *mut T {
        self.0.as_ptr()
    }

    fn number(self) -> usize {
        self.0.as_ptr().addr()
    }
}

impl<T> Clone for Raw<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Raw<T> {}

// SAFETY: a number that the plugin understands on any thread (R6); nobody here looks behind it.
unsafe impl<T> Send for Raw<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Raw<T> {}

/// How many bytes behind a place are watched.
const PAD: usize = 256;

/// A place that a plugin fills, and bytes behind it that it must leave alone: a plugin of a newer header that does not mind
/// `struct_size` writes a larger struct than there is room for.
#[repr(C)]
pub(super) struct Padded<T> {
    own: T,
    pad: [u8; PAD],
}

impl<T: Copy> Padded<T> {
    /// What the pad holds, no byte like the next.
    const PATTERN: [u8; PAD] = {
        let mut pattern = [0; PAD];
        let mut i = 0;
        while i < PAD {
            pattern[i] = (i as u8).wrapping_mul(167) ^ 0xa5;
            i += 1;
        }
        pattern
    };

    pub(super) fn new(own: T) -> Padded<T> {
        const { assert!(std::mem::offset_of!(Padded<T>, pad) == size_of::<T>(), "the pad is right behind") };
        Padded { own, pad: Self::PATTERN }
    }

    /// The place.
    pub(super) fn place(&mut self) -> *mut T {
        (&raw mut *self).cast()
    }

    /// What is in the place.
    pub(super) fn own(&self) -> T {
        self.own
    }

    /// How far behind the place was written.
    pub(super) fn beyond(&self) -> usize {
        if self.pad == Self::PATTERN {
            return 0;
        }
        (0..PAD).rev().find(|&i| self.pad[i] != Self::PATTERN[i]).map_or(0, |last| last + 1)
    }

    /// What is in the place, with nothing written behind it.
    pub(super) fn get(&self, slot: &'static str, what: &str) -> Answer<T> {
        match self.beyond() {
            0 => Ok(self.own),
            n => Err(Failure::broke(slot, overrun(n, what))),
        }
    }
}

/// The words for what was written behind a place.
pub(super) fn overrun(bytes: usize, what: &str) -> String {
    format!("wrote {bytes} bytes beyond {what} that it was given: it must mind struct_size (rule R2)")
}

/// What an out-parameter holds until it is written.
const POISON: u64 = 0x5afe_c0de_dead_f00d;

/// The kinds of handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Backend,
    Device,
    Buffer,
    Stream,
    Event,
    Plan,
}

/// Makes calls, and remembers which handles are alive.
pub(super) struct Calls {
    plugin: String,
    trace: bool,
    alive: [Mutex<HashSet<usize>>; 6],
}

impl Calls {
    pub(super) fn new(plugin: &str) -> Calls {
        let trace = std::env::var_os("QIAO_PLUGIN_TRACE").is_some_and(|v| v == "1");
        Calls { plugin: plugin.into(), trace, alive: Default::default() }
    }

    fn alive(&self, kind: Kind) -> std::sync::MutexGuard<'_, HashSet<usize>> {
        self.alive[kind as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many handles of a kind are alive.
    #[cfg(test)]
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.alive(kind).len()
    }

    /// One call with a record for its failure.
    ///
    /// # Errors
    /// What the plugin answered, unless that was OK.
    pub(super) fn call(&self, slot: &'static str, run: impl FnOnce(*mut ErrorRecord) -> Status) -> Answer<()> {
        let mut padded = Padded::new(ErrorRecord::sized());
        let start = self.trace.then(Instant::now);
        let status = run(padded.place());
        let record = padded.own();
        if let Some(start) = start {
            let words = if status == abi::OK { String::new() } else { Failure::of(slot, status, &record).message };
            eprintln!("{} {slot} {} {:?} {words}", self.plugin, name(status), start.elapsed());
        }
        padded.get(slot, "the qiao_error")?;
        same_size(slot, "qiao_error", &record)?;
        if status == abi::OK { Ok(()) } else { Err(Failure::of(slot, status, &record)) }
    }

    /// One call that returns nothing.
    pub(super) fn done(&self, slot: &'static str, run: impl FnOnce()) {
        let start = self.trace.then(Instant::now);
        run();
        if let Some(start) = start {
            eprintln!("{} {slot} {:?}", self.plugin, start.elapsed());
        }
    }

    /// One call that fills a struct, which begins as all zero but for its size.
    pub(super) fn filled<T: Sized32>(
        &self,
        slot: &'static str,
        run: impl FnOnce(*mut T, *mut ErrorRecord) -> Status,
    ) -> Answer<T> {
        let mut out = Padded::new(T::sized());
        let answer = self.call(slot, |record| run(out.place(), record));
        let out = whole(slot, "the struct", &out)?;
        answer.map(|()| out)
    }

    /// One call that answers with a number.
    pub(super) fn number(
        &self,
        slot: &'static str,
        run: impl FnOnce(*mut u64, *mut ErrorRecord) -> Status,
    ) -> Answer<u64> {
        let mut out = POISON;
        let place = &raw mut out;
        self.call(slot, |record| run(place, record))?;
        if out == POISON { Err(Failure::broke(slot, "answers OK and wrote no number")) } else { Ok(out) }
    }

    /// One call that answers with a small number.
    pub(super) fn small(
        &self,
        slot: &'static str,
        run: impl FnOnce(*mut u32, *mut ErrorRecord) -> Status,
    ) -> Answer<u32> {
        let mut out = POISON as u32;
        let place = &raw mut out;
        self.call(slot, |record| run(place, record))?;
        if out == POISON as u32 { Err(Failure::broke(slot, "answers OK and wrote no number")) } else { Ok(out) }
    }

    /// One call that answers with a new handle, which is alive until [`Calls::gone`].
    pub(super) fn handle<T>(
        &self,
        slot: &'static str,
        kind: Kind,
        run: impl FnOnce(*mut *mut T, *mut ErrorRecord) -> Status,
    ) -> Answer<Raw<T>> {
        let mut out: *mut T = std::ptr::without_provenance_mut(POISON as usize);
        let place = &raw mut out;
        self.call(slot, |record| run(place, record))?;
        if out.addr() == POISON as usize {
            return Err(Failure::broke(slot, "answers OK and wrote no handle"));
        }
        let Some(raw) = NonNull::new(out).map(Raw) else {
            return Err(Failure::broke(slot, "answers OK with a NULL handle"));
        };
        if !self.alive(kind).insert(raw.number()) {
            let how = format!("answers with handle {:#x}, which it gave out before and which is alive", raw.number());
            return Err(Failure::broke(slot, how));
        }
        Ok(raw)
    }

    /// One call that answers with a new handle and fills a struct. The handle is alive even where the struct breaks the
    /// contract.
    pub(super) fn handle_filled<H, T: Sized32>(
        &self,
        slot: &'static str,
        kind: Kind,
        run: impl FnOnce(*mut *mut H, *mut T, *mut ErrorRecord) -> Status,
    ) -> Answer<(Raw<H>, Answer<T>)> {
        let mut out = Padded::new(T::sized());
        let raw = self.handle(slot, kind, |handle, record| run(handle, out.place(), record));
        let out = whole(slot, "the struct", &out);
        match raw {
            Ok(raw) => Ok((raw, out)),
            Err(failure) => Err(out.err().unwrap_or(failure)),
        }
    }

    /// One call that gives a handle back. Never fails.
    pub(super) fn gone<T>(&self, slot: &'static str, kind: Kind, raw: Raw<T>, run: impl FnOnce(*mut T)) {
        // Forgotten first: the plugin may give the number out again before its function has returned.
        self.alive(kind).remove(&raw.number());
        self.done(slot, || run(raw.get()));
    }
}

/// A struct that the plugin filled, with nothing written behind it and its size as it was.
pub(super) fn whole<T: Sized32>(slot: &'static str, what: &str, out: &Padded<T>) -> Answer<T> {
    let own = out.get(slot, what)?;
    same_size(slot, what, &own).map(|()| own)
}

/// The plugin left the size of a struct as it was.
fn same_size<T: Sized32>(slot: &'static str, what: &str, out: &T) -> Answer<()> {
    // SAFETY: the first field is the u32 that holds the size, by the contract of the trait.
    let found = unsafe { (&raw const *out).cast::<u32>().read() };
    if found as usize == size_of::<T>() {
        return Ok(());
    }
    let how = format!("changed struct_size of {what} from {} to {found}; a writer leaves it as it is", size_of::<T>());
    Err(Failure::broke(slot, how))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls() -> Calls {
        Calls::new("test")
    }

    #[test]
    fn an_answer_of_ok_must_have_written() {
        let c = calls();
        let words = |f: Failure| f.words();
        assert!(words(c.number("n", |_, _| 0).unwrap_err()).contains("wrote no number"));
        assert!(words(c.small("n", |_, _| 0).unwrap_err()).contains("wrote no number"));
        assert!(words(c.handle::<u8>("h", Kind::Buffer, |_, _| 0).err().unwrap()).contains("wrote no handle"));
        let null = c.handle::<u8>("h", Kind::Buffer, |out, _| {
            // SAFETY: `out` is the place that the call gives.
            unsafe { *out = std::ptr::null_mut() };
            0
        });
        assert!(words(null.err().unwrap()).contains("NULL handle"));
        assert_eq!(c.count(Kind::Buffer), 0);
    }

    #[test]
    fn a_handle_is_given_out_once_while_it_is_alive() {
        let c = calls();
        let ask = |kind| {
            c.handle::<u8>("h", kind, |out, _| {
                // SAFETY: `out` is the place that the call gives.
                unsafe { *out = std::ptr::without_provenance_mut(4096) };
                0
            })
        };
        let first = ask(Kind::Buffer).ok().unwrap();
        assert!(ask(Kind::Buffer).err().unwrap().words().contains("gave out before"));
        assert!(ask(Kind::Stream).is_ok(), "each kind has its own");
        c.gone("g", Kind::Buffer, first, |raw| assert_eq!(raw.addr(), 4096));
        assert!(ask(Kind::Buffer).is_ok());
    }

    #[test]
    fn sizes_of_structs_stay() {
        let c = calls();
        let changed = c.filled::<abi::PlanInfo>("p", |out, _| {
            // SAFETY: `out` is the place that the call gives.
            unsafe { (*out).struct_size = 8 };
            0
        });
        assert!(changed.err().unwrap().words().contains("changed struct_size"));
        let record = c.call("p", |record| {
            // SAFETY: `record` is the place that the call gives.
            unsafe { (*record).struct_size = u32::MAX };
            9
        });
        assert!(record.unwrap_err().words().contains("changed struct_size of qiao_error"));
    }

    /// Writes so many zeros behind a struct.
    fn behind<T>(out: *mut T, bytes: usize) {
        // SAFETY: the place that the call gives has more bytes behind it than that.
        unsafe { out.add(1).cast::<u8>().write_bytes(0, bytes) };
    }

    #[test]
    fn nothing_is_written_behind_a_struct() {
        let c = calls();
        for bytes in [1, 8, PAD] {
            let says = format!("p wrote {bytes} bytes beyond the struct that it was given");
            for status in [abi::OK, abi::ERR_INTERNAL] {
                let filled = c.filled::<abi::PlanInfo>("p", |out, _| {
                    behind(out, bytes);
                    status
                });
                let words = filled.err().unwrap().words();
                assert!(words.contains(&says) && words.contains("mind struct_size"), "{words}");
                let made = c.handle_filled::<u8, abi::PlanInfo>("p", Kind::Plan, |handle, out, _| {
                    behind(out, bytes);
                    // SAFETY: `handle` is the place that the call gives.
                    unsafe { *handle = std::ptr::without_provenance_mut(4096) };
                    status
                });
                let answer = match made {
                    Ok((raw, answer)) => {
                        c.gone("g", Kind::Plan, raw, |_| ());
                        answer
                    }
                    Err(failure) => Err(failure),
                };
                assert!(answer.err().unwrap().words().contains(&says));
                let record = c.call("p", |record| {
                    behind(record, bytes);
                    status
                });
                assert!(record.unwrap_err().words().contains(&format!("wrote {bytes} bytes beyond the qiao_error")));
            }
        }
        assert!(c.filled::<abi::KvInfo>("p", |_, _| 0).is_ok());
    }
}
