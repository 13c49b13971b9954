//! A conversation, one line of standard input a turn.
//!
//! Run it:   cargo run --release -p qiao-examples --bin chat -- ./Qwen2.5-0.5B-Instruct
//!           echo 床前 | cargo run --release -p qiao-examples --bin chat
//!
//! It shows: messages through the checkpoint's own chat template, sampling with a seed, and an answer cut short from
//! another thread: here a clock that lets no answer take longer than a minute. Without an argument the demo model answers,
//! which knows verses and nothing else.
#![forbid(unsafe_code)]

use std::io::{BufRead, Write};
use std::time::Duration;

use qiao::{Message, Model, Params, Prompt};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = match std::env::args().nth(1) {
        Some(path) => Model::load(path)?,
        None => Model::demo()?,
    };
    let params = Params::new().temperature(0.7).top_p(0.9).seed(1).max_tokens(512);
    let mut messages = vec![Message::new("system", "You are a helpful assistant.")];
    for line in std::io::stdin().lock().lines() {
        messages.push(Message::new("user", line?));
        let mut generation = model.generate(Prompt::Chat(messages.clone()), &params)?;
        let canceller = generation.canceller();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(60));
            canceller.cancel();
        });
        let mut answer = String::new();
        for piece in &mut generation {
            let piece = piece?;
            print!("{}", piece.text);
            std::io::stdout().flush()?;
            answer.push_str(&piece.text);
        }
        println!();
        messages.push(Message::new("assistant", answer));
    }
    Ok(())
}
