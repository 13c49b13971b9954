//! What a device can do at most, measured by its own operators: bytes per second by copies, reductions and products of one
//! row over memory far larger than caches; operations per second by square products, for each dtype.
//!
//! A limit is the fastest repetition of the fastest probe. A probe whose results are wrong is none.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_core::{Binding, DType, Device, OpKind, Result};
use qiao_layers::{Peaks, Provenance};
use qiao_reference::data::Rng;

use super::caches::LastLevel;
use super::clock::Clock;
use super::figures::Probe;
use super::products::Mnk;
use super::shapes::Shape;
use super::source::Pools;
use super::stage::{Obstacle, Stage, free_bytes, guarded};
use super::verify::verify;

/// What memory is read and written in, at most.
const MOST: u64 = 4 << 30;

/// The first size that is tried, as a part of the whole.
const PILOT: u64 = 16;

/// Columns of what is read.
const COLUMNS: usize = 4096;

/// Sides of the square products; the next is tried where the time allows.
const SIDES: &[usize] = &[256, 512, 1024, 2048, 4096, 8192];

/// The limits of a device, and every probe behind them.
#[derive(Clone, Debug, PartialEq)]
pub struct Probes {
    /// The limits.
    pub peaks: Peaks,
    /// Everything that was tried and ran, those with wrong results included.
    pub probes: Vec<Probe>,
}

/// Measures the limits of a device.
///
/// # Errors
/// The device gives no stream.
pub fn probe(device: &Arc<dyn Device>, budget: Duration) -> Result<Peaks> {
    Ok(probes(device, budget, &mut |_| true)?.peaks)
}

/// Measures the limits of a device, telling `watch` what comes next; it answers whether to go on.
///
/// # Errors
/// The device gives no stream.
pub fn probes(device: &Arc<dyn Device>, budget: Duration, watch: &mut dyn FnMut(&str) -> bool) -> Result<Probes> {
    drop(Clock::new(&**device)?);
    let cache = LastLevel::of(device.info()).bytes;
    let mut prober = Prober { device, cache, pools: Pools::new(1), probes: Vec::new() };
    let computed: HashSet<DType> = device.info().dtypes.iter().filter(|d| d.compute).map(|d| d.dtype).collect();
    let float = |d: &DType| computed.contains(d);
    let factors: Vec<DType> = [DType::F32, DType::F16, DType::BF16].into_iter().filter(float).collect();
    let bytes = prober.bytes();
    let readers = readers(&factors);
    let share = budget / 5 * 2 / (readers.len() as u32 + 1);
    let mut go_on = watch("copy");
    if go_on {
        prober.stream_copy(bytes, share);
    }
    for (name, shape) in &readers {
        go_on = go_on && watch(name);
        if go_on {
            prober.read(shape, bytes, share);
        }
    }
    let mut dtypes = factors;
    dtypes.extend([DType::F8E4M3, DType::F8E5M2].into_iter().filter(float));
    dtypes.push(DType::I8);
    for &dtype in &dtypes {
        go_on = go_on && watch(&format!("products of {dtype}"));
        if go_on {
            prober.multiply(dtype, budget / 5 * 3 / dtypes.len() as u32);
        }
    }
    Ok(Probes { peaks: peaks(&prober.probes), probes: prober.probes })
}

impl Probes {
    /// The limits of all that was measured here and then: a machine that was busy once is not judged by that.
    pub fn and(mut self, then: Probes) -> Probes {
        self.probes.extend(then.probes);
        Probes { peaks: peaks(&self.probes), probes: self.probes }
    }
}

/// An operator that reads or writes about this many bytes.
type Reader = Box<dyn Fn(u64) -> Shape>;

/// What moves bytes and does little else, by name.
fn readers(factors: &[DType]) -> Vec<(String, Reader)> {
    let rows = |bytes: u64, row: usize| ((bytes / row as u64) as usize).max(1);
    let by_rows = move |kind: OpKind, dtype: DType, both: u64| -> (String, Reader) {
        let size = COLUMNS * dtype.block_bytes();
        let shape = move |bytes| Shape::Rows { kind, dtype, rows: rows(bytes / both, size), cols: COLUMNS };
        (format!("{kind} of {dtype}"), Box::new(shape))
    };
    let mut readers = vec![by_rows(OpKind::Copy, DType::F32, 2), by_rows(OpKind::Reduce, DType::F32, 1)];
    for &dtype in factors {
        let mnk = move |bytes| Mnk { m: 1, n: rows(bytes, COLUMNS * dtype.block_bytes()), k: COLUMNS };
        let shape = move |bytes| Shape::Matmul { dtype, mnk: mnk(bytes), bias: false, out: None };
        readers.push((format!("one row of {dtype}"), Box::new(shape)));
    }
    if let Some(&act) = factors.last() {
        for format in [DType::Q8_0, DType::Q4_0] {
            let row = COLUMNS / format.block_elems() * format.block_bytes();
            let mnk = move |bytes| Mnk { m: 1, n: rows(bytes, row), k: COLUMNS };
            let shape = move |bytes| Shape::MatmulQuant { format, act, mnk: mnk(bytes), out: None };
            readers.push((format!("one row of {format}"), Box::new(shape)));
        }
    }
    readers
}

/// The fastest probe of each limit.
fn peaks(probes: &[Probe]) -> Peaks {
    let best = |limit: &str| {
        let of = probes.iter().filter(|p| p.limit == limit && p.failure.is_none());
        of.max_by(|a, b| a.per_s.total_cmp(&b.per_s))
    };
    let bytes = best("bytes");
    let products: Vec<(DType, &Probe)> = DType::ALL.iter().filter_map(|&d| Some((d, best(d.name())?))).collect();
    let mut words: Vec<String> = bytes.iter().map(|p| format!("bytes by {}", p.name)).collect();
    words.extend(products.iter().map(|(dtype, p)| format!("{dtype} by {}", p.name)));
    let source = match words.is_empty() {
        true => "no probe ran".into(),
        false => format!("the fastest repetition of the fastest probe of qiao bench ops: {}", words.join("; ")),
    };
    Peaks {
        bytes_per_s: bytes.map_or(0.0, |p| p.per_s),
        ops_per_s: products.iter().map(|(dtype, p)| (*dtype, p.per_s)).collect(),
        provenance: Provenance::Measured(source),
    }
}

struct Prober<'a> {
    device: &'a Arc<dyn Device>,
    cache: u64,
    pools: Pools,
    probes: Vec<Probe>,
}

/// What a probe ran: the fastest repetition in seconds, how many, and the work of one.
#[derive(Default)]
struct Ran {
    best: f64,
    count: usize,
    flops: u64,
    bytes: u64,
    failure: Option<String>,
}

impl Prober<'_> {
    /// Bytes that are far more than caches hold and that the device has room for.
    fn bytes(&self) -> u64 {
        let room = free_bytes(&**self.device).map_or(MOST, |free| free / 8);
        (4 * self.cache).clamp(64 << 20, MOST).min(room).max(1 << 20)
    }

    /// Runs an operator until the time is used. `None` where the device does not run it.
    fn run(&mut self, shape: &Shape, time: Duration) -> Option<Ran> {
        match guarded(|| self.attempt(shape, time)) {
            Ok(ran) => Some(ran),
            Err(Obstacle::Unsupported(_) | Obstacle::Memory(_)) => None,
            Err(Obstacle::Failed(error)) => Some(Ran { failure: Some(error.to_string()), ..Ran::default() }),
        }
    }

    fn attempt(&mut self, shape: &Shape, time: Duration) -> Result<Ran, Obstacle> {
        let work = shape.work(&mut self.pools, &mut Rng::new(1))?;
        let mut clock = Clock::new(&**self.device)?;
        let stage = Stage::new(self.device, &work, &mut clock, self.cache)?;
        let cost = work.cost(&stage.bound);
        let start = Instant::now();
        let (mut best, mut count) = (f64::INFINITY, 0);
        while count < 3 || start.elapsed() < time && count < 1000 {
            best = best.min(stage.lap(&mut clock, count)?.judged());
            count += 1;
            if start.elapsed() > 4 * time {
                break;
            }
        }
        let failure = verify(self.device, &work, &stage, &mut clock)?.failure;
        Ok(Ran { best, count, flops: cost.flops, bytes: cost.read.saturating_add(cost.written), failure })
    }

    fn keep(&mut self, limit: &str, name: String, amount: u64, ran: &Ran) {
        let per_s = if ran.best > 0.0 && ran.best.is_finite() { amount as f64 / ran.best } else { 0.0 };
        if per_s > 0.0 || ran.failure.is_some() {
            let failure = ran.failure.clone();
            self.probes.push(Probe { limit: limit.into(), name, per_s, count: ran.count, failure });
        }
    }

    /// A small piece first, then as much as the time allows.
    fn read(&mut self, shape: &Reader, bytes: u64, time: Duration) {
        let pilot = bytes / PILOT;
        let Some(first) = self.run(&shape(pilot), time / 8) else { return };
        let possible = time.as_secs_f64() / 3.0 / first.best.max(1e-9) * pilot as f64;
        let (bytes, ran) = match (possible as u64).min(bytes) {
            more if more > pilot && first.failure.is_none() => match self.run(&shape(more), time) {
                Some(ran) => (more, ran),
                None => (pilot, first),
            },
            _ => (pilot, first),
        };
        let shape = shape(bytes);
        let name = format!("{} {} {}, {} MiB", shape.kind(), shape.dtype(), shape.parameters(), bytes >> 20);
        self.keep("bytes", name, ran.bytes, &ran);
    }

    /// The stream's own copy between two buffers.
    fn stream_copy(&mut self, bytes: u64, time: Duration) {
        let half = (bytes / 2) as usize;
        let buffer = || self.device.alloc(0, half).ok().map(|b| Binding { bytes: half, ..Binding::whole(b) });
        let (Some(from), Some(to), Ok(mut clock)) = (buffer(), buffer(), Clock::new(&**self.device)) else { return };
        let mut ran = Ran { best: f64::INFINITY, count: 0, flops: 0, bytes: 2 * half as u64, failure: None };
        let start = Instant::now();
        if let Err(error) = clock.stream.fill(&from, 0x3c) {
            ran.failure = Some(error.to_string());
        }
        while ran.failure.is_none() && (ran.count < 3 || start.elapsed() < time && ran.count < 1000) {
            match clock.lap(|stream| stream.copy(&to, &from)) {
                Ok(lap) => ran.best = ran.best.min(lap.judged()),
                Err(error) => ran.failure = Some(error.to_string()),
            }
            ran.count += 1;
        }
        self.keep("bytes", format!("copy between two buffers of {} MiB", half >> 20), ran.bytes, &ran);
    }

    /// Square products, each twice as wide as the last where the time allows, and one as wide as those of large models.
    fn multiply(&mut self, dtype: DType, time: Duration) {
        let start = Instant::now();
        let mut last: Option<(usize, f64)> = None;
        for &side in SIDES {
            let left = time.saturating_sub(start.elapsed());
            // Eight times the work, three times, and as long again to make the operands.
            if last.is_some_and(|(_, best)| best * 8.0 * 4.0 > left.as_secs_f64()) {
                break;
            }
            let mnk = Mnk { m: side, n: side, k: side };
            let Some(best) = self.product(dtype, mnk, left / 4) else { return };
            last = Some((side, best));
        }
        let left = time.saturating_sub(start.elapsed());
        let wide = Mnk { m: 512, n: 4096, k: 4096 };
        let work = |Mnk { m, n, k }: Mnk| (m * n * k) as f64;
        if let Some((side, best)) = last
            && best * work(wide) / (side * side * side) as f64 * 4.0 < left.as_secs_f64()
        {
            self.product(dtype, wide, left / 2);
        }
    }

    /// Seconds of the fastest repetition.
    fn product(&mut self, dtype: DType, mnk: Mnk, time: Duration) -> Option<f64> {
        let shape = match dtype {
            DType::I8 => Shape::ScaledMatmul { mnk, out: DType::F32 },
            _ => Shape::Matmul { dtype, mnk, bias: false, out: None },
        };
        let ran = self.run(&shape, time)?;
        let Mnk { m, n, k } = mnk;
        self.keep(dtype.name(), format!("{} {dtype} {m}×{n}×{k}", shape.kind()), ran.flops, &ran);
        ran.failure.is_none().then_some(ran.best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(limit: &str, name: &str, per_s: f64, failure: Option<&str>) -> Probe {
        let failure = failure.map(String::from);
        Probe { limit: limit.into(), name: name.into(), per_s, count: 3, failure }
    }

    #[test]
    fn the_fastest_right_probe_is_the_limit_and_is_named() {
        let probes = [
            probe("bytes", "copy", 10.0, None),
            probe("bytes", "one row", 20.0, None),
            probe("f32", "256", 5.0, None),
            probe("f32", "512", 50.0, Some("wrong")),
        ];
        let peaks = peaks(&probes);
        assert_eq!((peaks.bytes_per_s, peaks.ops(DType::F32), peaks.ops(DType::BF16)), (20.0, Some(5.0), None));
        let Provenance::Measured(source) = peaks.provenance else { panic!("limits are measured") };
        assert!(source.contains("bytes by one row") && source.contains("f32 by 256"), "{source}");
    }

    #[test]
    fn what_is_measured_twice_has_the_higher_limit() {
        let of = |bytes, ops| {
            let probes = vec![probe("bytes", "copy", bytes, None), probe("f32", "256", ops, None)];
            Probes { peaks: peaks(&probes), probes }
        };
        let both = of(10.0, 7.0).and(of(20.0, 5.0));
        assert_eq!((both.peaks.bytes_per_s, both.peaks.ops(DType::F32), both.probes.len()), (20.0, Some(7.0), 4));
    }

    #[test]
    fn nothing_that_ran_is_no_limit() {
        let none = peaks(&[]);
        assert_eq!((none.bytes_per_s, none.ops_per_s.len()), (0.0, 0));
        assert_eq!(none.provenance, Provenance::Measured("no probe ran".into()));
    }
}
