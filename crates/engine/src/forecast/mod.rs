//! What a device would make of a model, from `config.json` alone: which operators it runs, how much work a prompt and a token
//! are, how long the device's limits make that last at least, and how much memory it takes.
//!
//! - The graphs are those that the engine runs: a prompt in steps of at most [`prompt_chunk`] tokens, short prompts together
//!   in one step, and a decode step of one token for each sequence. The device answers for every node of them; nothing needs
//!   weights.
//! - Work is counted at the asked context: see [`Work`].
//! - An operator's least time is the longer of moving its bytes once and doing its products
//!   ([`qiao_layers::Peaks::least_seconds`]); it is a figure for operators that run one after the other and keep nothing on
//!   the chip between them. The bound of a [`Phase`] holds beyond that: it counts weights, keys and values, and products,
//!   each once, against the limits, and nothing else. A memory limit is that of the device's memory, so a model that fits into
//!   a chip's caches may beat it.
//! - Where a limit is not known nothing is put in its place.

use std::sync::Arc;

use qiao_core::{DType, Device};
use qiao_layers::{Peaks, Policy};

use crate::config::{CONFIG_FILE, ModelConfig};
use crate::dtypes::{compute_dtype, placed_dtype};
use crate::error::{EngineError, Result};
use crate::model::{CacheShape, Family};
use crate::runner::{checked_context, prompt_chunk};

mod limits;
mod steps;
mod work;

mod ask;

mod memory;
mod phase;

mod show;

pub use limits::{By, Least, read_peaks};
pub use memory::Memory;
pub use phase::{Operator, Phase};
pub use work::Work;

use ask::{Asked, Planner};
use memory::memory;
use phase::Draft;
use steps::{Shape, decode_step, prefill_steps};

/// The most sequences that are forecast.
const MAX_BATCH: usize = 1 << 16;

/// The tokens of a prompt where nothing is said, if the context has room for them.
pub const DEFAULT_PROMPT: usize = 512;

/// What is to be forecast.
#[derive(Clone, Debug)]
pub struct ForecastOptions {
    /// Sequences.
    pub batch: usize,
    /// Tokens that each sequence holds when it decodes, the new one counted; `None` = 4096 or what the model allows,
    /// whichever is less.
    pub context: Option<usize>,
    /// Tokens of each prompt; `None` = [`DEFAULT_PROMPT`] or the context, whichever is less.
    pub prompt: Option<usize>,
    /// The dtype of activations and cache; `None` = that of the weights. Where `config.json` does not name the weights' dtype,
    /// it is theirs as well.
    pub dtype: Option<DType>,
    /// The device's limits; `None` = those that it declares.
    pub peaks: Option<Peaks>,
    /// Where operators run that the device refuses. They count for nothing in the device's work and times.
    pub policy: Policy,
}

impl Default for ForecastOptions {
    fn default() -> Self {
        ForecastOptions { batch: 1, context: None, prompt: None, dtype: None, peaks: None, policy: Policy::DeviceOnly }
    }
}

/// What a device would make of a model. Plain data: its `Display` is a report for people, [`Forecast::to_json`] one for programs.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// The architecture, as `config.json` names it.
    pub model: String,
    /// Decoder layers.
    pub layers: usize,
    /// Weights, in elements.
    pub parameters: u64,
    /// The dtype of the weights: that of the most of them.
    pub weights: DType,
    /// The other dtypes of matrices, those of more weights first.
    pub other_weights: Vec<DType>,
    /// Whether the checkpoint names that dtype.
    pub weights_said: bool,
    /// The dtype of activations and cache.
    pub compute: DType,
    /// The device's name and architecture.
    pub device: String,
    /// Sequences.
    pub batch: usize,
    /// Tokens that each sequence holds when it decodes.
    pub context: usize,
    /// Tokens of each prompt.
    pub prompt: usize,
    /// The limits, with their provenance.
    pub peaks: Peaks,
    /// All prompts, from an empty cache.
    pub prefill: Phase,
    /// One token of each sequence, at the full context.
    pub decode: Phase,
    /// Memory.
    pub memory: Memory,
}

impl Forecast {
    /// Whether every operator runs: on the device, or on the host of the policy.
    pub fn supported(&self) -> bool {
        self.prefill.unsupported().chain(self.decode.unsupported()).next().is_none()
    }
}

/// Forecasts a model on a device.
///
/// # Errors
/// An architecture that is not known; options out of range; a device that contradicts itself. An operator that the device
/// refuses is no error: it stands in the forecast with the reason.
pub fn forecast(config: &ModelConfig, device: &Arc<dyn Device>, options: &ForecastOptions) -> Result<Forecast> {
    let spec = (Family::of(config, CONFIG_FILE.as_ref())?.spec)(config)?;
    let (batch, context, prompt) = sizes(config, options)?;
    let stored = config.dtype.or(options.dtype).unwrap_or(DType::F32);
    let compute = compute_dtype(device.info(), stored, config, options.dtype)?;
    let peaks = options.peaks.clone().unwrap_or_else(|| Peaks::declared(device.info()));
    let placed = placed_dtype(device.info(), stored);
    let cache = pool(device, compute, context, batch)?;
    let mut plan = Planner {
        device,
        policy: &options.policy,
        spec: &spec,
        cache,
        stored,
        placed,
        compute,
        quantisation: config.quantisation.as_ref(),
        homes: None,
    };
    let decode_shape = decode_step(batch, context);
    let chunk = prompt_chunk(device.info());
    plan.decide(decode_shape, prefill_steps(batch, prompt, chunk).first().map(|(shape, _)| *shape))?;
    let decode = plan.ask(decode_shape, None)?;
    let packed = decode.weights();
    let mut prefill: Vec<(Shape, Asked)> = Vec::new();
    let mut phase = Draft::default();
    for (shape, times) in prefill_steps(batch, prompt, chunk) {
        let at = match prefill.iter().position(|(seen, _)| seen.graph_key() == shape.graph_key()) {
            Some(at) => at,
            None => {
                prefill.push((shape, plan.ask(shape, Some(&packed))?));
                prefill.len() - 1
            }
        };
        phase.add(&prefill[at].1, shape, times, &peaks);
    }
    let prefilled = phase.finish(&peaks);
    let mut phase = Draft::default();
    phase.add(&decode, decode_shape, 1, &peaks);
    let decoded = phase.finish(&peaks);
    let info = device.info();
    let mut stored_dtypes = plan.stored_dtypes(&decode);
    let weights = if stored_dtypes.is_empty() { stored } else { stored_dtypes.remove(0) };
    Ok(Forecast {
        model: config.architectures.first().unwrap_or(&config.model_type).clone(),
        layers: spec.layers,
        parameters: decode.parameters(),
        weights,
        other_weights: stored_dtypes,
        weights_said: config.dtype.is_some() || config.quantisation.is_some(),
        compute,
        device: if info.arch.is_empty() { info.name.clone() } else { format!("{} ({})", info.name, info.arch) },
        batch,
        context,
        prompt,
        memory: memory(&plan, &decode, prefill.iter().map(|(_, asked)| asked))?,
        peaks,
        prefill: prefilled,
        decode: decoded,
    })
}

/// Batch, context and prompt, checked against the model.
fn sizes(config: &ModelConfig, options: &ForecastOptions) -> Result<(usize, usize, usize)> {
    let context = checked_context(config, options.context)?;
    let prompt = options.prompt.unwrap_or(DEFAULT_PROMPT.min(context));
    let refuse =
        |name, expected, found: usize| Err(EngineError::Parameter { name, expected, found: found.to_string() });
    if prompt == 0 {
        return Err(EngineError::EmptyPrompt);
    }
    if prompt > context {
        return Err(EngineError::PromptTooLong { tokens: prompt, context });
    }
    if !(1..=MAX_BATCH).contains(&options.batch) {
        return refuse("batch", "a whole number from 1 to 65536", options.batch);
    }
    let slots = options.batch.saturating_mul(context);
    if slots > i32::MAX as usize {
        return refuse("batch times context", "at most 2147483647 tokens: slots of a cache are i32", slots);
    }
    Ok((options.batch, context, prompt))
}

/// The pages of all sequences.
fn pool(device: &Arc<dyn Device>, compute: DType, context: usize, batch: usize) -> Result<CacheShape> {
    let one = CacheShape::contiguous(&device.info().kv, compute, context);
    Ok(CacheShape { blocks: one.blocks.saturating_mul(batch), ..one })
}

#[cfg(test)]
mod tests;
