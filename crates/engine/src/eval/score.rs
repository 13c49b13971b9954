//! One row of logits, judged by the token that came and by the row of a base model.

use crate::error::{EngineError, Result};

/// What a scored position gives. Logarithms are natural.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Row {
    /// `−ln p` of the token that came.
    pub(super) nll: f64,
    /// The same by the base; as all below, 0 where there is none.
    pub(super) base_nll: f64,
    /// `Σ p_base·(ln p_base − ln p)`, never below 0.
    pub(super) kl: f64,
    /// Whether both find the same token most likely; of several equals, the first.
    pub(super) same_top: bool,
}

/// Scores a row of logits `[vocab]`.
///
/// # Errors
/// Logits with NaN or +∞, or with no number above −∞.
pub(super) fn score(logits: &[f32], base: Option<&[f32]>, next: u32) -> Result<Row> {
    let normal = Normal::of(logits, "model")?;
    let nll = -normal.log_p(logits[next as usize]);
    let Some(base) = base else { return Ok(Row { nll, ..Row::default() }) };
    let normal_base = Normal::of(base, "base")?;
    let terms = base.iter().zip(logits).map(|(&b, &x)| {
        let log_p = normal_base.log_p(b);
        match log_p.exp() {
            0.0 => 0.0,
            p => p * (log_p - normal.log_p(x)),
        }
    });
    Ok(Row {
        nll,
        base_nll: -normal_base.log_p(base[next as usize]),
        kl: terms.sum::<f64>().max(0.0),
        same_top: normal.top == normal_base.top,
    })
}

/// What makes logits a distribution.
struct Normal {
    /// The first of the largest.
    top: usize,
    max: f64,
    /// `ln Σ exp(x − max)`.
    log_sum: f64,
}

impl Normal {
    fn of(logits: &[f32], whose: &str) -> Result<Normal> {
        let (mut top, mut max) = (0, f32::NEG_INFINITY);
        let mut broken = false;
        for (i, &x) in logits.iter().enumerate() {
            broken |= x.is_nan() || x == f32::INFINITY;
            if x > max {
                (top, max) = (i, x);
            }
        }
        if broken || max == f32::NEG_INFINITY {
            return Err(EngineError::Evaluation {
                found: format!("the {whose} gives logits that are not numbers"),
                mend: "check its weights, and its compute dtype for overflow",
            });
        }
        let max = f64::from(max);
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        Ok(Normal { top, max, log_sum: sum.ln() })
    }

    fn log_p(&self, logit: f32) -> f64 {
        f64::from(logit) - self.max - self.log_sum
    }
}
