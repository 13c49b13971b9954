//! `qiao compare --against`: two devices in lock step.

use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};
use qiao::core::DType;
use qiao::{LockStep, Prompt};
use serde_json::Value;

use crate::args::{Compare, Fed};
use crate::exit::{Exit, Usage};
use crate::load::{DEMO_PROMPT, present, require_one};

pub(crate) fn lockstep(args: &Compare, against: &str, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let prompt = match &args.fed {
        Fed { prompt: Some(text), .. } => Prompt::Text(text.clone()),
        Fed { token_ids: Some(ids), .. } => Prompt::Tokens(ids.clone()),
        _ if args.model.is_none() => Prompt::Text(DEMO_PROMPT.into()),
        _ => return Err(Usage("nothing to read: give --prompt TEXT or --token-ids 1,2,3".into()).into()),
    };
    if args.on.kv_dtype.is_some() {
        let why =
            "two devices in lock step keep keys and values in the compute dtype: leave out --kv-dtype, or give --dtype";
        return Err(Usage(why.into()).into());
    }
    for names in [&args.on.device, against] {
        require_one(names, "compare --against")?;
        present(names)?;
    }
    let devices = qiao::registry();
    let (device, trusted) = (devices.open(&args.on.device)?, devices.open(against)?);
    let bar = bar();
    let shown = bar.clone();
    let run = LockStep::new(prompt)
        .tokens(args.fed.tokens as usize)
        .dtype(args.on.dtype.map(DType::from))
        .context(args.on.context.map(|n| n as usize))
        .on_progress(move |done, total| {
            shown.set_length(total as u64);
            shown.set_position(done as u64);
        });
    let run = if args.on.fallback.to_host() { run.host_fallback() } else { run };
    let found = match &args.model {
        Some(path) => run.run(path, &device, &trusted),
        None => run.demo(&device, &trusted),
    };
    bar.finish_and_clear();
    let found = found?;
    if args.json {
        let mut object = found.to_json();
        object["device_name"] = Value::from(args.on.device.clone());
        object["against_name"] = Value::from(against);
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "{found}")?;
    }
    Ok(if found.agrees() { Exit::Ok } else { Exit::Failure })
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("comparing {bar:40} {pos} / {len} tokens  {eta}")
        .expect("the template is well formed");
    // Draws on standard error, and only on a terminal.
    ProgressBar::new(0).with_style(style)
}
