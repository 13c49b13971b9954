//! The command line of `qiao bench ops`.

use std::path::PathBuf;

use clap::Args;
use qiao::DType;

/// What `qiao bench ops --help` adds.
pub(super) const OPS_HELP: &str = "\
Shapes are those of real models. Operands take turns in so many copies that caches hold none of them; results are compared with
the truth after the timing. '% measured' is the least time by the limits that the same run measured / the median time.

Examples:
  qiao bench ops --quick                            one small model, less than half a minute
  qiao bench ops --filter 'op/matmul/*' --dtype f32
  qiao bench ops --model Llama-3-8B --dtype q4_k --full
  qiao bench ops --quick --peaks-out cpu.json && qiao plan ./config.json --peaks cpu.json

Exit codes: 0 done; 1 a result was wrong, or nothing could be measured; 2, 3 and 130 as everywhere.";

#[derive(Args)]
pub(crate) struct BenchOps {
    /// The device, as 'qiao devices' names it.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub(crate) device: String,
    /// Measure less: one small model, less than half a minute on a laptop.
    #[arg(long, conflicts_with = "full")]
    pub(crate) quick: bool,
    /// Measure everything: every model, dtype, batch and context.
    #[arg(long)]
    pub(crate) full: bool,
    /// Only shapes of this model, such as Qwen2.5-0.5B or Llama-3-8B; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Vec<String>,
    /// Only operators in this dtype, such as bf16, q4_k or i8 (W8A8); may be given several times.
    #[arg(long, value_name = "DTYPE")]
    pub(crate) dtype: Vec<DType>,
    /// Only paths that match, such as 'op/matmul/*'; may be given several times.
    #[arg(long, value_name = "GLOB")]
    pub(crate) filter: Vec<String>,
    /// Data follow from the seed and the path of a shape.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write everything as one JSON object into this file; '-' is standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the measured limits into this file, for --peaks of other commands.
    #[arg(long, value_name = "FILE")]
    pub(crate) peaks_out: Option<PathBuf>,
    /// List the paths of the shapes and measure none.
    #[arg(long, conflicts_with_all = ["json", "peaks_out"])]
    pub(crate) list: bool,
}
