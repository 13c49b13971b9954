//! Many requests on one model: a shared cache of pages, batches that change from step to step, and the order in which requests run.

mod executor;
mod pages;

pub use crate::entry::Entry;
pub use executor::{Executor, HostBlocks, Limits};
pub use pages::{BLOCK_SIZE, CacheOptions, PagedExecutor};
