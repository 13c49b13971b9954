//! Text from a checkpoint, as an embedder writes it.
//!
//! Run it:   cargo run --release -p qiao-examples --bin generate
//!           cargo run --release -p qiao-examples --bin generate -- ./Qwen2.5-0.5B 'Once upon a time'
//!
//! It shows: loading a model (the embedded demo without arguments), streaming its text, and what the run cost.
#![forbid(unsafe_code)]

use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (model, prompt) = match args.next() {
        Some(path) => (qiao::Model::load(path)?, args.next().unwrap_or_else(|| "Once upon a time".into())),
        None => (qiao::Model::demo()?, "床前明月光".into()),
    };
    print!("{prompt}");
    let mut generation = model.generate(prompt, &qiao::Params::new())?;
    for piece in &mut generation {
        print!("{}", piece?.text);
        std::io::stdout().flush()?;
    }
    let stats = generation.stats();
    println!("\n{} tokens at {:.1} tokens/s", stats.decode_tokens, stats.decode_tokens_per_s());
    Ok(())
}
