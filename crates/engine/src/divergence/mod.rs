//! Two devices in lock step: where they part, and what it does to the logits.
//!
//! Both run the same checkpoint on the same token ids, greedily chosen by the trusted one, each with a cache of its own. Every
//! intermediate result of every step is read from both. A prompt runs in steps of at most [`CHUNK`] tokens, then single tokens.
//! Two readings:
//!
//! - *Local*: each operator of the subject runs by itself on the trusted device's operands, and a [`Judge`] compares what it
//!   makes of them. Is this operator wrong?
//! - *Accumulated*: each result of the subject's own run against the trusted one's, row by row. Where does the drift pass the
//!   bound of the dtype ([`Limits::layer_rel_error`])?
//!
//! Where the drift passes its bound although every operator agrees by itself, the step's operators are compared once more, now
//! as they ran within the whole plan: the trusted device runs each on the subject's operands.

use std::sync::Arc;

use qiao_core::{DType, NodeView};

use crate::compare::Limits;
use crate::error::{EngineError, Result};
use crate::runner::LoadedModel;
use crate::weights::Weights;

mod drift;
mod pages;
mod taps;

mod lane;
pub(crate) use lane::Lane;

mod lockstep;

mod show;

/// Tokens of a prompt that run in one step.
pub const CHUNK: usize = 128;

/// The results of an operator on both devices, from the same operands.
pub struct Case<'a> {
    /// The operator, in a graph of its own and no private layout.
    pub node: NodeView<'a>,
    /// The bytes of each input of the node.
    pub inputs: &'a [Option<&'a [u8]>],
    /// The bytes of each output, from the trusted device.
    pub trusted: &'a [&'a [u8]],
    /// The same from the subject.
    pub found: &'a [&'a [u8]],
    /// Tokens of the step. The results of a token are as many elements, and follow those of the token before it.
    pub tokens: usize,
    /// The dtype to which the subject's kernel rounds activations first, where it does.
    pub act: Option<DType>,
    /// The same of the trusted device's.
    pub trusted_act: Option<DType>,
}

/// The results of one token in one output of an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Judgement {
    /// Elements beyond their limits.
    pub failures: usize,
    /// The largest error over its limit: above 1 is a failure; infinite where only one side is a number.
    pub margin: f64,
    /// The worst element, from the start of the token's results.
    pub element: usize,
    /// What the subject has there.
    pub found: f64,
    /// What the trusted device has there.
    pub trusted: f64,
}

/// Says how far results may be apart.
pub trait Judge {
    /// Compares an operator's results: for each output one judgement per token. Outputs whose bytes are equal may be left out
    /// by the caller.
    ///
    /// # Errors
    /// Operands that break the operator's meaning.
    fn judge(&self, case: &Case<'_>) -> qiao_core::Result<Vec<Vec<Judgement>>>;
}

/// An operator of a model in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The operator's name in the op list.
    pub op: &'static str,
    /// The weight that it reads: see [`crate::model::Place::part`].
    pub part: String,
    /// The decoder layer; `None` before the first and after the last.
    pub layer: Option<usize>,
    /// Which of its outputs, by the name in the op list.
    pub output: &'static str,
    /// The position of the token in the sequence, from 0.
    pub token: usize,
    /// Tokens of the step: 1 is a decode step.
    pub step: usize,
}

/// Results that part.
#[derive(Clone, Debug, PartialEq)]
pub struct Parting {
    /// Where first.
    pub site: Site,
    /// How, at its worst for that token.
    pub judgement: Judgement,
    /// How many tokens in all have such results in this operator and layer.
    pub tokens: usize,
}

/// A result of the subject's own run beside the trusted one's.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    /// Where.
    pub site: Site,
    /// The largest `|x − trusted|` of the token's results, over their largest `|trusted|`.
    pub relative: f64,
}

/// What it does to the logits of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effect {
    /// The token's position.
    pub position: usize,
    /// The token that was fed.
    pub id: u32,
    /// `KL(trusted ‖ subject)` of the next token's distribution, in nats; infinite where a logit is not finite.
    pub kl: f64,
    /// The trusted device's most likely next token.
    pub next: u32,
    /// Whether it is the subject's as well.
    pub top1: bool,
    /// The largest difference of a logit.
    pub max_difference: f64,
}

/// What a run in lock step found. Its `Display` is a report for people, [`Divergence::to_json`] one for programs.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// The subject.
    pub device: String,
    /// The trusted device.
    pub against: String,
    /// The dtype of activations and cache.
    pub compute: DType,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Operators that were compared.
    pub compared: u64,
    /// Operators that part on the trusted device's operands, each operator and layer once, in the order in which they were
    /// met: the first is the culprit.
    pub local: Vec<Parting>,
    /// The largest margin among the operators that agree.
    pub largest_margin: Option<(Site, f64)>,
    /// The first operator that parts as it ran within the whole plan, though none does by itself.
    pub in_plan: Option<Parting>,
    /// The first result of the subject's own run that is further off than the bound.
    pub drift: Option<Drift>,
    /// The largest drift.
    pub largest_drift: Option<Drift>,
    /// The bound on the drift.
    pub drift_bound: f64,
    /// Every token that was fed.
    pub effects: Vec<Effect>,
}

impl Divergence {
    /// Whether the devices agree: no operator parts, and the drift stays within its bound.
    pub fn agrees(&self) -> bool {
        self.local.is_empty() && self.in_plan.is_none() && self.drift.is_none()
    }

    /// Where they part first: at an operator that is wrong by itself, else at one that is wrong within the plan, else where the
    /// drift passes its bound.
    pub fn culprit(&self) -> Option<&Site> {
        let local = self.local.first().map(|p| &p.site);
        local.or(self.in_plan.as_ref().map(|p| &p.site)).or(self.drift.as_ref().map(|d| &d.site))
    }

    /// The mean `KL(trusted ‖ subject)`, in nats.
    pub fn mean_kl(&self) -> f64 {
        self.effects.iter().map(|e| e.kl).sum::<f64>() / self.effects.len().max(1) as f64
    }

    /// The token with the largest `KL(trusted ‖ subject)`.
    pub fn worst(&self) -> Option<&Effect> {
        self.effects.iter().max_by(|a, b| a.kl.total_cmp(&b.kl))
    }

    /// Tokens whose most likely successor is the same.
    pub fn top1(&self) -> usize {
        self.effects.iter().filter(|e| e.top1).count()
    }

    /// The largest difference of a logit.
    pub fn max_difference(&self) -> f64 {
        self.effects.iter().map(|e| e.max_difference).fold(0.0, f64::max)
    }
}

/// Runs a prompt and then `tokens` tokens of the trusted device's greedy choice on both devices. `weights` are those that both
/// models were loaded from; `tell` hears how many of how many tokens are done.
///
/// # Errors
/// Models of different configurations or dtypes; no prompt, ids outside the vocabulary, more tokens than the context holds;
/// trusted logits of which none can be chosen; the devices' own errors.
pub fn diverge(
    subject: &Arc<LoadedModel>,
    trusted: &Arc<LoadedModel>,
    weights: &Weights,
    prompt: &[u32],
    tokens: usize,
    judge: &dyn Judge,
    tell: &mut dyn FnMut(usize, usize),
) -> Result<Divergence> {
    check(subject, trusted, prompt, tokens)?;
    let bound = Limits::of(subject.compute_dtype()).layer_rel_error;
    lockstep::Lockstep::new(subject, trusted, weights, judge, prompt.len() + tokens, bound)?.run(prompt, tokens, tell)
}

fn check(subject: &LoadedModel, trusted: &LoadedModel, prompt: &[u32], tokens: usize) -> Result<()> {
    if subject.spec() != trusted.spec() || subject.compute_dtype() != trusted.compute_dtype() {
        let (a, b) = (subject.compute_dtype(), trusted.compute_dtype());
        return Err(EngineError::Parameter {
            name: "the two models",
            expected: "one checkpoint in one compute dtype",
            found: if a == b { "two configurations".into() } else { format!("{a} and {b}") },
        });
    }
    let vocab_size = subject.spec().vocab;
    if prompt.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    if let Some(&id) = prompt.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(EngineError::TokenOutOfRange { id, vocab_size });
    }
    let (total, context) = (prompt.len().saturating_add(tokens), subject.context().min(trusted.context()));
    if total > context {
        return Err(EngineError::PromptTooLong { tokens: total, context });
    }
    Ok(())
}
