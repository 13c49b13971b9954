//! What a measurement of serving found, as it is written: the keys of the JSON object are the fields here, and their documentation is
//! the definition of each figure.

use std::time::Duration;

use qiao_layers::Summary;
use serde::Serialize;

use super::super::figures::one;
use super::super::memory::ProcessPeak;
use super::super::platform::Platform;
use super::super::report::{ModelFacts, Opened};
use super::super::slo::Slo;
use super::super::subject::Subject;
use super::mix::Mix;
use super::settings::{Arriving, Settings, Until};
use super::trace::{Served, Trace};
use crate::Replica;

/// The name and version of the report's form. A field that is added leaves it as it is; one that changes its meaning or
/// goes does not.
pub const SCHEMA: &str = "qiao.bench.serve/1";

/// A measurement of a model that is served. Times are in seconds, sizes in bytes; what is not known is null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServeReport {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The machine and the program.
    pub platform: Platform,
    /// How it was measured.
    pub method: Method,
    /// The model.
    pub model: ModelFacts,
    /// The device.
    pub device: Opened,
    /// Other devices that share the requests, each with the whole model.
    pub more_devices: Vec<Opened>,
    /// The caches of all devices together.
    pub cache: CacheFacts,
    /// What was measured, in order.
    pub points: Vec<PointReport>,
    /// What a reader must know beside the figures.
    pub notes: Vec<String>,
    /// Whether it was ended before all was measured; the point that ran then is of the requests that had ended.
    pub interrupted: bool,
}

impl ServeReport {
    /// Whether no request ended in an error. A request that a full queue refused has been answered as it should be.
    pub fn holds(&self) -> bool {
        self.points.iter().all(|point| point.served.failed == 0)
    }
}

/// How a measurement was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Method {
    /// What the requests were.
    pub mix: Mix,
    /// How many requests a point had, or for how long it sent them.
    pub until: Until,
    /// Rounds before each point that do not count.
    pub warm_up: usize,
    /// What prompts, lengths and arrivals follow from.
    pub seed: u64,
    /// Most tokens of a batch.
    pub batch_tokens: usize,
    /// Most sequences of a batch.
    pub batch_sequences: usize,
    /// Whether requests find each other's prompts in the cache.
    pub sharing: bool,
    /// From when on a request is timed: `due`, the moment at which it was to be sent.
    pub timed_from: &'static str,
    /// How tokens are chosen. Token ids are given and come back: no text is encoded or decoded.
    pub choice: &'static str,
    /// How percentiles are taken.
    pub percentiles: &'static str,
    /// The limits that requests are judged by.
    pub slos: Vec<Slo>,
}

impl Method {
    pub(crate) fn of(settings: &Settings, batch_tokens: usize, batch_sequences: usize, sharing: bool) -> Method {
        Method {
            mix: settings.mix.clone(),
            until: settings.until,
            warm_up: settings.warm_up,
            seed: settings.seed,
            batch_tokens,
            batch_sequences,
            sharing,
            timed_from: "due",
            choice: if settings.mix.samples > 1 { "temperature 1" } else { "greedy" },
            percentiles: "nearest rank",
            slos: settings.slos.clone(),
        }
    }
}

/// The cache that all requests share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CacheFacts {
    /// Blocks that sequences can have.
    pub blocks: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What one point gave.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PointReport {
    /// How requests came.
    #[serde(flatten)]
    pub arriving: Arriving,
    /// What the clients saw.
    #[serde(flatten)]
    pub served: Served,
    /// Batches that ran.
    pub batches: u64,
    /// Tokens of a batch in the mean, those of prompts included.
    pub mean_batch_tokens: f64,
    /// Sequences of a batch in the mean.
    pub mean_batch_sequences: f64,
    /// The most blocks of the cache that were in use at once, as seen after batches.
    pub peak_blocks: usize,
    /// Prompts and generation apart, where requests are sent together.
    pub phases: Option<Phases>,
    /// The most bytes that were allocated on the device at once; weights that stay in their mapped file are not allocated.
    pub device_peak_bytes: Option<u64>,
    /// What each device had of it, where several share the requests.
    pub shares: Vec<Share>,
    /// The process.
    pub process_peak: ProcessPeak,
    /// The first error that a request ended in.
    pub error: Option<String>,
}

/// What one of several devices had of a point.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// What the device was asked for as.
    pub device: String,
    /// How fast it was said to be.
    pub speed: f64,
    /// Requests that were given to it when they came.
    pub requests: u64,
    /// Requests that it took over from devices that were lost.
    pub taken_over: u64,
    /// Tokens that it ran, those of prompts and those that were computed again included.
    pub tokens: u64,
    /// Of the tokens that all devices ran, 0 to 1.
    pub share: f64,
    /// Why it takes no more requests, where it was lost.
    pub lost: Option<String>,
}

impl Share {
    /// What came between two moments; nothing for one device.
    pub(crate) fn of(subjects: &[&Subject], before: &[Replica], after: &[Replica]) -> Vec<Share> {
        if subjects.len() < 2 {
            return Vec::new();
        }
        let tokens = |(before, after): (&Replica, &Replica)| after.load.tokens.saturating_sub(before.load.tokens);
        let all: u64 = before.iter().zip(after).map(tokens).sum();
        let each = subjects.iter().zip(before.iter().zip(after));
        let share = |(subject, (before, after)): (&&Subject, (&Replica, &Replica))| {
            let own = tokens((before, after));
            Share {
                device: subject.device.clone(),
                speed: after.speed,
                requests: after.requests.saturating_sub(before.requests),
                taken_over: after.taken_over.saturating_sub(before.taken_over),
                tokens: own,
                share: if all > 0 { own as f64 / all as f64 } else { 0.0 },
                lost: after.ended.clone(),
            }
        };
        each.map(share).collect()
    }
}

/// Rounds of requests that were sent together, in two phases, as llama.cpp's batched bench has them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phases {
    /// Rounds that ran to their end.
    pub rounds: usize,
    /// From sending a round to the last of its first tokens, in seconds.
    #[serde(serialize_with = "one")]
    pub prompt_s: Summary,
    /// From then on to the last token of all.
    #[serde(serialize_with = "one")]
    pub generation_s: Summary,
    /// Tokens of prompts / time of the prompts, one value a round.
    #[serde(serialize_with = "one")]
    pub prompt_tokens_per_s: Summary,
    /// Tokens that came after the prompts / time of generation, one value a round.
    #[serde(serialize_with = "one")]
    pub generation_tokens_per_s: Summary,
    /// Tokens beyond each answer's first that came while prompts still ran, all rounds together: the server begins with the first
    /// request that it hears of, so there are a few; many where the prompts of a round do not fit into one batch.
    pub overlapping_tokens: usize,
}

impl Phases {
    /// The phases of rounds; `None` where no round has generated anything after its prompts.
    pub(crate) fn of<'a>(rounds: impl Iterator<Item = &'a [Trace]>) -> Option<Phases> {
        let mut values: [Vec<f64>; 4] = Default::default();
        let mut overlapping_tokens = 0;
        for round in rounds {
            let first = round.iter().map(Trace::ttft).max().flatten()?;
            let last = round.iter().map(Trace::whole).max().flatten()?;
            let chunks = || round.iter().flat_map(|trace| trace.samples.iter().flatten());
            let tokens = |from: &dyn Fn(Duration) -> bool| -> usize {
                chunks().filter(|chunk| from(chunk.0)).map(|chunk| chunk.1).sum()
            };
            let generated = tokens(&|at| at > first);
            let before = tokens(&|at| at <= first);
            overlapping_tokens += before.saturating_sub(round.iter().map(|trace| trace.samples.len()).sum());
            let prompt: usize = round.iter().map(|trace| trace.prompt).sum();
            let (prompt_s, generation_s) = (first.as_secs_f64(), last.saturating_sub(first).as_secs_f64());
            if generation_s > 0.0 && prompt_s > 0.0 {
                let rates = [prompt_s, generation_s, prompt as f64 / prompt_s, generated as f64 / generation_s];
                values.iter_mut().zip(rates).for_each(|(values, value)| values.push(value));
            }
        }
        let [prompt_s, generation_s, prompt_rate, generation_rate] = &values;
        (!prompt_s.is_empty()).then(|| Phases {
            rounds: prompt_s.len(),
            prompt_s: Summary::of(prompt_s),
            generation_s: Summary::of(generation_s),
            prompt_tokens_per_s: Summary::of(prompt_rate),
            generation_tokens_per_s: Summary::of(generation_rate),
            overlapping_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::Outcome;
    use super::*;

    fn trace(prompt: usize, millis: &[u64]) -> Trace {
        Trace {
            outcome: Outcome::Done,
            due: Duration::ZERO,
            late: Duration::ZERO,
            prompt,
            samples: vec![millis.iter().map(|&ms| (Duration::from_millis(ms), 1)).collect()],
            cached: 0,
            preemptions: 0,
            drafted: 0,
            accepted: 0,
            queued: Duration::ZERO,
        }
    }

    #[test]
    fn phases_part_at_the_last_first_token() {
        let round = [trace(100, &[500, 750, 1000]), trace(100, &[500, 1000, 1500])];
        let phases = Phases::of([&round[..]].into_iter()).unwrap();
        assert_eq!((phases.prompt_s.p50, phases.generation_s.p50, phases.overlapping_tokens), (0.5, 1.0, 0));
        assert_eq!((phases.prompt_tokens_per_s.p50, phases.generation_tokens_per_s.p50), (400.0, 4.0));
        // The first has generated a token beside the second's prompt.
        let mixed = [trace(100, &[200, 400, 900]), trace(100, &[400, 900])];
        let phases = Phases::of([&round[..], &mixed[..]].into_iter()).unwrap();
        assert_eq!((phases.rounds, phases.overlapping_tokens), (2, 1));
        assert_eq!(phases.generation_tokens_per_s.p50, 4.0);
        assert!(Phases::of([&[trace(10, &[5])][..]].into_iter()).is_none());
    }
}
