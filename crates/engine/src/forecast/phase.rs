//! Operators and steps, added up.

use std::collections::HashMap;

use qiao_core::DType;
use qiao_layers::{Hosted, Peaks, Refusal, Way};

use super::ask::Asked;
use super::limits::{By, Least};
use super::steps::Shape;
use super::work::{Tokens, Work};

/// The nodes of a model that share operator, weight and how they run.
#[derive(Clone, Debug, PartialEq)]
pub struct Operator {
    /// The operator's name in the op list.
    pub op: &'static str,
    /// The weight that it reads, without its layer: see [`crate::model::Place::part`].
    pub part: String,
    /// How many times it runs in the phase.
    pub count: u64,
    /// How it runs, or why it does not. On the host: with the bytes that cross for all of them.
    pub way: Result<Way, Refusal>,
    /// The work of all of them; of the pieces where it is decomposed, of the operator itself where it is refused or runs on the
    /// host.
    pub work: Work,
    /// The least time of all of them on the device, one after the other; none where they run on the host.
    pub least: Least,
}

impl Operator {
    /// What crosses between device and host, where it runs there.
    pub fn hosted(&self) -> Option<Hosted> {
        match &self.way {
            Ok(Way::Host { hosted, .. }) => Some(*hosted),
            _ => None,
        }
    }
}

/// A prompt, or one token of each sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Executions of a plan.
    pub steps: u64,
    /// New tokens in all.
    pub tokens: u64,
    /// Every operator, in the order of its first appearance.
    pub operators: Vec<Operator>,
    /// The work of all operators on the device.
    pub work: Work,
    /// The least time of all operators on the device, one after the other.
    pub least: Least,
    /// The device's least time whatever the order: weights, keys and values moved once a step, products done once.
    pub bound: Least,
}

impl Phase {
    /// The operators that the device does not run.
    pub fn unsupported(&self) -> impl Iterator<Item = &Operator> {
        self.operators.iter().filter(|o| o.way.is_err())
    }

    /// How many operators run on the host, and what crosses for them; neither is in the phase's work and times.
    pub fn on_host(&self) -> (u64, Hosted) {
        let hosted = self.operators.iter().filter_map(|o| Some((o.count, o.hosted()?)));
        hosted.fold((0, Hosted::default()), |(n, sum), (count, more)| (n + count, sum + more))
    }

    /// No more new tokens per second than this; `None` where no limit is known.
    pub fn tokens_per_s(&self) -> Option<f64> {
        self.bound.seconds.filter(|s| *s > 0.0).map(|seconds| self.tokens as f64 / seconds)
    }
}

/// A phase while its steps are added.
#[derive(Default)]
pub(super) struct Draft {
    steps: u64,
    tokens: u64,
    operators: Vec<Operator>,
    products: HashMap<DType, u64>,
}

impl Draft {
    pub(super) fn add(&mut self, asked: &Asked, shape: Shape, times: u64, peaks: &Peaks) {
        self.steps += times;
        self.tokens += times * (shape.sequences * shape.tokens) as u64;
        let works = asked.works(Tokens { sequences: shape.sequences, past: shape.past }, peaks);
        for (index, node) in works.into_iter().enumerate() {
            let op = asked.given().node(index).kind().name();
            let (part, mut way) = (&asked.places[index].part, asked.survey.ways[index].clone());
            if let Ok(Way::Host { hosted, .. }) = &mut way {
                (hosted.down, hosted.up) = (hosted.down.saturating_mul(times), hosted.up.saturating_mul(times));
            }
            let mut work = node.work;
            for field in [&mut work.flops, &mut work.weights, &mut work.cache, &mut work.activations] {
                *field = field.saturating_mul(times);
            }
            let least = Least { seconds: node.least.seconds.map(|s| s * times as f64), ..node.least };
            for (dtype, flops) in node.products {
                let sum = self.products.entry(dtype).or_default();
                *sum = sum.saturating_add(flops.saturating_mul(times));
            }
            match self.operators.iter_mut().find(|o| o.op == op && o.part == *part && is_like(&o.way, &way)) {
                Some(same) => {
                    (same.count, same.work) = (same.count + times, same.work + work);
                    same.least = same.least.then(least);
                    if let (Ok(Way::Host { hosted, .. }), Ok(Way::Host { hosted: more, .. })) = (&mut same.way, way) {
                        *hosted = *hosted + more;
                    }
                }
                None => self.operators.push(Operator { op, part: part.clone(), count: times, way, work, least }),
            }
        }
    }

    pub(super) fn finish(self, peaks: &Peaks) -> Phase {
        let own = || self.operators.iter().filter(|o| o.hosted().is_none());
        let work: Work = own().map(|o| o.work).sum();
        let leasts = own().map(|o| o.least);
        let least = leasts.reduce(Least::then).unwrap_or(Least { seconds: None, by: By::NotKnown });
        let mut products: Vec<_> = self.products.into_iter().collect();
        products.sort_unstable();
        let bound = Least::of(peaks, work.weights.saturating_add(work.cache), &products);
        Phase { steps: self.steps, tokens: self.tokens, operators: self.operators, work, least, bound }
    }
}

/// Whether nodes run in the same way, whatever crosses for them.
fn is_like(a: &Result<Way, Refusal>, b: &Result<Way, Refusal>) -> bool {
    match (a, b) {
        (Ok(Way::Host { kernel: a, reason: x, .. }), Ok(Way::Host { kernel: b, reason: y, .. })) => a == b && x == y,
        _ => a == b,
    }
}
