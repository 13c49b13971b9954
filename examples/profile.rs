//! Where the time of a generation goes, operator by operator.
//!
//! Run it:   cargo run --release -p qiao-examples --bin profile
//!           cargo run --release -p qiao-examples --bin profile -- ./Qwen2.5-0.5B 'Once upon a time'
//!
//! It shows: a device wrapped in another one, which the engine can't tell from a bare one; what became of every operator
//! on the device; and a table of kernels with their share of the time, bytes and operations per second. Each kernel is
//! timed by itself, so the whole is slower than a run without the wrapper.
#![forbid(unsafe_code)]

use qiao::{ModelOptions, Params};
use qiao_layers::Profile;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let profile = Profile::new(qiao::registry().open("cpu")?);
    let options = ModelOptions::new().on(profile.clone());
    let (model, prompt) = match args.next() {
        Some(path) => (options.load(path)?, args.next().unwrap_or_else(|| "Once upon a time".into())),
        None => (options.demo()?, "床前明月光".into()),
    };
    println!("{}\n", model.account()?);
    let mut generation = model.generate(prompt, &Params::new().max_tokens(64).temperature(0.0).ignore_eos(true))?;
    let text = generation.collect_all()?.text;
    println!("{text}\n\n{}", profile.times());
    Ok(())
}
