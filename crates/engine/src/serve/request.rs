//! What is asked of a scheduler, and what comes back.

use std::time::Duration;

use crate::error::Result;
use crate::generation::SamplingParams;
use crate::voice::{FinishReason, Piece};

/// A prompt to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The prompt's tokens, at least one.
    pub prompt: Vec<u32>,
    /// How to choose tokens and when to end. The time-out runs from the submission on.
    pub params: SamplingParams,
    /// Continuations, at least one. The prompt runs once for all of them; sample `i` has the seed `params.seed + i`.
    pub samples: usize,
    /// Higher runs first.
    pub priority: i32,
    /// Whose request it is: tenants of one priority take turns, and none finds another's tokens in the cache.
    pub tenant: String,
    /// Whether tokens may be guessed ahead, where the scheduler has a proposer. The text is the same.
    pub speculate: bool,
}

impl Request {
    /// One continuation, of priority 0, of the tenant without a name, without guesses.
    pub fn new(prompt: Vec<u32>, params: SamplingParams) -> Request {
        Request { prompt, params, samples: 1, priority: 0, tenant: String::new(), speculate: false }
    }
}

/// The number of a request, in the order of submission.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// News of one sample of a request.
#[derive(Debug)]
pub struct Event {
    /// The request.
    pub request: RequestId,
    /// Which of its samples.
    pub sample: usize,
    /// What it said since the last event; may be empty.
    pub piece: Piece,
    /// How it ended, where it did; nothing more comes of this sample.
    pub end: Option<Result<End>>,
}

/// The end of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Why it ended.
    pub reason: FinishReason,
    /// What it took.
    pub usage: Usage,
}

/// What a sample took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were in the cache already when the request was admitted.
    pub cached_tokens: usize,
    /// Tokens generated, the end-of-text id apart.
    pub generated_tokens: usize,
    /// How often it lost its place: to another, or with its device.
    pub preemptions: usize,
    /// Guessed tokens that ran.
    pub drafted_tokens: usize,
    /// Those of them that were right.
    pub accepted_tokens: usize,
    /// From submission to admission.
    pub queued: Duration,
    /// From submission to the first token.
    pub first_token: Duration,
    /// From submission to the end.
    pub total: Duration,
}
