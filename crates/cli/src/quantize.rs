//! `qiao quantize`: a float checkpoint as a smaller one.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use qiao::quantize::{Format, Importance, Rules};
use qiao::{Canceller, Model, ModelOptions};
use serde_json::Value;

use crate::args::Quantize;
use crate::exit::{Exit, Usage};
use crate::interrupt::Guard;
use crate::terminal::tell_line;

pub(crate) fn quantize(args: &Quantize, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let usage = |error: qiao::Error| anyhow::Error::new(Usage(error.to_string()));
    let mut format: Format = args.format.parse().map_err(usage)?;
    if let Some(size) = args.group_size {
        format = format.with_group_size(size).map_err(usage)?;
    }
    let canceller = Canceller::default();
    let _guard = Guard::new(canceller.clone());
    let mut quantize = qiao::Quantize::new(format).force(args.force).canceller(&canceller);
    if let Some(threads) = args.threads {
        quantize = quantize.threads(threads as usize);
    }
    if let Some(plan) = &args.plan {
        quantize = quantize.rules(Rules::open(plan)?);
    }
    if let Some(text) = &args.imatrix_text {
        match gather(args, text, &canceller)? {
            Some((importance, model, ids)) => {
                quantize = quantize.importance(importance);
                if args.gptq {
                    quantize = quantize.compensate(&model, ids, args.context as usize);
                }
            }
            None => return Ok(interrupted()),
        }
    } else if let Some(path) = &args.imatrix {
        quantize = quantize.importance(Importance::open(path)?);
    }
    let bar = bar("quantising {bar:40} {bytes} / {total_bytes}  {bytes_per_sec}  {eta}");
    let shown = bar.clone();
    let quantize = quantize.on_progress(move |done, total| {
        shown.set_length(total);
        shown.set_position(done);
    });
    let found = quantize.run(&args.from, &args.to);
    bar.finish_and_clear();
    let Some(found) = found? else { return Ok(interrupted()) };
    if args.json {
        let mut object = found.to_json();
        object["from"] = Value::from(args.from.display().to_string());
        object["to"] = Value::from(args.to.display().to_string());
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "{found}")?;
        tell_line(&format!("wrote {}", args.to.display()));
    }
    Ok(Exit::Ok)
}

fn interrupted() -> Exit {
    tell_line("interrupted; nothing was written");
    Exit::Interrupted
}

/// What the float model made of a text, the model, and the text's ids.
type Gathered = (Importance, Model, Vec<u32>);

/// Runs the float model on the text; `None` when it was ended.
fn gather(args: &Quantize, text: &Path, canceller: &Canceller) -> anyhow::Result<Option<Gathered>> {
    let words = std::fs::read_to_string(text).with_context(|| format!("cannot read {}", text.display()))?;
    let context = args.context as usize;
    let model = ModelOptions::new().context(context).load(&args.from)?;
    let ids = model.encode(words)?;
    let bar = bar("gathering importances {bar:40} {pos} / {len} tokens  {eta}");
    let shown = bar.clone();
    let gathered = Importance::gather(&model, &ids, context, canceller, &mut |done, total| {
        shown.set_length(total as u64);
        shown.set_position(done as u64);
    });
    bar.finish_and_clear();
    let gathered = gathered?;
    if let (Some(importance), Some(path)) = (&gathered, &args.imatrix_out) {
        importance.save(path, args.force)?;
        tell_line(&format!("wrote {}", path.display()));
    }
    Ok(gathered.map(|importance| (importance, model, ids)))
}

fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    // Draws on standard error, and only on a terminal.
    ProgressBar::new(0).with_style(style)
}
