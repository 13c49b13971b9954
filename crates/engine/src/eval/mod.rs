//! How good a model is on a text: perplexity, and how far its distributions are from those of a base model.
//!
//! - The text is cut into chunks of `n_ctx` tokens; what is left over at its end is not used. Where the tokenizer puts a BOS before
//!   every text, it takes the place of a chunk's first token. Nothing is carried from chunk to chunk.
//! - The token after each of the positions `n_ctx/2` to `n_ctx − 2` is scored, so that every one has a context; these are the
//!   chunks and positions of llama.cpp's `perplexity`.
//! - Figures are computed in f64 from f32 logits over the whole vocabulary. Nothing is clipped.
//! - Two models run piece by piece in step, so that the logits of no more than a piece are held.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::error::{EngineError, Result};
use crate::runner::{LoadedModel, PREFILL_CHUNK};
use crate::session::Session;

mod score;
mod show;
mod summary;

pub use summary::{Against, Chunking, Evaluation, Perplexity, Spread, Uncertain};

use score::{Row, score};

/// Tokens of a chunk that is given no size.
pub const DEFAULT_CONTEXT: usize = 512;

/// Logits of one model that are held at once, in elements.
const ROWS_BUDGET: usize = 1 << 24;

/// What is evaluated, and how much of it.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The token ids of the text.
    pub ids: &'a [u32],
    /// The token that takes the place of the first of each chunk.
    pub bos: Option<u32>,
    /// Tokens of a chunk, at least 4.
    pub context: usize,
    /// The most chunks, from the start of the text; `None` = all.
    pub chunks: Option<usize>,
}

impl Plan<'_> {
    /// The chunks of a plan.
    ///
    /// # Errors
    /// A chunk that is too small to score anything, a text that does not fill one, no chunks.
    pub fn chunking(&self) -> Result<Chunking> {
        let context = self.context;
        let refuse = |found: String, mend: &'static str| Err(EngineError::Evaluation { found, mend });
        if context < 4 {
            return refuse(format!("a chunk of {context} tokens"), "give chunks of at least 4 tokens");
        }
        let whole = self.ids.len() / context;
        if whole == 0 {
            let found = format!("the text has {} tokens, and a chunk has {context}", self.ids.len());
            return refuse(found, "give a longer text, or smaller chunks");
        }
        let chunks = whole.min(self.chunks.unwrap_or(whole));
        if chunks == 0 {
            return refuse("0 chunks were asked for".into(), "ask for at least 1");
        }
        Ok(Chunking {
            context,
            first_scored: context / 2,
            scored_per_chunk: context - 1 - context / 2,
            chunks,
            chunks_of_text: whole,
            tokens_of_text: self.ids.len(),
            bos: self.bos,
        })
    }
}

/// Evaluates a model, against a base model where one is given. `progress` is told tokens done and tokens in all; where
/// `cancelled` says so, the figures are those of the chunks done until then, and `None` where no chunk was.
///
/// # Errors
/// Those of [`Plan::chunking`]; ids outside the vocabulary, vocabularies of different sizes, a chunk beyond a model's context,
/// all before anything runs; logits that are not numbers; the devices' own.
pub fn evaluate(
    model: &Arc<LoadedModel>,
    base: Option<&Arc<LoadedModel>>,
    plan: &Plan<'_>,
    cancelled: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<Evaluation>> {
    let start = Instant::now();
    let chunking = plan.chunking()?;
    check(model, base, plan)?;
    let mut pair = Pair {
        model: Session::new(model.clone(), chunking.context)?,
        base: base.map(|base| Session::new(base.clone(), chunking.context)).transpose()?,
        vocab: model.spec().vocab,
    };
    let total = chunking.chunks * chunking.context;
    let mut rows: Vec<Row> = Vec::new();
    let mut done = 0;
    progress(0, total);
    for text in plan.ids.chunks_exact(chunking.context).take(chunking.chunks) {
        let mut ids = text.to_vec();
        if let Some(bos) = plan.bos {
            ids[0] = bos;
        }
        let at = done * chunking.context;
        match pair.chunk(&ids, chunking.first_scored, cancelled, &mut |tokens| progress(at + tokens, total))? {
            Some(scored) => rows.extend(scored),
            None => break,
        }
        done += 1;
        progress(done * chunking.context, total);
    }
    let interrupted = done < chunking.chunks;
    let seconds = start.elapsed().as_secs_f64();
    let chunking = Chunking { chunks: done, ..chunking };
    Ok((done > 0).then(|| Evaluation::new(chunking, &rows, base.is_some(), seconds, interrupted)))
}

fn check(model: &LoadedModel, base: Option<&Arc<LoadedModel>>, plan: &Plan<'_>) -> Result<()> {
    let vocab_size = model.spec().vocab;
    if let Some(base) = base
        && base.spec().vocab != vocab_size
    {
        return Err(EngineError::Evaluation {
            found: format!("the model has a vocabulary of {vocab_size} tokens, its base one of {}", base.spec().vocab),
            mend: "distributions can be compared over the same vocabulary only: give the base that the model was made from",
        });
    }
    if let Some(&id) = plan.ids.iter().chain(&plan.bos).find(|&&id| id as usize >= vocab_size) {
        return Err(EngineError::TokenOutOfRange { id, vocab_size });
    }
    Ok(())
}

/// The model and its base, each with one sequence.
struct Pair {
    model: Session,
    base: Option<Session>,
    vocab: usize,
}

impl Pair {
    /// Runs a chunk from an empty cache and scores it; `None` when cancelled.
    fn chunk(
        &mut self,
        ids: &[u32],
        first: usize,
        cancelled: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Option<Vec<Row>>> {
        let (total, last) = (ids.len(), ids.len() - 1);
        self.model.truncate(0);
        if let Some(base) = &mut self.base {
            base.truncate(0);
        }
        let mut rows = Vec::with_capacity(last - first);
        let piece = (ROWS_BUDGET / self.vocab.max(1)).clamp(1, PREFILL_CHUNK);
        let read = (0..first).step_by(PREFILL_CHUNK).map(|at| (at, first.min(at + PREFILL_CHUNK), false));
        let scored = (first..last).step_by(piece).map(|at| (at, last.min(at + piece), true));
        for (from, to, scored) in read.chain(scored) {
            if cancelled() {
                return Ok(None);
            }
            let count = if scored { to - from } else { 0 };
            let base = match &mut self.base {
                Some(base) => Some(base.append(&ids[from..to], count, total)?),
                None => None,
            };
            let logits = self.model.append(&ids[from..to], count, total)?;
            if scored {
                rows.extend(score_all(logits, base, self.vocab, &ids[from + 1..=to])?);
            }
            progress(to);
        }
        Ok(Some(rows))
    }
}

/// Scores rows of logits by the tokens that come after them, over the threads of the machine.
fn score_all(logits: &[f32], base: Option<&[f32]>, vocab: usize, next: &[u32]) -> Result<Vec<Row>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = next.len().div_ceil(threads).max(1);
    let row = |i: usize| {
        let range = i * vocab..(i + 1) * vocab;
        score(&logits[range.clone()], base.map(|base| &base[range]), next[i])
    };
    let part = |at: usize| (at..next.len().min(at + share)).map(row).collect::<Result<Vec<Row>>>();
    thread::scope(|scope| {
        let part = &part;
        let parts: Vec<_> = (0..next.len()).step_by(share).map(|at| scope.spawn(move || part(at))).collect();
        let mut rows = Vec::with_capacity(next.len());
        for part in parts {
            rows.extend(part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(rows)
    })
}

#[cfg(test)]
mod tests;
