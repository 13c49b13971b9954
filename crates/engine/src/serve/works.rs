//! A scheduler's parts: the device, who guesses, and what is known.

use crate::serve::executor::Executor;
use crate::serve::propose::Proposer;
use crate::serve::state::State;

/// All that a step works with.
pub(super) struct Works {
    pub(super) executor: Box<dyn Executor>,
    pub(super) proposer: Option<Box<dyn Proposer>>,
    pub(super) state: State,
}
