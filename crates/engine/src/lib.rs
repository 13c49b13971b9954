//! From a checkpoint to tokens, over any device.
//!
//! Modules, from ground to roof: `error`, `json`, `form`, `quantisation`, `weights`, `rope`, `config`, `tokenizer`, `detokenize`, `stop`, `chat`,
//! `generation`, `sampler`, `model`, `gguf`, `checkpoint`, `dtypes`, `sides`, `homes`, `cache`, `entry`, `placing`, `border`, `prepared`, `rotary`, `fingerprint`, `stages`, `runner`, `forecast`, `leg`, `session`, `saved`, `compare`,
//! `divergence`, `eval`, `calibrate`, `text`, `voice`, `serve`, `generate`.
#![deny(unsafe_code)]

pub mod error;
mod json;

pub mod form;
pub mod quantisation;

pub mod weights;

pub mod rope;

pub mod config;

pub mod tokenizer;

pub mod detokenize;
pub mod stop;

pub mod chat;

pub mod generation;

pub mod sampler;

pub mod model;

mod gguf;

pub mod checkpoint;

pub mod dtypes;
mod homes;
pub mod sides;

mod pending;
pub mod prepacked;

mod border;
pub mod cache;
mod entry;
pub mod placing;
mod prepared;
mod rotary;

pub mod fingerprint;

pub mod stages;

pub mod runner;

pub mod forecast;

mod leg;
pub mod session;

mod saved;

pub mod compare;

pub mod divergence;

pub mod calibrate;
pub mod eval;

pub mod text;

pub mod voice;

pub mod serve;

pub mod generate;

pub use error::{EngineError, Result};
