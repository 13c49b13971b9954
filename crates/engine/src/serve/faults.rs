//! Errors of the device: what is mended, what ends a request, and what ends all.

use qiao_core::Error;

use crate::error::{EngineError, Result};
use crate::serve::batch::Batch;
use crate::serve::policy::Stepped;
use crate::serve::trouble::{is_lost, is_out_of_memory, repeat};
use crate::serve::works::Works;

impl Works {
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
        let Works { executor, state, .. } = self;
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
    /// It can't go on; then no request is left, or all are as they were.
    pub(super) fn mend(&mut self, error: &EngineError) -> Result<()> {
        if is_lost(error) {
            return Err(self.lose(repeat(error)));
        }
        self.state.faults += 1;
        self.executor.recover().map_err(|error| self.lose(error))
    }

    /// Ends everything, unless somebody takes it out.
    fn lose(&mut self, error: EngineError) -> EngineError {
        let all: Vec<_> = self.state.jobs.keys().copied().filter(|_| !self.state.keeps).collect();
        for id in all {
            self.state.end_request(id, &error);
        }
        self.state.lost = Some(repeat(&error));
        error
    }
}
