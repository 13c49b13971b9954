//! What runs together: one token of every sequence that speaks, then parts of prompts, then guesses.

use std::collections::BTreeSet;

use qiao_kvcache::{Cache, SequenceId};

use crate::entry::Entry;
use crate::error::Result;
use crate::serve::propose::{Want, is_out};
use crate::serve::request::RequestId;
use crate::serve::state::State;
use crate::serve::works::Works;

/// One sample's part of a batch.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) seat: u64,
    pub(super) sequence: SequenceId,
    /// Tokens that the cache holds.
    pub(super) start: usize,
    /// Tokens that run, the guessed ones last.
    pub(super) ids: Vec<u32>,
    /// How many of them are guessed.
    pub(super) drafts: usize,
    /// Rows of logits: those of the last known token and of the guesses behind it; 0 where a prompt goes on.
    pub(super) rows: usize,
}

/// A batch that has room for all its tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    /// In the order of rank.
    pub(super) parts: Vec<Part>,
}

impl Batch {
    pub(super) fn tokens(&self) -> usize {
        self.parts.iter().map(|part| part.ids.len()).sum()
    }

    pub(super) fn entries<'a>(&'a self, cache: &'a Cache) -> Vec<Entry<'a>> {
        let entry = |part: &'a Part| Entry {
            ids: &part.ids,
            start: part.start,
            table: cache.table(part.sequence),
            rows: part.rows,
        };
        self.parts.iter().map(entry).collect()
    }

    /// The requests that have a part.
    pub(super) fn requests(&self, state: &State) -> BTreeSet<RequestId> {
        let request = |part: &Part| state.seats.get(&part.seat).map(|seat| seat.request);
        self.parts.iter().filter_map(request).collect()
    }

    /// Leaves out guesses, then what goes last, until so many tokens are left: one at least.
    pub(super) fn shrink(&mut self, most: usize) {
        for part in &mut self.parts {
            part.ids.truncate(part.ids.len() - part.drafts);
            part.rows = part.rows.min(1);
            part.drafts = 0;
        }
        let mut left = most.max(1);
        self.parts.retain_mut(|part| {
            if part.ids.len() > left {
                part.ids.truncate(left);
                part.rows = 0;
            }
            left -= part.ids.len();
            !part.ids.is_empty()
        });
    }
}

/// What a sample could run.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// Tokens that the cache does not hold, at least one.
    tokens: usize,
    priority: i32,
    /// The batch that it last had a part in.
    ran: u64,
}

/// Deals out the tokens of a batch; samples are given by rank, and so are their shares.
///
/// Samples that speak come first, the higher priority and then the one that waited longest before the others; a prompt takes what
/// is left, `chunk` at most. Only the very first by rank is never without a token.
fn share(pending: &[Pending], most: usize, sequences: usize, chunk: usize) -> Vec<usize> {
    let mut shares = vec![0; pending.len()];
    let (mut left, mut parts) = (most, sequences);
    if let Some(share) = shares.first_mut()
        && left > 0
        && parts > 0
    {
        *share = 1;
        left -= 1;
        parts -= 1;
    }
    let mut speaking: Vec<usize> = (1..pending.len()).filter(|i| pending[*i].tokens == 1).collect();
    speaking.sort_by_key(|i| (std::cmp::Reverse(pending[*i].priority), pending[*i].ran));
    for i in speaking.into_iter().take(left.min(parts)) {
        shares[i] = 1;
        left -= 1;
        parts -= 1;
    }
    for (i, share) in shares.iter_mut().enumerate() {
        let more = pending[i].tokens.min(chunk).saturating_sub(*share).min(left);
        if more == 0 || (*share == 0 && parts == 0) {
            continue;
        }
        parts -= usize::from(*share == 0);
        *share += more;
        left -= more;
    }
    shares
}

impl Works {
    /// Puts a batch together and makes room for it; whoever goes later loses its place where there is no other way.
    ///
    /// # Errors
    /// The device can't go on.
    pub(super) fn compose(&mut self) -> Result<Batch> {
        let order = self.state.order();
        let pending: Vec<Pending> = order.iter().map(|number| self.state.pending(*number)).collect();
        let (limits, chunk) = (self.state.limits, self.state.policy.chunk);
        let shares = share(&pending, self.state.squeeze.most(), limits.batch_sequences, chunk);
        let mut batch = Batch::default();
        for (number, want) in order.into_iter().zip(shares) {
            if want > 0
                && let Some(got) = self.room(number, want)?
            {
                batch.parts.extend(self.state.part(number, got));
            }
        }
        Ok(batch)
    }

    /// Adds guesses where batch and cache have room for them. A proposer that is out is let go.
    pub(super) fn draft(&mut self, batch: &mut Batch) {
        let Works { proposer, state, .. } = self;
        let Some(guesser) = proposer else { return };
        let mut left = state.squeeze.most().saturating_sub(batch.tokens());
        let mut wants = Vec::new();
        let mut places = Vec::new();
        for (i, part) in batch.parts.iter().enumerate() {
            let Some(seat) = state.seats.get(&part.seat) else { continue };
            let most = state.useful_guesses(part).min(left);
            if most > 0 {
                left -= most;
                places.push(i);
                wants.push(Want { sequence: part.seat, tokens: &seat.tokens, most, sampler: &seat.sampler });
            }
        }
        if wants.is_empty() {
            return;
        }
        let guesses = match guesser.propose(&wants) {
            Ok(guesses) => guesses,
            Err(error) => {
                if is_out(&error) {
                    *proposer = None;
                }
                return;
            }
        };
        let most: Vec<usize> = wants.iter().map(|want| want.most).collect();
        for ((i, most), guess) in places.into_iter().zip(most).zip(guesses) {
            let known = guess.into_iter().take_while(|id| (*id as usize) < state.limits.vocab);
            state.add_guess(&mut batch.parts[i], known.take(most).collect());
        }
    }
}

impl State {
    /// Samples that run and are not paused, by rank.
    fn order(&self) -> Vec<u64> {
        let mut order: Vec<u64> = self.running.iter().copied().filter(|number| !self.rests(*number)).collect();
        order.sort_by_key(|number| self.rank(*number));
        order
    }

    fn pending(&self, number: u64) -> Pending {
        let Some(seat) = self.seats.get(&number) else { return Pending { tokens: 0, priority: 0, ran: 0 } };
        let held = seat.sequence().map_or(0, |sequence| self.cache.len(sequence));
        let priority = self.jobs.get(&seat.request).map_or(0, |job| job.priority);
        Pending { tokens: seat.tokens.len() - held, priority, ran: seat.ran }
    }

    /// The next tokens of a sample.
    fn part(&self, number: u64, tokens: usize) -> Option<Part> {
        let seat = self.seats.get(&number)?;
        let sequence = seat.sequence()?;
        let start = self.cache.len(sequence);
        let ids = seat.tokens[start..start + tokens].to_vec();
        let rows = usize::from(start + tokens == seat.tokens.len());
        Some(Part { seat: number, sequence, start, ids, drafts: 0, rows })
    }

    /// How many guesses behind this part could become text.
    fn useful_guesses(&self, part: &Part) -> usize {
        let Some(seat) = self.seats.get(&part.seat) else { return 0 };
        let asked = self.jobs.get(&seat.request).is_some_and(|job| job.speculate && job.split);
        if !asked || part.rows == 0 || part.ids.len() != 1 {
            return 0;
        }
        let context = self.limits.context.saturating_sub(seat.tokens.len());
        self.policy.draft.min(seat.voice.left().saturating_sub(1)).min(context)
    }

    /// Adds as many guesses as the cache has room for without taking it from anybody.
    fn add_guess(&mut self, part: &mut Part, mut guess: Vec<u32>) {
        let held = part.start + part.ids.len();
        guess.truncate(self.fitting(part.sequence, held, guess.len()));
        if self.cache.reserve(part.sequence, held + guess.len()).is_ok() {
            part.drafts = guess.len();
            part.rows += guess.len();
            part.ids.extend(guess);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(tokens: usize, priority: i32, ran: u64) -> Pending {
        Pending { tokens, priority, ran }
    }

    #[test]
    fn those_who_speak_come_before_prompts() {
        let all = [pending(1, 0, 0), pending(100, 0, 0), pending(1, 0, 0), pending(7, 0, 0), pending(50, 0, 0)];
        assert_eq!(share(&all, 32, 8, 20), [1, 20, 1, 7, 3]);
        assert_eq!(share(&all, 3, 8, 20), [1, 1, 1, 0, 0]);
        assert_eq!(share(&all, 32, 3, 20), [1, 20, 1, 0, 0]);
    }

    #[test]
    fn the_first_by_rank_is_never_without_a_token() {
        let all = [pending(100, 5, 0), pending(1, 0, 0), pending(1, 0, 0)];
        assert_eq!(share(&all, 1, 8, 16), [1, 0, 0]);
        assert_eq!(share(&all, 2, 8, 16), [1, 1, 0]);
        assert_eq!(share(&all, 9, 8, 16), [7, 1, 1]);
        assert_eq!(share(&[], 9, 8, 16), [0; 0]);
    }

    #[test]
    fn who_waited_longest_speaks_when_not_all_can() {
        let all = [pending(1, 1, 9), pending(1, 0, 9), pending(1, 0, 8), pending(1, 0, 7)];
        assert_eq!(share(&all, 3, 8, 16), [1, 0, 1, 1]);
        assert_eq!(share(&all, 8, 2, 16), [1, 0, 0, 1]);
    }

    #[test]
    fn a_smaller_batch_keeps_those_who_go_first() {
        let sequence = {
            let config =
                qiao_kvcache::Config { blocks: 2, block_size: 1, block_bytes: 1, window: None, sharing: false };
            Cache::new(config).unwrap().open(b"", &[1])
        };
        let part = |n: usize, drafts: usize, rows| Part { seat: 0, sequence, start: 0, ids: vec![0; n], drafts, rows };
        let mut batch = Batch { parts: vec![part(4, 3, 4), part(6, 0, 1), part(1, 0, 1)] };
        batch.shrink(5);
        let left: Vec<_> = batch.parts.iter().map(|part| (part.ids.len(), part.drafts, part.rows)).collect();
        assert_eq!(left, [(1, 0, 1), (4, 0, 0)]);
        batch.shrink(0);
        assert_eq!(batch.tokens(), 1);
    }
}
