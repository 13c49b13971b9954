//! `qiao eval`: how good a model is on a text, alone or beside its base.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use qiao::{Canceller, Eval};
use serde_json::{Value, json};

use crate::args::{EvalSource, Fallback, Where};
use crate::exit::Exit;
use crate::interrupt::Guard;
use crate::load::{Loaded, load};
use crate::terminal::tell_line;

pub(crate) fn eval(args: &crate::args::Eval, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let eval = source(&args.source)?.context(args.context as usize).chunks(args.chunks.map(|n| n as usize));
    let load = |path: Option<&Path>, kv_dtype| -> anyhow::Result<Loaded> {
        let fallback = Fallback { ..args.fallback };
        let (device, split, context) = (args.device.clone(), args.split.clone(), Some(args.context));
        load(path, &Where { device, split, dtype: args.dtype, kv_dtype, context, fallback })
    };
    let model = load(args.model.as_deref(), args.kv_dtype)?;
    let base = args.against.as_deref().map(|path| load(Some(path), None)).transpose()?;
    let canceller = Canceller::default();
    let _guard = Guard::new(canceller.clone());
    let bar = bar();
    let shown = bar.clone();
    let eval = eval.canceller(&canceller).on_progress(move |done, total| {
        shown.set_length(total as u64);
        shown.set_position(done as u64);
    });
    let found = match &base {
        Some(base) => eval.against(&model.model, &base.model),
        None => eval.run(&model.model),
    };
    bar.finish_and_clear();
    let Some(found) = found? else {
        tell_line("interrupted before the first chunk was done");
        return Ok(Exit::Interrupted);
    };
    if args.json {
        let mut object = found.to_json();
        let name = |path: &Option<_>| path.as_deref().map_or("demo".into(), |path: &Path| path.display().to_string());
        object["model_name"] = Value::from(name(&args.model));
        object["base_name"] = if args.against.is_some() { Value::from(name(&args.against)) } else { Value::Null };
        object["device"] = Value::from(args.device.clone());
        object["weight_bytes"] = json!(model.model.weight_bytes());
        object["load_s"] = json!(model.time.as_secs_f64());
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "{found}")?;
    }
    Ok(if found.interrupted { Exit::Interrupted } else { Exit::Ok })
}

fn source(source: &EvalSource) -> anyhow::Result<Eval> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let utf8 = |path: &Path| {
        String::from_utf8(read(path)?)
            .map_err(|e| anyhow::anyhow!("{} is not UTF-8 at byte {}", path.display(), e.utf8_error().valid_up_to()))
    };
    match source {
        EvalSource { ids: Some(path), .. } => Ok(Eval::ids(token_ids(path, &utf8(path)?)?)),
        EvalSource { text: Some(path), .. } => Ok(Eval::text(utf8(path)?)),
        EvalSource { text: None, ids: None } => anyhow::bail!("nothing to read: give --text FILE or --ids FILE"),
    }
}

fn token_ids(path: &Path, text: &str) -> anyhow::Result<Vec<u32>> {
    let mut ids = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for word in line.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
            let id = word.parse();
            ids.push(id.map_err(|_| anyhow::anyhow!("{} line {number}: {word:?} is no token id", path.display()))?);
        }
    }
    Ok(ids)
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("evaluating {bar:40} {pos} / {len} tokens  {eta}")
        .expect("the template is well formed");
    // Draws on standard error, and only on a terminal.
    ProgressBar::new(0).with_style(style)
}
