//! From a checkpoint to tokens, over any device.
#![deny(unsafe_code)]

pub mod error;
pub mod weights;

pub use error::{EngineError, Result};
