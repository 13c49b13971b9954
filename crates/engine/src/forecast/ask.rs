//! The graphs of a model, and what a device says to them.

use std::collections::HashMap;
use std::sync::Arc;

use qiao_core::{DType, Device, Error, Graph, NodeSupport, NodeView, Plan, TensorDesc};
use qiao_layers::{Home, Pack, Peaks, Policy, Survey, Way, lower_with, survey};

use super::limits::{By, Least};
use super::steps::Shape;
use super::work::{Tokens, Work, product_dtype, work};
use crate::dtypes::placed_form;
use crate::error::Result;
use crate::form::{Companion, WeightForm};
use crate::homes::{SequenceHomes, fixed};
use crate::model::{CacheShape, Constant, DecoderSpec, ModelGraph, Place, Precision, Step, Use};
use crate::quantisation::Quantisation;

/// Where weights live and in which private layouts of the device, by name and use.
pub(super) type Weights = HashMap<(String, Use), (Home, u64)>;

/// What graphs are made of.
pub(super) struct Planner<'a> {
    pub(super) device: &'a Arc<dyn Device>,
    pub(super) policy: &'a Policy,
    pub(super) spec: &'a DecoderSpec,
    pub(super) cache: CacheShape,
    /// The dtype of the weights in their files, and as they are placed.
    pub(super) stored: DType,
    pub(super) placed: DType,
    pub(super) compute: DType,
    /// How the checkpoint says that it is quantised.
    pub(super) quantisation: Option<&'a Quantisation>,
    /// Where keys, values and rotary tables live; everything on the device before that is decided.
    pub(super) homes: Option<SequenceHomes>,
}

/// A graph, and what the device says to it.
pub(super) struct Asked {
    /// The graph as it was given.
    pub(super) g: ModelGraph,
    pub(super) places: Vec<Place>,
    pub(super) survey: Survey,
    fixed: Vec<Option<Home>>,
}

impl Planner<'_> {
    fn graph(&self, shape: Shape) -> Result<ModelGraph> {
        let rows = if shape.last { shape.sequences } else { 0 };
        let step = Step { sequences: shape.sequences, ..Step::of_one(shape.sequences * shape.tokens, rows) };
        let precision = Precision { compute: self.compute, weight: &|name| self.form(name) };
        self.spec.graph(step, self.cache, precision)
    }

    /// The form that a weight will have: as the checkpoint says of its projections, else floats.
    fn form(&self, weight: &str) -> WeightForm {
        self.said(weight).map_or(WeightForm::Plain(self.placed), |form| placed_form(self.device.info(), form))
    }

    /// What the checkpoint says of a weight, apart from the dtype of all.
    fn said(&self, weight: &str) -> Option<WeightForm> {
        let is_projection = weight.strip_suffix(".weight").is_some_and(|module| self.spec.is_projection(module));
        self.quantisation?.expected_form(weight, is_projection)
    }

    /// The dtypes in which the weights of a step are stored, those of the most weights first.
    pub(super) fn stored_dtypes(&self, asked: &Asked) -> Vec<DType> {
        let graph = asked.given();
        let mut all: Vec<(DType, usize)> = Vec::new();
        for c in asked.g.constants.iter().filter(|c| c.usage != Use::Vector && !Companion::is_name(&c.name)) {
            let dtype = self.said(&c.name).map_or(self.stored, |form| form.dtype());
            let elements = graph.desc(graph.bound()[c.bound]).elements();
            match all.iter_mut().find(|(found, _)| *found == dtype) {
                Some((_, sum)) => *sum += elements,
                None => all.push((dtype, elements)),
            }
        }
        all.sort_by_key(|&(_, elements)| std::cmp::Reverse(elements));
        all.into_iter().map(|(dtype, _)| dtype).collect()
    }

    /// Decides where keys, values and rotary tables live, as loading the model does.
    pub(super) fn decide(&mut self, decode: Shape, prefill: Option<Shape>) -> Result<()> {
        let prefill = prefill.map(|shape| self.graph(shape)).transpose()?;
        let decode = self.graph(decode)?;
        self.homes = Some(SequenceHomes::decide(&**self.device, self.policy, &decode, prefill.as_ref())?);
        Ok(())
    }

    /// Asks the device about a step, with the constants where an earlier one had them, and in the layouts that it had them
    /// packed into.
    pub(super) fn ask(&self, shape: Shape, placed: Option<&Weights>) -> Result<Asked> {
        let mut g = self.graph(shape)?;
        let of = |c: &Constant| placed.and_then(|p| p.get(&(c.name.clone(), c.usage))).copied();
        for c in &g.constants {
            if let Some((_, layout)) = of(c).filter(|(_, layout)| *layout != 0) {
                let id = g.graph.bound()[c.bound];
                g.graph.set_layout(id, layout)?;
            }
        }
        let fixed = fixed(&g, |c| of(c).map(|(home, _)| home), self.homes.as_ref());
        let survey = survey(&**self.device, g.graph.clone(), self.policy, &fixed)?;
        if let (Some(pack), true) = (survey.packs.first(), placed.is_some()) {
            let name = &g.graph.tensor(g.graph.bound()[pack.bound]).name;
            let what = format!("private layout {:#x} of '{name}' for {} tokens", pack.layout, shape.tokens);
            let why = format!("{} wanted none, or another, for one token", self.device.info().name);
            return Err(Error::internal(what, why).into());
        }
        Ok(Asked { places: g.places(self.spec), g, survey, fixed })
    }

    /// Workspace and what the plan keeps, in bytes.
    pub(super) fn workspace(&self, asked: &Asked) -> Result<u64, String> {
        let refused = asked.survey.ways.iter().filter(|way| way.is_err()).count();
        if refused > 0 {
            return Err(format!("{refused} of {} operators are not supported", asked.survey.ways.len()));
        }
        let plan = lower_with(self.device, asked.g.graph.clone(), self.policy, &asked.fixed);
        let plan = plan.map_err(|e| e.to_string())?;
        let info = plan.info();
        Ok((info.workspace_bytes as u64).saturating_add(info.resident_bytes as u64))
    }

    /// Bytes of keys and values that live on a side.
    pub(super) fn cache_bytes(&self, home: Home) -> Result<u64> {
        let dims = self.cache.dims(self.spec.kv_heads, self.spec.head_dim);
        let one = TensorDesc::new(self.cache.dtype, &dims)?.bytes()? as u64;
        let homes = self.homes.iter().flat_map(|h| h.caches.iter().flatten());
        Ok(one.saturating_mul(homes.filter(|&&of| of == home).count() as u64))
    }
}

impl Asked {
    pub(super) fn given(&self) -> &Graph {
        &self.g.graph
    }

    pub(super) fn pack(&self, bound: usize) -> Option<&Pack> {
        self.survey.packs.iter().find(|pack| pack.bound == bound)
    }

    /// Where every weight lives, and how.
    pub(super) fn weights(&self) -> Weights {
        let layout = |c: &Constant| self.pack(c.bound).map_or(0, |pack| pack.layout);
        let of = |c: &Constant| ((c.name.clone(), c.usage), (self.survey.homes[c.bound], layout(c)));
        self.g.constants.iter().map(of).collect()
    }

    /// Where a bound tensor lives.
    pub(super) fn home(&self, bound: usize) -> Home {
        self.survey.homes[bound]
    }

    /// Elements of all weights; one that is used in two ways counts once.
    pub(super) fn parameters(&self) -> u64 {
        let graph = self.given();
        let weights = self.g.constants.iter().filter(|c| !Companion::is_name(&c.name));
        let elements = weights.map(|c| (&c.name, graph.desc(graph.bound()[c.bound]).elements() as u64));
        elements.collect::<HashMap<_, _>>().values().sum()
    }

    /// The work and the least time of every node that was given, at this many held tokens; and the products among the work. A
    /// node on the host has its work, and takes none of the device's time.
    pub(super) fn works(&self, tokens: Tokens, peaks: &Peaks) -> Vec<NodeWork> {
        let nothing = Least { seconds: Some(0.0), by: By::Memory };
        let empty = NodeWork { work: Work::default(), least: nothing, products: Vec::new() };
        let mut all = vec![empty; self.survey.ways.len()];
        let mut add = |at: usize, node: NodeView<'_>, answer| {
            let work = work(&node, tokens);
            if let Ok(Way::Host { .. }) = self.survey.ways[at] {
                all[at].work = work;
                return;
            }
            let product = product_dtype(&node, answer);
            let least = Least::of_node(peaks, &work, product);
            let sum = &mut all[at];
            sum.least = if sum.work == Work::default() { least } else { sum.least.then(least) };
            sum.work = sum.work + work;
            sum.products.extend(product.map(|dtype| (dtype, work.flops)));
        };
        let s = &self.survey;
        for ((node, &origin), answer) in s.graph.views().zip(&s.origin).zip(&s.answers) {
            if s.ways[origin].is_ok() {
                add(origin, node, answer);
            }
        }
        let none = NodeSupport::native("");
        for node in self.given().views().filter(|node| s.ways[node.index].is_err()) {
            add(node.index, node, &none);
        }
        all
    }
}

#[derive(Clone)]
pub(super) struct NodeWork {
    pub(super) work: Work,
    pub(super) least: Least,
    /// Operations of products, by the dtype in which they multiply.
    pub(super) products: Vec<(DType, u64)>,
}
