//! Many requests on one model: a shared cache of pages, batches that change from step to step, and the order in which requests run.

mod executor;
mod pages;

mod policy;
mod propose;
mod request;

mod queue;
mod sequence;

mod admit;
mod audit;
mod batch;
mod faults;
mod outcome;
mod preempt;
mod scheduler;
mod speculate;
mod state;

mod reply;
mod worker;

mod server;

pub use crate::entry::Entry;
pub use executor::{Executor, HostBlocks, Limits};
pub use pages::{BLOCK_SIZE, CacheOptions, PagedExecutor};
pub use policy::{Load, Policy, Preempt, Stepped};
pub use propose::{Proposer, Want};
pub use reply::{Blocking, Chunk, Reply};
pub use request::{End, Event, Request, RequestId, Usage};
pub use scheduler::Scheduler;
pub use server::{Server, ServerOptions};
pub use speculate::{DraftModel, PromptLookup};

pub use crate::voice::{FinishReason, Piece, Speech};
