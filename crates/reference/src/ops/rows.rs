//! Softmax and reductions.

use qiao_core::{ReduceAttrs, ReduceKind, Result, SoftmaxAttrs};

use super::{Outputs, one};
use crate::args::Args;

/// The larger of two; NaN is larger than all.
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// What a softmax exponentiates, row by row: `scale·x + mask`, and how many leading columns each row sees.
pub(crate) struct Scores {
    /// Row-major, `columns` a row.
    pub(crate) data: Vec<f64>,
    /// `|scale·x| + |mask|` of each, which bounds what its roundings lose.
    pub(crate) magnitudes: Vec<f64>,
    /// The size of a row.
    pub(crate) columns: usize,
    /// Visible columns of each row.
    pub(crate) visible: Vec<usize>,
}

impl Scores {
    /// The scores of a softmax.
    pub(crate) fn of(attrs: &SoftmaxAttrs, x: &Args<'_>) -> Result<Scores> {
        let (x, mask) = (x.value(0)?, x.opt(1)?);
        let scale = if attrs.scale == 0.0 { 1.0 } else { attrs.scale as f64 };
        let mut data: Vec<f64> = x.data.iter().map(|x| x * scale).collect();
        let mut magnitudes: Vec<f64> = data.iter().map(|s| s.abs()).collect();
        if let Some(mask) = mask {
            for ((s, most), m) in data.iter_mut().zip(&mut magnitudes).zip(mask.broadcast(&x.shape)) {
                *s += m;
                *most += m.abs();
            }
        }
        let (columns, rank) = (x.row_len(), x.shape.len());
        let rows = data.len().checked_div(columns).unwrap_or(0);
        let visible = (0..rows).map(|row| {
            if !attrs.causal {
                return columns;
            }
            // Row i sees columns j ≤ Tk − Tq + i.
            let queries = x.shape[rank - 2];
            (columns + row % queries + 1).saturating_sub(queries).min(columns)
        });
        Ok(Scores { visible: visible.collect(), data, magnitudes, columns })
    }

    /// Rows with their count of visible columns.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&[f64], usize)> {
        self.data.chunks_exact(self.columns.max(1)).zip(self.visible.iter().copied())
    }
}

/// `e^(s_i − m) / Σ_j e^(s_j − m)` with m the largest score; zeros where no score is above −∞.
pub(crate) fn softmax_of(scores: &[f64]) -> Vec<f64> {
    let m = scores.iter().copied().fold(f64::NEG_INFINITY, larger);
    if m == f64::NEG_INFINITY {
        return vec![0.0; scores.len()];
    }
    let e: Vec<f64> = scores.iter().map(|s| (s - m).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}

pub(crate) fn softmax(attrs: &SoftmaxAttrs, x: &Args<'_>) -> Outputs {
    let scores = Scores::of(attrs, x)?;
    let mut y = vec![0.0; scores.data.len()];
    for (out, (row, visible)) in y.chunks_exact_mut(scores.columns.max(1)).zip(scores.rows()) {
        out[..visible].copy_from_slice(&softmax_of(&row[..visible]));
    }
    one(y)
}

/// Folds the elements along an axis, `[outer, n, inner]` to `[outer, inner]`.
pub(crate) fn along(x: &crate::Value, axis: usize, fold: impl Fn(&mut dyn Iterator<Item = f64>) -> f64) -> Vec<f64> {
    if x.data.is_empty() {
        return Vec::new();
    }
    let (n, inner) = (x.shape[axis], x.shape[axis + 1..].iter().product::<usize>());
    let outer: usize = x.shape[..axis].iter().product();
    let mut y = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        for i in 0..inner {
            y.push(fold(&mut (0..n).map(|j| x.data[(o * n + j) * inner + i])));
        }
    }
    y
}

pub(crate) fn reduce(attrs: &ReduceAttrs, x: &Args<'_>) -> Outputs {
    let (x, axis) = (x.value(0)?, attrs.axis as usize);
    let n = x.shape[axis] as f64;
    one(along(&x, axis, |elements| match attrs.kind {
        ReduceKind::Sum => elements.sum(),
        ReduceKind::Mean => elements.sum::<f64>() / n,
        ReduceKind::Max => elements.fold(f64::NEG_INFINITY, larger),
    }))
}
