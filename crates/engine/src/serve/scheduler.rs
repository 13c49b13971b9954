//! Many requests on one executor, a batch at a time.
//!
//! A step in five parts: what is over time ends (`state`); who has room comes in (`admit`, `queue`); a batch is put together, and
//! room made for it (`batch`, `preempt`); it runs, again where the device failed (`faults`); what it gave is taken in (`outcome`).

use std::time::Instant;

use qiao_core::Error;
use qiao_kvcache::{Cache, Config};

use crate::error::{EngineError, Result};
use crate::sampler::Sampler;
use crate::serve::executor::{Executor, Limits};
use crate::serve::policy::{Load, Policy, Stepped};
use crate::serve::propose::Proposer;
use crate::serve::request::{Event, Request, RequestId};
use crate::serve::sequence::{Job, Place, Seat};
use crate::serve::state::State;
use crate::serve::trouble::repeat;
use crate::serve::works::Works;
use crate::sides::Deadline;
use crate::voice::{FinishReason, Speech, Voice};

/// Runs requests in batches. It has one owner, and works only inside [`Scheduler::step`].
///
/// The text of a sample depends on its prompt, its parameters and its seed alone, where the executor's logits depend on a sequence's
/// tokens alone: not on other requests, the policy, the size of the cache, preemption, faults that were mended, or guesses. The
/// clock decides about deadlines and nothing else.
pub struct Scheduler {
    pub(super) works: Works,
}

impl Scheduler {
    /// A scheduler without requests. The executor's blocks are its own from now on.
    ///
    /// # Errors
    /// A policy or limits under which nothing could run.
    pub fn new(executor: Box<dyn Executor>, speech: Speech, policy: Policy) -> Result<Scheduler> {
        policy.check()?;
        let limits = executor.limits();
        check_limits(&limits)?;
        let config = Config {
            blocks: limits.blocks,
            block_size: limits.block_size,
            block_bytes: limits.block_bytes,
            window: limits.window,
            sharing: policy.sharing,
        };
        let cache = Cache::new(config).map_err(|error| {
            Error::invalid("a scheduler's cache", error.to_string(), "give the executor a larger pool of blocks")
        })?;
        Ok(Scheduler { works: Works { executor, proposer: None, state: State::new(limits, cache, speech, policy) } })
    }

    /// Guesses come from here, for requests that ask for them, until it ends in [`Error::Timeout`] or [`Error::DeviceLost`].
    pub fn with_proposer(mut self, proposer: Box<dyn Proposer>) -> Scheduler {
        self.works.proposer = Some(proposer);
        self
    }

    /// Takes a request; its time-out runs from now on. Nothing runs before the next step.
    ///
    /// # Errors
    /// A prompt that is empty, has ids outside the vocabulary or does not fit into the context; parameters outside their range, stop
    /// strings without a vocabulary, no samples or more than run side by side; a sequence that the whole cache could not hold; a
    /// full queue; a lost device.
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        self.submit_since(Instant::now(), request)
    }

    /// As [`Scheduler::submit`], for a request that was sent before: its times run from then on.
    pub(super) fn submit_since(&mut self, submitted: Instant, request: Request) -> Result<RequestId> {
        let deadline = Deadline::since(submitted, request.params.timeout);
        if let Some(lost) = &self.works.state.lost {
            return Err(repeat(lost));
        }
        self.works.state.check(&request)?;
        let voices = self.works.state.voices(&request)?;
        if self.works.state.waiting >= self.works.state.policy.queue {
            return Err(EngineError::QueueFull { most: self.works.state.policy.queue });
        }
        let job = Job {
            priority: request.priority,
            speculate: request.speculate,
            prompt: request.prompt.len(),
            submitted,
            deadline,
            due: request.params.timeout.and_then(|timeout| submitted.checked_add(timeout)),
            seats: Vec::new(),
            admitted: None,
            split: false,
            tenant: request.tenant,
        };
        Ok(self.works.state.enrol(job, request.prompt, voices))
    }

    /// Ends a request; what it has said and not given out comes with the next step. Does nothing where it is over.
    pub fn cancel(&mut self, id: RequestId) {
        let seats = self.works.state.jobs.get(&id).map_or(Vec::new(), |job| job.seats.clone());
        for number in seats {
            self.works.state.end_sample(number, Ok(FinishReason::Cancelled));
        }
    }

    /// Says that the reader of a sample is slow, or no longer so. A paused sample has no part in batches, and is the first to lose its
    /// place; its time-out goes on. Does nothing where the sample is over.
    pub fn pause(&mut self, id: RequestId, sample: usize, paused: bool) {
        self.works.state.pause(id, sample, paused);
    }

    /// Goes on by one batch at most, and appends what is new to `events`.
    ///
    /// # Errors
    /// The device is lost; all requests have ended with that error, and no more are taken.
    pub fn step(&mut self, events: &mut Vec<Event>) -> Result<Stepped> {
        self.works.state.expire(Instant::now());
        let stepped = match &self.works.state.lost {
            Some(lost) => Err(repeat(lost)),
            None => self.advance(),
        };
        events.append(&mut self.works.state.outbox);
        let gone = std::mem::take(&mut self.works.state.gone);
        if let Some(proposer) = &mut self.works.proposer {
            gone.into_iter().for_each(|sequence| proposer.forget(sequence));
        }
        stepped
    }

    fn advance(&mut self) -> Result<Stepped> {
        self.works.admit()?;
        let mut batch = self.works.compose()?;
        if !batch.parts.is_empty() {
            self.works.draft(&mut batch);
            return self.works.run(batch);
        }
        Ok(match self.works.state.can_go_on() {
            true => Stepped::Ran { tokens: 0, sequences: 0 },
            false => Stepped::Waiting,
        })
    }

    /// Whether every request is over and told of.
    pub fn is_idle(&self) -> bool {
        self.works.state.jobs.is_empty() && self.works.state.outbox.is_empty()
    }

    /// When the next deadline is over: a step after that has news, even where all requests are paused.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.works.state.due.first().map(|(due, _)| *due)
    }

    /// Goes over the books: the cache's own, and that every block belongs to a sample that runs. Takes time with the size of the cache;
    /// for tests and for doubts.
    ///
    /// # Errors
    /// The first thing that is not as it must be, in words.
    pub fn audit(&self) -> Result<(), String> {
        self.works.state.audit()
    }

    /// The sizes of the executor.
    pub fn limits(&self) -> Limits {
        self.works.state.limits
    }

    /// Most samples of a request that it runs.
    pub(super) fn side_by_side(&self) -> usize {
        self.works.state.places()
    }

    /// How it goes about it.
    pub fn policy(&self) -> &Policy {
        &self.works.state.policy
    }

    /// The most blocks of the cache that were used at once since this was asked last.
    pub fn take_peak_blocks(&mut self) -> usize {
        self.works.state.cache.take_peak()
    }

    /// How busy it is.
    pub fn load(&self) -> Load {
        let state = &self.works.state;
        Load {
            queued: state.waiting,
            running: state.running.len(),
            preempted: state.away.len(),
            cache: state.cache.usage(),
            counters: state.cache.counters(),
            host_bytes: state.host_bytes,
            batches: state.batches,
            tokens: state.tokens,
            preemptions: state.preemptions,
            faults: state.faults,
        }
    }
}

fn check_limits(limits: &Limits) -> Result<()> {
    let sizes = [
        ("vocabulary", limits.vocab),
        ("context", limits.context),
        ("tokens of a batch", limits.batch_tokens),
        ("sequences of a batch", limits.batch_sequences),
    ];
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((name, _)) => {
            Err(Error::invalid("a scheduler over an executor", format!("its {name} is 0"), "at least 1").into())
        }
        None => Ok(()),
    }
}

impl State {
    /// Refuses what can never run.
    fn check(&self, request: &Request) -> Result<()> {
        let (tokens, limits) = (request.prompt.len(), &self.limits);
        if request.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(&id) = request.prompt.iter().find(|id| **id as usize >= limits.vocab) {
            return Err(EngineError::TokenOutOfRange { id, vocab_size: limits.vocab });
        }
        if tokens > limits.context {
            return Err(EngineError::PromptTooLong { tokens, context: limits.context });
        }
        self.require_places(request.samples)?;
        // The last token is given out and never runs.
        self.require_room(tokens.saturating_add(request.params.max_tokens.saturating_sub(1)))
    }

    /// Refuses none, and more samples than run side by side.
    pub(super) fn require_places(&self, samples: usize) -> Result<()> {
        if samples == 0 || samples > self.places() {
            let found = format!("{samples}, and {} may run side by side", self.places());
            let expected = "at least 1, and no more than run side by side";
            return Err(EngineError::Parameter { name: "samples", expected, found });
        }
        Ok(())
    }

    /// Refuses a sequence of at most so many tokens that the whole cache could not hold.
    pub(super) fn require_room(&self, tokens: usize) -> Result<()> {
        let tokens = tokens.min(self.limits.context);
        let (needed, blocks) = (self.blocks(tokens).min(self.widest()), self.limits.blocks - 1);
        match needed > blocks {
            true => Err(EngineError::CacheTooSmall { tokens, needed, blocks }),
            false => Ok(()),
        }
    }

    /// A sampler and a voice for each sample.
    fn voices(&self, request: &Request) -> Result<Vec<(Sampler, Voice)>> {
        let of_one = |sample: usize| {
            let seed = request.params.seed.wrapping_add(sample as u64);
            let mut sampler =
                Sampler::new(crate::generation::SamplingParams { seed, ..request.params.clone() }, &request.prompt)?;
            sampler.mask(self.speech.undecodable.clone());
            Ok((sampler, Voice::new(&self.speech, &request.params)?))
        };
        (0..request.samples).map(of_one).collect()
    }

    /// Puts a request into the queue; one that may say nothing is over.
    fn enrol(&mut self, mut job: Job, prompt: Vec<u32>, voices: Vec<(Sampler, Voice)>) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let silent = voices.iter().all(|(_, voice)| voice.left() == 0);
        let mut prompt = Some(prompt);
        for (sample, (sampler, voice)) in voices.into_iter().enumerate() {
            let seat = Seat {
                request: id,
                sample,
                // The first stands for all until the prompt has run.
                tokens: prompt.take().unwrap_or_default(),
                place: Place::Behind,
                sampler,
                voice,
                paused: false,
                ran: 0,
                preemptions: 0,
                drafted: 0,
                accepted: 0,
                first_token: std::time::Duration::ZERO,
            };
            self.seats.insert(self.next_seat, seat);
            job.seats.push(self.next_seat);
            self.next_seat += 1;
        }
        self.waiting += 1;
        self.queue.arrive(&job.tenant);
        self.queue.insert(job.priority, &job.tenant, id);
        self.due.extend(job.due.map(|due| (due, id)));
        let seats = job.seats.clone();
        self.jobs.insert(id, job);
        if silent {
            seats.into_iter().for_each(|number| self.end_sample(number, Ok(FinishReason::Length)));
        }
        id
    }

    fn pause(&mut self, id: RequestId, sample: usize, paused: bool) {
        let Some(job) = self.jobs.get(&id) else { return };
        for number in &job.seats {
            if let Some(seat) = self.seats.get_mut(number).filter(|seat| seat.sample == sample) {
                seat.paused = paused;
            }
        }
        if job.admitted.is_none() {
            match self.all_paused(job) {
                true => self.queue.remove(job.priority, &job.tenant, id),
                false => self.queue.insert(job.priority, &job.tenant, id),
            }
        }
        self.refused = None;
    }
}
