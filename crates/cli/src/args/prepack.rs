//! The command line of `qiao prepack`.

use std::path::PathBuf;

use clap::Args;

use super::Dtype;

/// What `qiao prepack --help` adds.
pub(crate) const PREPACK_HELP: &str = "\
Loading a model, a device such as the CPU packs its weights into a layout of its own, which takes time and fresh memory. This
writes them down once. Every later command that loads the same files onto the same kind of device maps what was written: nothing
is packed, and the first token comes sooner. 'bench model' and 'adapt' measure loading and pack all the same. The file takes about
as much room as the model. It is used for as long as the model's files stay as they are, and may be deleted at any time.

It lies under $QIAO_CACHE_DIR, or the user's cache folder, unless --folder names another; only the library looks there
(ModelOptions::prepacked).

Examples:
  qiao prepack ./Qwen2.5-0.5B
  qiao prepack ./Llama-3.2-1B-q4_k_m.gguf";

#[derive(Args)]
pub(crate) struct Prepack {
    /// A checkpoint.
    pub(crate) model: PathBuf,
    /// The device, as 'qiao devices' names it; several with commas between, as for 'qiao run'.
    #[arg(long, value_name = "NAME,…", default_value = "cpu")]
    pub(crate) device: String,
    /// With several devices: how many layers each has.
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) split: Option<Vec<usize>>,
    /// The compute dtype that the model will be loaded with, where that is not the dtype of its weights.
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<Dtype>,
    /// Another folder.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    /// Write one JSON object to standard output.
    #[arg(long)]
    pub(crate) json: bool,
}
