//! Every form of a report, in one folder.

use std::path::{Path, PathBuf};

use crate::save;

use super::facts::Report;
use super::words::Language;
use super::{csv, html, json, junit, markdown};

/// A form in which a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Versioned JSON: all that there is.
    Json,
    /// One page.
    Html,
    /// Markdown, in English.
    Markdown,
    /// Markdown, in Chinese.
    MarkdownChinese,
    /// JUnit XML.
    Junit,
    /// The support matrix.
    Csv,
}

impl Form {
    /// Every form.
    pub const ALL: [Form; 6] = [Form::Json, Form::Html, Form::Markdown, Form::MarkdownChinese, Form::Junit, Form::Csv];

    /// The name of its file in a folder of one report.
    pub const fn file(self) -> &'static str {
        match self {
            Form::Json => "report.json",
            Form::Html => "report.html",
            Form::Markdown => "report.md",
            Form::MarkdownChinese => "report.zh.md",
            Form::Junit => "junit.xml",
            Form::Csv => "support.csv",
        }
    }

    /// The report in this form.
    pub fn write(self, report: &Report) -> String {
        match self {
            Form::Json => json::write(report),
            Form::Html => html::write(report),
            Form::Markdown => markdown::write(report, Language::English),
            Form::MarkdownChinese => markdown::write(report, Language::Chinese),
            Form::Junit => junit::write(report),
            Form::Csv => csv::write(report),
        }
    }
}

/// Writes every form into a folder; the files' paths.
///
/// # Errors
/// The folder can't be written.
pub fn save(report: &Report, folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let one = |form: Form| {
        let path = folder.join(form.file());
        save::whole(&path, form.write(report).as_bytes())?;
        Ok(path)
    };
    Form::ALL.into_iter().map(one).collect()
}
