//! A model on a device: weights placed once, plans made when first needed and kept.

use std::collections::HashMap;
use std::mem::take;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use qiao_core::{Binding, DType, Device};
use qiao_layers::{Account, Policy, lower};

use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::model::{CacheShape, DecoderSpec, Family, ModelGraph, Precision, Step};
use crate::placing::{PlacedWeights, Progress, is_weight};
use crate::prepared::{Key, Prepared};
use crate::rope::{RopeScaling, RopeTables};
use crate::rotary::Rotary;
use crate::weights::Weights;

/// Tokens of a prompt that run at once.
pub const PREFILL_CHUNK: usize = 512;

/// The context of a model loaded without saying, where the model allows as much.
pub const DEFAULT_CONTEXT: usize = 4096;

/// The smallest cache that is made for a sequence; larger ones double.
const SMALLEST_CACHE: usize = 256;

/// Plans for more than one token that are kept.
const KEPT_PLANS: usize = 8;

const DECODE: Step = Step { tokens: 1, rows: 1, keep_hidden: false };

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The dtype of activations and cache; `None` = that of the stored weights.
    pub dtype: Option<DType>,
    /// The longest sequence, prompt and answer together; `None` = [`DEFAULT_CONTEXT`] or what the model allows, whichever is
    /// less.
    pub context: Option<usize>,
}

/// A model on a device, shared by any number of sessions.
pub struct LoadedModel {
    device: Arc<dyn Device>,
    config: ModelConfig,
    spec: DecoderSpec,
    rope: RopeTables,
    compute: DType,
    context: usize,
    dtypes: HashMap<String, DType>,
    weights: PlacedWeights,
    plans: Mutex<Plans>,
    rotary: Mutex<HashMap<usize, Arc<Rotary>>>,
    load_time: Duration,
}

#[derive(Default)]
struct Plans {
    decode: HashMap<CacheShape, Arc<Prepared>>,
    /// The most recently used last.
    recent: Vec<Arc<Prepared>>,
}

impl Plans {
    fn find(&mut self, key: Key) -> Option<Arc<Prepared>> {
        if key.0 == DECODE {
            return self.decode.get(&key.1).cloned();
        }
        let at = self.recent.iter().position(|p| (p.step, p.cache) == key)?;
        let found = self.recent.remove(at);
        self.recent.push(found.clone());
        Some(found)
    }

    fn keep(&mut self, plan: Arc<Prepared>) {
        if plan.step == DECODE {
            self.decode.insert(plan.cache, plan);
            return;
        }
        if self.recent.len() >= KEPT_PLANS {
            self.recent.remove(0);
        }
        self.recent.push(plan);
    }
}

/// The longest sequence that a configuration stands for, its rope scaling included: linear and dynamic scaling stretch
/// `max_position_embeddings`, yarn its original context.
pub fn longest_context(config: &ModelConfig) -> usize {
    let given = config.max_position_embeddings;
    let stretched = match &config.rope.scaling {
        RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => given as f64 * factor,
        RopeScaling::Yarn { factor, original, .. } => *original as f64 * factor,
        _ => 0.0,
    };
    given.max(stretched as usize).min(i32::MAX as usize)
}

impl LoadedModel {
    /// Reads a checkpoint's weights onto a device. `path` stands in error texts only.
    ///
    /// # Errors
    /// An unknown architecture; missing tensors, or such of other shapes than `config.json` says; a context beyond the model's;
    /// operators that the device does not run, each with its reason; the device's own errors.
    pub fn load(
        device: Arc<dyn Device>,
        weights: &Weights,
        config: ModelConfig,
        path: &Path,
        options: LoadOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<LoadedModel> {
        let start = Instant::now();
        let mut spec = (Family::of(&config, path)?.spec)(&config)?;
        let embed = format!("{}.weight", spec.names.embed);
        let head = format!("{}.weight", spec.names.lm_head);
        spec.tied |= !weights.contains(&head) && weights.contains(&embed);
        let mut model = LoadedModel {
            compute: compute_dtype(weights.tensor(&embed)?.dtype, &config, options.dtype)?,
            context: checked_context(&config, options.context)?,
            rope: RopeTables::new(&config.rope, config.head_dim, config.max_position_embeddings),
            dtypes: HashMap::new(),
            weights: PlacedWeights::default(),
            plans: Mutex::default(),
            rotary: Mutex::default(),
            load_time: Duration::ZERO,
            device,
            config,
            spec,
        };
        model.read_dtypes(weights)?;
        let key = (DECODE, model.cache_shape(1));
        let mut g = model.graph(key)?;
        PlacedWeights::check(weights, &g)?;
        let plan = lower(&model.device, take(&mut g.graph), &Policy::DeviceOnly)?;
        model.weights = PlacedWeights::place(&model.device, weights, &g, &plan.packs, progress)?;
        let decode = Prepared::new(&*model.device, key, g, plan);
        model.plans().keep(Arc::new(decode));
        model.load_time = start.elapsed();
        Ok(model)
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// What `config.json` says.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What the graphs are built from.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The dtype of activations and cache.
    pub fn compute_dtype(&self) -> DType {
        self.compute
    }

    /// The longest sequence, in tokens.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Bytes of the weights on the device, those that stay in their mapped file included.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// What became of every operator of a decode step on the device.
    ///
    /// # Errors
    /// The device's own errors of planning.
    pub fn account(&self) -> Result<Account> {
        Ok(self.prepared((DECODE, self.cache_shape(1)))?.account().clone())
    }

    /// The pages of a cache for sequences of this many tokens: rounded up to a power of two, so that few plans are needed, and
    /// not beyond the context.
    pub(crate) fn cache_shape(&self, tokens: usize) -> CacheShape {
        let rounded = tokens.max(SMALLEST_CACHE).checked_next_power_of_two().unwrap_or(tokens);
        CacheShape::contiguous(&self.device.info().kv, self.compute, rounded.min(self.context))
    }

    pub(crate) fn rope(&self) -> &RopeTables {
        &self.rope
    }

    /// The rotary tables for a capacity, where they are the same for every sequence.
    pub(crate) fn shared_rotary(&self, capacity: usize) -> Result<Arc<Rotary>> {
        let mut all = self.rotary.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(&capacity) {
            return Ok(found.clone());
        }
        let mut stream = self.device.stream()?;
        let made = Arc::new(Rotary::new(&*self.device, &mut *stream, &self.rope, capacity)?);
        all.insert(capacity, made.clone());
        Ok(made)
    }

    /// The plan of a step, made if it is not there.
    pub(crate) fn prepared(&self, key: Key) -> Result<Arc<Prepared>> {
        let mut plans = self.plans();
        if let Some(found) = plans.find(key) {
            return Ok(found);
        }
        let mut g = self.packed_graph(key)?;
        let plan = lower(&self.device, take(&mut g.graph), &Policy::DeviceOnly)?;
        if let Some(pack) = plan.packs.first() {
            let name = &plan.graph.tensor(plan.graph.bound()[pack.bound]).name;
            let what = format!("private layout {:#x} of '{name}' for {} tokens", pack.layout, key.0.tokens);
            let why = format!("{} wanted none, or another, for one token", self.device.info().name);
            return Err(qiao_core::Error::internal(what, why).into());
        }
        let made = Arc::new(Prepared::new(&*self.device, key, g, plan));
        plans.keep(made.clone());
        Ok(made)
    }

    pub(crate) fn bindings(&self, plan: &Prepared, own: &crate::prepared::SessionBuffers<'_>) -> Result<Vec<Binding>> {
        plan.bindings(&self.weights, own)
    }

    /// The graph of a step, with its weights in the layouts that they were placed in.
    pub(crate) fn packed_graph(&self, key: Key) -> Result<ModelGraph> {
        let mut g = self.graph(key)?;
        self.weights.set_layouts(&mut g.graph, &g.constants)?;
        Ok(g)
    }

    /// The weights on the device.
    pub(crate) fn weights(&self) -> &PlacedWeights {
        &self.weights
    }

    fn graph(&self, (step, cache): Key) -> Result<ModelGraph> {
        let weight = |name: &str| self.dtypes.get(name).copied().unwrap_or(self.compute);
        self.spec.graph(step, cache, Precision { compute: self.compute, weight: &weight })
    }

    fn read_dtypes(&mut self, weights: &Weights) -> Result<()> {
        for name in weights.names() {
            // A tensor that no graph uses may have any dtype; one that a graph uses is refused before it is placed.
            if let Ok(tensor) = weights.tensor(name)
                && is_weight(tensor.dtype)
            {
                self.dtypes.insert(name.to_string(), tensor.dtype);
            }
        }
        Ok(())
    }

    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The dtype of activations: as asked, else that of the stored weights.
///
/// # Errors
/// One that no model computes in.
pub(crate) fn compute_dtype(stored: DType, config: &ModelConfig, asked: Option<DType>) -> Result<DType> {
    match asked {
        Some(dtype) if !dtype.is_activation() => Err(EngineError::Parameter {
            name: "compute dtype",
            expected: "f32, bf16 or f16",
            found: dtype.name().to_string(),
        }),
        Some(dtype) => Ok(dtype),
        None => {
            Ok([Some(stored), config.dtype].into_iter().flatten().find(|d| d.is_activation()).unwrap_or(DType::F32))
        }
    }
}

/// The longest sequence: as asked, else [`DEFAULT_CONTEXT`] or what the model allows.
///
/// # Errors
/// More than the model allows, or none.
pub(crate) fn checked_context(config: &ModelConfig, asked: Option<usize>) -> Result<usize> {
    let limit = longest_context(config);
    match asked {
        Some(asked) if asked == 0 || asked > limit => Err(EngineError::ContextTooLong { asked, limit }),
        Some(asked) => Ok(asked),
        None => Ok(limit.min(DEFAULT_CONTEXT)),
    }
}
