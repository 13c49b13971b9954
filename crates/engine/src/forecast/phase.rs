//! Operators and steps, added up.

use std::collections::HashMap;

use qiao_core::DType;
use qiao_layers::{Peaks, Refusal, Way};

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
    /// How it runs, or why it does not.
    pub way: Result<Way, Refusal>,
    /// The work of all of them; of the pieces where it is decomposed, of the operator itself where it is refused.
    pub work: Work,
    /// The least time of all of them, one after the other.
    pub least: Least,
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
    /// The work of all operators.
    pub work: Work,
    /// The least time of all operators, one after the other.
    pub least: Least,
    /// The least time whatever the order: weights, keys and values moved once a step, products done once.
    pub bound: Least,
}

impl Phase {
    /// The operators that the device does not run.
    pub fn unsupported(&self) -> impl Iterator<Item = &Operator> {
        self.operators.iter().filter(|o| o.way.is_err())
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
            let (part, way) = (&asked.places[index].part, &asked.survey.ways[index]);
            let mut work = node.work;
            for field in [&mut work.flops, &mut work.weights, &mut work.cache, &mut work.activations] {
                *field = field.saturating_mul(times);
            }
            let least = Least { seconds: node.least.seconds.map(|s| s * times as f64), ..node.least };
            for (dtype, flops) in node.products {
                let sum = self.products.entry(dtype).or_default();
                *sum = sum.saturating_add(flops.saturating_mul(times));
            }
            match self.operators.iter_mut().find(|o| o.op == op && o.part == *part && o.way == *way) {
                Some(same) => {
                    (same.count, same.work) = (same.count + times, same.work + work);
                    same.least = same.least.then(least);
                }
                None => {
                    let (part, way) = (part.clone(), way.clone());
                    self.operators.push(Operator { op, part, count: times, way, work, least });
                }
            }
        }
    }

    pub(super) fn finish(self, peaks: &Peaks) -> Phase {
        let work: Work = self.operators.iter().map(|o| o.work).sum();
        let leasts = self.operators.iter().map(|o| o.least);
        let least = leasts.reduce(Least::then).unwrap_or(Least { seconds: None, by: By::NotKnown });
        let mut products: Vec<_> = self.products.into_iter().collect();
        products.sort_unstable();
        let bound = Least::of(peaks, work.weights.saturating_add(work.cache), &products);
        Phase { steps: self.steps, tokens: self.tokens, operators: self.operators, work, least, bound }
    }
}
