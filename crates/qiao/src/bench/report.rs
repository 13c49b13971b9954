//! What a measurement found, as it is written: the keys of the JSON object are the fields here, and their documentation is
//! the definition of each figure.

use qiao_core::{DType, DeviceInfo};
use qiao_layers::{Peaks, Provenance};
use serde::Serialize;

use super::energy::Energy;
use super::memory::ProcessPeak;
use super::platform::Platform;
use super::settings::{Point, Settings};
use super::slo::{Slo, SloOutcome};
use super::subject::Subject;
use super::timing::Latency;
use super::trend::Trend;
use super::verify::Verified;
use super::work::Work;
use crate::Model;

/// The name and version of the report's form. A field that is added leaves it as it is; one that changes its meaning or
/// goes does not.
pub const SCHEMA: &str = "qiao.bench.model/1";

/// A measurement of a model. Times are in seconds, sizes in bytes; what is not known is null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelReport {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The machine and the program.
    pub platform: Platform,
    /// How it was measured.
    pub method: Method,
    /// The model.
    pub model: Option<ModelFacts>,
    /// The device, once for every number of threads.
    pub devices: Vec<Opened>,
    /// What was measured, in order.
    pub points: Vec<PointReport>,
    /// Points that could not be measured.
    pub failures: Vec<Failure>,
    /// The soak, where one was asked for.
    pub soak: Option<SoakReport>,
    /// What a reader must know beside the figures.
    pub notes: Vec<String>,
    /// Whether it was ended before all was measured; what is there is complete in itself.
    pub interrupted: bool,
}

impl ModelReport {
    /// Whether every point was measured and no result speaks against the device: tokens of repeated runs are identical where
    /// the device says that it is deterministic.
    pub fn holds(&self) -> bool {
        let verified = self.points.iter().map(|p| &p.verified).chain(self.soak.iter().map(|s| &s.verified));
        self.failures.is_empty() && verified.into_iter().all(Verified::holds)
    }
}

/// How a measurement was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Method {
    /// Rounds of each point that count.
    pub repeat: usize,
    /// Rounds before them that do not.
    pub warm_up: usize,
    /// What the random prompts follow from.
    pub seed: u64,
    /// How requests of one batch share the device. `interleaved`: one sequence a step, in turns.
    pub batching: &'static str,
    /// How tokens are chosen: `greedy`, on the host, from logits in f32; that is part of the time of a token. No text is
    /// encoded or decoded.
    pub choice: &'static str,
    /// How percentiles are taken.
    pub percentiles: &'static str,
    /// The limits that requests are judged by.
    pub slos: Vec<Slo>,
    /// How long a soak was to last, in seconds.
    pub soak_s: Option<f64>,
}

impl Method {
    pub(crate) fn of(settings: &Settings) -> Method {
        Method {
            repeat: settings.sweep.repeat,
            warm_up: settings.sweep.warm_up,
            seed: settings.sweep.seed,
            batching: "interleaved",
            choice: "greedy",
            percentiles: "nearest rank",
            slos: settings.slos.clone(),
            soak_s: settings.soak.map(|soak| soak.as_secs_f64()),
        }
    }
}

/// The model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelFacts {
    /// The name of the checkpoint's directory, or `demo`.
    pub name: String,
    /// Its architecture.
    pub architecture: String,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the vocabulary.
    pub vocab: usize,
    /// The dtype of activations and cache.
    pub compute_dtype: &'static str,
    /// Bytes of the weights on the device, those that stay in their mapped file included.
    pub weight_bytes: u64,
    /// Bits that a weight of a projection takes where it lives, with its share of scales and padding.
    pub bits_per_weight: f64,
    /// The longest sequence that was made possible, in tokens.
    pub context: usize,
}

impl ModelFacts {
    pub(crate) fn of(subject: &Subject) -> ModelFacts {
        let (model, config) = (&subject.model, subject.model.config());
        ModelFacts {
            name: subject.name.clone(),
            architecture: config.architectures.first().unwrap_or(&config.model_type).clone(),
            layers: config.num_layers,
            hidden: config.hidden_size,
            vocab: config.vocab_size,
            compute_dtype: model.compute_dtype().name(),
            weight_bytes: model.weight_bytes(),
            bits_per_weight: model.bits_per_weight(),
            context: model.context(),
        }
    }
}

/// The device as it was opened, and the model loaded onto it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Opened {
    /// What was asked for, e.g. `cpu`.
    pub asked: String,
    /// The device's name.
    pub name: String,
    /// Its maker.
    pub vendor: String,
    /// Its architecture.
    pub arch: String,
    /// The driver's version.
    pub driver: String,
    /// How many layers of the model each device has: one number, where it is on one. Of several devices the names above are
    /// joined with commas, those that follow each other and are the same once.
    pub layers: Vec<usize>,
    /// The number of threads that was asked for.
    pub threads: Option<usize>,
    /// From opening the checkpoint to a model that is ready: reading, placing and packing weights, planning a decode step.
    /// After the first load the files may lie in the system's cache. Absent for a model that was loaded elsewhere.
    pub load_s: Option<f64>,
    /// What it can do at most, as far as that is known.
    pub peaks: PeakFacts,
    /// What runs on the host instead, where operators were allowed to fall back to it and some do.
    pub on_host: Option<OnHost>,
}

/// The operators of a token that run on the host and not on the device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OnHost {
    /// The host's name.
    pub host: String,
    /// How many run there.
    pub operators: usize,
    /// Operators of a token in all.
    pub of: usize,
    /// Bytes from the device to the host for each token.
    pub bytes_down: u64,
    /// Bytes from the host to the device for each token.
    pub bytes_up: u64,
    /// Bytes of weights that live on the host.
    pub weight_bytes: u64,
}

impl OnHost {
    fn of(model: &Model) -> Option<OnHost> {
        let account = model.account().ok().filter(|account| account.on_host() > 0)?;
        let hosted = account.hosted();
        Some(OnHost {
            operators: account.on_host(),
            of: account.entries.len(),
            bytes_down: hosted.down,
            bytes_up: hosted.up,
            weight_bytes: model.host_weight_bytes(),
            host: account.host,
        })
    }
}

impl Opened {
    pub(crate) fn of(subject: &Subject, peaks: &Peaks) -> Opened {
        let joined = |of: fn(&DeviceInfo) -> &String| {
            let mut all: Vec<&str> = subject.model.devices().map(|(device, _)| of(device.info()).as_str()).collect();
            all.dedup();
            all.join(", ")
        };
        Opened {
            asked: subject.device.clone(),
            name: joined(|info| &info.name),
            vendor: joined(|info| &info.vendor),
            arch: joined(|info| &info.arch),
            driver: joined(|info| &info.driver),
            layers: subject.model.devices().map(|(_, layers)| layers).collect(),
            threads: subject.threads,
            load_s: subject.load.map(|load| load.as_secs_f64()),
            peaks: PeakFacts::of(peaks, subject.model.compute_dtype()),
            on_host: OnHost::of(&subject.model),
        }
    }
}

/// The limits that utilisation is stated against. A limit that is not known is absent, and so is what is stated against it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeakFacts {
    /// Bytes per second.
    pub bytes_per_s: Option<f64>,
    /// Dense operations per second in the compute dtype.
    pub ops_per_s: Option<f64>,
    /// `measured` or `declared`.
    pub kind: &'static str,
    /// The probe, or who declares it and where that comes from.
    pub source: String,
}

impl PeakFacts {
    pub(crate) fn of(peaks: &Peaks, dtype: DType) -> PeakFacts {
        let (kind, source) = match &peaks.provenance {
            Provenance::Measured(probe) => ("measured", probe),
            Provenance::Declared(source) => ("declared", source),
        };
        let known = |peak: f64| (peak > 0.0 && peak.is_finite()).then_some(peak);
        PeakFacts {
            bytes_per_s: known(peaks.bytes_per_s),
            ops_per_s: peaks.ops(dtype).and_then(known),
            kind,
            source: source.clone(),
        }
    }
}

/// A point that could not be measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failure {
    /// The point.
    pub point: Point,
    /// The number of threads that was asked for.
    pub threads: Option<usize>,
    /// What went wrong.
    pub why: String,
}

/// What one point gave.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PointReport {
    /// The point.
    #[serde(flatten)]
    pub point: Point,
    /// The number of threads that was asked for.
    pub threads: Option<usize>,
    /// Rounds that count and ran to their end.
    pub rounds: usize,
    /// Time to first token of the very first request at this point, in seconds: with the making of plans where no point
    /// before had the same, and caches that are cold.
    pub first_ttft_s: Option<f64>,
    /// Latency and throughput.
    #[serde(flatten)]
    pub latency: Latency,
    /// What the work is, and which part of the device's limits it reached.
    pub utilisation: Utilisation,
    /// Memory.
    pub memory: Memory,
    /// Energy.
    pub energy: Energy,
    /// How the requests fared against each of the limits.
    pub slos: Vec<SloOutcome>,
    /// Whether the results are to be believed.
    pub verified: Verified,
    /// The share of the point's time, warm-up included, that operators took which ran on the host, transfers included; absent
    /// where all ran on the device. Where it is there no utilisation of the device is stated.
    pub host_share: Option<f64>,
}

impl PointReport {
    /// Notes that some operators ran on the host, for this share of the time: the work was not the device's alone, and is stated
    /// against none of its limits.
    pub(crate) fn shared_with_host(&mut self, share: f64) {
        self.host_share = Some(share);
        let u = &mut self.utilisation;
        (u.mfu_prompt, u.mfu_decode, u.mbu_decode) = (None, None, None);
    }
}

/// Work per second, and as a share of the device's limits. Rates are the medians of the rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Utilisation {
    /// The work of one prompt.
    pub prompt_work: Work,
    /// The work of one decode step, the mean of the first and the last.
    pub decode_work: Option<Work>,
    /// Operations per second while prompts run.
    pub prompt_flops_per_s: f64,
    /// Operations per second while decoding.
    pub decode_flops_per_s: Option<f64>,
    /// Bytes of weights, keys and values per second while decoding.
    pub decode_bytes_per_s: Option<f64>,
    /// Model FLOPs utilisation of prompts: operations that the model needs per second / the device's peak in the compute
    /// dtype (Chowdhery et al., "PaLM", 2022, appendix B; attention counted causally here).
    pub mfu_prompt: Option<f64>,
    /// The same while decoding.
    pub mfu_decode: Option<f64>,
    /// Model bandwidth utilisation while decoding: (bytes of weights + keys and values of a step) / time per token / the
    /// device's peak bandwidth (Databricks, "LLM Inference Performance Engineering: Best Practices", 2023).
    pub mbu_decode: Option<f64>,
}

impl Utilisation {
    /// From the work and the median rates in tokens per second.
    pub(crate) fn of(
        point: &Point,
        prompt: Work,
        decode: Option<Work>,
        prompt_rate: f64,
        decode_rate: Option<f64>,
        peaks: &PeakFacts,
    ) -> Utilisation {
        let prompt_flops_per_s = prompt.flops as f64 * prompt_rate / point.prompt as f64;
        let per_s = |amount: fn(&Work) -> u64| Some(amount(&decode?) as f64 * decode_rate?);
        let (decode_flops_per_s, decode_bytes_per_s) = (per_s(|w| w.flops), per_s(|w| w.weight_bytes + w.cache_bytes));
        let share = |rate: Option<f64>, peak: Option<f64>| Some(rate? / peak?);
        Utilisation {
            prompt_work: prompt,
            decode_work: decode,
            prompt_flops_per_s,
            decode_flops_per_s,
            decode_bytes_per_s,
            mfu_prompt: share(Some(prompt_flops_per_s), peaks.ops_per_s),
            mfu_decode: share(decode_flops_per_s, peaks.ops_per_s),
            mbu_decode: share(decode_bytes_per_s, peaks.bytes_per_s),
        }
    }
}

/// Memory at a point.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// The most that the process had resident.
    pub process_peak: ProcessPeak,
    /// Bytes of the weights on the device, those that stay in their mapped file included.
    pub weight_bytes: u64,
    /// Bytes of keys and values that were allocated, all sequences together.
    pub cache_bytes: u64,
    /// Bytes allocated on the device besides what was there before the point and the caches: workspaces of plans, inputs,
    /// logits, rotary tables, all sequences together. Absent for a model that was loaded elsewhere.
    pub workspace_bytes: Option<u64>,
    /// The most bytes that were allocated on the device at once; weights that stay in their mapped file are not allocated.
    pub device_peak_bytes: Option<u64>,
}

/// What requests back to back over a long time gave.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SoakReport {
    /// The point.
    #[serde(flatten)]
    pub point: Point,
    /// The number of threads that was asked for.
    pub threads: Option<usize>,
    /// How long it lasted, in seconds.
    pub lasted_s: f64,
    /// Rounds that ran to their end.
    pub rounds: usize,
    /// Latency and throughput over all requests.
    #[serde(flatten)]
    pub latency: Latency,
    /// The rate of decode over time, in tokens per second. Absent where one token was asked for.
    pub decode_trend: Option<Trend>,
    /// Time to first token over time, in seconds: the mean of a round's requests.
    pub ttft_trend: Option<Trend>,
    /// Resident memory of the process over time, in MiB.
    pub memory_trend: Option<Trend>,
    /// Memory.
    pub memory: Memory,
    /// Energy.
    pub energy: Energy,
    /// How the requests fared against each of the limits.
    pub slos: Vec<SloOutcome>,
    /// Whether the results are to be believed.
    pub verified: Verified,
    /// What follows from it, one line each.
    pub verdicts: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilisation_is_the_work_per_second_over_the_peak() {
        let point = Point { prompt: 100, depth: 0, batch: 1, tokens: 10 };
        let prompt = Work { flops: 1_000_000, weight_bytes: 500, cache_bytes: 50, bytes: 900 };
        let decode = Work { flops: 10_000, weight_bytes: 500, cache_bytes: 100, bytes: 700 };
        let peaks = Peaks {
            bytes_per_s: 48_000.0,
            ops_per_s: vec![(DType::BF16, 2_000_000.0)],
            provenance: Provenance::Measured("copy".into()),
        };
        let facts = PeakFacts::of(&peaks, DType::BF16);
        assert_eq!((facts.kind, facts.source.as_str()), ("measured", "copy"));
        let u = Utilisation::of(&point, prompt, Some(decode), 50.0, Some(20.0), &facts);
        assert_eq!((u.prompt_flops_per_s, u.mfu_prompt), (500_000.0, Some(0.25)));
        assert_eq!((u.decode_flops_per_s, u.mfu_decode), (Some(200_000.0), Some(0.1)));
        assert_eq!((u.decode_bytes_per_s, u.mbu_decode), (Some(12_000.0), Some(0.25)));
    }

    #[test]
    fn without_a_peak_there_is_a_rate_and_no_share() {
        let point = Point { prompt: 100, depth: 0, batch: 1, tokens: 1 };
        let peaks = Peaks {
            bytes_per_s: 0.0,
            ops_per_s: vec![(DType::F32, 1e9)],
            provenance: Provenance::Declared(String::new()),
        };
        let facts = PeakFacts::of(&peaks, DType::BF16);
        let u = Utilisation::of(&point, Work { flops: 100, ..Work::default() }, None, 50.0, None, &facts);
        assert_eq!((u.prompt_flops_per_s, u.mfu_prompt, u.mfu_decode, u.mbu_decode), (50.0, None, None, None));
        assert_eq!((u.decode_flops_per_s, u.decode_bytes_per_s), (None, None));
    }
}
