//! A model on a device, or on several that have some layers each: weights placed once, plans made when first needed and kept.

use std::collections::HashMap;
use std::mem::take;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use qiao_core::{Binding, DType, Device};
use qiao_layers::{Account, Entry, Home, Lowered, Policy, lower_with};

use crate::config::ModelConfig;
use crate::dtypes::{cache_dtype, common_compute_dtype, placed_form};
use crate::error::{EngineError, Result};
use crate::fingerprint::Fingerprint;
use crate::form::WeightForm;
use crate::homes::{SequenceHomes, fixed};
use crate::model::{CacheShape, DecoderSpec, Family, ModelGraph, Precision, Step};
use crate::placing::{PlacedWeights, Progress};
use crate::prepared::{Key, Prepared};
use crate::rope::{RopeScaling, RopeTables};
use crate::rotary::Rotary;
use crate::sides::{HostWork, Sides};
use crate::stages::Placement;
use crate::weights::Weights;

/// Tokens of a prompt that run at once.
pub const PREFILL_CHUNK: usize = 512;

/// The context of a model loaded without saying, where the model allows as much.
pub const DEFAULT_CONTEXT: usize = 4096;

/// The smallest cache that is made for a sequence; larger ones double.
const SMALLEST_CACHE: usize = 256;

/// Plans for more than one token that are kept.
const KEPT_PLANS: usize = 48;

const DECODE: Step = Step::of_one(1, 1);

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The dtype of activations; `None` = that of the stored weights, or what the device has instead
    /// ([`crate::dtypes`]).
    pub dtype: Option<DType>,
    /// The dtype of keys and values; `None` = that of activations. Codes (i8, f8e4m3, f8e5m2) have an f32 scale for each token and
    /// head.
    pub kv_dtype: Option<DType>,
    /// The longest sequence, prompt and answer together; `None` = [`DEFAULT_CONTEXT`] or what the model allows, whichever is
    /// less.
    pub context: Option<usize>,
    /// Where operators run that the device refuses.
    pub policy: Policy,
    /// The longest wait for any command of the device; `None` = [`PATIENCE`](crate::sides::PATIENCE).
    pub patience: Option<Duration>,
}

/// A model on a device, shared by any number of sessions.
///
/// Where it is on several devices, this is its first stage: the layers on the first device, which has the others behind it
/// ([`LoadedModel::stages`]).
pub struct LoadedModel {
    whole: Arc<Whole>,
    sides: Sides,
    /// Those of the model that are here.
    layers: Range<usize>,
    forms: HashMap<String, WeightForm>,
    weights: PlacedWeights,
    homes: SequenceHomes,
    plans: Mutex<Plans>,
    rotary: Mutex<HashMap<usize, Arc<Rotary>>>,
    /// The stages behind the first, which it has.
    behind: Vec<Arc<LoadedModel>>,
    load_time: Duration,
}

/// What all stages of a model have in common.
struct Whole {
    config: ModelConfig,
    spec: DecoderSpec,
    rope: RopeTables,
    compute: DType,
    kv: DType,
    context: usize,
    fingerprint: Fingerprint,
}

/// A stage whose weights are not placed yet: the graph of a decode step and its plan.
struct Draft {
    stage: LoadedModel,
    key: Key,
    g: ModelGraph,
    plan: Lowered,
}

#[derive(Default)]
struct Plans {
    decode: HashMap<CacheShape, Arc<Prepared>>,
    /// The most recently used last.
    recent: Vec<Arc<Prepared>>,
    /// What the host did in plans that are not kept any more.
    gone: HostWork,
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
            let oldest = self.recent.remove(0);
            self.gone = self.gone + oldest.host_work();
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
    /// Reads a checkpoint's weights onto a device, or onto several. `path` stands in error texts only.
    ///
    /// The plan of a decode step decides which weights live on the host where the policy has one, and that step and a chunk of a
    /// prompt together where keys and values do; every later plan keeps to it. No weight is placed before every device has a plan.
    ///
    /// # Errors
    /// An unknown architecture; missing tensors, or such of other shapes than `config.json` says; a context beyond the model's; a
    /// weight with values beyond the dtype that the device stores; operators that the device does not run, each with its
    /// reason; a split that does not fit the devices or the layers; devices that compute in no dtype in common; the devices' own errors.
    pub fn load(
        placement: impl Into<Placement>,
        weights: &Weights,
        config: ModelConfig,
        path: &Path,
        options: LoadOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<LoadedModel> {
        let (start, placement) = (Instant::now(), placement.into());
        let mut spec = (Family::of(&config, path)?.spec)(&config)?;
        let embed = format!("{}.weight", spec.names.embed);
        let head = format!("{}.weight", spec.names.lm_head);
        spec.tied |= !weights.contains(&head) && weights.contains(&embed);
        let spans = placement.layers(weights, &spec)?;
        let infos: Vec<_> = placement.devices.iter().map(|device| device.info()).collect();
        let compute = common_compute_dtype(&infos, weights.handle(&embed)?.dtype, &config, options.dtype)?;
        let whole = Arc::new(Whole {
            compute,
            kv: cache_dtype(compute, options.kv_dtype)?,
            context: checked_context(&config, options.context)?,
            rope: RopeTables::new(&config.rope, config.head_dim, config.max_position_embeddings),
            fingerprint: Fingerprint::of(weights, &config, &spec, compute),
            config,
            spec,
        });
        let sides = placement.devices.into_iter();
        let sides = sides.map(|device| Sides::new(device, options.policy.clone(), options.patience));
        let drafts = sides.zip(spans).map(|(sides, layers)| LoadedModel::draft(&whole, sides, layers, weights));
        let drafts = drafts.collect::<Result<Vec<_>>>()?;
        let mut stages = LoadedModel::place(drafts, weights, progress)?.into_iter();
        let Some(mut first) = stages.next() else {
            return Err(qiao_core::Error::internal("a model", "it was put onto no device").into());
        };
        first.behind = stages.map(Arc::new).collect();
        first.load_time = start.elapsed();
        Ok(first)
    }

    /// Some layers of a model on a device, planned.
    fn draft(whole: &Arc<Whole>, sides: Sides, layers: Range<usize>, weights: &Weights) -> Result<Draft> {
        let mut stage = LoadedModel {
            whole: whole.clone(),
            forms: HashMap::new(),
            weights: PlacedWeights::default(),
            homes: SequenceHomes::on_device(layers.len()),
            layers,
            plans: Mutex::default(),
            rotary: Mutex::default(),
            behind: Vec::new(),
            load_time: Duration::ZERO,
            sides,
        };
        stage.read_forms(weights);
        let key = (DECODE, stage.cache_shape(1));
        let mut g = stage.graph(key)?;
        PlacedWeights::check(weights, &g)?;
        let tokens = PREFILL_CHUNK.min(stage.context());
        let chunk = Step::of_one(tokens, 1);
        let chunk = if tokens > 1 { Some(stage.graph((chunk, stage.cache_shape(tokens)))?) } else { None };
        stage.homes = SequenceHomes::decide(&**stage.device(), stage.policy(), &g, chunk.as_ref())?;
        let plan = stage.lower(&mut g)?;
        Ok(Draft { stage, key, g, plan })
    }

    /// Puts the weights of all stages onto their devices.
    fn place(drafts: Vec<Draft>, weights: &Weights, progress: &mut dyn FnMut(Progress)) -> Result<Vec<LoadedModel>> {
        let bytes = |draft: &Draft| draft.g.constants.iter().map(|c| weights.byte_len(&c.name)).sum::<u64>();
        let total = drafts.iter().map(bytes).sum();
        let mut before = 0;
        progress(Progress { done: 0, total });
        let each = drafts.into_iter().map(|draft| {
            let own = bytes(&draft);
            let Draft { mut stage, key, g, plan } = draft;
            let mut tell = |done| progress(Progress { done: before + done, total });
            stage.weights = PlacedWeights::place(&stage.sides, weights, &g, &plan, &mut tell)?;
            before += own;
            stage.unpack(&plan, &g)?;
            let decode = Prepared::new(&**stage.device(), key, g, plan);
            stage.plans().keep(Arc::new(decode));
            Ok(stage)
        });
        each.collect()
    }

    /// The stages of the model, in the order in which a token passes them: one for each device.
    pub fn stages(self: &Arc<Self>) -> Vec<Arc<LoadedModel>> {
        std::iter::once(self).chain(&self.behind).cloned().collect()
    }

    fn all(&self) -> impl Iterator<Item = &LoadedModel> {
        std::iter::once(self).chain(self.behind.iter().map(|stage| &**stage))
    }

    /// The device of each stage, and how many layers it has.
    pub fn placed(&self) -> impl Iterator<Item = (&Arc<dyn Device>, usize)> {
        self.all().map(|stage| (stage.device(), stage.layers.len()))
    }

    /// Refuses a model on several devices, for those who look into its graph.
    ///
    /// # Errors
    /// It is on more than one.
    pub(crate) fn require_one_device(&self, who: &'static str) -> Result<()> {
        match self.behind.len() {
            0 => Ok(()),
            more => Err(EngineError::SeveralDevices { who, devices: more + 1 }),
        }
    }

    /// The layers of the model that are on this stage's device.
    pub fn layers(&self) -> Range<usize> {
        self.layers.clone()
    }

    /// A step as it is for this stage: all tokens pass on to the stage behind, whatever wants logits in the end.
    pub(crate) fn own_step(&self, step: Step) -> Step {
        let last = self.layers.end == self.spec().layers;
        if last { step } else { Step { rows: step.tokens, ..step } }
    }

    /// Bytes of what crosses to the stage behind, for so many tokens: the residual stream, and its norm as much again.
    pub(crate) fn border_bytes(&self, tokens: usize) -> usize {
        self.whole.compute.bytes_for(tokens * self.spec().hidden).unwrap_or(0)
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        self.sides.device()
    }

    /// Where operators run that the device refuses.
    pub fn policy(&self) -> &Policy {
        self.sides.policy()
    }

    /// The device, its host and how long they are waited for.
    pub(crate) fn sides(&self) -> &Sides {
        &self.sides
    }

    /// What `config.json` says.
    pub fn config(&self) -> &ModelConfig {
        &self.whole.config
    }

    /// What the graphs are built from.
    pub fn spec(&self) -> &DecoderSpec {
        &self.whole.spec
    }

    /// The dtype of activations.
    pub fn compute_dtype(&self) -> DType {
        self.whole.compute
    }

    /// The dtype of keys and values.
    pub fn kv_dtype(&self) -> DType {
        self.whole.kv
    }

    /// What tells it from other models.
    pub fn fingerprint(&self) -> Fingerprint {
        self.whole.fingerprint
    }

    /// The longest sequence, in tokens.
    pub fn context(&self) -> usize {
        self.whole.context
    }

    /// Bytes of the weights on the devices, those that stay in their mapped file included.
    pub fn weight_bytes(&self) -> u64 {
        self.all().map(|stage| stage.weights.bytes(Home::Device)).sum()
    }

    /// Bits that a weight of a projection takes where it lives, in the layout that the device prefers, with its share of scales
    /// and padding.
    pub fn bits_per_weight(&self) -> f64 {
        let (bytes, weights) =
            self.all().map(|stage| stage.weights.projections()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        bytes as f64 * 8.0 / weights.max(1) as f64
    }

    /// How many weights are stored in which dtype, the most first; scales of others are not counted.
    pub fn stored_weights(&self) -> Vec<(DType, u64)> {
        PlacedWeights::stored(self.all().map(|stage| &stage.weights))
    }

    /// Bytes of the weights on the host that the policy names, those that stay in their mapped file included.
    pub fn host_weight_bytes(&self) -> u64 {
        self.all().map(|stage| stage.weights.bytes(Home::Host)).sum()
    }

    /// The form in which the device has a weight; `None` for a name that the checkpoint does not have.
    pub fn weight_form(&self, name: &str) -> Option<WeightForm> {
        self.forms.get(name).copied()
    }

    /// The graph of a step, as it is before it is lowered onto the device.
    ///
    /// # Errors
    /// Sizes that no tensor can have.
    pub fn step_graph(&self, step: Step, cache: CacheShape) -> Result<ModelGraph> {
        self.graph((step, cache))
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// What became of every operator of a decode step on its device, stage by stage; with how often those on the host ran so far in decode steps
    /// of all sequences, and for how long.
    ///
    /// # Errors
    /// The device's own errors of planning.
    pub fn account(&self) -> Result<Account> {
        let mut account = self.own_account()?;
        for stage in &self.behind {
            let more = stage.own_account()?;
            let nodes = account.entries.len();
            account.device = format!("{}, {}", account.device, more.device);
            account.host = if account.host.is_empty() { more.host } else { account.host };
            account.entries.extend(more.entries.into_iter().map(|entry| Entry { node: entry.node + nodes, ..entry }));
        }
        Ok(account)
    }

    fn own_account(&self) -> Result<Account> {
        let first = self.prepared((DECODE, self.cache_shape(1)))?;
        let mut account = first.account();
        for other in self.plans().decode.values().filter(|other| other.cache != first.cache) {
            account.add_measured(&other.account());
        }
        Ok(account)
    }

    /// What ran on the host so far, in all steps of all sequences.
    pub fn host_work(&self) -> HostWork {
        let own = |stage: &LoadedModel| {
            let plans = stage.plans();
            plans.decode.values().chain(&plans.recent).fold(plans.gone, |sum, plan| sum + plan.host_work())
        };
        self.all().map(own).fold(HostWork::default(), |sum, own| sum + own)
    }

    /// The pages of a cache for sequences of this many tokens: rounded up to a power of two, so that few plans are needed, and
    /// not beyond the context.
    pub(crate) fn cache_shape(&self, tokens: usize) -> CacheShape {
        let rounded = tokens.max(SMALLEST_CACHE).checked_next_power_of_two().unwrap_or(tokens);
        CacheShape::contiguous(&self.device().info().kv, self.kv_dtype(), rounded.min(self.context()))
    }

    pub(crate) fn rope(&self) -> &RopeTables {
        &self.whole.rope
    }

    /// The rotary tables for a capacity, where they are the same for every sequence; no wait for the device is longer than
    /// `patience`.
    pub(crate) fn shared_rotary(&self, capacity: usize, patience: Duration) -> Result<Arc<Rotary>> {
        let all = || self.rotary.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all().get(&capacity) {
            return Ok(found.clone());
        }
        // Without the lock, so that no sequence waits for another one's device.
        let home = self.homes.rotary;
        let mut stream = self.sides.stream(home)?;
        stream.set_patience(patience);
        let made = Arc::new(Rotary::new(&**self.sides.of(home), &mut *stream, self.rope(), capacity)?);
        // Streams of sequences read it.
        stream.sync(patience)?;
        Ok(all().entry(capacity).or_insert(made).clone())
    }

    /// The plan of a step, made if it is not there.
    pub(crate) fn prepared(&self, key: Key) -> Result<Arc<Prepared>> {
        let mut plans = self.plans();
        if let Some(found) = plans.find(key) {
            return Ok(found);
        }
        let mut g = self.packed_graph(key)?;
        let plan = self.lower(&mut g)?;
        if let Some(pack) = plan.packs.first() {
            let name = &plan.graph.tensor(plan.graph.bound()[pack.bound]).name;
            let what = format!("private layout {:#x} of '{name}' for {} tokens", pack.layout, key.0.tokens);
            let why = format!("{} wanted none, or another, for one token", self.device().info().name);
            return Err(qiao_core::Error::internal(what, why).into());
        }
        self.unpack(&plan, &g)?;
        let made = Arc::new(Prepared::new(&**self.device(), key, g, plan));
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

    /// Lowers a step's graph, which is taken, with everything where it lives.
    fn lower(&self, g: &mut ModelGraph) -> Result<Lowered> {
        let homes = self.fixed_homes(g);
        Ok(lower_with(self.device(), take(&mut g.graph), self.policy(), &homes)?)
    }

    /// Gives the host copies of the weights that a plan reads there although they are packed on the device.
    pub(crate) fn unpack(&self, plan: &Lowered, g: &ModelGraph) -> Result<()> {
        self.weights.unpack(&self.sides, plan, &g.constants)
    }

    /// Where the bound tensors of a graph live: inputs and results on the device, weights where they were placed, if they were.
    pub(crate) fn fixed_homes(&self, g: &ModelGraph) -> Vec<Option<Home>> {
        fixed(g, |c| self.weights.home(c), Some(&self.homes))
    }

    /// Where that lives which belongs to a sequence.
    pub(crate) fn homes(&self) -> &SequenceHomes {
        &self.homes
    }

    /// The weights on the device.
    pub(crate) fn weights(&self) -> &PlacedWeights {
        &self.weights
    }

    fn graph(&self, (step, cache): Key) -> Result<ModelGraph> {
        let weight = |name: &str| self.forms.get(name).copied().unwrap_or(WeightForm::Plain(self.compute_dtype()));
        self.spec().graph_of(self.layers(), step, cache, Precision { compute: self.compute_dtype(), weight: &weight })
    }

    fn read_forms(&mut self, weights: &Weights) {
        // A tensor that no graph uses may have any dtype; one that a graph uses is refused before it is placed.
        let info = self.sides.device().info();
        let of = |name: &str| Some((name.to_string(), placed_form(info, weights.form(name)?)));
        self.forms = weights.names().filter_map(of).collect();
        // Rows are looked up without scales, so a table of codes is decoded once.
        let embed = format!("{}.weight", self.spec().names.embed);
        if let Some(form) = self.forms.get_mut(&embed).filter(|form| !matches!(form, WeightForm::Plain(_))) {
            *form = WeightForm::Plain(self.whole.compute);
        }
    }

    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
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
