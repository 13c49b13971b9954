//! Errors of a device told apart, and how large a batch may be after one.

use qiao_core::Error;

use crate::error::EngineError;

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
    pub(super) fn failed(&mut self, tokens: usize) {
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

/// The same error once more.
pub(super) fn repeat(error: &EngineError) -> EngineError {
    match error {
        EngineError::Device(error) => EngineError::Device(error.clone()),
        EngineError::Logits { found } => EngineError::Logits { found: found.clone() },
        EngineError::ServerEnded { why } => EngineError::ServerEnded { why: why.clone() },
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

pub(super) fn is_lost(error: &EngineError) -> bool {
    matches!(first(error), Some(Error::DeviceLost { .. }))
}

pub(super) fn is_out_of_memory(error: &EngineError) -> bool {
    matches!(first(error), Some(Error::OutOfMemory { .. }))
}
