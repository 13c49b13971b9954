//! Tokens to a stream of text: prefill, choose, detokenise, look for the end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{EngineError, Result};
use crate::generation::SamplingParams;
use crate::sampler::Sampler;
use crate::serve::{Proposer, Want, is_out};
use crate::session::Session;
use crate::sides::Deadline;
use crate::text::{Prompt, TextModel};
use crate::voice::{Speech, Voice};

pub use crate::voice::{FinishReason, Piece};

/// How a generation went so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that did not run, as a saved session held them.
    pub restored_tokens: usize,
    /// Tokens generated.
    pub decode_tokens: usize,
    /// Time until the prompt's last logits were there.
    pub prefill_time: Duration,
    /// Time of the decode steps, choosing included: every token after the first takes one, unless it was guessed ahead.
    pub decode_time: Duration,
    /// Tokens that were guessed ahead.
    pub drafted_tokens: usize,
    /// Those of them that the text goes on with.
    pub accepted_tokens: usize,
    /// Time that loading the model took.
    pub load_time: Duration,
}

impl Stats {
    /// Prompt tokens that ran per second; 0 before the prompt has run.
    pub fn prefill_tokens_per_s(&self) -> f64 {
        per_second(self.prompt_tokens.saturating_sub(self.restored_tokens), self.prefill_time)
    }

    /// Generated tokens after the first, per second; 0 before the second.
    pub fn decode_tokens_per_s(&self) -> f64 {
        per_second(self.decode_tokens.saturating_sub(1), self.decode_time)
    }
}

fn per_second(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// Ends a generation from any thread, at its next step.
#[derive(Clone, Debug, Default)]
pub struct Canceller {
    flag: Arc<AtomicBool>,
}

impl Canceller {
    /// Asks the generation to end.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to end.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}

enum State {
    /// The prompt has not run.
    Prompt(Vec<u32>),
    /// This token was given out and has not run.
    Token(u32),
    Done,
}

/// Who guesses tokens ahead, and what came of the last guess.
struct Guesses {
    proposer: Box<dyn Proposer>,
    /// Most tokens of a guess.
    most: usize,
    run: Option<Ahead>,
}

/// Tokens that ran before they were chosen.
struct Ahead {
    /// Tokens of the session before the first of them.
    start: usize,
    ids: Vec<u32>,
    /// Logits before and after each of them, `[ids + 1, vocab]`.
    rows: Vec<f32>,
    /// How many of them were chosen after all.
    right: usize,
}

/// One generation: an iterator over pieces of text, with a cache and a stream of its own. Dropping it ends it, and waits for
/// nothing.
///
/// After any error of the device it is over; one that does not answer within [`SamplingParams::timeout`] is such an error.
pub struct Generation {
    text: Arc<TextModel>,
    session: Session,
    sampler: Sampler,
    voice: Voice,
    canceller: Canceller,
    state: State,
    /// The last token of the text, which has not run.
    unrun: Option<u32>,
    guesses: Option<Guesses>,
    finish: Option<FinishReason>,
    stats: Stats,
}

impl Generation {
    /// Starts a generation. Nothing runs before its first piece is asked for.
    ///
    /// # Errors
    /// A prompt that [`TextModel::encode`] refuses, is empty, has ids outside the vocabulary or does not fit into the context;
    /// parameters outside their range; stop strings without a tokenizer; no room on the device for the cache.
    pub fn new(text: Arc<TextModel>, prompt: &Prompt, params: SamplingParams) -> Result<Generation> {
        let prompt = text.encode(prompt)?;
        let model = text.model().clone();
        let wanted = prompt.len().saturating_add(params.max_tokens);
        let session = Session::until(model.clone(), wanted.min(model.context()), Deadline::after(params.timeout))?;
        Generation::within(text, session, prompt, params)
    }

    /// Starts a generation that goes on from a session's file ([`Generation::save`]). Text and token ids come after the tokens of
    /// the file, text without the special tokens that the tokenizer puts around one; none at all go on where the file ends. Of a
    /// conversation, which is given whole, that runs which the file does not begin with.
    ///
    /// # Errors
    /// As [`Generation::new`] and [`Session::restore`].
    pub fn resume(text: Arc<TextModel>, path: &Path, prompt: &Prompt, params: SamplingParams) -> Result<Generation> {
        let (is_whole, given) = match prompt {
            Prompt::Text(more) if more.is_empty() => (false, Vec::new()),
            Prompt::Text(more) => (false, text.tokenizer()?.encode(more, false)?),
            Prompt::Tokens(ids) => (false, ids.clone()),
            Prompt::Chat(_) => (true, text.encode(prompt)?),
        };
        let model = text.model().clone();
        let room = |saved: usize| {
            let before = if is_whole { 0 } else { saved };
            before.saturating_add(given.len()).saturating_add(params.max_tokens).min(model.context())
        };
        let deadline = Deadline::after(params.timeout);
        let mut session = Session::restore_with(model.clone(), path, deadline, &room)?;
        let prompt = if is_whole { given } else { [session.tokens(), &given[..]].concat() };
        let same = session.tokens().iter().zip(&prompt).take_while(|(a, b)| a == b).count();
        // The last token runs again where it is all there: its logits were not saved.
        session.truncate(same.min(prompt.len().saturating_sub(1)));
        Generation::within(text, session, prompt, params)
    }

    /// A generation in a session that holds the beginning of the prompt.
    fn within(
        text: Arc<TextModel>,
        session: Session,
        mut prompt: Vec<u32>,
        params: SamplingParams,
    ) -> Result<Generation> {
        let held = session.len();
        session.check(&prompt[held..])?;
        let mut sampler = Sampler::new(params, &prompt)?;
        sampler.mask(text.undecodable().to_vec());
        if !sampler.params().stop.is_empty() {
            text.tokenizer()?;
        }
        let voice = Voice::new(&Speech::try_from(&*text)?, sampler.params())?;
        let load_time = text.model().load_time();
        let stats = Stats { prompt_tokens: prompt.len(), restored_tokens: held, load_time, ..Default::default() };
        Ok(Generation {
            text,
            session,
            sampler,
            voice,
            canceller: Canceller::default(),
            state: State::Prompt(prompt.split_off(held)),
            unrun: None,
            guesses: None,
            finish: None,
            stats,
        })
    }

    /// Guesses at most so many tokens ahead, and runs them together with the one before. Where the device is batch-invariant the
    /// text is that without guesses, to the token, whatever the temperature; on others it differs where two tokens are nearly
    /// as likely.
    ///
    /// No wait for a guess lasts beyond the time of the request, and a proposer that is lost or hangs is not asked again.
    ///
    /// # Errors
    /// A model whose rotary frequencies depend on the length of a sequence.
    pub fn guess(mut self, mut proposer: Box<dyn Proposer>, most: usize) -> Result<Generation> {
        if self.session.model().rope().depends_on_length() {
            return Err(EngineError::Parameter {
                name: "rope_scaling of config.json",
                expected: "one that gives sequences of every length the same frequencies, where tokens are guessed ahead",
                found: "one that depends on the length; generate without guesses".to_string(),
            });
        }
        proposer.set_deadline(self.session.deadline());
        self.guesses = Some(Guesses { proposer, most, run: None });
        Ok(self)
    }

    /// Writes what ran of the prompt and the text so far to a session's file, with their keys and values; [`Generation::resume`]
    /// goes on from there. The text's last token runs once more often for it; it is left out where the context is full. The file is
    /// there whole, or what was there before.
    ///
    /// # Errors
    /// The file can't be written; the device's own; the time of the request is over.
    pub fn save(&mut self, path: &Path) -> Result<()> {
        self.settle();
        let len = self.session.len();
        if let Some(id) = self.unrun.filter(|_| len < self.session.capacity()) {
            self.session.step(id)?;
        }
        let saved = self.session.save(path);
        self.session.truncate(len);
        saved
    }

    /// What ends this generation from elsewhere.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// How it went so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Why it ended; `None` while it goes on, or when it failed.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// The model that generates.
    pub fn text_model(&self) -> &Arc<TextModel> {
        &self.text
    }

    /// Takes one step; a piece when there is something to give out.
    fn advance(&mut self) -> Result<Option<Piece>> {
        if self.voice.left() == 0 {
            return Ok(self.end(FinishReason::Length));
        }
        if self.canceller.is_cancelled() {
            return Ok(self.end(FinishReason::Cancelled));
        }
        let Some(id) = self.next_token()? else {
            return Ok(self.end(FinishReason::Cancelled));
        };
        let full = self.len() >= self.session.capacity();
        let spoken = self.voice.spoken();
        let ended = self.voice.hear(id, full);
        self.stats.decode_tokens = self.voice.spoken();
        self.unrun = Some(id).filter(|_| self.voice.spoken() > spoken);
        if let Some(reason) = ended {
            return Ok(self.end(reason));
        }
        self.state = State::Token(id);
        Ok(self.voice.give())
    }

    /// Tokens that ran and are a part of the text.
    fn len(&self) -> usize {
        let ahead = self.guesses.as_ref().and_then(|g| g.run.as_ref());
        ahead.map_or(self.session.len(), |ahead| ahead.start + ahead.right)
    }

    /// Forgets what was guessed and is no part of the text.
    fn settle(&mut self) {
        self.session.truncate(self.len());
        if let Some(guesses) = &mut self.guesses {
            guesses.run = None;
        }
    }

    /// Runs a token, and what may come after it; nothing where it ran as a guess.
    fn run(&mut self, id: u32) -> Result<()> {
        let Some(guesses) = &mut self.guesses else { return self.session.step(id).map(drop) };
        if let Some(ahead) = guesses.run.as_mut().filter(|ahead| ahead.ids.get(ahead.right) == Some(&id)) {
            ahead.right += 1;
            self.stats.accepted_tokens += 1;
            return Ok(());
        }
        self.settle();
        let ids = self.guessed(id);
        let start = self.session.len() + 1;
        let rows = self.session.append(&[&[id], &ids[..]].concat(), ids.len() + 1, start + ids.len())?.to_vec();
        self.stats.drafted_tokens += ids.len();
        if let Some(guesses) = &mut self.guesses {
            guesses.run = Some(Ahead { start, ids, rows, right: 0 });
        }
        Ok(())
    }

    /// What may come after a token that has not run. A proposer that fails costs its guess and nothing else; one that is out is let
    /// go.
    fn guessed(&mut self, id: u32) -> Vec<u32> {
        let room = (self.session.capacity() - self.session.len()).min(self.voice.left()).saturating_sub(1);
        let Some(guesses) = &mut self.guesses else { return Vec::new() };
        let most = guesses.most.min(room);
        if most == 0 {
            return Vec::new();
        }
        let tokens = [self.session.tokens(), &[id]].concat();
        let want = Want { sequence: 0, tokens: &tokens, most, sampler: &self.sampler };
        let mut ids = match guesses.proposer.propose(&[want]) {
            Ok(all) => all.into_iter().next().unwrap_or_default(),
            Err(error) => {
                if is_out(&error) {
                    self.guesses = None;
                }
                return Vec::new();
            }
        };
        let vocab = self.session.model().spec().vocab;
        ids.truncate(ids.iter().take(most).take_while(|id| (**id as usize) < vocab).count());
        ids
    }

    /// Runs what has not run and chooses the next token; `None` when cancelled between chunks of the prompt.
    fn next_token(&mut self) -> Result<Option<u32>> {
        let start = Instant::now();
        let state = std::mem::replace(&mut self.state, State::Done);
        let canceller = &self.canceller;
        let logits = match &state {
            State::Prompt(ids) => match self.session.prefill(ids, &|| canceller.is_cancelled())? {
                Some(logits) => logits,
                None => return Ok(None),
            },
            State::Token(id) => {
                self.run(*id)?;
                let vocab = self.session.model().spec().vocab;
                match self.guesses.as_ref().and_then(|g| g.run.as_ref()) {
                    Some(ahead) => &ahead.rows[ahead.right * vocab..][..vocab],
                    None => self.session.logits(),
                }
            }
            State::Done => return Ok(None),
        };
        if matches!(state, State::Prompt(_)) {
            self.stats.prefill_time = start.elapsed();
        }
        let id = self.sampler.next(logits, self.voice.forbidden())?;
        if matches!(state, State::Token(_)) {
            self.stats.decode_time += start.elapsed();
        }
        Ok(Some(id))
    }

    /// Ends the stream; the last piece holds what was held back.
    fn end(&mut self, reason: FinishReason) -> Option<Piece> {
        self.settle();
        self.state = State::Done;
        self.finish = Some(reason);
        let last = self.voice.finish();
        (last != Piece::default()).then_some(last)
    }
}

impl Iterator for Generation {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        while !matches!(self.state, State::Done) {
            match self.advance() {
                Ok(Some(piece)) => return Some(Ok(piece)),
                Ok(None) => {}
                Err(error) => {
                    self.state = State::Done;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
