//! The run: limits, one operator after the other, and limits again.

use std::sync::Arc;
use std::time::Instant;

use qiao_core::{DType, Device, Error, OpKind, Result};
use qiao_layers::{Peaks, Summary};
use qiao_reference::data::Rng;

use super::caches::LastLevel;
use super::clock::{Clock, Lap};
use super::figures::{Figures, Limits, OpFigure, OpsBench, SCHEMA};
use super::list::{Item, OpsSelection, items};
use super::probe::probes;
use super::source::Pools;
use super::stage::{Eviction, Obstacle, Stage, guarded};
use super::time::time;
use super::verify::verify;
use super::work::Work;
use crate::platform::{DeviceFacts, Platform};

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct OpsProgress<'a> {
    /// Shapes that are done; 0 while limits are measured at first, all while they are measured again.
    pub done: usize,
    /// Shapes in all.
    pub all: usize,
    /// What comes next.
    pub next: &'a str,
    /// The figure that was taken last.
    pub last: Option<&'a OpFigure>,
}

/// Measures operators on a device. `watch` hears of each probe and shape before it is measured, and answers whether to go on;
/// what was measured until then is kept. Limits are measured before and after the operators, and the higher ones count.
///
/// # Errors
/// A selection of nothing; a device that gives no stream.
pub fn bench(
    device: &Arc<dyn Device>,
    selection: &OpsSelection,
    mut watch: impl FnMut(OpsProgress<'_>) -> bool,
) -> Result<OpsBench> {
    let (platform, start) = (Platform::here(), Instant::now());
    let items = items(selection, device.info())?;
    let all = items.len();
    let mut interrupted = false;
    let mut limits = probes(device, selection.probing, &mut |next| {
        interrupted |= !watch(OpsProgress { done: 0, all, next, last: None });
        !interrupted
    })?;
    let cache = LastLevel::of(device.info());
    let declared = Peaks::declared(device.info());
    let known = declared.bytes_per_s > 0.0 || !declared.ops_per_s.is_empty();
    let mut bench = OpsBench {
        schema: SCHEMA.into(),
        platform,
        device: DeviceFacts::of(&selection.opened_as, device.info()),
        set: selection.set.name().into(),
        cache_bytes: cache.bytes,
        cache_source: cache.source,
        timer: Clock::new(&**device)?.timer(),
        declared: known.then(|| Limits::from(&declared)),
        ..OpsBench::default()
    };
    let mut runner = Runner {
        device,
        selection,
        cache: cache.bytes,
        eviction: Eviction::new(&**device, cache.bytes),
        pools: Pools::new(selection.seed),
        measured: limits.peaks.clone(),
        declared,
    };
    for (done, item) in items.iter().enumerate() {
        if interrupted || !watch(OpsProgress { done, all, next: &item.id, last: bench.figures.last() }) {
            interrupted = true;
            break;
        }
        let figure = match start.elapsed() > selection.total {
            true => {
                let why = format!("the {:.0} s that the run may take were up", selection.total.as_secs_f64());
                OpFigure { skipped: Some(why), ..runner.blank(item) }
            }
            false => runner.figure(item),
        };
        bench.figures.push(figure);
    }
    if !interrupted {
        // Once more, so that neither end of the run alone decides.
        let last = bench.figures.last();
        let again = probes(device, selection.probing / 2, &mut |next| {
            interrupted |= !watch(OpsProgress { done: all, all, next, last });
            !interrupted
        })?;
        limits = limits.and(again);
        runner.measured = limits.peaks.clone();
        bench.figures.iter_mut().filter(|f| f.measured()).for_each(|f| runner.judge(f));
    }
    bench.measured = Limits::from(&limits.peaks);
    bench.probes = limits.probes;
    (bench.seconds, bench.interrupted) = (start.elapsed().as_secs_f64(), interrupted);
    Ok(bench)
}

struct Runner<'a> {
    device: &'a Arc<dyn Device>,
    selection: &'a OpsSelection,
    cache: u64,
    eviction: Option<Eviction>,
    pools: Pools,
    measured: Peaks,
    declared: Peaks,
}

impl Runner<'_> {
    fn blank(&self, item: &Item) -> OpFigure {
        OpFigure { id: item.id.clone(), origin: item.origin.clone(), ..OpFigure::default() }
    }

    /// Measures one shape. A backend that panics fails the figure and no more.
    fn figure(&mut self, item: &Item) -> OpFigure {
        let mut figure = self.blank(item);
        match guarded(|| self.attempt(item, &mut figure)) {
            Ok(()) => {}
            Err(Obstacle::Unsupported(why)) => figure.unsupported = Some(why),
            Err(Obstacle::Memory(why)) => figure.skipped = Some(why),
            Err(Obstacle::Failed(error)) => figure.failure = Some(error.to_string()),
        }
        figure
    }

    fn attempt(&mut self, item: &Item, figure: &mut OpFigure) -> Result<(), Obstacle> {
        // Data depend on the seed and the path alone, by FNV-1a.
        let seed = item.id.bytes().fold(self.selection.seed, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3));
        let mut rng = Rng::new(seed);
        let work = item.shape.work(&mut self.pools, &mut rng).map_err(Obstacle::Failed)?;
        let bound = work.bind().map_err(Obstacle::Failed)?;
        let cost = work.cost(&bound);
        (figure.flops, figure.bytes) = (cost.flops, cost.read.saturating_add(cost.written));
        let dtype = product_dtype(&work, None);
        figure.dtype = dtype.map_or(String::new(), |d| d.name().into());
        if let Some(why) = self.too_slow(figure, dtype) {
            figure.skipped = Some(why);
            return Ok(());
        }
        let mut clock = Clock::new(&**self.device).map_err(Obstacle::Failed)?;
        let stage = Stage::new(self.device, &work, &mut clock, self.cache)?;
        let act = self.device.support(&stage.lowered.graph).iter().find_map(|s| s.act_dtype);
        let dtype = product_dtype(&work, act);
        figure.dtype = dtype.map_or(String::new(), |d| d.name().into());
        figure.way = stage.way();
        figure.prepare = stage.planned;
        (figure.copies, figure.evicted) = (stage.rotation.copies, stage.rotation.evict && self.eviction.is_some());
        let (budget, most) = (self.selection.set.budget(), self.selection.most);
        let laps = time(&stage, &mut clock, self.eviction.as_ref(), budget, most).map_err(Obstacle::Failed)?;
        figure.cold = laps.cold;
        if laps.warm.is_empty() {
            let (took, most) = (laps.cold, most.as_secs_f64());
            figure.skipped = Some(format!("the first call took {took:.1} s; one execution may take {most:.1} s"));
            return Ok(());
        }
        let of = |f: fn(&Lap) -> f64| Figures::from(Summary::of(&laps.warm.iter().map(f).collect::<Vec<_>>()));
        figure.device = laps.warm[0].device.map(|_| of(|l| l.device.unwrap_or(0.0)));
        (figure.host, figure.wall) = (of(|l| l.host), of(|l| l.wall));
        self.judge(figure);
        let verdict = verify(self.device, &work, &stage, &mut clock).map_err(Obstacle::Failed)?;
        figure.verified = verdict.failure.is_none() && verdict.checked > 0;
        (figure.checked, figure.margin, figure.failure) = (verdict.checked, verdict.margin, verdict.failure);
        Ok(())
    }

    /// Why a shape would take too long, where the measured limits tell.
    fn too_slow(&self, figure: &OpFigure, dtype: Option<DType>) -> Option<String> {
        let least = least(&self.measured, figure, dtype)?;
        let most = self.selection.most.as_secs_f64();
        let why = || format!("takes {least:.1} s at the measured limits; one execution may take {most:.1} s");
        (least > most).then(why)
    }

    /// Rates at the median, and what they are of the limits.
    fn judge(&self, figure: &mut OpFigure) {
        let dtype: Option<DType> = figure.dtype.parse().ok();
        let seconds = figure.judged().p50;
        if seconds <= 0.0 {
            return;
        }
        figure.bytes_per_s = figure.bytes as f64 / seconds;
        figure.ops_per_s = figure.flops as f64 / seconds;
        figure.of_measured = least(&self.measured, figure, dtype).map(|least| least / seconds);
        figure.of_declared = least(&self.declared, figure, dtype).map(|least| least / seconds);
        figure.bound = bound(&self.measured, figure, dtype).into();
    }
}

/// The dtype whose limit of products bounds an operator; `None` where it is no product.
fn product_dtype(work: &Work, act: Option<DType>) -> Option<DType> {
    let product = matches!(
        work.op.kind(),
        OpKind::Matmul
            | OpKind::MatmulQuant
            | OpKind::ScaledMatmul
            | OpKind::AttentionPrefill
            | OpKind::AttentionDecode
    );
    let first = work.operands.first().and_then(|o| o.as_ref()).map(|o| o.desc.dtype);
    if product { act.or(first) } else { None }
}

/// The least seconds of a figure's work. The limits are those of products: other operations count for nothing.
fn least(peaks: &Peaks, figure: &OpFigure, dtype: Option<DType>) -> Option<f64> {
    let flops = if dtype.is_some() { figure.flops } else { 0 };
    peaks.least_seconds(flops, figure.bytes, dtype.unwrap_or(DType::F32)).filter(|least| *least > 0.0)
}

/// Which limit bounds a figure; nothing where they are not known.
fn bound(peaks: &Peaks, figure: &OpFigure, dtype: Option<DType>) -> &'static str {
    let moving = if peaks.bytes_per_s > 0.0 { Some(figure.bytes as f64 / peaks.bytes_per_s) } else { None };
    let computing = dtype.and_then(|d| peaks.ops(d)).map(|ops| figure.flops as f64 / ops);
    match (moving, computing) {
        (Some(moving), Some(computing)) if computing > moving => "compute",
        (Some(_), Some(_)) => "memory",
        (Some(_), None) if dtype.is_none() => "memory",
        _ => "",
    }
}

/// The error of a run in which no shape was measured, with the reasons.
///
/// # Errors
/// No shape was measured.
pub fn some_measured(bench: &OpsBench) -> Result<()> {
    if bench.figures.iter().any(OpFigure::measured) {
        return Ok(());
    }
    let reason = |f: &OpFigure| f.unsupported.clone().or(f.skipped.clone()).or(f.failure.clone()).unwrap_or_default();
    let mut reasons: Vec<String> = bench.figures.iter().map(reason).collect();
    reasons.sort();
    reasons.dedup();
    reasons.truncate(3);
    let found = format!("none of {} shapes was measured: {}", bench.figures.len(), reasons.join("; "));
    Err(Error::internal(format!("bench of {}", bench.device.name), found))
}
