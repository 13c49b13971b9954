//! The command line of `qiao bench serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use qiao::bench::Slo;
use qiao::bench::serve::{Length, limits};

use super::Dtype;
use super::bench::{count, time};
use crate::exit::TABLE;

pub(crate) fn serve_help() -> String {
    format!(
        "\
A point is a way in which requests come: --concurrency clients of which each sends its next request when its last one has
ended, --rate requests in a second as a Poisson process, or --together requests at the same moment, round after round. Prompts
are random token ids by --seed; no token ends an answer before its length. A request is timed from the moment at which it was due.

Lengths: 128 (always), 64..256 (equally often), lognormal:128:0.5 (median and sigma of the logarithm, at most 8 medians).
Limits of --slo: ttft=500ms,tpot=50ms, or 500/50 in milliseconds, or a preset of 'qiao bench model'; may be given several times.

Examples:
  qiao bench serve                                               the embedded demo model, 1 to 16 clients
  qiao bench serve ./Qwen2.5-0.5B --concurrency 1,4,16 --prompt 64..256 --output 64 --slo ttft=500ms,tpot=50ms
  qiao bench serve ./Qwen2.5-0.5B --rate 0.5,1,2 --duration 60s --html curve.html
  qiao bench serve ./Qwen2.5-0.5B --prefix 512 --shared 0.8 --json - > shared.json
  qiao bench serve ./Qwen2.5-0.5B --device cuda:0 --device cpu --speed 20,1 --concurrency 32
  qiao bench serve ./Qwen2.5-0.5B --together 1,4,8 --prompt 128 --output 32 --batch-tokens 1024 --requests 24

{TABLE}"
    )
}

#[derive(Args)]
pub(crate) struct BenchServe {
    /// A checkpoint directory or a GGUF file. Without it, the embedded demo model.
    pub(crate) model: Option<PathBuf>,
    /// The device, as 'qiao devices' names it; several with commas between share the model's layers, the first ones on the first. May be
    /// given several times: then each has the whole model and a share of the requests, and the others take over what a lost one had.
    #[arg(long, value_name = "NAME,…", default_value = "cpu")]
    pub(crate) device: Vec<String>,
    /// With --device several times: how fast each is, in any unit. Without it, all the same.
    #[arg(long, value_name = "X,…", value_delimiter = ',', value_parser = speed)]
    pub(crate) speed: Vec<f64>,
    /// With --device several times: give requests to one after the other, and not to the least loaded.
    #[arg(long)]
    pub(crate) round_robin: bool,
    /// With --device several times: do not look for the device that had the beginning of a prompt before.
    #[arg(long)]
    pub(crate) no_affinity: bool,
    /// With several devices and commas: how many layers each has. Without it, as many as each has memory free for.
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) split: Option<Vec<usize>>,
    /// The compute dtype: that of activations and cache. Without it, the dtype of the weights.
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<Dtype>,
    #[command(flatten)]
    pub(crate) fallback: super::Fallback,
    /// Threads of the CPU. Without it, as many as the device takes by itself.
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) threads: Option<u32>,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) mix: MixArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Judge requests by limits; may be given several times.
    #[arg(long, value_name = "SLO", value_parser = slo)]
    pub(crate) slo: Vec<Slo>,
    /// Write everything as one JSON object into this file; '-' is standard output, in the place of the tables.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the throughput against the latency as a page of its own into this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// How requests come, and how many.
#[derive(Args)]
pub(crate) struct Load {
    /// Closed loops of so many clients; without any load, 1,2,4,8,16.
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = count())]
    pub(crate) concurrency: Vec<u32>,
    /// Poisson arrivals of so many requests in a second.
    #[arg(long, value_name = "R,…", value_delimiter = ',', value_parser = rate, allow_negative_numbers = true)]
    pub(crate) rate: Vec<f64>,
    /// Rounds of so many requests at the same moment; prompts and generation are timed apart.
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = count())]
    pub(crate) together: Vec<u32>,
    /// Requests of each point.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = count(), conflicts_with = "duration")]
    pub(crate) requests: u32,
    /// Send requests for this long at each point, such as 30s or 5m; those under way then still end.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) duration: Option<Duration>,
    /// Rounds before each point which do not count, with as many requests at once as the point has (open loops: 8).
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) warm_up: u32,
    /// What prompts, lengths and arrivals follow from.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
}

/// What the requests are.
#[derive(Args)]
pub(crate) struct MixArgs {
    /// Tokens of a prompt, the common prefix not counted.
    #[arg(long, value_name = "LENGTH", default_value = "128", value_parser = length)]
    pub(crate) prompt: Length,
    /// Tokens to generate.
    #[arg(long, value_name = "LENGTH", default_value = "32", value_parser = length)]
    pub(crate) output: Length,
    /// Tokens of a prefix that requests have in common; the warm-up brings it into the cache.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) prefix: u32,
    /// The share of requests with the common prefix.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    pub(crate) shared: f64,
    /// Parallel samples of each request; more than one are sampled at temperature 1.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count())]
    pub(crate) samples: u32,
    /// Priorities, of which each request has one.
    #[arg(long, value_name = "P,…", value_delimiter = ',', default_value = "0", allow_hyphen_values = true)]
    pub(crate) priority: Vec<i32>,
}

/// The server.
#[derive(Args)]
pub(crate) struct ServerArgs {
    /// Memory of the cache in MiB. Without it, what the sequences of a batch can need, or half of what the device has free.
    #[arg(long, value_name = "MIB", value_parser = count())]
    pub(crate) cache_mib: Option<u32>,
    /// Tokens of a block of the cache. Without it, what the device prefers.
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) block_size: Option<u32>,
    /// Most tokens of a batch.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count())]
    pub(crate) batch_tokens: u32,
    /// Most sequences of a batch. Without it, 64, or as many as the points have at once.
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) sequences: Option<u32>,
    /// Most tokens of one prompt in a batch. Without it, as many as a batch has.
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) chunk: Option<u32>,
    /// Most requests that wait; what comes beyond is refused. Closed loops are never refused.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = count())]
    pub(crate) queue: u32,
    /// Keep what loses its place in so many MiB of the host's memory, in the place of computing it again.
    #[arg(long, value_name = "MIB", value_parser = count())]
    pub(crate) swap_mib: Option<u32>,
    /// Guess at most so many tokens ahead wherever an answer repeats itself.
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) prompt_lookup: Option<u32>,
    /// Keep requests from finding each other's prompts in the cache.
    #[arg(long)]
    pub(crate) no_sharing: bool,
}

fn length(text: &str) -> Result<Length, String> {
    text.parse::<Length>().map_err(|error| error.to_string())
}

fn slo(text: &str) -> Result<Slo, String> {
    limits(text).map_err(|error| error.to_string())
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.trim().parse::<f64>().ok().filter(|speed| *speed > 0.0 && speed.is_finite());
    speed.ok_or_else(|| "give a number above 0".into())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.trim().parse::<f64>().ok().filter(|rate| *rate > 0.0 && rate.is_finite());
    rate.ok_or_else(|| "give a number of requests per second above 0".into())
}
