//! Who guesses what comes next.

use qiao_core::Error;

use crate::error::{EngineError, Result};
use crate::sampler::Sampler;
use crate::sides::Deadline;

/// Guesses what comes next; a guess never changes a text, only how fast it comes.
pub trait Proposer: Send {
    /// Guesses for several sequences, one list for each, in their order: at most as many ids as are wanted, in their order.
    ///
    /// # Errors
    /// Its own; the batch then runs without guesses. One that ends in [`Error::Timeout`] or [`Error::DeviceLost`] is not asked again,
    /// lest everybody wait for it in every batch.
    fn propose(&mut self, wants: &[Want<'_>]) -> Result<Vec<Vec<u32>>>;

    /// A sequence is over.
    fn forget(&mut self, sequence: u64);

    /// From now on no wait for a device lasts beyond this. Default: nothing, for those who wait for none.
    fn set_deadline(&mut self, deadline: Deadline) {
        let _ = deadline;
    }
}

/// Whether who guesses can't go on, or would be waited for again and again.
pub(crate) fn is_out(error: &EngineError) -> bool {
    matches!(error, EngineError::Device(Error::Timeout { .. } | Error::DeviceLost { .. }))
}

/// What a guess is wanted for.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// The number of the sample, which no other has.
    pub sequence: u64,
    /// Prompt and output so far.
    pub tokens: &'a [u32],
    /// Most ids that are of use, at least 1.
    pub most: usize,
    /// The sampler as it is before the next token; for a clone to choose with.
    pub sampler: &'a Sampler,
}
