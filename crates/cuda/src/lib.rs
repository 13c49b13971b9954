//! The CUDA backend, and those of vendors whose drivers are shaped like CUDA's: driver, run-time compiler, memory and streams
//! around the kernels of `qiao-kernels-cuda`.
//!
//! - Presence is asked before any call: a machine without driver, card or compiler gets [`Error::NotPresent`], with what was
//!   looked for.
//! - What vendors call their libraries and functions, what their codes say and how their cards differ is a row of data for each
//!   ([`Family`]). Whose a card is, is asked of the bus and of its name.
//! - A card has one context, entered by each call, so that any thread may call. What is dropped while queued work may still
//!   use it is given back when an event behind that work is reached.
//! - Kernels are compiled when a plan first needs their unit, and kept on disk by text, options, compiler, driver and card.
//!   With the feature `prebuilt` the crate embeds what nvcc makes of them, and no run-time compiler is needed.
//! - A plan fills addresses into a block of arguments and queues its launches; executed again with the same addresses it runs
//!   as a captured graph. `QIAO_CUDA_GRAPHS=0` keeps it from that.
//!
//! [`Error::NotPresent`]: qiao_core::Error::NotPresent

mod vendors;

mod library;

mod sys;

mod prebuilt;

mod outside;

mod rtc;

mod compile;

mod blas;

mod context;

mod memory;

mod event;

mod staging;

mod stream;

mod ops;

mod device;

mod backend;

pub use backend::{CudaBackend, Family};
