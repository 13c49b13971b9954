//! Qiao: load a checkpoint and stream tokens, on whatever chip is present.
//!
//! ```
//! use std::io::Write;
//!
//! fn main() -> qiao::Result<()> {
//!     let model = qiao::Model::demo()?; // or qiao::Model::load("path/to/checkpoint")?
//!     let params = qiao::Params::new().max_tokens(24);
//!     let mut generation = model.generate("床前明月光", &params)?;
//!     for piece in &mut generation {
//!         print!("{}", piece?.text);
//!         std::io::stdout().flush().ok();
//!     }
//!     println!("\n{:.1} tokens/s", generation.stats().decode_tokens_per_s());
//!     Ok(())
//! }
//! ```
//!
//! - [`Model`] is a checkpoint on a device: clone it, share it between threads, run several generations from it at once.
//!   [`ModelOptions`] says which device, which compute dtype, how long a context.
//! - [`Generation`] is an iterator over [`Piece`]s of text that are never a part of a character. [`Generation::canceller`] ends
//!   it from another thread; dropping it ends it as well. [`Generation::save`] keeps it in a file, [`Model::resume`] goes on from
//!   there.
//! - [`Params`] are sampling parameters; what is not set is as the checkpoint's `generation_config.json` has it.
//! - [`registry`] lists the backends of this build; a device of another backend is given with [`ModelOptions::on`].
//! - [`Model::serve`] answers many requests at once, by a shared cache and batches that change from token to token: [`Server`].
//!   [`Server::over`] does so with one model on several devices, and goes on when one of them is lost.
//! - [`compare()`] judges a model on a device against golden logits.
//! - [`LockStep`] runs a model on two devices and names the first operator at which they part.
//! - [`Eval`] measures how good a model is on a text, and how far from the one that it was made from.
//! - [`Quantize`] makes a checkpoint smaller: GGUF files and compressed-tensors folders.
//! - [`forecast()`] tells from `config.json` alone what a device would make of a model.
//! - [`plugin`] opens chips that come as a shared library.
//! - [`mod@bench`] measures a model on a device: latency, throughput, memory, energy, and whether they last.
//!
//! Everything blocks the thread that calls it, and may be called from any; a [`Server`] has a thread of its own, and asynchronous calls
//! beside those that block.
#![forbid(unsafe_code)]

mod error;

pub mod plugin;

mod devices;

mod demo;
mod forecast;
mod lockstep;
mod params;

mod model;

mod serve;

mod eval;

pub mod quantize;

pub mod bench;

pub use devices::{host_fallback, open, registry};
pub use error::{Error, Result};
pub use eval::Eval;
pub use forecast::{forecast, forecast_demo};
pub use lockstep::LockStep;
pub use model::{Generation, Model, ModelOptions, compare, compare_writing, prepacked_folder};
pub use params::Params;
pub use quantize::Quantize;
pub use serve::{Reply, Request, ServeOptions, Server};

/// The contract that devices and graphs are written in.
pub use qiao_core as core;
pub use qiao_core::{DType, Device, Registry};
pub use qiao_engine::EngineError;
pub use qiao_engine::chat::Message;
pub use qiao_engine::checkpoint::Checkpoint;
pub use qiao_engine::compare::{Comparison, LayerComparison, Limits};
pub use qiao_engine::divergence::Divergence;
pub use qiao_engine::dtypes::placed_dtype;
pub use qiao_engine::eval::Evaluation;
pub use qiao_engine::forecast::{Forecast, ForecastOptions, read_peaks};
pub use qiao_engine::generate::{Canceller, FinishReason, Piece, Stats};
pub use qiao_engine::placing::Progress;
pub use qiao_engine::prepacked::{PackedWeights, PrepackedFile};
pub use qiao_engine::serve::{Balance, Chunk, End, Load, Replica, Usage};
pub use qiao_engine::sides::{HostWork, PATIENCE};
pub use qiao_engine::text::Prompt;
pub use qiao_layers::{Account, Fallback, Home, Hosted, Line, Peaks, Policy, Provenance, Way};
