//! `qiao run`: text from a model, as it comes or as one JSON object.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use qiao::{Generation, Params, Prompt};

use crate::answer::{collect, to_json};
use crate::args::{Input, Run, Sampling, Where};
use crate::chat;
use crate::exit::{Exit, Usage};
use crate::load::{DEMO_PROMPT, load};

pub(crate) fn run(args: &Run, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let prompt = prompt(args)?;
    let loaded = load(args.model.as_deref(), &args.on)?;
    let mut params = params(&args.sampling);
    if let Some(seconds) = args.timeout {
        params = params.timeout(Duration::from_secs_f64(seconds));
    }
    let Some(prompt) = prompt else { return chat::chat(&loaded, &params, out) };
    let mut generation = match &args.session {
        Some(session) => loaded.model.resume(session, prompt, &params)?,
        None => loaded.model.generate(prompt, &params)?,
    };
    if let Some(most) = args.guesses.lookup {
        generation = generation.prompt_lookup(most as usize)?;
    }
    if let Some(draft) = &args.guesses.draft {
        // It has layers of its own number.
        let draft = load(Some(draft), &Where { split: None, ..args.on.clone() })?;
        generation = generation.draft_model(&draft.model, args.guesses.draft_tokens as usize)?;
    }
    if args.json {
        let answer = collect(&mut generation, &loaded, &mut std::io::sink())?;
        save(&mut generation, args)?;
        writeln!(out, "{}", to_json(&answer, &loaded, &args.on.device)?)?;
        return Ok(answer.exit());
    }
    let given = args.input.prompt.is_some() || args.input.token_ids.is_some() || args.session.is_some();
    if args.model.is_none() && !given {
        write!(out, "{DEMO_PROMPT}")?;
    }
    let answer = collect(&mut generation, &loaded, out)?;
    writeln!(out)?;
    out.flush()?;
    answer.tell(&loaded)?;
    save(&mut generation, args)?;
    Ok(answer.exit())
}

/// Keeps the session where that was asked for.
fn save(generation: &mut Generation, args: &Run) -> anyhow::Result<()> {
    if let Some(path) = &args.save_session {
        generation.save(path).with_context(|| format!("cannot keep the session in {}", path.display()))?;
    }
    Ok(())
}

/// What is continued; `None` for a conversation.
fn prompt(args: &Run) -> anyhow::Result<Option<Prompt>> {
    Ok(Some(match &args.input {
        Input { prompt: Some(text), .. } => Prompt::Text(text.clone()),
        Input { token_ids: Some(ids), .. } => Prompt::Tokens(ids.clone()),
        Input { chat: true, .. } => return Ok(None),
        _ if args.session.is_some() => Prompt::Tokens(Vec::new()),
        _ => match &args.model {
            None => Prompt::Text(DEMO_PROMPT.into()),
            Some(model) => {
                std::fs::metadata(model).with_context(|| format!("cannot open {}", model.display()))?;
                let why = "nothing to continue: give --prompt TEXT, --chat, --token-ids 1,2,3 or --session FILE";
                return Err(Usage(why.into()).into());
            }
        },
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
