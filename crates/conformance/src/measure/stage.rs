//! An operator on a device, ready to be timed: its operands in several copies, so that caches hold none of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_core::{Binding, Device, Error, MemoryInfo, Plan, Result, Stream};
use qiao_layers::{Lowered, Policy, Way, lower};

use super::clock::{Clock, Lap};
use super::source::Source;
use super::work::{Bound, Work};

/// The most copies of operands.
const COPIES: usize = 64;

/// Bytes that are made on the host at a time.
const PIECE: usize = 4 << 20;

/// Of the memory that is free, what one operator may take.
const SHARE: f64 = 0.6;

/// How operands are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// Copies of all operands, which take turns.
    pub(crate) copies: usize,
    /// Whether the caches are emptied after each turn of the copies, because together they do not outgrow them.
    pub(crate) evict: bool,
}

impl Rotation {
    /// For an operator that touches `touched` bytes of the `held` bytes of its operands, before a cache of `cache` bytes.
    /// One copy that is four times the cache evicts itself; else all copies together touch twice the cache.
    pub(crate) fn of(touched: u64, held: u64, cache: u64) -> Rotation {
        let touched = touched.max(1);
        if touched >= 4 * cache {
            return Rotation { copies: 1, evict: false };
        }
        let wanted = (2 * cache).div_ceil(touched) + 1;
        let room = (8 * cache / held.max(1)).max(1);
        let copies = wanted.min(room).min(COPIES as u64);
        Rotation { copies: copies as usize, evict: copies < wanted }
    }
}

/// Memory that is moved to push everything else out of the caches.
pub(crate) struct Eviction {
    halves: [Binding; 2],
}

impl Eviction {
    /// Twice the cache; `None` where the device has no room for it.
    pub(crate) fn new(device: &dyn Device, cache: u64) -> Option<Eviction> {
        let bytes = usize::try_from(cache).ok()?;
        let half = || device.alloc(0, bytes).ok().map(|b| Binding { bytes, ..Binding::whole(b) });
        Some(Eviction { halves: [half()?, half()?] })
    }

    /// Copies one half over the other, in pieces that no copy moves past the caches.
    fn run(&self, stream: &mut dyn Stream) -> Result<()> {
        const STEP: usize = 1 << 20;
        let [from, to] = &self.halves;
        for offset in (0..from.bytes).step_by(STEP) {
            let bytes = STEP.min(from.bytes - offset);
            stream.copy(&Binding::part(&to.buffer, offset, bytes), &Binding::part(&from.buffer, offset, bytes))?;
        }
        stream.sync(Duration::MAX)
    }
}

/// Bytes that can be had now of a device's first memory; `None` where it does not tell.
pub(crate) fn free_bytes(device: &dyn Device) -> Option<u64> {
    let told = device.info().memories.first().filter(|m| m.free_bytes > 0).map(|m| m.free_bytes);
    let host = |m: &MemoryInfo| m.kind.host_visible;
    if device.info().memories.first().is_some_and(host) {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with("MemAvailable:"));
        let now = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).map(|kib| kib << 10);
        return match (told, now) {
            (Some(told), Some(now)) => Some(told.min(now)),
            (told, now) => told.or(now),
        };
    }
    told
}

/// Why an operator can't be staged.
pub(crate) enum Obstacle {
    /// The device does not run it.
    Unsupported(String),
    /// It does not fit.
    Memory(String),
    /// The device failed.
    Failed(Error),
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Obstacle {
        match error {
            Error::Unsupported { list, .. } => {
                let reasons: Vec<_> = list.iter().map(|u| u.reason.to_string()).collect();
                Obstacle::Unsupported(reasons.join("; "))
            }
            Error::OutOfMemory { .. } => Obstacle::Memory(error.to_string()),
            error => Obstacle::Failed(error),
        }
    }
}

/// Runs what calls a backend. One that panics has failed, and no more.
///
/// # Errors
/// Those of `run`, or the panic.
pub(crate) fn guarded<T>(run: impl FnOnce() -> Result<T, Obstacle>) -> Result<T, Obstacle> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
        let why = format!("panicked: {}", text.unwrap_or_else(|| "it said nothing".into()));
        Err(Obstacle::Failed(Error::internal("the backend", why)))
    })
}

/// An operator on a device, with operands in place.
pub(crate) struct Stage {
    pub(crate) bound: Bound,
    pub(crate) lowered: Lowered,
    /// Seconds that lowering and planning took.
    pub(crate) planned: f64,
    pub(crate) rotation: Rotation,
    copies: Vec<Vec<Binding>>,
    workspace: Binding,
}

impl Stage {
    /// Plans the operator and fills its operands.
    ///
    /// # Errors
    /// The device does not run it; it does not fit; the device's own.
    pub(crate) fn new(device: &Arc<dyn Device>, work: &Work, clock: &mut Clock, cache: u64) -> Result<Stage, Obstacle> {
        let bound = work.bind().map_err(Obstacle::Failed)?;
        let start = Instant::now();
        let lowered = lower(device, bound.graph.clone(), &Policy::DeviceOnly)?;
        let planned = start.elapsed().as_secs_f64();
        let sizes = sizes(&bound, &lowered)?;
        let held: u64 = sizes.iter().map(|&s| s as u64).sum();
        let cost = work.cost(&bound);
        let mut rotation = Rotation::of(cost.read.saturating_add(cost.written), held, cache);
        let source = |p: &qiao_layers::Pack| p.tensor.bytes().unwrap_or(usize::MAX) as u64;
        let packing = lowered.packs.iter().map(source).max().unwrap_or(0);
        let largest = sizes.iter().copied().max().unwrap_or(0) as u64;
        let fixed = packing.saturating_add(lowered.info().workspace_bytes as u64);
        if fits(device, fixed.saturating_add(held * rotation.copies as u64), largest).is_err() && rotation.copies > 1 {
            rotation = Rotation { copies: 1, evict: true };
        }
        fits(device, fixed.saturating_add(held * rotation.copies as u64), largest)?;
        let workspace = room(&**device, lowered.info().workspace_bytes)?;
        let mut stage = Stage { bound, lowered, planned, rotation, copies: Vec::new(), workspace };
        for _ in 0..rotation.copies {
            let copy = sizes.iter().map(|&bytes| room(&**device, bytes)).collect::<Result<Vec<_>>>()?;
            stage.copies.push(copy);
        }
        stage.fill(&**device, work, clock)?;
        Ok(stage)
    }

    /// Fills the operands of every copy; constants that the device packs are packed, one source at a time.
    fn fill(&self, device: &dyn Device, work: &Work, clock: &mut Clock) -> Result<()> {
        let stream = &mut *clock.stream;
        for position in 0..self.bound.operand.len() {
            let Some(operand) = self.operand(work, position) else { continue };
            match self.lowered.packs.iter().find(|p| p.bound == position) {
                Some(pack) => {
                    let source = room(device, pack.tensor.bytes()?)?;
                    upload(stream, &source, operand)?;
                    for copy in &self.copies {
                        device.prepack(stream, &pack.tensor, &source, pack.layout, &copy[position])?;
                    }
                    stream.sync(Duration::MAX)?;
                }
                None => {
                    for copy in &self.copies {
                        upload(stream, &copy[position], operand)?;
                    }
                }
            }
        }
        stream.sync(Duration::MAX)
    }

    fn operand<'a>(&self, work: &'a Work, position: usize) -> Option<&'a Source> {
        let index = self.bound.operand[position]?;
        work.operands[index].as_ref().map(|o| &o.source)
    }

    /// One execution on a copy, under the clock.
    ///
    /// # Errors
    /// The device's own.
    pub(crate) fn lap(&self, clock: &mut Clock, turn: usize) -> Result<Lap> {
        let copy = &self.copies[turn % self.copies.len()];
        clock.lap(|stream| self.lowered.execute(stream, copy, &self.workspace))
    }

    /// Before a turn: empties the caches where the copies start over and do not outgrow them.
    ///
    /// # Errors
    /// The device's own.
    pub(crate) fn before(&self, clock: &mut Clock, eviction: Option<&Eviction>, turn: usize) -> Result<()> {
        match eviction {
            Some(eviction) if self.rotation.evict && turn.is_multiple_of(self.copies.len()) => {
                eviction.run(&mut *clock.stream)
            }
            _ => Ok(()),
        }
    }

    /// The outputs of one more execution on operands that are made anew, outputs poisoned first: as bytes, in order.
    ///
    /// # Errors
    /// The device's own.
    pub(crate) fn results(&self, work: &Work, clock: &mut Clock) -> Result<Vec<Vec<u8>>> {
        let copy = &self.copies[0];
        for &position in &self.bound.outputs {
            match self.operand(work, position) {
                Some(operand) => upload(&mut *clock.stream, &copy[position], operand)?,
                None => clock.stream.fill(&copy[position], POISON)?,
            }
        }
        clock.lap(|stream| self.lowered.execute(stream, copy, &self.workspace))?;
        let mut results = Vec::with_capacity(self.bound.outputs.len());
        for &position in &self.bound.outputs {
            let mut bytes = vec![0; self.bound.desc(position).bytes()?];
            clock.stream.download(&mut bytes, &copy[position])?;
            results.push(bytes);
        }
        Ok(results)
    }

    /// How it runs, in the words of records.
    pub(crate) fn way(&self) -> String {
        match self.lowered.account.entries.first().map(|e| &e.way) {
            Some(Way::Native { kernel }) => format!("native {kernel}").trim_end().into(),
            Some(Way::Decomposed { .. }) => format!("decomposed: {}", self.pieces().join(" + ")),
            Some(Way::Host { kernel, .. }) => format!("host {kernel}").trim_end().into(),
            None => String::new(),
        }
    }

    /// The smaller operators that it runs as; none where the device has a kernel for it.
    pub(crate) fn pieces(&self) -> Vec<&'static str> {
        match self.lowered.account.entries.first().map(|e| &e.way) {
            Some(Way::Decomposed { into, .. }) => into.iter().map(|p| p.op).collect(),
            _ => Vec::new(),
        }
    }
}

/// What outputs hold before they are compared with the truth: NaN in every float.
pub(crate) const POISON: u8 = 0xff;

/// Bytes of every bound tensor as the device holds it.
fn sizes(bound: &Bound, lowered: &Lowered) -> Result<Vec<usize>> {
    let of = |position: usize| match lowered.packs.iter().find(|p| p.bound == position) {
        Some(pack) => Ok(pack.bytes),
        None => bound.desc(position).bytes(),
    };
    (0..bound.operand.len()).map(of).collect()
}

fn room(device: &dyn Device, bytes: usize) -> Result<Binding> {
    let size = bytes.saturating_add(device.info().tensor_tail_pad).max(1);
    Ok(Binding { bytes, ..Binding::whole(device.alloc(0, size)?) })
}

fn upload(stream: &mut dyn Stream, to: &Binding, source: &Source) -> Result<()> {
    let mut piece = vec![0; PIECE.min(to.bytes)];
    for offset in (0..to.bytes).step_by(PIECE) {
        let part = &mut piece[..PIECE.min(to.bytes - offset)];
        source.read(offset, part);
        stream.upload(&Binding::part(&to.buffer, to.offset + offset, part.len()), part)?;
    }
    Ok(())
}

/// Refuses what would take more than its share of the memory that is free, or more than one allocation can have.
fn fits(device: &Arc<dyn Device>, needed: u64, largest: u64) -> Result<(), Obstacle> {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let most = device.info().memories.first().map_or(0, |m| m.max_alloc);
    if most > 0 && largest > most {
        let why = format!("one operand needs {:.2} GiB; an allocation has {:.2} GiB at most", gib(largest), gib(most));
        return Err(Obstacle::Memory(why));
    }
    let Some(free) = free_bytes(&**device) else { return Ok(()) };
    if needed <= (free as f64 * SHARE) as u64 {
        return Ok(());
    }
    let share = SHARE * 100.0;
    let why =
        format!("needs {:.2} GiB; {share:.0} % of the {:.2} GiB that are free may be used", gib(needed), gib(free));
    Err(Obstacle::Memory(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_together_outgrow_the_cache() {
        const MIB: u64 = 1 << 20;
        // Large operands evict themselves.
        assert_eq!(Rotation::of(512 * MIB, 512 * MIB, 32 * MIB), Rotation { copies: 1, evict: false });
        for touched in [2 * MIB, 8 * MIB, 31 * MIB, 33 * MIB, 100 * MIB] {
            let rotation = Rotation::of(touched, touched, 32 * MIB);
            assert!(!rotation.evict && rotation.copies > 1, "{touched}: {rotation:?}");
            // All other copies are touched between two turns of one.
            assert!((rotation.copies as u64 - 1) * touched >= 64 * MIB, "{touched}: {rotation:?}");
        }
    }

    #[test]
    fn where_copies_do_not_outgrow_the_cache_it_is_emptied() {
        let small = Rotation::of(4096, 4096, 32 << 20);
        assert_eq!(small, Rotation { copies: COPIES, evict: true });
        // A table of which a row is read is not copied many times.
        let table = Rotation::of(4096, 300 << 20, 32 << 20);
        assert_eq!(table, Rotation { copies: 1, evict: true });
        assert_eq!(Rotation::of(0, 0, 0), Rotation { copies: 1, evict: false });
    }
}
