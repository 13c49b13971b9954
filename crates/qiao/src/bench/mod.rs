//! The measurement of a model on a device: latency, throughput, utilisation, memory, energy, and whether they last.
//!
//! ```
//! use qiao::bench::{self, Options, Settings, Sweep};
//!
//! let sweep = Sweep { prompts: vec![16], tokens: 4, repeat: 2, ..Sweep::default() };
//! let options = Options { settings: Settings { sweep, ..Settings::default() }, ..Options::default() };
//! let report = bench::run(&options, &qiao::Canceller::default(), bench::silent())?;
//! assert!(report.holds());
//! println!("{report}");
//! # Ok::<(), qiao::Error>(())
//! ```
//!
//! - [`run`] opens the device, loads the checkpoint and measures every [`Point`] of a [`Sweep`], once for each number of
//!   threads; [`measure`] does it with a model that is loaded already.
//! - A point is a kind of request: `depth` tokens are in the cache, `prompt` tokens come, `tokens` are generated. Prompts are
//!   random token ids by a seed, so no tokenizer is needed, and the same in every round, so that tokens can be compared.
//! - [`ModelReport`] is the result. It is `serde::Serialize`, by the schema [`SCHEMA`]; every figure is defined at its field,
//!   with its source. Its `Display` is a table for people.
//! - [`serve`] measures many requests at once.
//! - A soak ([`Settings::soak`]) runs one point's requests back to back and looks for drift and growing memory.
//!
//! Modules, from ground to roof: `figures`, `timing`, `slo`, `trend`, `verify`, `energy`, `memory`, `platform`, `meter`,
//! `work`, `settings`, `subject`, `rounds`, `report`, `text`, `measure`, `serve`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_layers::Peaks;

use crate::{Canceller, Progress, Result};

mod figures;

mod timing;

mod slo;
mod trend;
mod verify;

mod energy;
mod memory;
mod platform;

mod meter;
mod work;

mod settings;

mod subject;

mod rounds;

mod report;

mod text;

mod measure;

pub mod serve;

pub use energy::Energy;
pub use memory::ProcessPeak;
pub use platform::Platform;
pub use report::{
    Failure, Memory, Method, ModelFacts, ModelReport, OnHost, Opened, PeakFacts, PointReport, SCHEMA, SoakReport,
    Utilisation,
};
pub use settings::{Options, Point, Settings, Sweep};
pub use slo::{Slo, SloOutcome};
pub use subject::Subject;
pub use timing::{Latency, RequestTimes, Round};
pub use trend::Trend;
pub use verify::{Difference, Verified};
pub use work::Work;

/// How far a measurement has come.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Weights are being read.
    Loading(Progress),
    /// A round ended, or a point began.
    Rounds {
        /// Rounds that have ended, warm-up included.
        done: usize,
        /// Rounds in all.
        total: usize,
        /// The point that runs.
        point: Point,
        /// The number of threads that was asked for.
        threads: Option<usize>,
    },
    /// A round of a soak ended.
    Soak {
        /// Time so far.
        done: Duration,
        /// Time in all.
        total: Duration,
    },
}

/// Who is told how far a measurement has come.
pub type Tell = Arc<dyn Fn(&Event) + Send + Sync>;

/// Tells nobody.
pub fn silent() -> Tell {
    Arc::new(|_| {})
}

/// Opens the device, loads the checkpoint and measures; once for each number of threads. Cancelling ends it with what was
/// measured so far.
///
/// # Errors
/// Settings that make no sense; a device or a checkpoint that can't be had; a point beyond the model's context. What goes
/// wrong at one point later on stands among the report's failures.
pub fn run(options: &Options, cancel: &Canceller, tell: Tell) -> Result<ModelReport> {
    let points = options.settings.points()?;
    let mut threads: Vec<Option<usize>> = Vec::new();
    for &count in &options.threads {
        if !threads.contains(&Some(count)) {
            threads.push(Some(count));
        }
    }
    if threads.is_empty() {
        threads.push(None);
    }
    if options.settings.soak.is_some() && threads.len() > 1 {
        let found = format!("{} numbers of threads", threads.len());
        return Err(qiao_core::Error::invalid("soak", found, "give one").into());
    }
    let mut runner = Runner::new(&options.settings, points, threads.len(), cancel, tell);
    for threads in threads {
        if cancel.is_cancelled() {
            runner.report.interrupted = true;
            break;
        }
        let tell = runner.tell.clone();
        let subject = Subject::load(options, threads, &runner.points, move |done| tell(&Event::Loading(done)))?;
        runner.measure(&subject)?;
    }
    Ok(runner.finish())
}

/// Measures a model that is loaded.
///
/// # Errors
/// Settings that make no sense; a point beyond the model's context. What goes wrong at one point later on stands among the
/// report's failures.
pub fn measure(subject: &Subject, settings: &Settings, cancel: &Canceller, tell: Tell) -> Result<ModelReport> {
    let mut runner = Runner::new(settings, settings.points()?, 1, cancel, tell);
    runner.measure(subject)?;
    Ok(runner.finish())
}

/// A measurement under way.
struct Runner<'a> {
    settings: &'a Settings,
    points: Vec<Point>,
    cancel: &'a Canceller,
    tell: Tell,
    done: usize,
    total: usize,
    report: ModelReport,
}

impl<'a> Runner<'a> {
    fn new(settings: &'a Settings, points: Vec<Point>, devices: usize, cancel: &'a Canceller, tell: Tell) -> Self {
        let total = devices * points.len() * (settings.sweep.warm_up + settings.sweep.repeat);
        let report = ModelReport {
            schema: SCHEMA,
            platform: Platform::here(),
            method: Method::of(settings),
            model: None,
            devices: Vec::new(),
            points: Vec::new(),
            failures: Vec::new(),
            soak: None,
            notes: Vec::new(),
            interrupted: false,
        };
        Runner { settings, points, cancel, tell, done: 0, total, report }
    }

    fn measure(&mut self, subject: &Subject) -> Result<()> {
        for point in &self.points {
            point.fits(subject.model.context())?;
        }
        let peaks = self.settings.peaks.clone().unwrap_or_else(|| subject.declared_peaks());
        self.report.model = Some(ModelFacts::of(subject));
        self.report.devices.push(Opened::of(subject, &peaks));
        match self.settings.soak {
            Some(time) => self.soak(subject, time),
            None => self.sweep(subject, &peaks),
        }
        Ok(())
    }

    fn sweep(&mut self, subject: &Subject, peaks: &Peaks) {
        for point in self.points.clone() {
            if self.cancel.is_cancelled() {
                return;
            }
            let (tell, total, threads) = (self.tell.clone(), self.total, subject.threads);
            let mut done = self.done;
            tell(&Event::Rounds { done, total, point, threads });
            let mut after_round = || {
                done += 1;
                tell(&Event::Rounds { done, total, point, threads });
            };
            let (begun, before) = (Instant::now(), subject.model.host_work());
            let mut found = measure::point(subject, point, self.settings, peaks, self.cancel, &mut after_round);
            let host = subject.model.host_work().since(before);
            if let (Ok(Some(found)), true) = (&mut found, host.operators > 0) {
                found.shared_with_host(host.time.as_secs_f64() / begun.elapsed().as_secs_f64().max(f64::MIN_POSITIVE));
            }
            self.done += self.settings.sweep.warm_up + self.settings.sweep.repeat;
            match found {
                Ok(found) => self.report.points.extend(found),
                Err(error) => self.fail(subject, point, &error),
            }
        }
    }

    fn soak(&mut self, subject: &Subject, total: Duration) {
        let (point, tell) = (self.points[0], self.tell.clone());
        let mut after_round = |done| tell(&Event::Soak { done, total });
        match measure::soak(subject, point, self.settings, total, self.cancel, &mut after_round) {
            Ok(found) => self.report.soak = found,
            Err(error) => self.fail(subject, point, &error),
        }
    }

    fn fail(&mut self, subject: &Subject, point: Point, error: &crate::Error) {
        self.report.failures.push(Failure { point, threads: subject.threads, why: error.to_string() });
    }

    fn finish(mut self) -> ModelReport {
        let report = &mut self.report;
        report.interrupted |= self.cancel.is_cancelled();
        let mut note = |line: &str| report.notes.push(line.to_string());
        if report.platform.debug_build {
            note("this program is a debug build: its times say little about the device, build it with --release");
        }
        if self.points.iter().any(|point| point.batch > 1) {
            note(
                "batch: the engine runs one sequence a step, so the requests of a batch take turns and none is faster for it",
            );
        }
        for on_host in report.devices.iter().filter_map(|d| d.on_host.as_ref()) {
            note(&format!(
                "{} of {} operators of a token ran on the host {}, for which {} bytes come down and {} go up: times are those of \
                 device and host together",
                on_host.operators, on_host.of, on_host.host, on_host.bytes_down, on_host.bytes_up
            ));
        }
        if report.points.iter().any(|point| point.host_share.is_some()) {
            note("MFU, MBU: not stated where operators ran on the host");
        }
        let known = |of: fn(&PeakFacts) -> Option<f64>| report.devices.iter().any(|d| of(&d.peaks).is_some());
        if !known(|peaks| peaks.ops_per_s) {
            note("MFU: no peak of operations is known for this device in the compute dtype");
        }
        if !known(|peaks| peaks.bytes_per_s) {
            note("MBU: no peak of bandwidth is known for this device");
        }
        self.report
    }
}
