//! A checkpoint on a device against golden logits from elsewhere.
//!
//! A golden file is a safetensors file with `input_ids` (i64 `[T]`), `logits` (f32 `[T, vocab]`), optionally `greedy_ids` (i64
//! `[N]`, the greedy continuation) and `layers.<i>.output` (f32 `[T, hidden]`, the residual stream after layer i). Where it has
//! `greedy_ids_cached` as well, that path is the one compared: it is the reference's with a KV cache, which this engine has too.

use std::path::Path;
use std::sync::Arc;

use qiao_core::DType;
use serde::Serialize;

use crate::error::{EngineError, Result};
use crate::runner::{LoadedModel, PREFILL_CHUNK};
use crate::sampler::argmax;
use crate::session::Session;

mod errors;
mod golden;

pub use errors::RowErrors;
pub(crate) use errors::divergence;
pub use golden::Golden;

/// Logits that are compared at once, in elements: a bound of the memory that it takes.
const ROWS_BUDGET: usize = 1 << 26;

/// How far a comparison may be off and still pass. Each limit is for the worst row of its kind; an infinite one allows every
/// error, and is left out where limits are serialised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Largest `|x − golden|` of a logit.
    #[serde(skip_serializing_if = "is_infinite")]
    pub max_abs_error: f64,
    /// Largest `max |x − golden| / max |golden|` of a row of logits.
    #[serde(skip_serializing_if = "is_infinite")]
    pub max_rel_error: f64,
    /// Smallest cosine between a row of logits and its golden one.
    pub cosine: f64,
    /// Largest `KL(golden ‖ x)` of a row, in nats.
    #[serde(skip_serializing_if = "is_infinite")]
    pub kl: f64,
    /// Smallest share of positions whose most likely token is the same.
    pub top1_agreement: f64,
    /// Smallest share of the greedy continuation before the first other token.
    pub greedy_agreement: f64,
    /// Largest `max |x − golden| / max |golden|` of a row of a layer's output.
    #[serde(skip_serializing_if = "is_infinite")]
    pub layer_rel_error: f64,
}

fn is_infinite(limit: &f64) -> bool {
    limit.is_infinite()
}

impl Limits {
    /// For f32 activations: what the order of summation leaves.
    pub const F32: Limits = Limits {
        max_abs_error: 1e-3,
        max_rel_error: 1e-4,
        cosine: 0.999_999,
        kl: 1e-6,
        top1_agreement: 0.99,
        greedy_agreement: 1.0,
        layer_rel_error: 1e-4,
    };

    /// For f16 activations, with 11 significant bits. The greedy continuation is reported and not judged: one near tie changes
    /// all that follows.
    pub const F16: Limits = Limits {
        max_abs_error: f64::INFINITY,
        max_rel_error: 2e-2,
        cosine: 0.9998,
        kl: 1e-2,
        top1_agreement: 0.95,
        greedy_agreement: 0.0,
        layer_rel_error: 2e-2,
    };

    /// For bf16 activations, with 8 significant bits; see [`Limits::F16`].
    pub const BF16: Limits = Limits {
        max_abs_error: f64::INFINITY,
        max_rel_error: 1e-1,
        cosine: 0.995,
        kl: 1e-1,
        top1_agreement: 0.85,
        greedy_agreement: 0.0,
        layer_rel_error: 1e-1,
    };

    /// The limits for a compute dtype.
    pub fn of(compute: DType) -> Limits {
        match compute {
            DType::BF16 => Limits::BF16,
            DType::F16 => Limits::F16,
            _ => Limits::F32,
        }
    }
}

/// One layer's output against its golden one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayerComparison {
    /// The layer, from 0.
    pub layer: usize,
    /// Largest `|x − golden|`.
    pub max_abs_error: f64,
    /// Largest `max |x − golden| / max |golden|` of a row.
    pub max_rel_error: f64,
    /// Smallest cosine of a row.
    pub cosine: f64,
}

/// What a comparison found. Errors and cosines are those of the worst row; a value that is not finite where the golden one is
/// counts as an infinite error, which JSON writes as null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Whether every figure is within its limit.
    pub passed: bool,
    /// Positions compared.
    pub positions: usize,
    /// Largest `|x − golden|` of a logit.
    pub max_abs_error: f64,
    /// Largest `max |x − golden| / max |golden|` of a row of logits.
    pub max_rel_error: f64,
    /// Smallest cosine of a row.
    pub cosine: f64,
    /// Largest `KL(golden ‖ x)` of a row, in nats.
    pub kl: f64,
    /// Share of positions whose most likely token is the same.
    pub top1_agreement: f64,
    /// Share of the greedy continuation before the first other token; `None` where the file has none.
    pub greedy_agreement: Option<f64>,
    /// The first layer beyond its limit, where layers are given.
    pub first_divergent_layer: Option<usize>,
    /// Logits that are not finite.
    pub not_finite: usize,
    /// Every layer that the file has.
    pub layers: Vec<LayerComparison>,
    /// What was allowed.
    pub limits: Limits,
}

impl Comparison {
    /// The figures beyond their limits, as `name: found, limit`.
    pub fn failures(&self) -> Vec<String> {
        let l = &self.limits;
        let above = [
            ("max_abs_error", self.max_abs_error, l.max_abs_error),
            ("max_rel_error", self.max_rel_error, l.max_rel_error),
            ("kl", self.kl, l.kl),
        ];
        let below = [
            ("cosine", self.cosine, l.cosine),
            ("top1_agreement", self.top1_agreement, l.top1_agreement),
            ("greedy_agreement", self.greedy_agreement.unwrap_or(1.0), l.greedy_agreement),
        ];
        // A comparison with NaN is false, and so a failure.
        let above = above.iter().filter(|(_, found, limit)| !matches!(found.partial_cmp(limit), Some(o) if o.is_le()));
        let below = below.iter().filter(|(_, found, limit)| !matches!(found.partial_cmp(limit), Some(o) if o.is_ge()));
        let mut all: Vec<String> = above.map(|(n, f, l)| format!("{n}: {f:.3e}, at most {l:.3e}")).collect();
        all.extend(below.map(|(n, f, l)| format!("{n}: {f:.6}, at least {l:.6}")));
        if let Some(layer) = self.first_divergent_layer {
            all.push(format!("layers.{layer}.output: beyond {:.3e}", l.layer_rel_error));
        }
        if self.not_finite > 0 {
            all.push(format!("{} logits are not finite", self.not_finite));
        }
        all
    }
}

/// Runs a golden file's prompt and greedy continuation, and compares. `limits` of `None` are those of the compute dtype.
///
/// # Errors
/// A golden file that does not belong to the model; a prompt beyond the context; the device's own errors.
pub fn compare(model: &Arc<LoadedModel>, golden: &Golden, limits: Option<Limits>) -> Result<Comparison> {
    compare_seeing(model, golden, limits, &mut |_| Ok(()))
}

/// As [`compare`]; `see` is given the logits of every position of the prompt, in order.
///
/// # Errors
/// As [`compare`]; what `see` gives.
pub fn compare_seeing(
    model: &Arc<LoadedModel>,
    golden: &Golden,
    limits: Option<Limits>,
    see: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<Comparison> {
    let limits = limits.unwrap_or(Limits::of(model.compute_dtype()));
    let (vocab, hidden) = (model.spec().vocab, model.spec().hidden);
    golden.check(model.spec())?;
    let ids = golden.input_ids();
    let greedy = golden.greedy_ids();
    let mut session = Session::new(model.clone(), ids.len() + greedy.map_or(0, <[u32]>::len))?;
    let mut logits = RowErrors::default();
    let mut top1 = 0;
    let mut layers: Vec<(usize, RowErrors)> = golden.layers().map(|l| (l, RowErrors::default())).collect();
    let chunk = (ROWS_BUDGET / vocab.max(1)).clamp(1, PREFILL_CHUNK);
    let mut last = Vec::new();
    session.prefill_all(ids, chunk, !layers.is_empty(), &mut |out| {
        for (i, row) in out.logits.chunks_exact(vocab).enumerate() {
            let want = golden.logits_row(out.start + i)?;
            see(row)?;
            logits.add_logits(row, &want);
            top1 += usize::from(argmax(row).ok() == argmax(&want).ok());
            last = row.to_vec();
        }
        for (layer, errors) in &mut layers {
            for (i, row) in out.hidden[*layer].chunks_exact(hidden).enumerate() {
                errors.add(row, &golden.layer_row(*layer, out.start + i)?);
            }
        }
        Ok(())
    })?;
    let greedy_agreement = greedy.map(|want| continue_greedily(&mut session, &last, want)).transpose()?;
    let layers: Vec<_> = layers
        .into_iter()
        .map(|(layer, e)| LayerComparison {
            layer,
            max_abs_error: e.max_abs,
            max_rel_error: e.max_rel,
            cosine: e.cosine(),
        })
        .collect();
    let diverged = |l: &&LayerComparison| l.max_rel_error.is_nan() || l.max_rel_error > limits.layer_rel_error;
    let mut comparison = Comparison {
        passed: false,
        positions: ids.len(),
        max_abs_error: logits.max_abs,
        max_rel_error: logits.max_rel,
        cosine: logits.cosine(),
        kl: logits.max_kl,
        top1_agreement: top1 as f64 / ids.len() as f64,
        greedy_agreement,
        first_divergent_layer: layers.iter().find(diverged).map(|l| l.layer),
        not_finite: logits.not_finite,
        layers,
        limits,
    };
    comparison.passed = comparison.failures().is_empty();
    Ok(comparison)
}

/// Compares a model with the golden file at a path.
///
/// # Errors
/// As [`Golden::open`] and [`compare`].
pub fn compare_file(model: &Arc<LoadedModel>, path: impl AsRef<Path>, limits: Option<Limits>) -> Result<Comparison> {
    compare(model, &Golden::open(path)?, limits)
}

/// The share of `want` that greedy decoding gives before its first other token.
fn continue_greedily(session: &mut Session, last: &[f32], want: &[u32]) -> Result<f64> {
    let mut next = argmax(last);
    for (agreed, &want_id) in want.iter().enumerate() {
        match next {
            Ok(id) if id == want_id => {}
            Ok(_) | Err(EngineError::Logits { .. }) => return Ok(agreed as f64 / want.len() as f64),
            Err(other) => return Err(other),
        }
        if agreed + 1 < want.len() {
            next = argmax(session.step(want_id)?);
        }
    }
    Ok(1.0)
}

#[cfg(test)]
mod tests;
