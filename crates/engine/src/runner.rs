//! A model on a device, or on several that have some layers each: weights placed once, plans made when first needed and kept.

use std::collections::HashMap;
use std::mem::take;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qiao_core::{Binding, DType, Device, DeviceInfo, MemoryInfo};
use qiao_layers::{Account, Entry, Home, Lowered, Policy, lower_with};

use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::fingerprint::Fingerprint;
use crate::form::WeightForm;
use crate::homes::{SequenceHomes, fixed};
use crate::model::{CacheShape, DecoderSpec, ModelGraph, Precision, Step};
use crate::placing::PlacedWeights;
use crate::prepacked::Source;
use crate::prepared::{Key, Prepared};
use crate::rope::RopeTables;
use crate::rotary::Rotary;
use crate::sides::{HostWork, Sides};

mod load;
mod plans;

pub(crate) use load::checked_context;
pub use load::{DEFAULT_CONTEXT, LoadOptions, longest_context};
use plans::{DECODE, Plans};

/// Tokens of a prompt that run at once; [`prompt_chunk`] has more for some devices.
pub const PREFILL_CHUNK: usize = 512;

/// Tokens of a prompt that run at once on a card with room: a product of fewer rows leaves many of its processors idle.
const CARD_CHUNK: usize = 2048;

/// Bytes of its own memory from which a card has room for it.
const CARD_BYTES: u64 = 8 << 30;

/// Tokens of a prompt that run at once on a device.
pub fn prompt_chunk(info: &DeviceInfo) -> usize {
    let card = |m: &MemoryInfo| m.kind.device_local && !m.kind.host_visible && m.free_bytes >= CARD_BYTES;
    if info.memories.first().is_some_and(card) { CARD_CHUNK } else { PREFILL_CHUNK }
}

/// The smallest cache that is made for a sequence; larger ones double.
const SMALLEST_CACHE: usize = 256;

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
    /// By what prepacked weights are found.
    source: Option<Source>,
}

impl LoadedModel {
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

    /// Tokens of a prompt that run at once: what suits the devices of all stages.
    pub fn prompt_chunk(&self) -> usize {
        self.all().map(|stage| prompt_chunk(stage.device().info())).min().unwrap_or(PREFILL_CHUNK)
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

    /// By what its prepacked weights are found.
    pub(crate) fn source(&self) -> Option<&Source> {
        self.whole.source.as_ref()
    }

    /// The longest sequence, in tokens.
    pub fn context(&self) -> usize {
        self.whole.context
    }

    /// Bytes of the weights on the devices, those that stay in their mapped file included.
    pub fn weight_bytes(&self) -> u64 {
        self.all().map(|stage| stage.weights.bytes(Home::Device)).sum()
    }

    /// Bytes of this stage's weights on its device.
    pub(crate) fn own_weight_bytes(&self) -> u64 {
        self.weights.bytes(Home::Device)
    }

    /// Bytes of the weights that a step of a dense model reads, on devices and host: all but tables, of which rows are looked up.
    pub fn step_weight_bytes(&self) -> u64 {
        self.all().map(|stage| stage.weights.whole_bytes()).sum()
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

    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_with_room_takes_more_of_a_prompt_at_once() {
        let of = |host_visible, free_bytes| {
            let mut memory = MemoryInfo { free_bytes, ..Default::default() };
            (memory.kind.device_local, memory.kind.host_visible) = (true, host_visible);
            prompt_chunk(&DeviceInfo { memories: vec![memory], ..Default::default() })
        };
        assert_eq!([of(false, 80 << 30), of(false, 4 << 30), of(true, 80 << 30)], [2048, 512, 512]);
    }
}
