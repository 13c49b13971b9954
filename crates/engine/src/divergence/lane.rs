//! One device of the two: a sequence whose every intermediate is read, and single operators on given operands.

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem::take;
use std::sync::Arc;

use qiao_core::{Binding, DType, Device, Error, Graph, NodeView, OpKind, Plan, Stream, Support, TensorId};
use qiao_layers::{Home, Lowered, lower_with};

use super::pages::Pages;
use super::taps::{Single, Source, Tapped};
use crate::cache::{ContiguousCache, KvCache, LayerBuffers};
use crate::entry::Entry;
use crate::error::Result;
use crate::model::{ModelGraph, Step};
use crate::placing::contents;
use crate::prepared::{Prepared, SessionBuffers};
use crate::rotary::Rotary;
use crate::runner::LoadedModel;
use crate::sides::alloc_padded;
use crate::weights::Weights;

/// What results hold before they are written.
const POISON: u8 = 0xa5;

/// Keys and values of every layer as plain rows.
pub(super) type Rows = Vec<[Vec<u8>; 2]>;

/// All that a step left on a device.
#[derive(Default)]
pub(crate) struct Record {
    /// The bytes of every intermediate result and of the logits.
    pub(super) values: HashMap<TensorId, Vec<u8>>,
    /// The cache before the step.
    pub(super) before: Rows,
    /// The cache after it.
    pub(super) after: Rows,
}

impl Record {
    /// The bytes of an intermediate result, or of the logits.
    pub(crate) fn value(&self, id: TensorId) -> Option<&[u8]> {
        self.values.get(&id).map(Vec::as_slice)
    }
}

/// One step, planned: the whole of it, and its nodes one by one.
struct Planned {
    /// The graph as it was before its intermediates were bound.
    g: ModelGraph,
    taps: Vec<TensorId>,
    whole: Prepared,
    bindings: Vec<Binding>,
    workspace: Binding,
    input: Binding,
    singles: HashMap<usize, SinglePlan>,
    act: Vec<Option<DType>>,
}

struct SinglePlan {
    single: Single,
    plan: Lowered,
}

/// A sequence of a model on its device.
pub(crate) struct Lane {
    model: Arc<LoadedModel>,
    stream: Box<dyn Stream>,
    /// Of the host, where anything lives there.
    host: Option<Box<dyn Stream>>,
    cache: ContiguousCache,
    rotary: Rotary,
    pages: Pages,
    /// By tokens of a step.
    planned: HashMap<usize, Planned>,
    /// Operands of single nodes; each grows when a node needs more.
    scratch: Vec<Binding>,
    rows: Rows,
}

impl Lane {
    /// An empty sequence with room for some tokens.
    pub(crate) fn new(model: &Arc<LoadedModel>, tokens: usize) -> Result<Lane> {
        model.require_one_device("what looks at single operators")?;
        let (sides, spec, homes) = (model.sides(), model.spec(), model.homes());
        let shape = model.cache_shape(tokens);
        let devices = homes.caches.iter().map(|pair| pair.map(|home| &**sides.of(home) as &dyn Device));
        let cache = ContiguousCache::spread(shape, devices, spec.kv_heads, spec.head_dim)?;
        let mut stream = sides.stream(Home::Device)?;
        let mut host = model.policy().host().map(|_| sides.stream(Home::Host)).transpose()?;
        let with = host.as_mut().filter(|_| homes.rotary == Home::Host).unwrap_or(&mut stream);
        let rotary = Rotary::new(&**sides.of(homes.rotary), &mut **with, model.rope(), shape.capacity())?;
        let head = spec.head_dim * shape.dtype.block_bytes();
        Ok(Lane {
            pages: Pages { shape, heads: spec.kv_heads, head },
            rows: vec![[Vec::new(), Vec::new()]; spec.layers],
            planned: HashMap::new(),
            scratch: Vec::new(),
            model: model.clone(),
            stream,
            host,
            cache,
            rotary,
        })
    }

    /// Forgets all tokens; plans are kept.
    pub(crate) fn clear(&mut self) {
        self.cache.truncate(0);
        self.rows.iter_mut().flatten().for_each(Vec::clear);
    }

    /// Tokens held.
    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }

    /// The graph of a step that has run.
    pub(crate) fn graph(&self, tokens: usize) -> &ModelGraph {
        &self.planned[&tokens].g
    }

    /// The dtype to which whoever runs a node of a step that has run rounds activations.
    pub(super) fn act(&self, tokens: usize, index: usize) -> Option<DType> {
        self.planned[&tokens].act.get(index).copied().flatten()
    }

    /// For each node, the dtype to which whoever runs it rounds activations: the device, or the host where the device refuses.
    fn rounding(&self, graph: &Graph) -> Vec<Option<DType>> {
        let mut answers = self.model.device().support(graph);
        if self.model.policy().host().is_some() {
            let host = self.model.sides().of(Home::Host).support(graph);
            let refused = answers.iter_mut().zip(host).filter(|(answer, _)| matches!(answer.answer, Support::No(_)));
            refused.for_each(|(answer, host)| *answer = host);
        }
        answers.into_iter().map(|answer| answer.act_dtype).collect()
    }

    fn plan(&self, tokens: usize) -> Result<Planned> {
        let model = &self.model;
        let device = model.device();
        let step = Step::of_one(tokens, tokens);
        let key = (step, self.cache.shape());
        let g = model.packed_graph(key)?;
        let tapped = Tapped::new(&g.graph)?;
        let act = self.rounding(&g.graph);
        // What is tapped stands after all else that is bound, on the device.
        let mut homes = model.fixed_homes(&g);
        homes.resize(tapped.graph.bound().len(), Some(Home::Device));
        let plan = lower_with(device, tapped.graph.clone(), model.policy(), &homes)?;
        model.unpack(&plan, &g)?;
        let bare = ModelGraph { graph: Graph::new(), ..g.clone() };
        let whole = Prepared::new(&**device, key, bare, plan);
        let bytes = |id: TensorId| g.graph.desc(id).bytes();
        let taps = tapped.taps.iter().map(|&id| alloc_padded(&**device, bytes(id)?)).collect::<Result<Vec<_>>>()?;
        let input = alloc_padded(&**device, whole.input_bytes())?;
        let logits = alloc_padded(&**device, bytes(g.graph.bound()[g.logits.expect("every token wants logits")])?)?;
        let own = SessionBuffers {
            input: &input,
            layers: self.cache.layers(),
            cos: &self.rotary.cos,
            sin: &self.rotary.sin,
            logits: &logits,
            hidden: &[],
            border: None,
        };
        let bindings = whole.bindings_with(model.weights(), &own, &taps)?;
        let workspace = alloc_padded(&**device, whole.workspace_bytes())?;
        Ok(Planned { g, taps: tapped.taps, whole, bindings, workspace, input, singles: HashMap::new(), act })
    }

    /// Appends tokens, all of which give logits; `total` is the length that the rotary frequencies are for.
    pub(crate) fn run(&mut self, ids: &[u32], total: usize) -> Result<Record> {
        let mut planned = match self.planned.remove(&ids.len()) {
            Some(planned) => planned,
            None => self.plan(ids.len())?,
        };
        let result = self.run_planned(&mut planned, ids, total);
        self.planned.insert(ids.len(), planned);
        result
    }

    fn run_planned(&mut self, planned: &mut Planned, ids: &[u32], total: usize) -> Result<Record> {
        self.cache.append(ids.len())?;
        let len = self.cache.len();
        let rotary = self.model.homes().rotary;
        let with = self.host.as_mut().filter(|_| rotary == Home::Host).unwrap_or(&mut self.stream);
        self.rotary.prepare(&mut **with, self.model.rope(), total, len - ids.len()..len)?;
        with.sync(self.model.sides().patience())?;
        let mut staging = Vec::new();
        let entry = Entry { ids, start: len - ids.len(), table: self.cache.block_table(), rows: ids.len() };
        planned.whole.write_inputs(&[entry], &mut staging);
        self.stream.upload(&planned.input, &staging)?;
        let results: Vec<(TensorId, Binding)> = planned.results();
        for (_, binding) in &results {
            self.stream.fill(binding, POISON)?;
        }
        planned.whole.plan().execute(&mut *self.stream, &planned.bindings, &planned.workspace)?;
        self.stream.sync(self.model.sides().patience())?;
        let mut values = HashMap::with_capacity(results.len());
        for (id, binding) in results {
            values.insert(id, download(&mut *self.stream, &binding)?);
        }
        let mut after = Rows::with_capacity(self.rows.len());
        for layer in 0..self.rows.len() {
            let [of_k, of_v] = self.model.homes().caches[layer];
            let LayerBuffers { k, v, .. } = &self.cache.layers()[layer];
            let (k, v) = (k.clone(), v.clone());
            let (k, v) = (self.read(&k, of_k)?, self.read(&v, of_v)?);
            after.push([self.pages.rows(&k, len), self.pages.rows(&v, len)]);
        }
        // The inputs once more: single nodes read them, and the whole plan may have done what it must not.
        self.stream.upload(&planned.input, &staging)?;
        let before = std::mem::replace(&mut self.rows, after.clone());
        Ok(Record { values, before, after })
    }

    /// Runs one node of a step that has run, on the operands of a record: that of the other device, or the own one. Gives the
    /// bytes of its results; those of a cache as plain rows.
    pub(super) fn run_single(&mut self, tokens: usize, index: usize, feed: &Record) -> Result<Vec<Vec<u8>>> {
        let mut planned = self.planned.remove(&tokens).expect("a step that has run is planned");
        let result = self.run_single_of(&mut planned, index, feed);
        self.planned.insert(tokens, planned);
        result
    }

    fn run_single_of(&mut self, planned: &mut Planned, index: usize, feed: &Record) -> Result<Vec<Vec<u8>>> {
        if !planned.singles.contains_key(&index) {
            let made = self.plan_single(&planned.g, index)?;
            planned.singles.insert(index, made);
        }
        let SinglePlan { single, plan } = &planned.singles[&index];
        let mut scratch = take(&mut self.scratch);
        let mut bindings = Vec::with_capacity(single.sources.len());
        for (position, &source) in single.sources.iter().enumerate() {
            let bytes = match self.operand(planned, single, position, source, feed) {
                Operand::Bound(binding) => {
                    bindings.push(binding);
                    continue;
                }
                Operand::Bytes(bytes) => bytes,
            };
            let binding = self.reserve(&mut scratch, position, bytes.len())?;
            self.stream.upload(&binding, &bytes)?;
            bindings.push(binding);
        }
        let workspace = self.reserve(&mut scratch, single.sources.len(), plan.info().workspace_bytes)?;
        plan.execute(&mut *self.stream, &bindings, &workspace)?;
        self.stream.sync(self.model.sides().patience())?;
        let mut results = Vec::with_capacity(single.outputs.len());
        for &output in &single.outputs {
            let bytes = download(&mut *self.stream, &bindings[output])?;
            let cache = matches!(single.sources[output], Source::Bound(at) if planned.cache(at).is_some());
            results.push(if cache { self.pages.rows(&bytes, self.cache.len()) } else { bytes });
        }
        self.scratch = scratch;
        Ok(results)
    }

    /// What a single node binds for an operand.
    fn operand(&self, planned: &Planned, single: &Single, position: usize, source: Source, feed: &Record) -> Operand {
        match source {
            Source::Bound(at) => match planned.cache(at) {
                Some((layer, which)) => {
                    let rows = if writes_cache(&single.graph) { &feed.before } else { &feed.after };
                    Operand::Bytes(self.pages.pages(&rows[layer][which]))
                }
                None => Operand::Bound(planned.bindings[at].clone()),
            },
            Source::Value { bytes, .. } if single.outputs.contains(&position) => Operand::Bytes(vec![POISON; bytes]),
            Source::Value { root, offset, bytes } => {
                Operand::Bytes(feed.values[&root][offset..offset + bytes].to_vec())
            }
        }
    }

    fn plan_single(&self, g: &ModelGraph, index: usize) -> Result<SinglePlan> {
        let single = Single::new(&g.graph, index, g.logits.as_slice())?;
        let mut graph = single.graph.clone();
        for (&own, source) in single.graph.bound().iter().zip(&single.sources) {
            if let Source::Bound(at) = source {
                let layout = g.graph.desc(g.graph.bound()[*at]).layout;
                if layout != 0 {
                    graph.set_layout(own, layout)?;
                }
            }
        }
        let homes = self.model.fixed_homes(g);
        let home = |source: &Source| match source {
            // A cache is given by value: it holds what another device may have written.
            Source::Bound(at) if !g.caches.iter().any(|&(k, v)| k == *at || v == *at) => homes[*at],
            _ => Some(Home::Device),
        };
        let fixed: Vec<_> = single.sources.iter().map(home).collect();
        let plan = lower_with(self.model.device(), graph, self.model.policy(), &fixed)?;
        if let Some(pack) = plan.packs.first() {
            let what = format!(
                "private layout {:#x} of '{}'",
                pack.layout,
                plan.graph.tensor(plan.graph.bound()[pack.bound]).name
            );
            let why = format!("{} wanted none, or another, in the whole graph", self.model.device().info().name);
            return Err(Error::internal(what, why).into());
        }
        Ok(SinglePlan { single, plan })
    }

    /// The operands of a node as plain bytes, in the order of its inputs, and the node as a graph of its own. For a judge.
    pub(super) fn with_operands<T>(
        &mut self,
        tokens: usize,
        index: usize,
        feed: &Record,
        weights: &Weights,
        see: impl FnOnce(NodeView<'_>, &[Option<&[u8]>]) -> Result<T>,
    ) -> Result<T> {
        let planned = self.planned.remove(&tokens).expect("a step that has run is planned");
        let operands = self.operands(&planned, index, feed, weights);
        let result = operands.and_then(|operands| {
            let operands: Vec<Option<&[u8]>> = operands.iter().map(|o| o.as_deref()).collect();
            see(planned.singles[&index].single.graph.node(0), &operands)
        });
        self.planned.insert(tokens, planned);
        result
    }

    fn operands<'w>(
        &mut self,
        planned: &Planned,
        index: usize,
        feed: &Record,
        weights: &'w Weights,
    ) -> Result<Vec<Option<Cow<'w, [u8]>>>> {
        let single = &planned.singles[&index].single;
        let mut operands = Vec::with_capacity(single.inputs.len());
        for input in &single.inputs {
            let Some(position) = *input else {
                operands.push(None);
                continue;
            };
            let constant = match single.sources[position] {
                Source::Bound(at) => planned.g.constants.iter().find(|c| c.bound == at),
                Source::Value { .. } => None,
            };
            operands.push(Some(match constant {
                Some(constant) => {
                    let stored = weights.handle(&constant.name)?;
                    let dtype = planned.g.graph.desc(planned.g.graph.bound()[constant.bound]).dtype;
                    contents(&stored, dtype, || weights.bytes(&constant.name))?
                }
                None => match self.operand(planned, single, position, single.sources[position], feed) {
                    Operand::Bytes(bytes) => bytes.into(),
                    Operand::Bound(binding) => {
                        let home = match single.sources[position] {
                            Source::Bound(at) => planned.whole.plan().homes[at],
                            Source::Value { .. } => Home::Device,
                        };
                        self.read(&binding, home)?.into()
                    }
                },
            }));
        }
        Ok(operands)
    }

    /// The bytes of a binding where it lives.
    fn read(&mut self, binding: &Binding, home: Home) -> Result<Vec<u8>> {
        let host = self.host.as_mut().filter(|_| home == Home::Host);
        download(&mut **host.unwrap_or(&mut self.stream), binding)
    }

    /// A part of the scratch buffer at this position.
    fn reserve(&self, scratch: &mut Vec<Binding>, position: usize, bytes: usize) -> Result<Binding> {
        let device = &**self.model.device();
        while scratch.len() <= position {
            scratch.push(alloc_padded(device, 0)?);
        }
        if scratch[position].bytes < bytes {
            scratch[position] = alloc_padded(device, bytes)?;
        }
        Ok(Binding::part(&scratch[position].buffer, 0, bytes))
    }

    /// Bytes of a token in one layer's keys or values.
    pub(super) fn row(&self) -> usize {
        self.pages.row()
    }
}

enum Operand {
    Bound(Binding),
    Bytes(Vec<u8>),
}

impl Planned {
    /// The layer of a bound cache, and whether it holds keys (0) or values (1).
    fn cache(&self, bound: usize) -> Option<(usize, usize)> {
        let of = |(layer, &(k, v)): (usize, &(usize, usize))| match bound {
            at if at == k => Some((layer, 0)),
            at if at == v => Some((layer, 1)),
            _ => None,
        };
        self.g.caches.iter().enumerate().find_map(of)
    }

    /// Every intermediate result and the logits, and where they are.
    fn results(&self) -> Vec<(TensorId, Binding)> {
        let first = self.bindings.len() - self.taps.len();
        let taps = self.taps.iter().copied().zip(self.bindings[first..].iter().cloned());
        let logits = self.g.logits.map(|at| (self.g.graph.bound()[at], self.bindings[at].clone()));
        taps.chain(logits).collect()
    }
}

fn writes_cache(graph: &Graph) -> bool {
    graph.nodes()[0].op.kind() == OpKind::KvWrite
}

fn download(stream: &mut dyn Stream, binding: &Binding) -> Result<Vec<u8>> {
    let mut bytes = vec![0; binding.bytes];
    stream.download(&mut bytes, binding)?;
    Ok(bytes)
}
