//! A generation run to its end: its text as it comes, then what there is to say about it.

use std::io::Write;

use qiao::{Generation, Stats};
use serde_json::json;

use crate::exit::Exit;
use crate::interrupt::{self, Guard};
use crate::load::Loaded;

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

/// The one object that `--json` writes.
pub(crate) fn to_json(answer: &Answer, loaded: &Loaded, device: &str) -> serde_json::Value {
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
        "device": device,
        "seed": answer.seed,
    })
}
