//! `qiao report`: a report in other forms, or several beside each other.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use qiao_conformance::report::{self, Comparison, Form, diff};
use qiao_conformance::save;

use crate::args::Report;
use crate::exit::{Exit, Usage};
use crate::terminal::tell_line;

pub(crate) fn report(args: &Report, out: &mut dyn Write) -> anyhow::Result<Exit> {
    if let (Some(folder), true) = (&args.out, args.files.len() > 1) {
        let folder = folder.display();
        let found = format!("--out {folder} with {} files", args.files.len());
        return Err(
            Usage(format!("{found}: a folder takes one report; for several use --html, --json, --markdown")).into()
        );
    }
    let reports = args.files.iter().map(|file| report::read(file)).collect::<Result<Vec<_>, _>>()?;
    match &reports[..] {
        [one] => single(args, one, out),
        several => compare(args, &diff(several), out),
    }
}

/// One report: in every form into a folder, in some forms into files, or as Markdown on standard output.
/// Writes a comparison in one form.
type Writer = fn(&Comparison) -> String;

fn single(args: &Report, one: &report::Report, out: &mut dyn Write) -> anyhow::Result<Exit> {
    if let Some(folder) = &args.out {
        let files = report::save(one, folder).with_context(|| format!("can't write into {}", folder.display()))?;
        files.iter().for_each(|file| tell_line(&format!("wrote {}", file.display())));
    }
    let forms = [(&args.html, Form::Html), (&args.json, Form::Json), (&args.markdown, Form::Markdown)];
    let asked = keep(forms.map(|(path, form)| (path, move || form.write(one))))?;
    if !asked && args.out.is_none() {
        write!(out, "{}", Form::Markdown.write(one))?;
    }
    Ok(Exit::Ok)
}

fn compare(args: &Report, comparison: &Comparison, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let forms: [(&Option<PathBuf>, Writer); 3] =
        [(&args.html, diff::html), (&args.json, diff::json), (&args.markdown, diff::markdown)];
    keep(forms.map(|(path, form)| (path, move || form(comparison))))?;
    write!(out, "{}", diff::text(comparison))?;
    Ok(if comparison.regressed() { Exit::Failure } else { Exit::Ok })
}

/// Writes what was asked for; whether anything was.
fn keep<'a>(forms: impl IntoIterator<Item = (&'a Option<PathBuf>, impl Fn() -> String)>) -> anyhow::Result<bool> {
    let mut any = false;
    for (path, form) in forms {
        let Some(path) = path else { continue };
        write_file(path, &form())?;
        any = true;
    }
    Ok(any)
}

fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    save::whole(path, text.as_bytes()).with_context(|| format!("can't write {}", path.display()))?;
    tell_line(&format!("wrote {}", path.display()));
    Ok(())
}
