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

/// One operator at one shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpFigure {
    /// A stable path, e.g. `op/matmul/bf16/m=1,n=4864,k=896`.
    pub id: String,
    /// Where the shape comes from, e.g. `Qwen2.5-0.5B up, batch 1`.
    pub origin: String,
    /// How it ran: `native <kernel>` or `decomposed: …`; empty where it did not.
    pub way: String,
    /// Why it did not run.
    pub unsupported: Option<String>,
    /// Operations, from the op list.
    pub flops: u64,
    /// Bytes read and written, from the op list.
    pub bytes: u64,
    /// Time on the device, from its own events; absent where the device can't tell.
    pub device: Option<Figures>,
    /// Time that the host spends to queue the work.
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
    /// What was wrong with them.
    pub failure: Option<String>,
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
