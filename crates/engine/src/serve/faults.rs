//! Errors of the device: what is mended, what ends a request, and what ends all.

use qiao_core::Error;

use crate::error::{EngineError, Result};
use crate::serve::batch::Batch;
use crate::serve::policy::Stepped;
use crate::serve::scheduler::Scheduler;

/// Batches that must go well before a batch may be twice as large again.
const GOOD_BATCHES: u32 = 8;

/// How many tokens a batch may have: fewer for a while where the device had no memory for more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Squeeze {
    limit: usize,
    most: usize,
    good: u32,
}

impl Squeeze {
    pub(super) fn new(limit: usize) -> Squeeze {
        Squeeze { limit, most: limit, good: 0 }
    }

    /// Most tokens of the next batch.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// A batch of so many tokens found no memory.
    fn failed(&mut self, tokens: usize) {
        self.most = (tokens / 2).max(1);
        self.good = 0;
    }

    /// A batch went well.
    pub(super) fn worked(&mut self) {
        if self.most == self.limit {
            return;
        }
        self.good += 1;
        if self.good == GOOD_BATCHES {
            self.most = self.most.saturating_mul(2).min(self.limit);
            self.good = 0;
        }
    }
}

impl Scheduler {
    /// Runs a batch until it goes well, or as often as the policy allows.
    pub(super) fn run(&mut self, mut batch: Batch) -> Result<Stepped> {
        let mut attempts = 0;
        loop {
            let Err(error) = self.attempt(&batch) else {
                return Ok(Stepped::Ran { tokens: batch.tokens(), sequences: batch.parts.len() });
            };
            self.mend(&error)?;
            if attempts == self.state.policy.retries {
                for request in batch.requests(&self.state) {
                    self.state.end_request(request, &error);
                }
                return Ok(Stepped::Ran { tokens: 0, sequences: 0 });
            }
            attempts += 1;
            if is_out_of_memory(&error) {
                self.state.squeeze.failed(batch.tokens());
                batch.shrink(self.state.squeeze.most());
            }
        }
    }

    fn attempt(&mut self, batch: &Batch) -> Result<()> {
        let Scheduler { executor, state, .. } = self;
        let entries = batch.entries(&state.cache);
        let wanted = entries.iter().map(|entry| entry.rows).sum::<usize>() * state.limits.vocab;
        let logits = executor.run(&entries)?;
        if logits.len() != wanted {
            let why = format!("{wanted} logits were wanted, {} came", logits.len());
            return Err(Error::internal("a batch", why).into());
        }
        state.take(batch, logits);
        Ok(())
    }

    /// Makes the executor usable after an error.
    ///
    /// # Errors
    /// It can't go on; then no request is left.
    pub(super) fn mend(&mut self, error: &EngineError) -> Result<()> {
        if is_lost(error) {
            return Err(self.lose(repeat(error)));
        }
        self.state.faults += 1;
        self.executor.recover().map_err(|error| self.lose(error))
    }

    /// Ends everything.
    fn lose(&mut self, error: EngineError) -> EngineError {
        let all: Vec<_> = self.state.jobs.keys().copied().collect();
        for id in all {
            self.state.end_request(id, &error);
        }
        self.state.lost = Some(repeat(&error));
        error
    }
}

/// The same error once more.
pub(super) fn repeat(error: &EngineError) -> EngineError {
    match error {
        EngineError::Device(error) => EngineError::Device(error.clone()),
        EngineError::Logits { found } => EngineError::Logits { found: found.clone() },
        other => Error::internal("a batch", other.to_string()).into(),
    }
}

/// The error that was first, where a stream kept it.
fn first(error: &EngineError) -> Option<&Error> {
    let EngineError::Device(error) = error else { return None };
    let mut error = error;
    while let Error::Poisoned { first } = error {
        error = first;
    }
    Some(error)
}

fn is_lost(error: &EngineError) -> bool {
    matches!(first(error), Some(Error::DeviceLost { .. }))
}

fn is_out_of_memory(error: &EngineError) -> bool {
    matches!(first(error), Some(Error::OutOfMemory { .. }))
}
