//! A device in a process of its own: the proxy here, the device there, a socket between them.

mod wire;
mod words;

mod link;
mod proxy;
mod serve;

pub(crate) use link::gate;
pub use proxy::{ChildBackend, ChildDevice};
pub use serve::serve;
