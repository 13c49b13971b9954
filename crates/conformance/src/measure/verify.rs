//! Whether what was timed is right: parts of the results beside the truth.

use std::sync::Arc;

use qiao_core::{Device, Error, Result, TensorDesc};
use qiao_reference::Value;
use qiao_reference::value::Walk;

use super::clock::Clock;
use super::source::take;
use super::stage::{POISON, Stage};
use super::work::Work;
use crate::harness::widened;

/// How far results were from the truth.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// Elements that were compared.
    pub(crate) checked: usize,
    /// The largest error/limit; `None` where it is beyond all numbers.
    pub(crate) margin: Option<f64>,
    /// What was wrong.
    pub(crate) failure: Option<String>,
}

/// Runs the operator once more and compares samples of its results with the truth.
///
/// # Errors
/// The device's own; a sample that is none.
pub(crate) fn verify(device: &Arc<dyn Device>, work: &Work, stage: &Stage, clock: &mut Clock) -> Result<Verdict> {
    let results = stage.results(work, clock)?;
    let descs: Vec<&TensorDesc> = stage.bound.outputs.iter().map(|&p| stage.bound.desc(p)).collect();
    let mut verdict = Verdict { margin: Some(0.0), ..Verdict::default() };
    for (output, (desc, bytes)) in descs.iter().zip(&results).enumerate() {
        if let Some(at) = unwritten(desc, bytes) {
            verdict.failure = Some(format!("output {output}: element {at} was not written"));
            verdict.margin = None;
            return Ok(verdict);
        }
    }
    let act = device.support(&stage.lowered.graph).iter().find_map(|s| s.act_dtype);
    let pieces = stage.pieces();
    for sample in &work.samples {
        let trial = work.trial(sample)?;
        let mut golden = Arc::new(trial.golden(act)?);
        if !pieces.is_empty() {
            golden = widened(golden, work.op.kind(), pieces.iter().copied());
        }
        let mut got = Vec::with_capacity(descs.len());
        for ((desc, bytes), axes) in descs.iter().zip(&results).zip(&sample.outputs) {
            let (part, bytes) =
                take(desc, axes, |offset, out| out.copy_from_slice(&bytes[offset..offset + out.len()]))?;
            got.push(Value::load(&part, &bytes)?);
        }
        let sizes = |values: &[Value]| values.iter().map(|v| v.data.len()).collect::<Vec<_>>();
        if sizes(&got) != sizes(&golden.outputs) {
            return Err(Error::internal(format!("sample of {}", work.op), "it is no part of the results"));
        }
        for (output, c) in golden.compare(&got).iter().enumerate() {
            verdict.checked += c.elements;
            verdict.margin = verdict.margin.map(|m| m.max(c.margin)).filter(|m| m.is_finite());
            if !c.passes() && verdict.failure.is_none() {
                let at = c.worst.unwrap_or(0);
                let (got, want) = (got[output].data[at], golden.outputs[output].data[at]);
                let words = format!("{} of {} compared elements are wrong", c.failures, c.elements);
                verdict.failure = Some(format!("output {output}: {words}; the worst is {got:e} instead of {want:e}"));
            }
        }
    }
    Ok(verdict)
}

/// An element that still holds the poison. Codes and integers may hold it by right.
fn unwritten(desc: &TensorDesc, bytes: &[u8]) -> Option<usize> {
    if !desc.dtype.is_activation() {
        return None;
    }
    let size = desc.dtype.block_bytes();
    Walk::new(&desc.shape, &desc.strides).position(|at| bytes[at * size..(at + 1) * size].iter().all(|b| *b == POISON))
}
