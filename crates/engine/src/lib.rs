//! From a checkpoint to tokens, over any device.
//!
//! Modules, from ground to roof: `error`, `json`, `weights`, `rope`, `config`.
#![deny(unsafe_code)]

pub mod error;
mod json;

pub mod weights;

pub mod rope;

pub mod config;

pub use error::{EngineError, Result};
