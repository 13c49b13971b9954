//! What can't be done, and how to mend it.

use thiserror::Error;

use crate::sequence::SequenceId;

/// A request that the cache refuses. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The pool has too few blocks that can be had now.
    #[error(
        "asked for {needed} blocks of the KV cache, {available} can be had: close a sequence, or ask again when one has ended"
    )]
    NoRoom {
        /// Blocks that the request takes.
        needed: usize,
        /// Blocks that are free or findable and unused.
        available: usize,
    },
    /// No such sequence is open.
    #[error("asked for {0}, which is not open in this cache: use the id that open() or fork() gave, before close()")]
    Unknown(SequenceId),
    /// Sizes that no cache can have.
    #[error("a KV cache can't have {what}: {mend}")]
    Config {
        /// What was asked.
        what: String,
        /// What is possible.
        mend: &'static str,
    },
    /// More tokens than positions can be told apart.
    #[error("asked for room for {asked} tokens, a sequence has at most {limit}: end it before")]
    TooLong {
        /// Tokens asked for.
        asked: usize,
        /// The most that a sequence can have.
        limit: usize,
    },
    /// Tokens said to be written for which no room was reserved, or into a block that others use too.
    #[error(
        "asked to commit up to {asked} tokens, room was reserved for {capacity}: reserve before the tokens are written"
    )]
    NotReserved {
        /// Length of the sequence with the new tokens.
        asked: usize,
        /// Tokens that may be written.
        capacity: usize,
    },
    /// A cut at a length whose window has been given back already.
    #[error(
        "asked to cut the sequence at {asked} tokens, what is before {held_from} has left the window of {window} and is gone: cut at 0 and write it again"
    )]
    Released {
        /// The length asked for.
        asked: usize,
        /// The first position that is still held.
        held_from: usize,
        /// Keys that a token sees.
        window: usize,
    },
}

/// What the cache answers.
pub type Result<T> = std::result::Result<T, Error>;
