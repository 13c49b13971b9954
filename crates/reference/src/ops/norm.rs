//! Norms over the innermost axis.

use qiao_core::{DType, LayerNormAttrs, NormAttrs};

use super::{Outputs, one};
use crate::args::Args;
use crate::round;
use crate::value::{Output, Value};

/// `x·(w + weight_offset) / √(mean(x²) + eps)`; with `round_before_weight` the normalised x is rounded to `dtype` first.
fn normalised(attrs: &NormAttrs, x: &Value, w: Option<&Value>, dtype: DType) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.data.len());
    for row in x.rows() {
        let mean_square = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        let root = (mean_square + attrs.eps as f64).sqrt();
        for (i, x) in row.iter().enumerate() {
            let n = if attrs.round_before_weight { round::round(dtype, x / root) } else { x / root };
            y.push(w.map_or(n, |w| n * (w.data[i] + attrs.weight_offset as f64)));
        }
    }
    y
}

pub(crate) fn rms_norm(attrs: &NormAttrs, x: &Args<'_>) -> Outputs {
    one(normalised(attrs, &x.value(0)?, x.opt(1)?.as_ref(), x.out(0).dtype))
}

/// `sum = a + b`; `y = rms_norm(a + b)`, from the sum before its rounding.
pub(crate) fn add_rms_norm(attrs: &NormAttrs, x: &Args<'_>) -> Outputs {
    let (mut sum, b) = (x.value(0)?, x.value(1)?);
    sum.data.iter_mut().zip(&b.data).for_each(|(a, b)| *a += b);
    let y = normalised(attrs, &sum, x.opt(2)?.as_ref(), x.out(1).dtype);
    Ok(vec![Output::Values(sum.data), Output::Values(y)])
}

/// `(x − mean)·w / √(var + eps) + b`.
pub(crate) fn layer_norm(attrs: &LayerNormAttrs, x: &Args<'_>) -> Outputs {
    let (x, w, b) = (x.value(0)?, x.opt(1)?, x.opt(2)?);
    let mut y = Vec::with_capacity(x.data.len());
    for row in x.rows() {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let root = (variance + attrs.eps as f64).sqrt();
        for (i, x) in row.iter().enumerate() {
            let scaled = (x - mean) * w.as_ref().map_or(1.0, |w| w.data[i]) / root;
            y.push(scaled + b.as_ref().map_or(0.0, |b| b.data[i]));
        }
    }
    one(y)
}
