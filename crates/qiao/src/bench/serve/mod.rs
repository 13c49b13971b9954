//! The measurement of a model that serves many requests at once: throughput against latency.
//!
//! ```
//! use qiao::bench::{self, serve};
//!
//! let mix = serve::Mix { prompt: serve::Length::Uniform(4, 16), output: serve::Length::Fixed(4), ..Default::default() };
//! let arriving = vec![serve::Arriving::Closed { clients: 2 }, serve::Arriving::Open { rate: 50.0 }];
//! let settings = serve::Settings { arriving, mix, until: serve::Until::Requests(4), ..Default::default() };
//! let options = serve::Options { settings, ..Default::default() };
//! let report = serve::run(&options, &qiao::Canceller::default(), serve::silent())?;
//! assert!(report.holds());
//! println!("{report}");
//! # Ok::<(), qiao::Error>(())
//! ```
//!
//! - A load generator in this process sends requests to a [`Server`](crate::Server): closed loops of clients, Poisson arrivals, or
//!   rounds of requests that are sent together ([`Arriving`]).
//! - What the requests are ([`Mix`]) and when they come follows from a seed. Prompts are random token ids, so no tokenizer is needed.
//! - A request is timed from the moment at which it was due, so that a server that is late can't hide it.
//! - [`ServeReport`] is the result. It is `serde::Serialize`, by the schema [`SCHEMA`]; every figure is defined at its field. Its
//!   `Display` is a table for people, [`ServeReport::to_html`] a page with the curve.
//!
//! Modules, from ground to roof: `mix`, `settings`, `trace`, `report`, `text`, `html`, `point`.

use std::borrow::Borrow;
use std::sync::Arc;

use qiao_engine::serve::Server;
use qiao_engine::serve::Speech;

use super::memory::HighWater;
use super::platform::Platform;
use super::report::{ModelFacts, Opened};
use super::subject::Subject;
use crate::{Canceller, EngineError, Error, Progress, Result, ServeOptions};

mod mix;

mod settings;

mod trace;

mod report;

mod html;
mod text;

mod point;

pub use mix::{Length, Mix};
pub use report::{CacheFacts, Method, Phases, PointReport, SCHEMA, ServeReport, Share};
pub use settings::{Arriving, Options, Settings, Until, limits};
pub use trace::Served;

/// A server that achieves less than this share of what is offered does not keep up.
const KEEPS_UP: f64 = 0.9;
/// Phases overlap much when more than one token in so many was generated beside prompts.
const MUCH_OVERLAP: usize = 20;

/// How far a measurement has come.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Weights are being read.
    Loading(Progress),
    /// A request of a point ended, or the point began.
    Point {
        /// The point.
        arriving: Arriving,
        /// Its number, from 0.
        number: usize,
        /// Points in all.
        of: usize,
        /// Requests that have ended.
        done: usize,
        /// How many there will be; `None` where that is not settled.
        total: Option<usize>,
    },
}

/// Who is told how far a measurement has come.
pub type Tell = Arc<dyn Fn(&Event) + Send + Sync>;

/// Tells nobody.
pub fn silent() -> Tell {
    Arc::new(|_| {})
}

/// Opens the device, loads the checkpoint and measures. Cancelling ends it with what was measured so far.
///
/// # Errors
/// Settings that make no sense; a device or a checkpoint that can't be had; sequences beyond the model's context; a cache that the
/// device can't hold. What goes wrong with a request stands in the report.
pub fn run(options: &Options, cancel: &Canceller, tell: Tell) -> Result<ServeReport> {
    options.settings.check()?;
    let opening = |device: &String| super::Options {
        model: options.model.clone(),
        device: device.clone(),
        dtype: options.dtype,
        split: options.split.clone(),
        host_fallback: options.host_fallback,
        ..super::Options::default()
    };
    let mix = &options.settings.mix;
    let names = std::iter::once(&options.device).chain(&options.more_devices);
    let subject = |device: &String| {
        let told = tell.clone();
        let loading = move |done| told(&Event::Loading(done));
        let subject = Subject::open(&opening(device), options.threads, Some(mix.longest()), loading);
        subject.map_err(|error| match error {
            Error::Model(EngineError::ContextTooLong { limit, .. }) => too_long(mix, limit),
            error => error,
        })
    };
    let subjects = names.map(subject).collect::<Result<Vec<_>>>()?;
    let speeds = match options.speeds.is_empty() {
        true => vec![1.0; subjects.len()],
        false => options.speeds.clone(),
    };
    if speeds.len() != subjects.len() {
        let found = format!("{} for {} devices", speeds.len(), subjects.len());
        return Err(qiao_core::Error::invalid("speeds", found, "give one for each device, or none").into());
    }
    let subjects: Vec<_> = subjects.into_iter().zip(speeds).collect();
    measure_over(&subjects, &options.serve, &options.settings, cancel, tell)
}

/// Measures a model that is loaded.
///
/// # Errors
/// As [`run`], the loading apart.
pub fn measure(
    subject: &Subject,
    serve: &ServeOptions,
    settings: &Settings,
    cancel: &Canceller,
    tell: Tell,
) -> Result<ServeReport> {
    measure_over(&[(subject, 1.0)], serve, settings, cancel, tell)
}

/// Measures models that are loaded, the same on several devices, which share the requests by their speeds.
///
/// # Errors
/// As [`measure`]; no model, or models that are not the same ([`Server::over`](crate::Server::over)).
pub fn measure_over<S: Borrow<Subject>>(
    subjects: &[(S, f64)],
    serve: &ServeOptions,
    settings: &Settings,
    cancel: &Canceller,
    tell: Tell,
) -> Result<ServeReport> {
    settings.check()?;
    let Some((subject, _)) = subjects.first() else {
        return Err(qiao_core::Error::invalid("models to measure", "none", "give at least one").into());
    };
    let subject = subject.borrow();
    let of = |(subject, speed): &(S, f64)| (subject.borrow().model.clone(), *speed);
    let models: Vec<_> = subjects.iter().map(of).collect();
    let context = subject.model.context();
    if settings.mix.longest() > context {
        return Err(too_long(&settings.mix, context));
    }
    // No reader is to slow a request down, and a closed loop must never be refused.
    let answer = settings.mix.output.most().saturating_add(1).saturating_mul(settings.mix.samples).min(1 << 20);
    let serve = serve.clone().or_sequences(settings.at_once()).at_least_queue(settings.at_once()).replies(answer);
    let server = serve.start(&models, Speech::none())?;
    let cache = server.load().cache;
    let (batch_tokens, batch_sequences, sharing) = serve.facts();
    let mut report = ServeReport {
        schema: SCHEMA,
        platform: Platform::here(),
        method: Method::of(settings, batch_tokens, batch_sequences, sharing),
        model: ModelFacts::of(subject),
        device: opened(subject),
        more_devices: subjects[1..].iter().map(|(subject, _)| opened(subject.borrow())).collect(),
        cache: CacheFacts { blocks: cache.total, bytes: cache.total_bytes },
        points: Vec::new(),
        notes: Vec::new(),
        interrupted: false,
    };
    let measured: Vec<&Subject> = subjects.iter().map(|(subject, _)| subject.borrow()).collect();
    for number in 0..settings.arriving.len() {
        report.points.extend(point(&measured, &server, settings, number, cancel, &tell));
        if cancel.is_cancelled() {
            report.interrupted = true;
            break;
        }
    }
    notes(&mut report);
    Ok(report)
}

/// The error of sequences that the model can't hold.
fn too_long(mix: &Mix, context: usize) -> Error {
    let found = format!("prefix {} + prompt {} + {} tokens", mix.prefix, mix.prompt.most(), mix.output.most());
    qiao_core::Error::invalid("context", found, format!("the model's context is {context}: ask for less")).into()
}

/// What is known of a device.
fn opened(subject: &Subject) -> Opened {
    Opened::of(subject, &subject.declared_peaks())
}

/// Measures one point; `None` when it was interrupted before a request had ended.
fn point(
    subjects: &[&Subject],
    server: &Server,
    settings: &Settings,
    number: usize,
    cancel: &Canceller,
    tell: &Tell,
) -> Option<PointReport> {
    let arriving = settings.arriving[number];
    let total = match (settings.until, arriving) {
        (Until::Requests(n), Arriving::Together { size }) => Some(n.div_ceil(size) * size),
        (Until::Requests(n), _) => Some(n),
        (Until::Time(_), _) => None,
    };
    let of = settings.arriving.len();
    let told = |done: usize| tell(&Event::Point { arriving, number, of, done, total });
    let vocab = subjects[0].model.loaded().spec().vocab;
    told(0);
    point::Point::new(server, settings, vocab, number, cancel, &|_| {}).warm_up();
    subjects.iter().for_each(|subject| subject.reset_peak());
    let (water, before, ran) = (HighWater::reset(), server.load(), server.sequences_run());
    let shared = server.replicas();
    let run = point::Point::new(server, settings, vocab, number, cancel, &told).run();
    let after = server.load();
    let served = Served::of(&run.traces, matches!(arriving, Arriving::Open { .. }), &settings.slos);
    if served.completed == 0 && cancel.is_cancelled() {
        return None;
    }
    let whole = |round: &&[trace::Trace]| round.iter().all(|trace| trace.outcome == trace::Outcome::Done);
    let rounds = run.rounds.iter().map(|&(begin, end)| &run.traces[begin..end]).filter(whole);
    let batches = after.batches.saturating_sub(before.batches);
    let mean = |of: u64| if batches > 0 { of as f64 / batches as f64 } else { 0.0 };
    Some(PointReport {
        arriving,
        served,
        batches,
        mean_batch_tokens: mean(after.tokens.saturating_sub(before.tokens)),
        mean_batch_sequences: mean(server.sequences_run() - ran),
        peak_blocks: run.peak_blocks,
        phases: Phases::of(rounds),
        device_peak_bytes: subjects.iter().map(|subject| subject.peak_bytes()).sum(),
        shares: Share::of(subjects, &shared, &server.replicas()),
        process_peak: water.peak(),
        error: run.error,
    })
}

/// What a reader must know beside the figures.
fn notes(report: &mut ServeReport) {
    let mut notes = Vec::new();
    if report.platform.debug_build {
        notes.push(
            "this program is a debug build: its times say little about the device, build it with --release".to_string(),
        );
    }
    for point in &report.points {
        let (s, load) = (&point.served, point.arriving);
        if let Some(offered) = s.offered_requests_per_s
            && s.requests_per_s < KEEPS_UP * offered
        {
            notes.push(format!(
                "{load}: the server did not keep up, so its latency grows with the length of the measurement"
            ));
        }
        if let Some(error) = &point.error {
            notes.push(format!("{load}: {} requests failed, the first with: {error}", s.failed));
        }
        if let Some(phases) = &point.phases
            && phases.overlapping_tokens > s.output_tokens / MUCH_OVERLAP
        {
            notes.push(format!(
                "{load}: {} of {} tokens were generated while prompts still ran: give batches more tokens",
                phases.overlapping_tokens, s.output_tokens
            ));
        }
    }
    report.notes = notes;
}
