//! The arguments of `qiao report`.

use std::path::PathBuf;

use clap::Args;

/// Reports, and where their forms go.
#[derive(Args)]
pub(crate) struct Report {
    /// Files that 'qiao adapt' or 'qiao check --json' wrote. Two of one chip are compared, before and after; others stand side by
    /// side; one alone is written in other forms.
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Write every form of a single report into this folder: JSON, HTML, Markdown, JUnit XML, CSV.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Write a page that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write Markdown.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
}
