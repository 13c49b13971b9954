//! The command line of `qiao eval`.

use std::path::PathBuf;

use clap::Args;

use super::{Dtype, Fallback, KvDtype};

/// What `qiao eval --help` adds.
pub(crate) const EVAL_HELP: &str = "\
The text is tokenised once and cut into chunks of --context tokens; each starts from an empty cache, with the model's BOS as its
first token if it has one. Tokens of the second half of each chunk are scored: those after positions N/2 to N-2. Chunks,
positions and formulas are those of llama.cpp's perplexity; nothing is clipped, and all figures are computed in f64.

With --against, the figures tell how far the model is from its base: KL(base || model) of every scored position over the whole
vocabulary, how often both find the same token most likely, the difference of the probabilities of the tokens that came, and
ln(PPL / PPL of the base). Both models run side by side on the device and must have one tokenizer.

Examples:
  qiao eval --text poems.txt                                        the embedded demo model
  qiao eval ./Qwen2.5-0.5B --text wiki.test.raw --chunks 20
  qiao eval ./Qwen2.5-0.5B-q4_k_m.gguf --text wiki.test.raw --against ./Qwen2.5-0.5B
  qiao eval ./model --ids tokens.txt --context 1024 --json          a checkpoint without a tokenizer";

#[derive(Args)]
pub(crate) struct Eval {
    /// A checkpoint. Without it, the embedded demo model.
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) source: EvalSource,
    /// The base, a checkpoint that the model is compared with.
    #[arg(long, value_name = "MODEL2")]
    pub(crate) against: Option<PathBuf>,
    /// Tokens of a chunk.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    pub(crate) context: u32,
    /// The most chunks, from the start of the text; without it, all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) chunks: Option<u32>,
    /// The device, as 'qiao devices' names it; several with commas between share the model's layers, the first ones on the first.
    #[arg(long, value_name = "NAME,…", default_value = "cpu")]
    pub(crate) device: String,
    /// With several devices: how many layers each has. Without it, as many as each has memory free for.
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) split: Option<Vec<usize>>,
    /// The compute dtype: that of activations. Without it, for each model that of its weights.
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<Dtype>,
    /// The dtype of the model's keys and values, but not the base's; without it, that of activations. The same model --against itself
    /// tells what they cost.
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub(crate) kv_dtype: Option<KvDtype>,
    #[command(flatten)]
    pub(crate) fallback: Fallback,
    /// Write one JSON object to standard output instead of the table. A figure that is not finite is null there.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the models read.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct EvalSource {
    /// A file of UTF-8 text.
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,
    /// A file of token ids, with blanks, commas or line ends between.
    #[arg(long, value_name = "FILE")]
    pub(crate) ids: Option<PathBuf>,
}
