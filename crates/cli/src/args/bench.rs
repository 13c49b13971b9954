//! The command line of `qiao bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use qiao::bench::Slo;

use super::Dtype;
use crate::exit::TABLE;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Measure a model: latency, throughput, utilisation, memory and energy, at every point of a sweep or over a long soak.
    #[command(after_help = model_help())]
    Model(BenchModel),
    /// Measure a model under many requests at once: throughput against latency, goodput, and what the shared cache gives.
    #[command(after_help = super::bench_serve::serve_help())]
    Serve(Box<super::BenchServe>),
    /// Measure operators at shapes of real models, beside the device's limits.
    #[command(after_help = super::bench_ops::OPS_HELP)]
    Ops(super::BenchOps),
}

fn model_help() -> String {
    let names: Vec<String> = Slo::presets().into_iter().map(|preset| preset.name).collect();
    let lines: Vec<String> = names.chunks(4).map(|names| format!("  {}", names.join(", "))).collect();
    format!(
        "\
A point is a kind of request: --depth tokens are in the cache, --prompt tokens come, --tokens are generated. Prompts are
random token ids by --seed, the same in every round; tokens are chosen greedily and must be the same in every round.

Presets of --slo, the limits of MLPerf Inference v5:
{}

Examples:
  qiao bench model                                              the embedded demo model
  qiao bench model ./Qwen2.5-0.5B --prompt 128,512 --depth 0,1024 --tokens 64
  qiao bench model ./Qwen2.5-0.5B --threads 1,2,4 --slo llama3.1-8b-interactive,500/50
  qiao bench model ./Qwen2.5-0.5B --soak 10m --json > soak.json

{TABLE}",
        lines.join(",\n")
    )
}

#[derive(Args)]
pub(crate) struct BenchModel {
    /// A checkpoint directory or a GGUF file. Without it, the embedded demo model.
    pub(crate) model: Option<PathBuf>,
    /// The device, as 'qiao devices' names it; several with commas between share the model's layers, the first ones on the first.
    #[arg(long, value_name = "NAME,…", default_value = "cpu")]
    pub(crate) device: String,
    /// With several devices: how many layers each has. Without it, as many as each has memory free for.
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) split: Option<Vec<usize>>,
    /// The compute dtype: that of activations and cache. Without it, the dtype of the weights.
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<Dtype>,
    #[command(flatten)]
    pub(crate) fallback: super::Fallback,
    /// Tokens of the prompt; every one of these with every depth, batch and number of threads.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "128", value_parser = count())]
    pub(crate) prompt: Vec<u32>,
    /// Tokens in the cache before the prompt; putting them there is not timed.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    pub(crate) depth: Vec<u32>,
    /// Requests sent at once. They take turns on the device, one sequence a step.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = count())]
    pub(crate) batch: Vec<u32>,
    /// Threads of the CPU; the model is loaded for each number. Without it, as many as the device takes by itself.
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = count())]
    pub(crate) threads: Vec<u32>,
    /// Tokens to generate.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = count())]
    pub(crate) tokens: u32,
    /// Rounds that count.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count())]
    pub(crate) repeat: u32,
    /// Rounds before, which do not count.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) warm_up: u32,
    /// What the random prompts follow from.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Judge requests by limits: presets, or TTFT/TPOT in milliseconds.
    #[arg(long, value_name = "SLO,…", value_delimiter = ',', value_parser = slo)]
    pub(crate) slo: Vec<Slo>,
    /// Run the requests of one point back to back for this long, such as 90s, 10m or 2h, and look for drift.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) soak: Option<Duration>,
    /// The device's limits for MFU and MBU, as JSON like that of 'qiao plan'; without it, those that the device declares.
    #[arg(long, value_name = "FILE")]
    pub(crate) peaks: Option<PathBuf>,
    /// Write one JSON object to standard output instead of the tables.
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

fn slo(text: &str) -> Result<Slo, String> {
    Slo::parse(text).map_err(|error| error.to_string())
}

/// A time with its unit: ms, s, m or h.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let parse = |&(unit, seconds): &(&str, f64)| Some(text.strip_suffix(unit)?.trim().parse::<f64>().ok()? * seconds);
    let seconds = units.iter().find_map(parse).filter(|seconds| *seconds > 0.0);
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|time| !time.is_zero());
    time.ok_or_else(|| "write a time above 0 with its unit, as 90s, 10m or 2h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, millis) in [("250ms", 250), ("90s", 90_000), ("10m", 600_000), ("1.5h", 5_400_000), ("2 m", 120_000)]
        {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "m", "-1m", "0s", "1e400h", "nanm", "infs", "10d"] {
            assert!(time(text).unwrap_err().contains("10m"), "{text}");
        }
    }
}
