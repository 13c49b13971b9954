//! The command line of `qiao adapt`.

use std::path::PathBuf;

use clap::Args;

#[derive(Clone, Args)]
pub(crate) struct Adapt {
    /// The device, as 'qiao devices' names it.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub(crate) device: String,
    /// The model that is run, a checkpoint directory or a GGUF file; without it, the embedded demo model.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) fallback: super::Fallback,
    /// Where the report goes: report.html, report.json, report.md, report.zh.md, junit.xml, support.csv, peaks.json and replay files.
    #[arg(long, value_name = "DIR", default_value = "qiao-report")]
    pub(crate) report: PathBuf,
    /// What fits into two minutes on a laptop. The default.
    #[arg(long, conflicts_with = "full")]
    pub(crate) quick: bool,
    /// Everything: every case of every profile, operators of several models, long contexts. Takes an hour and more.
    #[arg(long)]
    pub(crate) full: bool,
    /// How far the conformance run goes; without it llm-serving, and full with --full.
    #[arg(long, value_enum)]
    pub(crate) profile: Option<super::Profile>,
    /// Data follow from the seed.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Failures that are expected, one 'glob = reason' a line. One that passes fails the run.
    #[arg(long, value_name = "FILE")]
    pub(crate) expectations: Option<PathBuf>,
    /// Seconds after which a case that does not answer is a failed one.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = super::positive)]
    pub(crate) timeout: f64,
    /// Run the model alone and write what it gave into this file.
    #[arg(long, hide = true, value_name = "FILE")]
    pub(crate) model_step: Option<PathBuf>,
    /// The limits that the model's run is stated against.
    #[arg(long, hide = true, value_name = "FILE")]
    pub(crate) peaks: Option<PathBuf>,
}
