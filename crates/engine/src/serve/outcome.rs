//! What comes of a batch: tokens are held, the next ones chosen, texts go on or end.

use qiao_core::Error;
use qiao_kvcache::SequenceId;

use crate::serve::batch::{Batch, Part};
use crate::serve::queue::OUTPUT_COST;
use crate::serve::request::Event;
use crate::serve::sequence::Place;
use crate::serve::state::State;

impl State {
    /// Takes in a batch that ran; `logits` are `[Σ rows, vocab]`.
    pub(super) fn take(&mut self, batch: &Batch, logits: &[f32]) {
        self.batches += 1;
        self.tokens += batch.tokens() as u64;
        self.squeeze.worked();
        let mut rest = logits;
        for part in &batch.parts {
            let (rows, behind) = rest.split_at(part.rows * self.limits.vocab);
            rest = behind;
            if self.hold(part) && part.rows > 0 {
                self.hear(part, rows);
            }
        }
    }

    /// Notes that a part's known tokens are written; false where its sample is over.
    fn hold(&mut self, part: &Part) -> bool {
        let Some(seat) = self.seats.get_mut(&part.seat) else { return false };
        seat.ran = self.batches;
        let known = &part.ids[..part.ids.len() - part.drafts];
        match self.cache.commit(part.sequence, known) {
            Ok(()) => true,
            Err(error) => {
                let request = seat.request;
                self.end_request(request, &Error::internal("the KV cache", error.to_string()).into());
                false
            }
        }
    }

    /// Chooses what comes behind a part: for every sample where the prompt has run.
    fn hear(&mut self, part: &Part, rows: &[f32]) {
        let Some(seat) = self.seats.get(&part.seat) else { return };
        let request = seat.request;
        if self.jobs.get(&request).is_some_and(|job| job.split) {
            self.speak(part.seat, rows, &part.ids[part.ids.len() - part.drafts..]);
            return;
        }
        for number in self.split(part.seat, part.sequence) {
            self.speak(number, rows, &[]);
        }
    }

    /// Gives every sample of a prompt a sequence of its own; those that are paused come back for theirs later. Gives the others.
    fn split(&mut self, leader: u64, sequence: SequenceId) -> Vec<u64> {
        let Some(seat) = self.seats.get_mut(&leader) else { return Vec::new() };
        let Some(job) = self.jobs.get_mut(&seat.request) else { return Vec::new() };
        let tokens = seat.tokens.clone();
        seat.place = Place::Behind;
        job.split = true;
        let all = job.seats.clone();
        self.running.retain(|number| *number != leader);
        let mut going = Vec::new();
        for number in all {
            let Some(seat) = self.seats.get_mut(&number) else { continue };
            seat.tokens.clone_from(&tokens);
            let own = match (seat.paused, going.is_empty()) {
                (true, _) => None,
                (false, true) => Some(sequence),
                (false, false) => self.cache.fork(sequence).ok(),
            };
            match own {
                Some(own) => {
                    seat.place = Place::Running(own);
                    self.running.push(number);
                    going.push(number);
                }
                None => {
                    seat.place = Place::Away(None);
                    self.away.push(number);
                }
            }
        }
        if going.is_empty() {
            self.cache.close(sequence);
        }
        going
    }

    /// Chooses a sample's next tokens: one for each row, as long as the guess behind the row was right.
    fn speak(&mut self, number: u64, rows: &[f32], drafts: &[u32]) {
        let mut guesses = drafts.iter();
        if let Some(seat) = self.seats.get_mut(&number) {
            seat.drafted += drafts.len();
        }
        for row in rows.chunks_exact(self.limits.vocab) {
            let Some(seat) = self.seats.get_mut(&number) else { return };
            let Some(job) = self.jobs.get(&seat.request) else { return };
            let request = seat.request;
            let id = match seat.sampler.next(row, seat.voice.forbidden()) {
                Ok(id) => id,
                Err(error) => return self.end_request(request, &error),
            };
            if seat.tokens.len() == job.prompt {
                seat.first_token = job.submitted.elapsed();
            }
            seat.tokens.push(id);
            self.queue.charge(&job.tenant, OUTPUT_COST);
            let right = guesses.next() == Some(&id);
            seat.accepted += usize::from(right);
            let full = seat.tokens.len() > self.limits.context;
            if let Some(reason) = seat.voice.hear(id, full) {
                return self.end_sample(number, Ok(reason));
            }
            if let Some(piece) = seat.voice.give() {
                self.outbox.push(Event { request, sample: seat.sample, piece, end: None });
            }
            let Some(sequence) = seat.sequence() else { return };
            if !right || self.cache.commit(sequence, &[id]).is_err() {
                break;
            }
        }
        if let Some(seat) = self.seats.get_mut(&number)
            && !drafts.is_empty()
        {
            seat.sequence().inspect(|sequence| self.cache.trim(*sequence));
        }
    }
}
