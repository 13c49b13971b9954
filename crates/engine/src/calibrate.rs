//! What comes into the projections of a model on a text: how much each input channel counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use qiao_core::{DType, Graph, OpKind, TensorId};
use qiao_quant::compensate::Hessian;

use crate::divergence::Lane;
use crate::error::{EngineError, Result};
use crate::model::ModelGraph;
use crate::runner::LoadedModel;
use crate::weights::convert::floats;

/// Tokens of a step, all of whose intermediate results are held at once.
const PIECE: usize = 64;

/// What comes into the projections that read one tensor.
struct Input<'a> {
    /// Their weights' names.
    weights: Vec<&'a str>,
    /// Input channels.
    k: usize,
    /// Rows `[tokens, k]`.
    x: Vec<f32>,
}

/// For each projection, by the name of its weight `[n, k]`, the mean of `x²` over all tokens, of each of its k input channels. The
/// text runs in chunks of at most `context` tokens, each from an empty cache; `None` when cancelled. `progress` is told tokens done
/// and tokens in all.
///
/// # Errors
/// No tokens; ids outside the vocabulary; a chunk beyond the model's context; a device that does not leave intermediate results
/// where they can be read; its own errors.
pub fn channel_squares(
    model: &Arc<LoadedModel>,
    ids: &[u32],
    context: usize,
    cancelled: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<BTreeMap<String, Vec<f64>>>> {
    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let whole = walk(model, ids, context, cancelled, progress, &|_| true, &mut |input| {
        for name in &input.weights {
            let sums = sums.entry(name.to_string()).or_insert_with(|| vec![0.0; input.k]);
            for row in input.x.chunks_exact(input.k) {
                sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
            }
        }
        Ok(())
    })?;
    sums.values_mut().flatten().for_each(|sum| *sum /= ids.len() as f64);
    Ok(whole.then_some(sums))
}

/// `Σ xᵀx`, each with the names of the weights that read those inputs.
pub type Hessians = Vec<(Vec<String>, Hessian)>;

/// `Σ xᵀx` of what comes into projections, for the weights that are wanted; those that read one tensor share theirs. Each takes
/// `4·k²` bytes. The text runs as in [`channel_squares`]; `None` when cancelled.
///
/// # Errors
/// As [`channel_squares`].
pub fn input_hessians(
    model: &Arc<LoadedModel>,
    ids: &[u32],
    context: usize,
    wanted: &BTreeSet<String>,
    cancelled: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<Hessians>> {
    let mut all = Hessians::new();
    let whole = walk(model, ids, context, cancelled, progress, &|name| wanted.contains(name), &mut |input| {
        let at = all.iter().position(|(names, _)| names[0] == input.weights[0]).unwrap_or_else(|| {
            all.push((input.weights.iter().map(|name| name.to_string()).collect(), Hessian::new(input.k)));
            all.len() - 1
        });
        Ok(all[at].1.add(&input.x)?)
    })?;
    Ok(whole.then_some(all))
}

/// Runs a text and hands over what comes into projections with weights that are wanted; whether it came to the end.
fn walk(
    model: &Arc<LoadedModel>,
    ids: &[u32],
    context: usize,
    cancelled: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(usize, usize),
    wanted: &dyn Fn(&str) -> bool,
    each: &mut dyn FnMut(Input<'_>) -> Result<()>,
) -> Result<bool> {
    let vocab_size = model.spec().vocab;
    if ids.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(EngineError::TokenOutOfRange { id, vocab_size });
    }
    if context == 0 || context > model.context() {
        return Err(EngineError::ContextTooLong { asked: context, limit: model.context() });
    }
    let mut lane = Lane::new(model, context.min(ids.len()))?;
    let mut done = 0;
    progress(0, ids.len());
    for chunk in ids.chunks(context) {
        lane.clear();
        for piece in chunk.chunks(PIECE) {
            if cancelled() {
                return Ok(false);
            }
            let record = lane.run(piece, chunk.len())?;
            let g = lane.graph(piece.len());
            for (x, weights) in projections(g, wanted) {
                each(input(g, x, weights, &|id| record.value(id))?)?;
            }
            done += piece.len();
            progress(done, ids.len());
        }
    }
    Ok(true)
}

fn input<'a, 'b>(
    g: &ModelGraph,
    x: TensorId,
    weights: Vec<&'a str>,
    value: &dyn Fn(TensorId) -> Option<&'b [u8]>,
) -> Result<Input<'a>> {
    let (root, offset) = g.graph.root(x);
    let desc = g.graph.desc(x);
    let bytes = value(root).and_then(|bytes| bytes.get(offset..offset + desc.bytes().ok()?));
    match (bytes.and_then(|bytes| numbers(desc.dtype, bytes)), desc.shape.last()) {
        (Some(x), Some(&k)) if k > 0 => Ok(Input { weights, k, x }),
        _ => {
            let what = format!("the input of {weights:?}");
            Err(qiao_core::Error::internal(what, "it is no tensor of floats that was left to be read").into())
        }
    }
}

/// The products with weights that are wanted: what comes in, and the names of the weights that read it.
fn projections<'a>(g: &'a ModelGraph, wanted: &dyn Fn(&str) -> bool) -> Vec<(TensorId, Vec<&'a str>)> {
    let graph: &Graph = &g.graph;
    let mut all: Vec<(TensorId, Vec<&str>)> = Vec::new();
    for node in graph.nodes() {
        if !matches!(node.op.kind(), OpKind::Matmul | OpKind::MatmulQuant) {
            continue;
        }
        let operand = |i: usize| node.inputs.get(i).copied().flatten();
        let (Some(x), Some(weight)) = (operand(0), operand(1)) else { continue };
        let (weight, _) = graph.root(weight);
        let Some(constant) = g.constants.iter().find(|c| graph.bound()[c.bound] == weight) else { continue };
        if !wanted(&constant.name) {
            continue;
        }
        match all.iter_mut().find(|(other, _)| *other == x) {
            Some((_, names)) => names.push(&constant.name),
            None => all.push((x, vec![&constant.name])),
        }
    }
    all
}

fn numbers(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    let mut wide = Vec::new();
    floats(dtype, bytes, DType::F32, &mut wide)
        .then(|| wide.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
}
