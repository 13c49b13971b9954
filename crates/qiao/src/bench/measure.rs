//! One point, or one soak, of a model on its device.

use std::time::{Duration, Instant};

use qiao_layers::Peaks;

use super::energy::Meter;
use super::memory::{HighWater, resident};
use super::report::{Memory, PeakFacts, PointReport, SoakReport, Utilisation};
use super::rounds::{Done, Rounds};
use super::settings::{Point, Settings};
use super::slo::Judge;
use super::subject::Subject;
use super::text::digits;
use super::timing::{Collector, decode_rate};
use super::trend::{Series, Trend};
use super::verify::Witness;
use super::work::Work;
use crate::{Canceller, Result};

/// Values of each kind that a sweep keeps.
const KEPT: usize = 1 << 20;
/// Values of each kind that a soak keeps.
const KEPT_IN_SOAK: usize = 1 << 14;

/// Everything that is gathered while rounds of a point run.
struct Gathering<'a> {
    subject: &'a Subject,
    point: Point,
    rounds: Rounds<'a>,
    collector: Collector,
    witness: Witness,
    judges: Vec<Judge>,
    energy: Meter,
    water: HighWater,
    /// Bytes on the device before the point.
    before: Option<u64>,
    counted: usize,
    first_ttft: Option<Duration>,
    started: Instant,
    last: Instant,
}

impl<'a> Gathering<'a> {
    fn new(
        subject: &'a Subject,
        point: Point,
        settings: &Settings,
        collector: Collector,
        cancel: &'a Canceller,
    ) -> Self {
        let deterministic = subject.model.devices().all(|(device, _)| device.info().caps.deterministic);
        subject.reset_peak();
        let now = Instant::now();
        Gathering {
            subject,
            point,
            rounds: Rounds::new(subject.model.loaded(), point, settings.sweep.seed, cancel),
            collector,
            witness: Witness::new(deterministic),
            judges: settings.slos.iter().cloned().map(Judge::new).collect(),
            energy: Meter::open(),
            water: HighWater::reset(),
            before: subject.live_bytes(),
            counted: 0,
            first_ttft: None,
            started: now,
            last: now,
        }
    }

    /// Runs the rounds that do not count; `false` when cancelled.
    fn warm_up(&mut self, rounds: usize, tell: &mut dyn FnMut()) -> Result<bool> {
        for _ in 0..rounds {
            let Some(done) = self.rounds.run()? else { return Ok(false) };
            self.note_first(&done);
            self.witness.add(done.tokens);
            tell();
        }
        self.energy.start();
        self.started = Instant::now();
        self.last = self.started;
        Ok(true)
    }

    /// Runs a round that counts; `None` when cancelled.
    fn count(&mut self) -> Result<Option<super::timing::Round>> {
        let Some(done) = self.rounds.run()? else { return Ok(None) };
        self.energy.read();
        self.last = Instant::now();
        self.counted += 1;
        self.note_first(&done);
        self.collector.add(&done.round);
        for judge in &mut self.judges {
            done.round.requests.iter().for_each(|request| judge.add(request));
        }
        self.witness.add(done.tokens);
        Ok(Some(done.round))
    }

    fn note_first(&mut self, done: &Done) {
        let first = done.round.requests.first().and_then(|request| request.ttft());
        self.first_ttft = self.first_ttft.or(first);
    }

    /// From the end of the warm-up to the last round that counts.
    fn lasted(&self) -> Duration {
        self.last - self.started
    }

    fn energy(&self) -> super::energy::Energy {
        let tokens = self.counted * self.point.batch * self.point.tokens;
        self.energy.energy(self.lasted(), tokens as u64)
    }

    fn memory(&self) -> Result<Memory> {
        let cache = self.rounds.session().map(|session| self.subject.cache_bytes(session)).transpose()?;
        let cache_bytes = cache.unwrap_or(0).saturating_mul(self.point.batch as u64);
        let device_peak_bytes = self.subject.peak_bytes();
        let besides = |peak: u64| Some(peak.saturating_sub(self.before?).saturating_sub(cache_bytes));
        Ok(Memory {
            process_peak: self.water.peak(),
            weight_bytes: self.subject.model.weight_bytes(),
            cache_bytes,
            workspace_bytes: device_peak_bytes.and_then(besides),
            device_peak_bytes,
        })
    }
}

/// Measures one point; `None` when it was cancelled before a round that counts. `tell` is called after every round.
///
/// # Errors
/// A point that the model or the device can't hold; the device's own.
pub(crate) fn point(
    subject: &Subject,
    point: Point,
    settings: &Settings,
    peaks: &Peaks,
    cancel: &Canceller,
    tell: &mut dyn FnMut(),
) -> Result<Option<PointReport>> {
    subject.admits(&point)?;
    let mut g = Gathering::new(subject, point, settings, Collector::new(point.prompt, KEPT), cancel);
    if !g.warm_up(settings.sweep.warm_up, tell)? {
        return Ok(None);
    }
    for _ in 0..settings.sweep.repeat {
        if g.count()?.is_none() {
            break;
        }
        tell();
    }
    let Some(latency) = g.collector.latency() else { return Ok(None) };
    let model = &subject.model;
    let prompt = Work::of_prompt(model, point.depth, point.prompt)?;
    let decode = match point.tokens {
        1 => None,
        _ => {
            let first = Work::of_decode(model, point.depth + point.prompt)?;
            Some(first.mean(Work::of_decode(model, point.context() - 1)?))
        }
    };
    let facts = PeakFacts::of(peaks, model.compute_dtype());
    let decode_rate = latency.decode_tokens_per_s.map(|rate| rate.p50);
    let rate = latency.prompt_tokens_per_s.p50;
    Ok(Some(PointReport {
        point,
        threads: subject.threads,
        rounds: g.counted,
        first_ttft_s: g.first_ttft.map(|ttft| ttft.as_secs_f64()),
        latency,
        utilisation: Utilisation::of(&point, prompt, decode, rate, decode_rate, &facts),
        memory: g.memory()?,
        energy: g.energy(),
        slos: g.judges.iter().map(|judge| judge.outcome(g.collector.wall())).collect(),
        verified: g.witness.verdict(),
        host_share: None,
    }))
}

/// A rate or a latency that changes by less than this share over a soak is steady.
const DRIFT: f64 = 0.02;
/// Resident memory that grows by less than this share over a soak is steady.
const GROWTH: f64 = 0.01;

/// Runs rounds of one point back to back for a time; `None` when it was cancelled before a round that counts. `tell` is
/// given the time so far after every round.
///
/// # Errors
/// As [`point`].
pub(crate) fn soak(
    subject: &Subject,
    point: Point,
    settings: &Settings,
    time: Duration,
    cancel: &Canceller,
    tell: &mut dyn FnMut(Duration),
) -> Result<Option<SoakReport>> {
    subject.admits(&point)?;
    let collector = Collector::resident(point.prompt, KEPT_IN_SOAK);
    let mut g = Gathering::new(subject, point, settings, collector, cancel);
    if !g.warm_up(settings.sweep.warm_up.max(1), &mut || {})? {
        return Ok(None);
    }
    let (mut rates, mut ttfts, mut memory) = (Series::new(), Series::new(), Series::new());
    while g.started.elapsed() < time {
        let Some(round) = g.count()? else { break };
        let at = g.lasted().as_secs_f64();
        decode_rate(&round).into_iter().for_each(|rate| rates.add(at, rate));
        let sum: f64 = round.requests.iter().filter_map(|r| r.ttft()).map(|ttft| ttft.as_secs_f64()).sum();
        ttfts.add(at, sum / round.requests.len() as f64);
        resident().into_iter().for_each(|bytes| memory.add(at, bytes as f64 / MIB));
        tell(g.lasted());
    }
    let Some(latency) = g.collector.latency() else { return Ok(None) };
    let decode_trend = Trend::of(&rates, "tokens/s");
    let ttft_trend = Trend::of(&ttfts, "s");
    let memory_trend = Trend::of(&memory, "MiB");
    let verified = g.witness.verdict();
    let verdicts = vec![
        verdict("decode rate", decode_trend.as_ref(), DRIFT),
        verdict("time to first token", ttft_trend.as_ref(), DRIFT),
        verdict("resident memory", memory_trend.as_ref(), GROWTH),
        format!("results: {} over {} rounds", verified.status, verified.compared + 1),
    ];
    Ok(Some(SoakReport {
        point,
        threads: subject.threads,
        lasted_s: g.lasted().as_secs_f64(),
        rounds: g.counted,
        latency,
        decode_trend,
        ttft_trend,
        memory_trend,
        memory: g.memory()?,
        energy: g.energy(),
        slos: g.judges.iter().map(|judge| judge.outcome(g.collector.wall())).collect(),
        verified,
        verdicts,
    }))
}

const MIB: f64 = (1 << 20) as f64;

/// One line on a trend: whether it moves, and the figures that say so.
fn verdict(what: &str, trend: Option<&Trend>, share: f64) -> String {
    let Some(trend) = trend else { return format!("{what}: not available") };
    let figures = || {
        let [slope, stderr] = [trend.slope_per_hour, trend.stderr_per_hour].map(|figure| digits(figure.unwrap_or(0.0)));
        let [first, last] = [trend.first_tenth, trend.last_tenth].map(digits);
        let unit = trend.unit;
        format!("{slope} ± {stderr} {unit} per hour; first tenth {first} {unit}, last tenth {last} {unit}")
    };
    match trend.moves(share) {
        None => format!("{what}: too short a run to tell, {} windows of values", trend.windows),
        Some(false) => format!("{what}: steady, {}", figures()),
        Some(true) => {
            let direction = if trend.change > Some(0.0) { "rises" } else { "falls" };
            format!(
                "{what}: {direction} by {:.1} % over the run, {}",
                100.0 * trend.change.unwrap_or(0.0).abs(),
                figures()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(value: impl Fn(f64) -> f64, n: u32) -> Option<Trend> {
        let mut series = Series::new();
        (0..n).for_each(|i| series.add(f64::from(i), value(f64::from(i))));
        Trend::of(&series, "MiB")
    }

    #[test]
    fn a_verdict_says_whether_and_how_far_a_figure_moves() {
        let grows = verdict("resident memory", trend(|x| 100.0 + x / 36.0, 360).as_ref(), GROWTH);
        assert!(grows.starts_with("resident memory: rises by 9.5 % over the run, 100.0 ± 0 MiB per hour"), "{grows}");
        assert!(grows.contains("first tenth 100.5 MiB") && grows.contains("last tenth 109."), "{grows}");
        let falls = verdict("decode rate", trend(|x| 100.0 - x / 36.0, 360).as_ref(), DRIFT);
        assert!(falls.starts_with("decode rate: falls by 10.5 %"), "{falls}");
        let steady = verdict("decode rate", trend(|x| 100.0 + (x % 2.0), 360).as_ref(), DRIFT);
        assert!(steady.starts_with("decode rate: steady"), "{steady}");
    }

    #[test]
    fn a_short_run_or_one_without_values_says_so() {
        assert!(verdict("a", trend(|x| x, 5).as_ref(), DRIFT).contains("too short a run to tell, 5 windows"));
        assert_eq!(verdict("a", None, DRIFT), "a: not available");
    }
}
