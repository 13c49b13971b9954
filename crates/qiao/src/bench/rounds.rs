//! Requests on a model, under the clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_engine::generation::SamplingParams;
use qiao_engine::runner::LoadedModel;
use qiao_engine::sampler::Sampler;
use qiao_engine::session::Session;

use super::figures::splitmix;
use super::settings::Point;
use super::timing::{RequestTimes, Round};
use crate::{Canceller, Result};

/// Runs the requests of a point, round after round.
pub(crate) struct Rounds<'a> {
    model: &'a Arc<LoadedModel>,
    point: Point,
    cancel: &'a Canceller,
    /// Tokens that the cache holds before the prompt, and the prompt, for each sequence.
    inputs: Vec<(Vec<u32>, Vec<u32>)>,
    sessions: Vec<Session>,
}

/// What a round gave.
pub(crate) struct Done {
    pub(crate) round: Round,
    /// The generated tokens of each sequence.
    pub(crate) tokens: Vec<Vec<u32>>,
}

/// One request while it runs.
struct Request {
    sampler: Sampler,
    times: RequestTimes,
    tokens: Vec<u32>,
}

impl Request {
    /// Chooses a token by its logits, greedily.
    fn choose(&mut self, logits: &[f32], sent: Instant) -> Result<()> {
        let id = self.sampler.next(logits, &[])?;
        self.times.tokens.push(sent.elapsed());
        self.tokens.push(id);
        Ok(())
    }
}

impl<'a> Rounds<'a> {
    /// Random prompts by a seed, others for each sequence, the same in every round.
    pub(crate) fn new(model: &'a Arc<LoadedModel>, point: Point, seed: u64, cancel: &'a Canceller) -> Rounds<'a> {
        let vocab = model.spec().vocab.max(1) as u64;
        let mut state = seed;
        let mut ids = |count: usize| (0..count).map(|_| (splitmix(&mut state) % vocab) as u32).collect();
        let inputs = (0..point.batch).map(|_| (ids(point.depth), ids(point.prompt))).collect();
        Rounds { model, point, cancel, inputs, sessions: Vec::new() }
    }

    /// A sequence of the last round.
    pub(crate) fn session(&self) -> Option<&Session> {
        self.sessions.first()
    }

    /// Runs one round; `None` when it was cancelled.
    ///
    /// # Errors
    /// The device's own; logits among which nothing can be chosen.
    pub(crate) fn run(&mut self) -> Result<Option<Done>> {
        if !self.reach_depth()? {
            return Ok(None);
        }
        let cancelled = || self.cancel.is_cancelled();
        let mut requests = Vec::with_capacity(self.point.batch);
        let mut prefill = Duration::ZERO;
        let sent = Instant::now();
        for (at, (_, prompt)) in self.inputs.iter().enumerate() {
            let times = RequestTimes { tokens: Vec::with_capacity(self.point.tokens) };
            let tokens = Vec::with_capacity(self.point.tokens);
            let mut request = Request { sampler: Sampler::new(SamplingParams::default(), &[])?, times, tokens };
            if self.point.depth == 0 {
                self.sessions.push(Session::new(self.model.clone(), self.point.context())?);
            }
            let start = Instant::now();
            let Some(logits) = self.sessions[at].prefill(prompt, &cancelled)? else { return Ok(None) };
            prefill += start.elapsed();
            request.choose(logits, sent)?;
            requests.push(request);
        }
        let prompts_end = sent.elapsed();
        for _ in 1..self.point.tokens {
            for (request, session) in requests.iter_mut().zip(&mut self.sessions) {
                if cancelled() {
                    return Ok(None);
                }
                let last = request.tokens[request.tokens.len() - 1];
                request.choose(session.step(last)?, sent)?;
            }
        }
        let wall = sent.elapsed();
        let (times, tokens) = requests.into_iter().map(|request| (request.times, request.tokens)).unzip();
        let round = Round { requests: times, prefill, decode: wall - prompts_end, wall };
        Ok(Some(Done { round, tokens }))
    }

    /// Leaves every sequence with exactly the tokens before the prompt; `false` when cancelled. Sequences without any are
    /// made in the round itself.
    fn reach_depth(&mut self) -> Result<bool> {
        if self.point.depth == 0 {
            self.sessions.clear();
            return Ok(true);
        }
        for (at, (before, _)) in self.inputs.iter().enumerate() {
            if let Some(session) = self.sessions.get_mut(at) {
                session.truncate(self.point.depth);
                continue;
            }
            let mut session = Session::new(self.model.clone(), self.point.context())?;
            if session.prefill(before, &|| self.cancel.is_cancelled())?.is_none() {
                return Ok(false);
            }
            self.sessions.push(session);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, Params};

    fn tokens(model: &Model, point: Point, seed: u64) -> Vec<Vec<u32>> {
        let cancel = Canceller::default();
        let mut rounds = Rounds::new(model.loaded(), point, seed, &cancel);
        let first = rounds.run().unwrap().unwrap();
        let second = rounds.run().unwrap().unwrap();
        assert_eq!(first.tokens, second.tokens, "a second round gives the same tokens");
        for (request, tokens) in first.round.requests.iter().zip(&first.tokens) {
            assert_eq!((request.tokens.len(), tokens.len()), (point.tokens, point.tokens));
            assert!(request.tokens.is_sorted());
        }
        assert!(first.round.prefill + first.round.decode <= first.round.wall);
        first.tokens
    }

    #[test]
    fn a_measured_request_gives_the_tokens_of_a_generation() {
        let model = Model::demo().unwrap();
        let point = Point { prompt: 9, depth: 0, batch: 1, tokens: 6 };
        let cancel = Canceller::default();
        let prompt = Rounds::new(model.loaded(), point, 5, &cancel).inputs[0].1.clone();
        let params = Params::new().temperature(0.0).max_tokens(6).ignore_eos(true);
        let generated = model.generate(prompt, &params).unwrap().collect_all().unwrap().token_ids;
        assert_eq!(tokens(&model, point, 5), [generated]);
    }

    #[test]
    fn sequences_of_a_batch_do_not_touch_each_other() {
        let model = Model::demo().unwrap();
        let both = tokens(&model, Point { prompt: 9, depth: 0, batch: 2, tokens: 6 }, 5);
        let alone = tokens(&model, Point { prompt: 9, depth: 0, batch: 1, tokens: 6 }, 5);
        assert_eq!(both[..1], alone[..]);
        assert_ne!(both[0], both[1]);
    }

    #[test]
    fn what_was_there_before_the_prompt_is_part_of_the_sequence() {
        let model = Model::demo().unwrap();
        let cancel = Canceller::default();
        let deep = Point { prompt: 9, depth: 20, batch: 1, tokens: 6 };
        let (before, prompt) = Rounds::new(model.loaded(), deep, 5, &cancel).inputs[0].clone();
        let whole: Vec<u32> = before.into_iter().chain(prompt).collect();
        let params = Params::new().temperature(0.0).max_tokens(6).ignore_eos(true);
        let generated = model.generate(whole, &params).unwrap().collect_all().unwrap().token_ids;
        assert_eq!(tokens(&model, deep, 5), [generated]);
    }

    #[test]
    fn a_cancelled_round_gives_nothing() {
        let model = Model::demo().unwrap();
        for depth in [0, 5] {
            let cancel = Canceller::default();
            cancel.cancel();
            let mut rounds = Rounds::new(model.loaded(), Point { prompt: 4, depth, batch: 1, tokens: 2 }, 0, &cancel);
            assert!(rounds.run().unwrap().is_none());
        }
    }
}
