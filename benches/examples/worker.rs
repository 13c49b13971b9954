//! Qiao under the clock of `benches/peers`: loads a model once, then answers commands, one JSON object a line.
//!
//!     cargo run --release -p qiao-benches --example worker -- MODEL --threads 2 --context 2304
//!
//! `{"do":"prefill","tokens":512,"depth":0}` and `{"do":"decode","tokens":128,"depth":2048}` answer `{"seconds":…}`: the time
//! of a prompt after `depth` tokens, and of steps of one token each. What lies before is kept from command to command, and
//! run untimed where it is missing. `{"do":"quit"}` ends it. No token is chosen: ids are fixed, logits are computed.

#![forbid(unsafe_code)]

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

use qiao_core::Device;
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_engine::checkpoint::Checkpoint;
use qiao_engine::runner::{LoadOptions, LoadedModel};
use qiao_engine::session::Session;
use serde_json::{Value, json};

type Anything = Box<dyn std::error::Error>;

/// The token at a place of every prompt.
fn id(at: usize) -> u32 {
    100 + (at as u32 * 37) % 1000
}

fn ids(from: usize, count: usize) -> Vec<u32> {
    (from..from + count).map(id).collect()
}

/// Leaves exactly `depth` tokens in the cache.
fn reach(session: &mut Session, depth: usize) -> Result<(), Anything> {
    session.truncate(depth);
    let missing = depth - session.len();
    if missing > 0 {
        session.prefill(&ids(session.len(), missing), &|| false)?;
    }
    Ok(())
}

fn answer(session: &mut Session, command: &Value) -> Result<Value, Anything> {
    let number = |key: &str| command[key].as_u64().map(|n| n as usize).ok_or_else(|| format!("{key} is missing"));
    let (tokens, depth) = (number("tokens")?, number("depth")?);
    reach(session, depth)?;
    let prompt = ids(depth, tokens);
    let start = Instant::now();
    match command["do"].as_str() {
        Some("prefill") => _ = session.prefill(&prompt, &|| false)?,
        Some("decode") => {
            for id in prompt {
                session.step(id)?;
            }
        }
        _ => return Err(format!("{command} is no command: say prefill, decode or quit").into()),
    }
    Ok(json!({ "seconds": start.elapsed().as_secs_f64(), "tokens": tokens }))
}

fn main() -> Result<(), Anything> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1)?.parse().ok());
    let (Some(path), Some(context)) = (args.first(), option("--context")) else {
        return Err("usage: worker MODEL --context TOKENS [--threads N]".into());
    };
    let options = CpuOptions { threads: option("--threads"), ..CpuOptions::from_env()? };
    let device: Arc<dyn Device> = Arc::new(CpuDevice::with(&options)?);
    let start = Instant::now();
    let prepacked = qiao_images::folder("prepacked");
    let load = LoadOptions { context: Some(context), prepacked, ..LoadOptions::default() };
    let Checkpoint { path, config, weights, .. } = Checkpoint::open(path)?;
    let model = Arc::new(LoadedModel::load(device, &weights, config, &path, load, &mut |_| {})?);
    drop(weights);
    let mut session = Session::new(model.clone(), context)?;
    let say = |value: Value| writeln!(std::io::stdout(), "{value}");
    say(json!({
        "ready": true, "load_s": start.elapsed().as_secs_f64(), "device": model.device().info().arch,
        "weight_bytes": model.weight_bytes(), "step_weight_bytes": model.step_weight_bytes(), "compute": model.compute_dtype().to_string(),
        "cache": model.kv_dtype().to_string(), "mapped": model.packed_weights().mapped,
    }))?;
    for line in std::io::stdin().lock().lines() {
        let command: Value = serde_json::from_str(&line?)?;
        if command["do"] == "quit" {
            break;
        }
        say(answer(&mut session, &command)?)?;
    }
    Ok(())
}
