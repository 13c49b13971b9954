//! How to generate.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use qiao_engine::generation::SamplingParams;

/// Parameters of a generation. What is not set is as `generation_config.json` of the checkpoint has it.
///
/// They apply in the order of transformers: penalties, temperature, top-k, top-p, min-p.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params {
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    seed: Option<u64>,
    max_tokens: Option<usize>,
    min_tokens: Option<usize>,
    stop: Vec<String>,
    stop_token_ids: Vec<u32>,
    ignore_eos: bool,
    timeout: Option<Duration>,
}

impl Params {
    /// Nothing set.
    pub fn new() -> Params {
        Params::default()
    }

    /// Divides the logits; 0 takes the most likely token always.
    pub fn temperature(mut self, temperature: f32) -> Params {
        self.temperature = Some(temperature);
        self
    }

    /// Keeps the k most likely tokens; 0 is off.
    pub fn top_k(mut self, k: usize) -> Params {
        self.top_k = Some(k);
        self
    }

    /// Keeps the smallest set of most likely tokens with at least this mass; 1 is off.
    pub fn top_p(mut self, p: f32) -> Params {
        self.top_p = Some(p);
        self
    }

    /// Drops tokens less likely than this share of the most likely one; 0 is off.
    pub fn min_p(mut self, p: f32) -> Params {
        self.min_p = Some(p);
        self
    }

    /// Divides positive and multiplies negative logits of tokens in prompt or output; 1 is off.
    pub fn repetition_penalty(mut self, penalty: f32) -> Params {
        self.repetition_penalty = Some(penalty);
        self
    }

    /// Subtracted once from the logits of tokens in the output; 0 is off.
    pub fn presence_penalty(mut self, penalty: f32) -> Params {
        self.presence_penalty = Some(penalty);
        self
    }

    /// Subtracted from the logits of tokens in the output, times their count; 0 is off.
    pub fn frequency_penalty(mut self, penalty: f32) -> Params {
        self.frequency_penalty = Some(penalty);
        self
    }

    /// The same seed gives the same text. Not set, every generation has another.
    pub fn seed(mut self, seed: u64) -> Params {
        self.seed = Some(seed);
        self
    }

    /// Most tokens to generate; 256 where neither this nor the checkpoint says.
    pub fn max_tokens(mut self, tokens: usize) -> Params {
        self.max_tokens = Some(tokens);
        self
    }

    /// Tokens before any stop id may end the text.
    pub fn min_tokens(mut self, tokens: usize) -> Params {
        self.min_tokens = Some(tokens);
        self
    }

    /// A string that ends the text and is no part of it. Several may be given.
    pub fn stop(mut self, stop: impl Into<String>) -> Params {
        self.stop.push(stop.into());
        self
    }

    /// A token id that ends the text, besides the model's own. Several may be given.
    pub fn stop_token_id(mut self, id: u32) -> Params {
        self.stop_token_ids.push(id);
        self
    }

    /// Whether the model's end-of-text ids are ordinary tokens.
    pub fn ignore_eos(mut self, ignore: bool) -> Params {
        self.ignore_eos = ignore;
        self
    }

    /// How long the whole request may take, from [`Model::generate`](crate::Model::generate) on; then it ends in
    /// [`qiao_core::Error::Timeout`]. Not set, it may take any time, and only a single wait for the device is bounded, by
    /// [`PATIENCE`](crate::PATIENCE).
    pub fn timeout(mut self, timeout: Duration) -> Params {
        self.timeout = Some(timeout);
        self
    }

    /// What holds for a checkpoint with these defaults.
    pub(crate) fn resolve(&self, defaults: &SamplingParams) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            // Below 2^53, so that readers of JSON that know doubles alone keep it.
            seed: self.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish() >> 11),
            max_tokens: self.max_tokens.unwrap_or(defaults.max_tokens),
            min_tokens: self.min_tokens.unwrap_or(defaults.min_tokens),
            stop: self.stop.clone(),
            stop_token_ids: self.stop_token_ids.clone(),
            ignore_eos: self.ignore_eos,
            timeout: self.timeout.or(defaults.timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_as_the_checkpoint_has_it() {
        let defaults = SamplingParams { temperature: 0.6, top_k: 20, max_tokens: 77, ..Default::default() };
        let all = Params::new().top_k(5).seed(9).stop("。").resolve(&defaults);
        assert_eq!((all.temperature, all.top_k, all.max_tokens, all.seed), (0.6, 5, 77, 9));
        assert_eq!(all.stop, ["。"]);
    }

    #[test]
    fn without_a_seed_every_generation_has_another() {
        let seed = || Params::new().resolve(&SamplingParams::default()).seed;
        assert_ne!(seed(), seed());
    }
}
