//! What comes into the projections of a model on a text: how much each input channel counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use qiao_core::{DType, Graph, OpKind, TensorId};

use crate::divergence::Lane;
use crate::error::{EngineError, Result};
use crate::model::ModelGraph;
use crate::runner::LoadedModel;
use crate::weights::convert::floats;

/// Tokens of a step, all of whose intermediate results are held at once.
const PIECE: usize = 64;

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
    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut done = 0;
    progress(0, ids.len());
    for chunk in ids.chunks(context) {
        lane.clear();
        for piece in chunk.chunks(PIECE) {
            if cancelled() {
                return Ok(None);
            }
            let record = lane.run(piece, chunk.len())?;
            add(lane.graph(piece.len()), |id| record.value(id), &mut sums)?;
            done += piece.len();
            progress(done, ids.len());
        }
    }
    sums.values_mut().flatten().for_each(|sum| *sum /= ids.len() as f64);
    Ok(Some(sums))
}

/// Adds the squares of a step's inputs of projections.
fn add<'a>(
    g: &ModelGraph,
    value: impl Fn(TensorId) -> Option<&'a [u8]>,
    sums: &mut BTreeMap<String, Vec<f64>>,
) -> Result<()> {
    for (x, name) in projections(g) {
        let (root, offset) = g.graph.root(x);
        let desc = g.graph.desc(x);
        let bytes = value(root).and_then(|bytes| bytes.get(offset..offset + desc.bytes().ok()?));
        let values = bytes.and_then(|bytes| numbers(desc.dtype, bytes));
        let (Some(values), Some(&k)) = (values, desc.shape.last()) else {
            let what = format!("the input of {name:?}");
            return Err(qiao_core::Error::internal(what, "it is no tensor of floats that was left to be read").into());
        };
        let sums = sums.entry(name.to_string()).or_insert_with(|| vec![0.0; k]);
        for row in values.chunks_exact(k) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
        }
    }
    Ok(())
}

/// The products with weights: what comes in, and the weight's name.
fn projections(g: &ModelGraph) -> impl Iterator<Item = (TensorId, &str)> {
    let graph: &Graph = &g.graph;
    graph.nodes().iter().filter_map(move |node| {
        if !matches!(node.op.kind(), OpKind::Matmul | OpKind::MatmulQuant) {
            return None;
        }
        let (x, weight) = ((*node.inputs.first()?)?, (*node.inputs.get(1)?)?);
        let (weight, _) = graph.root(weight);
        let constant = g.constants.iter().find(|c| graph.bound()[c.bound] == weight)?;
        Some((x, constant.name.as_str()))
    })
}

fn numbers(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    let mut wide = Vec::new();
    floats(dtype, bytes, DType::F32, &mut wide)
        .then(|| wide.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
}
