//! Choices: argmax, top-k, sampling.

use std::cmp::Ordering;

use qiao_core::{NoAttrs, TopKAttrs};

use super::{Outputs, one};
use crate::args::Args;
use crate::value::Output;

/// Descending by value, ascending by index; NaN is larger than all.
fn descending(row: &[f64], a: usize, b: usize) -> Ordering {
    let (x, y) = (row[a], row[b]);
    x.partial_cmp(&y).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan())).reverse().then(a.cmp(&b))
}

/// The indices of a row in descending order of their values.
fn sorted(row: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| descending(row, a, b));
    order
}

/// The index of the largest value.
fn largest(row: &[f64]) -> usize {
    (0..row.len()).min_by(|&a, &b| descending(row, a, b)).unwrap_or(0)
}

pub(crate) fn argmax(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    one(x.value(0)?.rows().map(|row| largest(row) as f64).collect())
}

pub(crate) fn top_k(attrs: &TopKAttrs, x: &Args<'_>) -> Outputs {
    let x = x.value(0)?;
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for row in x.rows() {
        for &i in &sorted(row)[..attrs.k as usize] {
            values.push(row[i]);
            indices.push(i as f64);
        }
    }
    Ok(vec![Output::Values(values), Output::Values(indices)])
}

/// What steers the choice of one token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steering {
    pub(crate) u: f64,
    pub(crate) temperature: f64,
    pub(crate) top_k: f64,
    pub(crate) top_p: f64,
    pub(crate) min_p: f64,
}

/// A sampled token, and how far (in probability) the decision is from another one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) token: usize,
    pub(crate) margin: f64,
}

/// Samples a token: logits by temperature, sorted by (value descending, index ascending); the first k; of these the
/// shortest prefix whose mass reaches top-p; of these the ones with at least min-p times the largest probability; of
/// these, renormalised, the first whose cumulative mass exceeds u. At least one token stays at every step.
pub(crate) fn choose(logits: &[f64], s: &Steering) -> Choice {
    let best = largest(logits);
    if s.temperature == 0.0 || logits[best].is_nan() {
        return Choice { token: best, margin: f64::INFINITY };
    }
    let order = sorted(logits);
    let kept = if s.top_k >= 1.0 { order.len().min(s.top_k as usize) } else { order.len() };
    let top = logits[best];
    // Weights relative to the largest, which is 1 even when it is infinite.
    let weight = |&i: &usize| if logits[i] == top { 1.0 } else { ((logits[i] - top) / s.temperature).exp() };
    let mut weights: Vec<f64> = order[..kept].iter().map(weight).collect();
    let mut margin = f64::INFINITY;
    if s.top_p < 1.0 {
        let total: f64 = weights.iter().sum();
        let (mut mass, mut len) = (0.0, 0);
        while len == 0 || len < weights.len() && mass < s.top_p {
            mass += weights[len] / total;
            margin = margin.min((mass - s.top_p).abs());
            len += 1;
        }
        weights.truncate(len);
    }
    if s.min_p > 0.0 {
        margin = weights.iter().skip(1).map(|w| (w - s.min_p).abs()).fold(margin, f64::min);
        let len = weights.iter().take_while(|&&w| w >= s.min_p).count();
        weights.truncate(len.max(1));
    }
    let total: f64 = weights.iter().sum();
    let (mut mass, mut token) = (0.0, weights.len() - 1);
    for (i, w) in weights.iter().enumerate() {
        mass += w / total;
        if i + 1 < weights.len() {
            margin = margin.min((mass - s.u).abs());
        }
        if mass > s.u {
            token = i;
            break;
        }
    }
    Choice { token: order[token], margin }
}

/// The choice of every row of a `sample`.
pub(crate) fn choices(x: &Args<'_>) -> qiao_core::Result<Vec<Choice>> {
    let logits = x.value(0)?;
    let [u, temperature, top_k, top_p, min_p] = [x.value(1)?, x.value(2)?, x.value(3)?, x.value(4)?, x.value(5)?];
    let steering = |i: usize| Steering {
        u: u.data[i],
        temperature: temperature.data[i],
        top_k: top_k.data[i],
        top_p: top_p.data[i],
        min_p: min_p.data[i],
    };
    Ok(logits.rows().enumerate().map(|(i, row)| choose(row, &steering(i))).collect())
}

pub(crate) fn sample(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    one(choices(x)?.into_iter().map(|c| c.token as f64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Steering = Steering { u: 0.0, temperature: 1.0, top_k: 0.0, top_p: 1.0, min_p: 0.0 };

    /// Logits whose softmax is 0.1, 0.4, 0.2, 0.3.
    fn logits() -> Vec<f64> {
        [0.1f64, 0.4, 0.2, 0.3].iter().map(|p| p.ln()).collect()
    }

    fn pick(s: Steering) -> usize {
        choose(&logits(), &s).token
    }

    #[test]
    fn tokens_are_taken_in_order_of_probability() {
        let picks: Vec<usize> =
            [0.0, 0.39, 0.41, 0.69, 0.71, 0.89, 0.91].iter().map(|&u| pick(Steering { u, ..OFF })).collect();
        assert_eq!(picks, [1, 1, 3, 3, 2, 2, 0]);
    }

    #[test]
    fn each_filter_cuts_where_it_says() {
        let last = Steering { u: 0.999, ..OFF };
        assert_eq!(pick(last), 0);
        assert_eq!(pick(Steering { top_k: 2.0, ..last }), 3);
        assert_eq!(pick(Steering { top_p: 0.75, ..last }), 2);
        assert_eq!(pick(Steering { top_p: 0.0, ..last }), 1);
        assert_eq!(pick(Steering { min_p: 0.6, ..last }), 3);
        assert_eq!(pick(Steering { min_p: 1.0, ..last }), 1);
        assert_eq!(pick(Steering { temperature: 0.0, ..last }), 1);
        // The mass of top-p is counted among the k kept: 0.4/0.7 = 0.57 reaches 0.55.
        assert_eq!(pick(Steering { top_k: 2.0, top_p: 0.55, ..last }), 1);
    }

    #[test]
    fn a_tie_at_the_kth_place_keeps_the_lower_index() {
        let s = Steering { u: 0.999, top_k: 2.0, ..OFF };
        assert_eq!(choose(&[1.0, 2.0, 1.0, 1.0], &s).token, 0);
        assert_eq!(choose(&[2.0, 2.0], &Steering { temperature: 0.0, ..s }).token, 0);
    }

    #[test]
    fn the_margin_is_the_distance_to_another_decision() {
        assert!((choose(&logits(), &Steering { u: 0.3, ..OFF }).margin - 0.1).abs() < 1e-12);
        assert!((choose(&logits(), &Steering { u: 0.45, ..OFF }).margin - 0.05).abs() < 1e-12);
        assert_eq!(choose(&logits(), &Steering { temperature: 0.0, ..OFF }).margin, f64::INFINITY);
    }

    #[test]
    fn infinite_logits_and_nan_do_not_break_the_choice() {
        let inf = f64::INFINITY;
        assert_eq!(choose(&[0.0, inf, -inf], &Steering { u: 0.99, ..OFF }).token, 1);
        assert_eq!(choose(&[0.0, f64::NAN, 9.0], &OFF).token, 1);
        assert_eq!(choose(&[-inf, 3.0, -inf], &Steering { u: 0.99, ..OFF }).token, 1);
    }

    #[test]
    fn nan_is_larger_than_all_and_ties_go_to_the_lower_index() {
        assert_eq!(sorted(&[1.0, f64::NAN, 3.0, f64::NAN, f64::INFINITY, 3.0]), [1, 3, 4, 2, 5, 0]);
        assert_eq!(largest(&[1.0, 3.0, 3.0]), 1);
    }
}
