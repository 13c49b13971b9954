//! Who guesses what comes next.

use crate::error::Result;
use crate::sampler::Sampler;

/// Guesses what comes next; a guess never changes a text, only how fast it comes.
pub trait Proposer: Send {
    /// Guesses for several sequences, one list for each, in their order: at most as many ids as are wanted, in their order.
    ///
    /// # Errors
    /// Its own; the batch then runs without guesses.
    fn propose(&mut self, wants: &[Want<'_>]) -> Result<Vec<Vec<u32>>>;

    /// A sequence is over.
    fn forget(&mut self, sequence: u64);
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
