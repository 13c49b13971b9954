//! `qiao run`: text from a model, as it comes or as one JSON object.

use std::io::Write;

use qiao::{Generation, Params, Prompt, Stats};
use serde_json::json;

use crate::args::{Input, Run, Sampling};
use crate::chat;
use crate::exit::{Exit, Usage};
use crate::interrupt::{self, Guard};
use crate::load::{Loaded, load};
use crate::terminal::tell_line;

/// What the demo model continues when nothing else is asked for.
const DEMO_PROMPT: &str = "床前明月光";

pub(crate) fn run(args: &Run, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let prompt = prompt(args)?;
    let loaded = load(args.model.as_deref(), &args.on)?;
    let params = params(&args.sampling);
    let Some(prompt) = prompt else { return chat::chat(&loaded, &params, out) };
    let generation = loaded.model.generate(prompt, &params)?;
    if args.json {
        let answer = collect(generation, &loaded, &mut std::io::sink())?;
        writeln!(out, "{}", to_json(&answer, &loaded, args))?;
        return Ok(answer.exit());
    }
    if args.model.is_none() && args.input.prompt.is_none() && args.input.token_ids.is_none() {
        write!(out, "{DEMO_PROMPT}")?;
    }
    let answer = collect(generation, &loaded, out)?;
    writeln!(out)?;
    out.flush()?;
    tell_line(&answer.summary(&loaded));
    Ok(answer.exit())
}

/// What is continued; `None` for a conversation.
fn prompt(args: &Run) -> Result<Option<Prompt>, Usage> {
    Ok(Some(match &args.input {
        Input { prompt: Some(text), .. } => Prompt::Text(text.clone()),
        Input { token_ids: Some(ids), .. } => Prompt::Tokens(ids.clone()),
        Input { chat: true, .. } => return Ok(None),
        _ if args.model.is_none() => Prompt::Text(DEMO_PROMPT.into()),
        _ => return Err(Usage("nothing to continue: give --prompt TEXT, --chat or --token-ids 1,2,3".into())),
    }))
}

/// What the command line says; the rest is the checkpoint's.
fn params(given: &Sampling) -> Params {
    /// Sets one parameter where it was given.
    fn with<T: Copy>(params: Params, value: Option<T>, set: fn(Params, T) -> Params) -> Params {
        match value {
            Some(value) => set(params, value),
            None => params,
        }
    }
    let params = Params::new().ignore_eos(given.ignore_eos);
    let params = with(params, given.max_tokens, Params::max_tokens);
    let params = with(params, given.temperature, Params::temperature);
    let params = with(params, given.top_k, Params::top_k);
    let params = with(params, given.top_p, Params::top_p);
    let params = with(params, given.min_p, Params::min_p);
    let params = with(params, given.repetition_penalty, Params::repetition_penalty);
    let params = with(params, given.presence_penalty, Params::presence_penalty);
    let params = with(params, given.frequency_penalty, Params::frequency_penalty);
    let params = with(params, given.seed, Params::seed);
    given.stop.iter().fold(params, Params::stop)
}

/// What a generation gave until it ended or was stopped.
pub(crate) struct Answer {
    pub(crate) text: String,
    token_ids: Vec<u32>,
    stats: Stats,
    finish: &'static str,
    seed: u64,
}

/// Runs a generation to its end; its text goes to `out` piece by piece. A model without a tokenizer has no text: its token ids do,
/// with commas, as `--token-ids` takes them.
pub(crate) fn collect(mut generation: Generation, loaded: &Loaded, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let _guard = Guard::new(generation.canceller());
    let (mut text, mut token_ids) = (String::new(), Vec::new());
    for piece in &mut generation {
        let piece = piece?;
        match loaded.model.has_tokenizer() {
            true => out.write_all(piece.text.as_bytes())?,
            false => write_ids(&piece.token_ids, token_ids.is_empty(), out)?,
        }
        out.flush()?;
        text.push_str(&piece.text);
        token_ids.extend(piece.token_ids);
    }
    let finish = generation.finish_reason().map_or("unknown", |reason| reason.name());
    Ok(Answer { text, token_ids, stats: generation.stats(), finish, seed: generation.seed() })
}

fn write_ids(ids: &[u32], first: bool, out: &mut dyn Write) -> std::io::Result<()> {
    for (i, id) in ids.iter().enumerate() {
        write!(out, "{}{id}", if first && i == 0 { "" } else { "," })?;
    }
    Ok(())
}

impl Answer {
    pub(crate) fn exit(&self) -> Exit {
        if interrupt::pressed() { Exit::Interrupted } else { Exit::Ok }
    }

    /// The last line for people.
    pub(crate) fn summary(&self, loaded: &Loaded) -> String {
        let s = &self.stats;
        format!(
            "prompt {} tokens, {:.1} tokens/s; decode {} tokens, {:.1} tokens/s; loaded in {:.2} s; ended by {}",
            s.prompt_tokens,
            s.prefill_tokens_per_s(),
            s.decode_tokens,
            s.decode_tokens_per_s(),
            loaded.time.as_secs_f64(),
            self.finish
        )
    }
}

fn to_json(answer: &Answer, loaded: &Loaded, args: &Run) -> serde_json::Value {
    let s = &answer.stats;
    json!({
        "text": answer.text,
        "token_ids": answer.token_ids,
        "prompt_tokens": s.prompt_tokens,
        "decode_tokens": s.decode_tokens,
        "prefill_tokens_per_s": s.prefill_tokens_per_s(),
        "decode_tokens_per_s": s.decode_tokens_per_s(),
        "load_s": loaded.time.as_secs_f64(),
        "finish_reason": answer.finish,
        "device": args.on.device,
        "seed": answer.seed,
    })
}
