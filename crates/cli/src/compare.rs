//! `qiao compare`: a checkpoint on a device against golden logits, or against another device.

use std::io::Write;
use std::path::Path;

use qiao::Comparison;
use serde_json::{Value, json};

use crate::args::Compare;
use crate::exit::{Exit, Usage};
use crate::load::load;
use crate::lockstep::lockstep;
use crate::terminal::tell_line;

pub(crate) fn compare(args: &Compare, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match (&args.with.golden, &args.with.against) {
        (Some(golden), _) => with_golden(args, golden, out),
        (None, Some(against)) => lockstep(args, against, out),
        (None, None) => Err(Usage("nothing to compare with: give --golden FILE or --against NAME".into()).into()),
    }
}

fn with_golden(args: &Compare, golden: &Path, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let loaded = load(args.model.as_deref(), &args.on)?;
    let found = match &args.logits_out {
        Some(path) => qiao::compare_writing(&loaded.model, golden, None, path)?,
        None => qiao::compare(&loaded.model, golden, None)?,
    };
    if args.json {
        let mut object = serde_json::to_value(&found)?;
        object["device"] = Value::from(args.on.device.clone());
        object["load_s"] = json!(loaded.time.as_secs_f64());
        writeln!(out, "{object}")?;
    } else {
        write!(out, "{}", to_text(&found))?;
    }
    if found.passed {
        return Ok(Exit::Ok);
    }
    for failure in found.failures() {
        tell_line(&format!("past its limit: {failure}"));
    }
    Ok(Exit::OutOfLimits)
}

fn to_text(found: &Comparison) -> String {
    let limits = &found.limits;
    let at_most = |limit: f64| if limit.is_finite() { format!("at most {limit:.1e}") } else { "not judged".into() };
    let at_least = |limit: f64| if limit > 0.0 { format!("at least {limit}") } else { "not judged".into() };
    let share = |share: Option<f64>| share.map_or("not in the golden file".into(), |s| format!("{s:.4}"));
    let layer = match found.first_divergent_layer {
        Some(layer) => layer.to_string(),
        None if found.layers.is_empty() => "not in the golden file".into(),
        None => "none".into(),
    };
    let rows = [
        ("positions", found.positions.to_string(), String::new()),
        ("max abs error", format!("{:.3e}", found.max_abs_error), at_most(limits.max_abs_error)),
        ("max rel error", format!("{:.3e}", found.max_rel_error), at_most(limits.max_rel_error)),
        ("cosine", format!("{:.8}", found.cosine), at_least(limits.cosine)),
        ("KL divergence", format!("{:.3e}", found.kl), at_most(limits.kl)),
        ("top-1 agreement", share(Some(found.top1_agreement)), at_least(limits.top1_agreement)),
        ("greedy agreement", share(found.greedy_agreement), at_least(limits.greedy_agreement)),
        ("first divergent layer", layer, at_most(limits.layer_rel_error)),
    ];
    let mut text: String = rows
        .iter()
        .map(|(name, value, limit)| format!("{name:22} {value:>24}  {limit}").trim_end().to_string() + "\n")
        .collect();
    text.push_str(if found.passed { "passed\n" } else { "failed\n" });
    text
}
