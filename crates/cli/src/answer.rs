//! A generation run to its end: its text as it comes, then what there is to say about it.

use std::io::Write;

use qiao::{Account, Generation, HostWork, Line, Stats, Way};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::interrupt::{self, Guard};
use crate::load::Loaded;
use crate::terminal::tell_line;

/// What a generation gave until it ended or was stopped.
pub(crate) struct Answer {
    pub(crate) text: String,
    token_ids: Vec<u32>,
    stats: Stats,
    finish: &'static str,
    seed: u64,
    /// What ran on the host for it.
    host: HostWork,
}

/// Runs a generation to its end; its text goes to `out` piece by piece. A model without a tokenizer has no text: its token ids do,
/// with commas, as `--token-ids` takes them.
pub(crate) fn collect(generation: &mut Generation, loaded: &Loaded, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let _guard = Guard::new(generation.canceller());
    let before = loaded.model.host_work();
    let (mut text, mut token_ids) = (String::new(), Vec::new());
    for piece in generation.by_ref() {
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
    let host = loaded.model.host_work().since(before);
    Ok(Answer { text, token_ids, stats: generation.stats(), finish, seed: generation.seed(), host })
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

    /// The last lines for people: how it went, and what was not the device's work.
    pub(crate) fn tell(&self, loaded: &Loaded) -> anyhow::Result<()> {
        tell_line(&self.summary(loaded));
        if self.host.operators > 0 {
            tell_line(&self.on_host(loaded)?);
        }
        Ok(())
    }

    /// The share of the time that operators on the host took.
    fn host_share(&self) -> f64 {
        let all = (self.stats.prefill_time + self.stats.decode_time).as_secs_f64();
        if all > 0.0 { self.host.time.as_secs_f64() / all } else { 0.0 }
    }

    fn on_host(&self, loaded: &Loaded) -> anyhow::Result<String> {
        let account = loaded.model.account()?;
        let (count, of, hosted) = (account.on_host(), account.entries.len(), account.hosted());
        let name = if account.host.is_empty() { String::new() } else { format!(" {}", account.host) };
        Ok(format!(
            "on the host{name}: {count} of {of} operators of a token, {} bytes moved a token, {:.1} % of the time",
            hosted.down + hosted.up,
            100.0 * self.host_share()
        ))
    }

    fn summary(&self, loaded: &Loaded) -> String {
        let s = &self.stats;
        let restored = match s.restored_tokens {
            0 => String::new(),
            tokens => format!(" ({tokens} restored)"),
        };
        let guessed = match s.drafted_tokens {
            0 => String::new(),
            drafted => format!(" ({} of {drafted} guessed)", s.accepted_tokens),
        };
        let packed = if loaded.prepacked() { " prepacked" } else { "" };
        format!(
            "prompt {} tokens{restored}, {:.1} tokens/s; decode {} tokens{guessed}, {:.1} tokens/s; loaded{packed} in {:.2} s; ended by {}",
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
pub(crate) fn to_json(answer: &Answer, loaded: &Loaded, device: &str) -> anyhow::Result<Value> {
    let s = &answer.stats;
    let account = loaded.model.account()?;
    Ok(json!({
        "text": answer.text,
        "token_ids": answer.token_ids,
        "prompt_tokens": s.prompt_tokens,
        "restored_tokens": s.restored_tokens,
        "decode_tokens": s.decode_tokens,
        "drafted_tokens": s.drafted_tokens,
        "accepted_tokens": s.accepted_tokens,
        "prefill_tokens_per_s": s.prefill_tokens_per_s(),
        "decode_tokens_per_s": s.decode_tokens_per_s(),
        "load_s": loaded.time.as_secs_f64(),
        "prepacked": loaded.prepacked(),
        "finish_reason": answer.finish,
        "device": device,
        "seed": answer.seed,
        "account": account.lines().into_iter().map(line).collect::<Vec<_>>(),
        "on_host": on_host(answer, &account),
    }))
}

/// Operators of a token that share how and why they run so. Bytes are those of one token; the time is that of all decode steps.
fn line(line: Line<'_>) -> Value {
    let mut object = json!({ "op": line.entry.op, "count": line.count });
    match &line.entry.way {
        Way::Native { kernel } => {
            object["way"] = json!("native");
            object["kernel"] = json!(kernel);
        }
        Way::Decomposed { into, reason } => {
            object["way"] = json!("decomposed");
            object["into"] = into.iter().map(|piece| piece.op).collect();
            object["reason"] = json!(reason.to_string());
        }
        Way::Host { kernel, reason, .. } => {
            object["way"] = json!("host");
            object["kernel"] = json!(kernel);
            object["reason"] = json!(reason.to_string());
        }
    }
    if let Some(hosted) = line.hosted {
        object["bytes_down"] = json!(hosted.down);
        object["bytes_up"] = json!(hosted.up);
        object["host_ms"] = json!(hosted.time.as_secs_f64() * 1e3);
    }
    object
}

/// What ran on the host for this answer, its prompt included; null where nothing did.
fn on_host(answer: &Answer, account: &Account) -> Value {
    if answer.host.operators == 0 {
        return Value::Null;
    }
    let hosted = account.hosted();
    json!({
        "host": account.host,
        "operators": account.on_host(),
        "of": account.entries.len(),
        "bytes_down_per_token": hosted.down,
        "bytes_up_per_token": hosted.up,
        "bytes_down": answer.host.down,
        "bytes_up": answer.host.up,
        "seconds": answer.host.time.as_secs_f64(),
        "share": answer.host_share(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use qiao::core::noop::NoopDevice;
    use qiao::{ModelOptions, Params};

    use super::*;

    fn answered(options: ModelOptions) -> (Answer, Loaded) {
        let loaded = Loaded { model: options.demo().unwrap(), time: Duration::from_secs(1) };
        let params = Params::new().temperature(0.0).max_tokens(6).ignore_eos(true);
        let mut generation = loaded.model.generate("床前明月光", &params).unwrap();
        (collect(&mut generation, &loaded, &mut std::io::sink()).unwrap(), loaded)
    }

    #[test]
    fn what_ran_on_the_host_is_told_with_operators_bytes_and_share() {
        let (answer, loaded) = answered(ModelOptions::new().on(Arc::new(NoopDevice::default())).host_fallback());
        let line = answer.on_host(&loaded).unwrap();
        let of = loaded.model.account().unwrap().entries.len();
        assert!(
            line.starts_with("on the host ") && line.contains(&format!(": {of} of {of} operators of a token, ")),
            "{line}"
        );
        assert!(answer.host_share() > 0.0 && answer.host_share() <= 1.0, "{line}");
        let json = to_json(&answer, &loaded, "noop").unwrap();
        let lines = json["account"].as_array().unwrap();
        assert!(lines.iter().all(|l| l["way"] == "host" && l["reason"] == "no kernel for this operator"), "{json}");
        assert!(lines.iter().all(|l| l["host_ms"].as_f64() > Some(0.0) && l["bytes_down"].is_u64()), "{json}");
        assert_eq!(lines.iter().map(|l| l["count"].as_u64().unwrap()).sum::<u64>(), of as u64);
        let up: u64 = lines.iter().map(|l| l["bytes_up"].as_u64().unwrap()).sum();
        assert_eq!(
            (json["on_host"]["operators"].as_u64(), json["on_host"]["of"].as_u64()),
            (Some(of as u64), Some(of as u64))
        );
        assert_eq!(json["on_host"]["bytes_up_per_token"], up);
        assert_eq!(
            json["on_host"]["bytes_up"],
            6 * up,
            "five steps and a prompt, each of which gives logits of one token"
        );
    }

    #[test]
    fn a_device_that_needs_no_help_says_so() {
        let (answer, loaded) = answered(ModelOptions::new().host_fallback());
        let json = to_json(&answer, &loaded, "cpu").unwrap();
        assert_eq!(json["on_host"], Value::Null);
        assert!(json["account"].as_array().unwrap().iter().all(|l| l["way"] == "native" && l.get("host_ms").is_none()));
    }
}
