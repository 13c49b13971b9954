//! The command line of `qiao quantize`.

use std::path::PathBuf;

use clap::Args;

/// What `qiao quantize --help` adds.
pub(crate) const QUANTIZE_HELP: &str = "\
An output that ends in .gguf is a GGUF file; any other is a folder in Hugging Face layout, quantised as compressed-tensors has it.

Formats for .gguf: q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs mxfp4, the mixture q4_k_m, f16 bf16 f32.
  Every weight matrix is encoded, the output head and a tied embedding in q6_k or more; norms and biases are f32. Rows that do
  not fill the blocks of a format take one of 32 elements. The table says what became of each.
Formats for folders: w4a16 w4a16-asym (int4 groups of --group-size), w8a16 (int8 for each output), w8a8 (int8, activations
  quantised on the way), fp8 (e4m3 for each output), fp8-block (for each 128 x 128), f16 bf16 f32.
  Projections of the layers are encoded; embedding and output head stay as they are.

A plan is JSON; the first pattern that matches a tensor's name holds, 'keep' leaves it as it is:
  {\"*.0.*\": \"keep\", \"*.mlp.down_proj.weight\": \"q6_k\"}

--imatrix-text runs the float model on a text and weighs the errors of input channels by the mean square of what comes in. With
--gptq errors are passed on to correlated channels as well.

The output appears whole or not at all: it is written beside its place, synced and renamed.

Examples:
  qiao quantize ./Qwen2.5-0.5B ./Qwen2.5-0.5B-q4_k_m.gguf --format q4_k_m
  qiao quantize ./Qwen2.5-0.5B ./Qwen2.5-0.5B-w4a16 --format w4a16 --imatrix-text calibration.txt
  qiao quantize ./model ./model.gguf --format q4_k --plan plan.json --json";

#[derive(Args)]
pub(crate) struct Quantize {
    /// A checkpoint of floats.
    pub(crate) from: PathBuf,
    /// The output: a name that ends in .gguf, or a folder.
    pub(crate) to: PathBuf,
    /// What weights are encoded as.
    #[arg(long, value_name = "F")]
    pub(crate) format: String,
    /// Elements of a group under one scale, for w4a16, w4a16-asym and w8a16.
    #[arg(long, value_name = "N")]
    pub(crate) group_size: Option<usize>,
    /// Formats for single tensors, by patterns over their names.
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: Option<PathBuf>,
    /// Run the model on this text first, and weigh errors by what comes in.
    #[arg(long, value_name = "FILE", conflicts_with = "imatrix")]
    pub(crate) imatrix_text: Option<PathBuf>,
    /// With --imatrix-text: keep what was gathered in this file.
    #[arg(long, value_name = "FILE", requires = "imatrix_text")]
    pub(crate) imatrix_out: Option<PathBuf>,
    /// Weigh errors by what a run with --imatrix-out has kept, or llama-imatrix as a GGUF file.
    #[arg(long, value_name = "FILE")]
    pub(crate) imatrix: Option<PathBuf>,
    /// With --imatrix-text: pass the errors of each input channel on to those that come in correlated with it (GPTQ). Slower; the
    /// model reads the text once for every gigabyte of what is gathered.
    #[arg(long, requires = "imatrix_text")]
    pub(crate) gptq: bool,
    /// With --imatrix-text: tokens of a chunk of the text.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) context: u32,
    /// Threads that encode; without it, as many as the machine has.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) threads: Option<u32>,
    /// Replace an output that is there already.
    #[arg(long)]
    pub(crate) force: bool,
    /// Write one JSON object to standard output instead of the table. A figure that is not finite is null there.
    #[arg(long)]
    pub(crate) json: bool,
}
