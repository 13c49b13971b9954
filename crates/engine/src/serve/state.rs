//! What a scheduler knows: requests, samples, places, the cache's books; and how a sample ends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use qiao_kvcache::{Cache, SequenceId};

use crate::error::{EngineError, Result};
use crate::serve::executor::Limits;
use crate::serve::policy::Policy;
use crate::serve::queue::Queue;
use crate::serve::request::{End, Event, RequestId, Usage};
use crate::serve::sequence::{Job, Place, Rank, Saved, Seat};
use crate::serve::trouble::{Squeeze, repeat};
use crate::voice::{FinishReason, Piece, Speech};

/// All that a scheduler knows, without the device.
pub(super) struct State {
    pub(super) speech: Speech,
    pub(super) policy: Policy,
    pub(super) limits: Limits,
    pub(super) cache: Cache,
    pub(super) jobs: BTreeMap<RequestId, Job>,
    pub(super) seats: BTreeMap<u64, Seat>,
    /// Requests that were never admitted and are not paused.
    pub(super) queue: Queue,
    /// Requests that were never admitted.
    pub(super) waiting: usize,
    /// Samples with a place, in no order.
    pub(super) running: Vec<u64>,
    /// Samples that lost theirs, in no order.
    pub(super) away: Vec<u64>,
    pub(super) due: BTreeSet<(Instant, RequestId)>,
    pub(super) outbox: Vec<Event>,
    /// Samples that are over, of which the proposer was not told.
    pub(super) gone: Vec<u64>,
    /// Who was not let in, how many blocks could be had then, and how many ran.
    pub(super) refused: Option<(u64, usize, usize)>,
    pub(super) squeeze: Squeeze,
    pub(super) host_bytes: u64,
    pub(super) next_request: u64,
    pub(super) next_seat: u64,
    pub(super) next_admission: u64,
    pub(super) batches: u64,
    pub(super) tokens: u64,
    pub(super) preemptions: u64,
    pub(super) faults: u64,
    /// Why nothing can go on.
    pub(super) lost: Option<EngineError>,
    /// Whether requests stay as they are when nothing can go on, so that they can be taken out.
    pub(super) keeps: bool,
}

impl State {
    pub(super) fn new(limits: Limits, cache: Cache, speech: Speech, policy: Policy) -> State {
        State {
            speech,
            policy,
            squeeze: Squeeze::new(limits.batch_tokens),
            limits,
            cache,
            jobs: BTreeMap::new(),
            seats: BTreeMap::new(),
            queue: Queue::default(),
            waiting: 0,
            running: Vec::new(),
            away: Vec::new(),
            due: BTreeSet::new(),
            outbox: Vec::new(),
            gone: Vec::new(),
            refused: None,
            host_bytes: 0,
            next_request: 0,
            next_seat: 0,
            next_admission: 0,
            batches: 0,
            tokens: 0,
            preemptions: 0,
            faults: 0,
            lost: None,
            keeps: false,
        }
    }

    /// Most sequences that run side by side: every one of them has a token in every batch.
    pub(super) fn places(&self) -> usize {
        self.policy.running.min(self.limits.batch_sequences).min(self.limits.batch_tokens)
    }

    /// Blocks for so many tokens.
    pub(super) fn blocks(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.limits.block_size)
    }

    /// The most blocks that a sequence has at once when it runs token by token: those of a window, wherever it begins.
    pub(super) fn widest(&self) -> usize {
        self.limits.window.map_or(usize::MAX, |window| self.blocks(window) + 1)
    }

    pub(super) fn rank(&self, number: u64) -> Rank {
        let place = |seat: &Seat| {
            let job = self.jobs.get(&seat.request)?;
            Some((Reverse(job.priority), job.admitted.map_or(u64::MAX, |admission| admission.number), seat.sample))
        };
        self.seats.get(&number).and_then(place).unwrap_or((Reverse(i32::MIN), u64::MAX, usize::MAX))
    }

    /// Whether a sample takes no part for now. Before the prompt has run that is so when all samples are paused.
    pub(super) fn rests(&self, number: u64) -> bool {
        let Some(seat) = self.seats.get(&number) else { return true };
        match self.jobs.get(&seat.request) {
            Some(job) if !job.split => self.all_paused(job),
            _ => seat.paused,
        }
    }

    pub(super) fn all_paused(&self, job: &Job) -> bool {
        job.seats.iter().all(|number| self.seats.get(number).is_none_or(|seat| seat.paused))
    }

    /// Sequences that a sample stands for.
    pub(super) fn weight(&self, number: u64) -> usize {
        let job = self.seats.get(&number).and_then(|seat| self.jobs.get(&seat.request));
        job.map_or(1, |job| if job.split { 1 } else { job.seats.len() })
    }

    /// Whether something could go on.
    pub(super) fn can_go_on(&self) -> bool {
        self.queue.head().is_some() || self.running.iter().chain(&self.away).any(|number| !self.rests(*number))
    }

    /// The most tokens of a sequence, at most `want`, for which there is room behind those that it holds.
    pub(super) fn fitting(&self, sequence: SequenceId, held: usize, want: usize) -> usize {
        let size = self.limits.block_size;
        let mut total = held + want;
        while total > held && self.cache.needed(sequence, total) > self.cache.available() {
            total = (total - 1) / size * size;
        }
        total.saturating_sub(held)
    }

    /// Ends what is over time.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((due, id)) = self.due.first().copied() {
            if due > now {
                return;
            }
            self.due.remove(&(due, id));
            let over = self.jobs.get(&id).map(|job| job.deadline.left(std::time::Duration::MAX));
            if let Some(Err(error)) = over {
                self.end_request(id, &error);
            }
        }
    }

    /// Ends all samples of a request in an error.
    pub(super) fn end_request(&mut self, id: RequestId, error: &EngineError) {
        let seats = self.jobs.get(&id).map_or(Vec::new(), |job| job.seats.clone());
        for number in seats {
            self.end_sample(number, Err(repeat(error)));
        }
    }

    /// Ends a sample: says so, and gives back all it has.
    pub(super) fn end_sample(&mut self, number: u64, end: Result<FinishReason>) {
        let Some(mut seat) = self.seats.remove(&number) else { return };
        let Some(job) = self.jobs.get_mut(&seat.request) else { return };
        job.seats.retain(|other| *other != number);
        let usage = usage(job, &seat);
        let piece = if end.is_ok() { seat.voice.finish() } else { Piece::default() };
        let end = end.map(|reason| End { reason, usage });
        self.outbox.push(Event { request: seat.request, sample: seat.sample, piece, end: Some(end) });
        self.gone.push(number);
        self.leave(number, seat.place);
        self.close_job(seat.request);
    }

    /// Gives back the place of a sample.
    pub(super) fn leave(&mut self, number: u64, place: Place) {
        match place {
            Place::Behind => {}
            Place::Running(sequence) => {
                self.cache.close(sequence);
                self.running.retain(|other| *other != number);
            }
            Place::Away(saved) => {
                self.host_bytes -= saved.as_ref().map_or(0, Saved::bytes);
                self.away.retain(|other| *other != number);
            }
        }
    }

    /// Forgets a request whose samples have all ended.
    fn close_job(&mut self, id: RequestId) {
        if self.jobs.get(&id).is_none_or(|job| !job.seats.is_empty()) {
            return;
        }
        if let Some(job) = self.jobs.remove(&id) {
            self.forget(id, &job);
        }
    }

    /// Takes a request that is gone out of the books.
    pub(super) fn forget(&mut self, id: RequestId, job: &Job) {
        if let Some(due) = job.due {
            self.due.remove(&(due, id));
        }
        if job.admitted.is_none() {
            self.waiting -= 1;
            self.queue.remove(job.priority, &job.tenant, id);
        }
        self.queue.depart(&job.tenant);
        self.refused = None;
    }
}

fn usage(job: &Job, seat: &Seat) -> Usage {
    let total = job.submitted.elapsed();
    Usage {
        prompt_tokens: job.prompt,
        cached_tokens: job.admitted.map_or(0, |admission| admission.cached),
        generated_tokens: seat.voice.spoken(),
        preemptions: seat.preemptions,
        drafted_tokens: seat.drafted,
        accepted_tokens: seat.accepted,
        queued: job.admitted.map_or(total, |admission| admission.queued),
        first_token: seat.first_token,
        total,
    }
}
