//! `qiao run --chat`: every line of standard input is a turn; the end of input ends the conversation.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Context;
use qiao::{Message, Params, Prompt};

use crate::answer::collect;
use crate::exit::Exit;
use crate::load::Loaded;
use crate::terminal::{tell, tell_line};

pub(crate) fn chat(loaded: &Loaded, params: &Params, out: &mut dyn Write) -> anyhow::Result<Exit> {
    if !loaded.model.has_tokenizer() {
        anyhow::bail!("the checkpoint has no tokenizer.json: download it, or continue token ids with --token-ids");
    }
    if !loaded.model.has_chat_template() {
        anyhow::bail!("the checkpoint has no chat template: add chat_template.jinja, or continue a text with --prompt");
    }
    let stdin = std::io::stdin();
    let terminal = stdin.is_terminal();
    if terminal {
        tell_line("One line is a turn. Ctrl-D ends the conversation, Ctrl-C an answer and the command.");
    }
    let mut messages = Vec::new();
    let mut bytes = Vec::new();
    loop {
        if terminal {
            tell("> ");
        }
        bytes.clear();
        if stdin.lock().read_until(b'\n', &mut bytes).context("cannot read a turn from standard input")? == 0 {
            return Ok(Exit::Ok);
        }
        let Ok(line) = std::str::from_utf8(&bytes) else {
            tell_line("that line is not UTF-8 and is left out; give the turn again");
            continue;
        };
        if line.trim().is_empty() {
            continue;
        }
        messages.push(Message::new("user", line.trim()));
        let mut generation = loaded.model.generate(Prompt::Chat(messages.clone()), params)?;
        let answer = collect(&mut generation, loaded, out)?;
        writeln!(out)?;
        out.flush()?;
        answer.tell(loaded)?;
        if answer.exit() != Exit::Ok {
            return Ok(answer.exit());
        }
        messages.push(Message::new("assistant", answer.text));
    }
}
