//! The figures of a measurement, as files keep them. All times are in seconds.

use qiao_layers::{Peaks, Provenance, Summary};
use serde::{Deserialize, Serialize};

use crate::platform::{DeviceFacts, Platform};

/// The schema of [`OpsBench`].
pub const SCHEMA: &str = "qiao.bench.ops/1";

/// Many measurements of one kind; see [`Summary`] for what each figure is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// How many.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// Nine tenths are no larger.
    pub p90: f64,
    /// 99 of 100 are no larger.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The coefficient of variation.
    pub cv: f64,
}

impl From<Summary> for Figures {
    fn from(s: Summary) -> Figures {
        Figures { count: s.count, min: s.min, p50: s.p50, p90: s.p90, p99: s.p99, max: s.max, mean: s.mean, cv: s.cv }
    }
}

/// What a device can do at most, and where the figures come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// `measured` or `declared`.
    pub kind: String,
    /// The probe, or the backend's source.
    pub source: String,
    /// Bytes per second; 0 = not known.
    pub bytes_per_s: f64,
    /// Operations per second of dense products, by dtype.
    pub ops_per_s: Vec<(String, f64)>,
}

impl From<&Peaks> for Limits {
    fn from(peaks: &Peaks) -> Limits {
        let (kind, source) = match &peaks.provenance {
            Provenance::Measured(probe) => ("measured", probe),
            Provenance::Declared(source) => ("declared", source),
        };
        Limits {
            kind: kind.into(),
            source: source.clone(),
            bytes_per_s: peaks.bytes_per_s,
            ops_per_s: peaks.ops_per_s.iter().map(|(d, v)| (d.name().into(), *v)).collect(),
        }
    }
}

/// One measurement of what a device can do at most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// `bytes` for bytes per second, else the dtype whose products were measured.
    pub limit: String,
    /// What ran, e.g. `matmul bf16 2048×2048×2048`.
    pub name: String,
    /// Bytes per second (read and written together), or operations per second, of the fastest repetition.
    pub per_s: f64,
    /// Repetitions.
    pub count: usize,
    /// Why it does not count: its results were wrong, or it failed.
    pub failure: Option<String>,
}

/// What told the time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timer {
    /// In words.
    pub source: String,
    /// Seconds that a measurement of nothing takes by the device's events; taken off every device time. Absent where the
    /// device has no events that tell the time.
    pub device: Option<f64>,
    /// The same for the time that the host spends to queue.
    pub host: f64,
    /// The same for the time until the result is there.
    pub wall: f64,
}

/// One operator at one shape. Exactly one of three things is true of it: it was measured (`wall.count > 0`), it was not
/// (`unsupported` or `skipped` says why), or it failed before a time could be taken (`failure` says how).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpFigure {
    /// A stable path, e.g. `op/matmul/bf16/m=1,n=4864,k=896`.
    pub id: String,
    /// Where the shape comes from, e.g. `Qwen2.5-0.5B up, batch 1`.
    pub origin: String,
    /// How it ran: `native <kernel>` or `decomposed: …`; empty where it did not.
    pub way: String,
    /// Why the device does not run it.
    pub unsupported: Option<String>,
    /// Why it was not asked to: too little memory, or too little time.
    #[serde(default)]
    pub skipped: Option<String>,
    /// Operations, from the op list; exact where the op list's is an upper bound because work depends on values, as in causal
    /// attention.
    pub flops: u64,
    /// Bytes read and written, by the same rule.
    pub bytes: u64,
    /// The dtype whose limit of products bounds it: that to which the kernel rounds activations, else that of the operands.
    /// Empty for what is no product: bytes alone bound it.
    #[serde(default)]
    pub dtype: String,
    /// Seconds until the operator was planned.
    #[serde(default)]
    pub prepare: f64,
    /// Copies of all operands that took turns, so that caches hold none of them.
    #[serde(default)]
    pub copies: usize,
    /// Whether the caches were also emptied after each turn, because the copies together do not outgrow them.
    #[serde(default)]
    pub evicted: bool,
    /// Time on the device, from its own events; absent where the device can't tell.
    pub device: Option<Figures>,
    /// Time that the host spends to queue the work; on a device that works inside the call, such as a processor, the work itself.
    pub host: Figures,
    /// Time from the call until the result is there, as the host sees it.
    pub wall: Figures,
    /// The same for the first call.
    pub cold: f64,
    /// Bytes per second at the median (of `device` where it is there, else of `wall`).
    pub bytes_per_s: f64,
    /// Operations per second at the median.
    pub ops_per_s: f64,
    /// `memory` or `compute`: which limit bounds the operator at the measured limits.
    pub bound: String,
    /// Least time by the measured limits / time at the median.
    pub of_measured: Option<f64>,
    /// Least time by the declared limits / time at the median.
    pub of_declared: Option<f64>,
    /// Whether the results were right after the timing; a figure that was not verified is no figure.
    pub verified: bool,
    /// Elements of the results that were compared with the truth: whole rows, or rows and columns at both ends and at random.
    #[serde(default)]
    pub checked: usize,
    /// The largest error/limit among them; absent where it is beyond all numbers.
    #[serde(default)]
    pub margin: Option<f64>,
    /// What was wrong with them.
    pub failure: Option<String>,
}

impl OpFigure {
    /// The times by which it is judged: the device's own where it tells them, else the host's.
    pub fn judged(&self) -> &Figures {
        self.device.as_ref().unwrap_or(&self.wall)
    }

    /// Whether there are times.
    pub fn measured(&self) -> bool {
        self.wall.count > 0
    }
}

/// Everything about a run of operator benchmarks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpsBench {
    /// [`SCHEMA`].
    pub schema: String,
    /// The machine.
    pub platform: Platform,
    /// The device.
    pub device: DeviceFacts,
    /// `quick`, `standard` or `full`.
    #[serde(default)]
    pub set: String,
    /// Bytes of the caches that operands were made to outgrow.
    #[serde(default)]
    pub cache_bytes: u64,
    /// Where that figure comes from.
    #[serde(default)]
    pub cache_source: String,
    /// What told the time.
    #[serde(default)]
    pub timer: Timer,
    /// Every probe behind the measured limits.
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// Limits measured in the same run.
    pub measured: Limits,
    /// Limits that the backend declares, where it does.
    pub declared: Option<Limits>,
    /// One for each operator and shape.
    pub figures: Vec<OpFigure>,
    /// How long the run took.
    pub seconds: f64,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

impl OpsBench {
    /// Figures whose results were wrong, or that failed before a time could be taken.
    pub fn failures(&self) -> impl Iterator<Item = &OpFigure> {
        self.figures.iter().filter(|f| f.failure.is_some())
    }
}
