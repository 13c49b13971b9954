//! `qiao plan`: what a device would make of a model, from its `config.json`.

use std::io::Write;

use qiao::ForecastOptions;
use qiao::core::DType;
use serde_json::Value;

use crate::args::Plan;
use crate::exit::{Exit, FALLBACK};
use crate::load::{present, require_one};

/// How limits come here that the device does not declare.
const PEAKS: &str = "--peaks FILE gives limits; qiao bench ops --peaks-out FILE measures them";

pub(crate) fn plan(args: &Plan, out: &mut dyn Write) -> anyhow::Result<Exit> {
    require_one(&args.device, "plan")?;
    present(&args.device)?;
    let peaks = args.peaks.as_ref().map(qiao::read_peaks).transpose()?;
    let options = ForecastOptions {
        batch: args.batch as usize,
        context: args.context.map(|n| n as usize),
        prompt: args.prompt.map(|n| n as usize),
        dtype: args.dtype.map(DType::from),
        peaks,
        policy: args.fallback.policy()?,
    };
    let device = qiao::registry().open(&args.device)?;
    let found = match &args.model {
        Some(path) => qiao::forecast(path, &device, &options)?,
        None => qiao::forecast_demo(&device, &options)?,
    };
    if args.json {
        let mut object = found.to_json();
        object["device_name"] = Value::from(args.device.clone());
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "{found}")?;
        if !found.supported() && !args.fallback.to_host() {
            writeln!(out, "{FALLBACK}.")?;
        }
        if found.peaks.bytes_per_s <= 0.0 && found.peaks.ops_per_s.is_empty() {
            writeln!(out, "{PEAKS}.")?;
        }
    }
    Ok(Exit::Ok)
}
