//! Many requests on one model: a shared cache of pages, batches that change from step to step, and the order in which requests run.

mod executor;
mod stage;

mod pages;

mod policy;
mod propose;
mod request;
mod speculate;

mod queue;
mod sequence;
mod trouble;

mod state;

mod audit;
mod works;

mod preempt;

mod admit;
mod batch;

mod outcome;

mod faults;

mod scheduler;

mod moved;

mod reply;
mod router;
mod worker;

mod server;

pub use crate::entry::Entry;
pub use executor::{Executor, HostBlocks, Limits};
pub use pages::{BLOCK_SIZE, CacheOptions, PagedExecutor};
pub use policy::{Load, Policy, Preempt, Stepped};
pub use propose::{Proposer, Want};
pub use reply::{Blocking, Chunk, Reply};
pub use request::{End, Event, Request, RequestId, Usage};
pub use router::Balance;
pub use scheduler::Scheduler;
pub use server::{Replica, Server, ServerOptions};
pub use speculate::{DraftModel, PromptLookup};

pub(crate) use propose::is_out;

pub use crate::voice::{FinishReason, Piece, Speech};
