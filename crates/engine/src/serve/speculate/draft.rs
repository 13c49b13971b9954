//! What a smaller model would say.

use std::collections::HashMap;

use qiao_core::Error;
use qiao_kvcache::{Cache, Config, SequenceId};

use crate::entry::Entry;
use crate::error::{EngineError, Result};
use crate::serve::executor::Executor;
use crate::serve::propose::{Proposer, Want, is_out};
use crate::sides::Deadline;

/// Guesses what a smaller model of the same vocabulary chooses, with the sampler and the uniform numbers of the sequence itself:
/// where the two models agree about the probabilities they choose the same.
///
/// It has a pool of pages of its own; where that is full, sequences of which nobody asks lose their places first.
pub struct DraftModel {
    executor: Box<dyn Executor>,
    cache: Cache,
    /// Its sequence for each of the samples, and when it was last asked for.
    places: HashMap<u64, (SequenceId, u64)>,
    asked: u64,
}

/// One want on its way: what the draft model has yet to run of it, and what was chosen so far.
struct Draft<'a> {
    sequence: SequenceId,
    /// The text and the guesses behind it.
    tokens: Vec<u32>,
    text: usize,
    most: usize,
    sampler: crate::sampler::Sampler,
    want: &'a Want<'a>,
}

impl DraftModel {
    /// A draft model on an executor of its own, for a model of `vocab` logits.
    ///
    /// # Errors
    /// Another number of logits; a pool too small for anything.
    pub fn new(executor: Box<dyn Executor>, vocab: usize) -> Result<DraftModel> {
        let limits = executor.limits();
        if limits.vocab != vocab {
            return Err(EngineError::Parameter {
                name: "draft model",
                expected: "one with the vocabulary of the model that it drafts for",
                found: format!("{} logits in place of {vocab}", limits.vocab),
            });
        }
        let cache = Cache::new(Config {
            blocks: limits.blocks,
            block_size: limits.block_size,
            block_bytes: limits.block_bytes,
            window: limits.window,
            sharing: false,
        });
        let cache = cache.map_err(|e| Error::invalid("cache of the draft model", e.to_string(), "make it larger"))?;
        Ok(DraftModel { executor, cache, places: HashMap::new(), asked: 0 })
    }

    /// The place of a sample, with the tokens that its text and the last guesses have in common.
    fn place(&mut self, want: &Want<'_>) -> SequenceId {
        let sequence = match self.places.get(&want.sequence) {
            Some((sequence, _)) => *sequence,
            None => self.cache.open(&[], &[]),
        };
        self.places.insert(want.sequence, (sequence, self.asked));
        let same = self.cache.tokens(sequence).iter().zip(want.tokens).take_while(|(a, b)| a == b).count();
        // The last token is run in any case: its logits are what is wanted.
        let kept = same.min(want.tokens.len().saturating_sub(1));
        if self.cache.truncate(sequence, kept).is_ok() {
            return sequence;
        }
        // What a window has let go of can't be had back.
        self.cache.close(sequence);
        let sequence = self.cache.open(&[], &[]);
        self.places.insert(want.sequence, (sequence, self.asked));
        sequence
    }

    /// Room for a sequence up to a length, at the cost of those that nobody asked for last; whether there is.
    fn room(&mut self, sequence: SequenceId, total: usize) -> Result<bool> {
        loop {
            if total > self.executor.limits().context {
                return Ok(false);
            }
            if let Ok(copies) = self.cache.reserve(sequence, total) {
                let pairs: Vec<_> = copies.iter().map(|copy| (copy.from, copy.to)).collect();
                if !pairs.is_empty() {
                    self.executor.copy(&pairs)?;
                }
                return Ok(true);
            }
            let idle =
                self.places.iter().filter(|(_, (_, asked))| *asked < self.asked).min_by_key(|(_, (_, asked))| *asked);
            let Some((&oldest, _)) = idle else { return Ok(false) };
            self.forget(oldest);
        }
    }

    /// Runs what some drafts have not run yet, as much as a batch takes; those that have all their logits choose a token.
    fn round(&mut self, drafts: &mut Vec<Draft<'_>>) -> Result<()> {
        let limits = self.executor.limits();
        let mut left = limits.batch_tokens;
        let mut parts = Vec::new();
        let mut stuck = Vec::new();
        for (i, draft) in drafts.iter().enumerate() {
            let held = self.cache.len(draft.sequence);
            let count = (draft.tokens.len() - held).min(left);
            if count == 0 || parts.len() == limits.batch_sequences {
                break;
            }
            if !self.room(draft.sequence, held + count)? {
                stuck.push(i);
                continue;
            }
            left -= count;
            parts.push((i, held, count));
        }
        let entries: Vec<Entry<'_>> = parts
            .iter()
            .map(|&(i, start, count)| {
                let draft = &drafts[i];
                let ids = &draft.tokens[start..start + count];
                let rows = usize::from(start + count == draft.tokens.len());
                Entry { ids, start, table: self.cache.table(draft.sequence), rows }
            })
            .collect();
        let logits = if entries.is_empty() { &[][..] } else { self.executor.run(&entries)? };
        let mut rows = logits.chunks_exact(limits.vocab);
        for &(i, start, count) in &parts {
            let draft = &mut drafts[i];
            let ids = draft.tokens[start..start + count].to_vec();
            if self.cache.commit(draft.sequence, &ids).is_err() {
                stuck.push(i);
                continue;
            }
            if start + count == draft.tokens.len() {
                match rows.next().map(|row| draft.sampler.next(row, &[])) {
                    Some(Ok(id)) => draft.tokens.push(id),
                    _ => stuck.push(i),
                }
            }
        }
        // What is stuck or has all its guesses takes no part in the next round.
        for (i, draft) in drafts.iter_mut().enumerate() {
            if stuck.contains(&i) {
                draft.most = draft.tokens.len() - draft.text;
            }
        }
        Ok(())
    }

    fn draft(&mut self, wants: &[Want<'_>]) -> Result<Vec<Vec<u32>>> {
        self.asked += 1;
        let vocab = self.executor.limits().vocab;
        let mut all = vec![Vec::new(); wants.len()];
        let numbers: HashMap<u64, usize> = wants.iter().enumerate().map(|(i, want)| (want.sequence, i)).collect();
        let fits = |want: &&Want<'_>| !want.tokens.is_empty() && want.tokens.iter().all(|id| (*id as usize) < vocab);
        let begin = |want| Draft {
            sequence: self.place(want),
            tokens: want.tokens.to_vec(),
            text: want.tokens.len(),
            most: want.most,
            sampler: want.sampler.clone(),
            want,
        };
        let mut drafts: Vec<Draft<'_>> = wants.iter().filter(fits).map(begin).collect();
        loop {
            let is_done = |d: &Draft<'_>| d.tokens.len() - d.text >= d.most;
            let (done, open): (Vec<_>, Vec<_>) = drafts.into_iter().partition(is_done);
            for draft in done {
                all[numbers[&draft.want.sequence]] = draft.tokens[draft.text..].to_vec();
            }
            drafts = open;
            if drafts.is_empty() {
                return Ok(all);
            }
            self.round(&mut drafts)?;
        }
    }
}

impl Proposer for DraftModel {
    fn propose(&mut self, wants: &[Want<'_>]) -> Result<Vec<Vec<u32>>> {
        let drafted = self.draft(wants);
        if let Err(error) = &drafted {
            // What the pages hold is not known any more.
            let all: Vec<u64> = self.places.keys().copied().collect();
            all.into_iter().for_each(|sequence| self.forget(sequence));
            // A device that hangs would be waited for once more.
            if !is_out(error) {
                self.executor.recover().map_err(gone)?;
            }
        }
        drafted
    }

    fn forget(&mut self, sequence: u64) {
        if let Some((sequence, _)) = self.places.remove(&sequence) {
            self.cache.close(sequence);
        }
    }

    fn set_deadline(&mut self, deadline: Deadline) {
        self.executor.set_deadline(deadline);
    }
}

/// The error of a draft model that could not be made usable again: it is out, whatever the error is.
fn gone(error: EngineError) -> EngineError {
    match is_out(&error) {
        true => error,
        false => Error::DeviceLost { device: "the draft model's".into(), why: error.to_string() }.into(),
    }
}
