//! Many requests on one model: a shared cache of pages, batches that change from step to step, and the order in which requests run.

mod executor;

pub use executor::{Entry, Executor, HostBlocks, Limits};
