//! How a scheduler goes about it.

use qiao_kvcache as kvcache;

use crate::error::{EngineError, Result};

/// What becomes of a sequence that loses its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preempt {
    /// Its tokens run again when it comes back, those that the cache has kept apart.
    Recompute,
    /// Its blocks go to the host and come back; beyond this many bytes it is recomputed. Where all layers slide it is always
    /// recomputed.
    Swap {
        /// Most bytes on the host.
        host_bytes: u64,
    },
}

/// How a scheduler goes about it. None of it changes a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What becomes of a sequence that loses its place.
    pub preempt: Preempt,
    /// Most prompt tokens of one sequence in a batch, at least 1.
    pub chunk: usize,
    /// Most requests that wait to be admitted.
    pub queue: usize,
    /// Most sequences that run side by side, at least 1; never more than a batch holds.
    pub running: usize,
    /// Whether requests of a tenant find each other's tokens in the cache.
    pub sharing: bool,
    /// How often a batch that failed runs again before its requests end in the error.
    pub retries: usize,
    /// Most guessed tokens of a sequence in a batch.
    pub draft: usize,
}

impl Default for Policy {
    /// Recomputation, chunks of 512 tokens, 1024 waiting and 256 running, sharing, three retries, five guesses.
    fn default() -> Policy {
        Policy {
            preempt: Preempt::Recompute,
            chunk: 512,
            queue: 1024,
            running: 256,
            sharing: true,
            retries: 3,
            draft: 5,
        }
    }
}

impl Policy {
    /// Refuses a policy under which nothing could run.
    ///
    /// # Errors
    /// [`EngineError::Parameter`] naming the first.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [("chunk", self.chunk), ("running", self.running)] {
            if value == 0 {
                return Err(EngineError::Parameter { name, expected: "at least 1", found: "0".to_string() });
            }
        }
        Ok(())
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// It had work.
    Ran {
        /// Tokens that ran; 0 when the work was something else, or failed.
        tokens: usize,
        /// Sequences that they belong to.
        sequences: usize,
    },
    /// Nothing can go on: there are no requests, or all of them are paused.
    Waiting,
}

/// How busy a scheduler is, and what it has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Requests that wait to be admitted.
    pub queued: usize,
    /// Sequences that have a place; the samples of a prompt that still runs are one.
    pub running: usize,
    /// Sequences that lost their place and wait to come back.
    pub preempted: usize,
    /// How full the cache is.
    pub cache: kvcache::Usage,
    /// What the cache found, evicted and copied.
    pub counters: kvcache::Counters,
    /// Bytes of blocks that went to the host.
    pub host_bytes: u64,
    /// Batches that ran.
    pub batches: u64,
    /// Tokens that ran in them, those that were guessed or recomputed included.
    pub tokens: u64,
    /// Times that a sequence lost its place.
    pub preemptions: u64,
    /// Errors of the executor that were mended.
    pub faults: u64,
}

impl std::ops::Add for Load {
    type Output = Load;

    fn add(self, other: Load) -> Load {
        let (a, b) = (self.cache, other.cache);
        let (c, d) = (self.counters, other.counters);
        Load {
            queued: self.queued + other.queued,
            running: self.running + other.running,
            preempted: self.preempted + other.preempted,
            cache: kvcache::Usage {
                total: a.total + b.total,
                used: a.used + b.used,
                cached: a.cached + b.cached,
                free: a.free + b.free,
                sequences: a.sequences + b.sequences,
                total_bytes: a.total_bytes + b.total_bytes,
                used_bytes: a.used_bytes + b.used_bytes,
                cached_bytes: a.cached_bytes + b.cached_bytes,
                free_bytes: a.free_bytes + b.free_bytes,
            },
            counters: kvcache::Counters {
                looked_up: c.looked_up + d.looked_up,
                found: c.found + d.found,
                evicted: c.evicted + d.evicted,
                copied: c.copied + d.copied,
                released: c.released + d.released,
            },
            host_bytes: self.host_bytes + other.host_bytes,
            batches: self.batches + other.batches,
            tokens: self.tokens + other.tokens,
            preemptions: self.preemptions + other.preemptions,
            faults: self.faults + other.faults,
        }
    }
}
