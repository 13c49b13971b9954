//! Requests and their samples, as the scheduler knows them.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use qiao_kvcache::SequenceId;

use crate::sampler::Sampler;
use crate::serve::executor::HostBlocks;
use crate::serve::request::RequestId;
use crate::sides::Deadline;
use crate::voice::Voice;

/// A request that has not ended.
pub(super) struct Job {
    pub(super) tenant: String,
    pub(super) priority: i32,
    pub(super) speculate: bool,
    /// Tokens of the prompt.
    pub(super) prompt: usize,
    pub(super) submitted: Instant,
    pub(super) deadline: Deadline,
    /// When the deadline is over.
    pub(super) due: Option<Instant>,
    /// Numbers of the samples that have not ended, in their order.
    pub(super) seats: Vec<u64>,
    /// None while it waits.
    pub(super) admitted: Option<Admission>,
    /// Whether the prompt has run: until then the first sample stands for all.
    pub(super) split: bool,
}

/// How a request came in.
#[derive(Clone, Copy)]
pub(super) struct Admission {
    /// Requests are numbered as they are admitted.
    pub(super) number: u64,
    pub(super) queued: Duration,
    /// Tokens of the prompt that were in the cache.
    pub(super) cached: usize,
}

/// One sample of a request.
pub(super) struct Seat {
    pub(super) request: RequestId,
    pub(super) sample: usize,
    /// Prompt and output. Those that the cache does not hold are to be run; there is always one.
    pub(super) tokens: Vec<u32>,
    pub(super) place: Place,
    pub(super) sampler: Sampler,
    pub(super) voice: Voice,
    /// Its reader is slow.
    pub(super) paused: bool,
    /// The batch that it last had a part in.
    pub(super) ran: u64,
    pub(super) preemptions: usize,
    pub(super) drafted: usize,
    pub(super) accepted: usize,
    pub(super) first_token: Duration,
}

/// Where a sample stands.
pub(super) enum Place {
    /// Its request waits to be admitted, or another sample runs the prompt for it.
    Behind,
    /// It has blocks and takes part in batches.
    Running(SequenceId),
    /// It has none, and wants to come back.
    Away(Option<Saved>),
}

/// Blocks on the host.
pub(super) struct Saved {
    pub(super) contents: HostBlocks,
    /// Tokens in them.
    pub(super) tokens: usize,
}

impl Saved {
    pub(super) fn bytes(&self) -> u64 {
        self.contents.bytes.len() as u64
    }
}

/// Who goes first: the higher priority, then who was admitted earlier. Less goes first.
pub(super) type Rank = (Reverse<i32>, u64, usize);

impl Seat {
    pub(super) fn sequence(&self) -> Option<SequenceId> {
        match self.place {
            Place::Running(sequence) => Some(sequence),
            _ => None,
        }
    }
}
