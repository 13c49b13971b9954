//! Scores to weights.

use super::{KEYS, Lanes, Soften};
use crate::math::{Tanh, Unary, exp_below};

/// Turns a row of scores into weights; gives the row's largest score so far, and the sum of these weights.
///
/// A key has its lane by its place, so a sum is the same whatever else is in the row.
#[inline(always)]
pub(crate) fn soften<S: Lanes>(s: S, b: &mut Soften<'_>) -> (f32, f32) {
    let row = &mut b.row[..KEYS];
    assert!(b.first < b.end && b.end <= KEYS, "keys {} to {} of {KEYS}", b.first, b.end);
    let all = b.first == 0 && b.end == KEYS;
    // Factors are taken along where they leave -∞, which is what a row does not see, as it is.
    let plain = b.softcap == 0.0 && (all || b.scale > 0.0 && b.key_scales.is_empty());
    if !plain {
        scale_scores(s, row, b.scale, b.key_scales, b.softcap);
    }
    let key_scales = if plain { b.key_scales } else { &[] };
    let scale = s.splat(if plain { b.scale } else { 1.0 });
    if !all {
        row[..b.first].fill(f32::NEG_INFINITY);
        row[b.end..].fill(f32::NEG_INFINITY);
    }
    let score = |row: &[f32], at: usize| {
        let x = s.mul(scale, s.load(&row[at..]));
        if key_scales.is_empty() { x } else { s.mul(x, s.load(&key_scales[at..])) }
    };
    let mut most = [s.splat(b.max); 4];
    for four in (0..KEYS).step_by(4 * S::LANES) {
        for (i, most) in most.iter_mut().enumerate() {
            *most = s.max_nan(*most, score(row, four + i * S::LANES));
        }
    }
    let top = s.max_lanes(s.max_nan(s.max_nan(most[0], most[1]), s.max_nan(most[2], most[3])));
    if top == f32::NEG_INFINITY {
        row.fill(0.0);
        return (top, 0.0);
    }
    let center = s.splat(top);
    let mut total = [s.splat(0.0); 2];
    for two in (0..KEYS).step_by(2 * S::LANES) {
        for (i, total) in total.iter_mut().enumerate() {
            let at = two + i * S::LANES;
            let mut p = exp_below(s, s.sub(score(row, at), center));
            *total = s.add(*total, p);
            if !b.value_scales.is_empty() {
                p = s.mul(p, s.load(&b.value_scales[at..]));
            }
            s.store(&mut row[at..], p);
        }
    }
    (top, s.sum_lanes(s.add(total[0], total[1])))
}

/// Scales a row of scores, key by key too where there are factors for that, and caps it.
#[inline(always)]
fn scale_scores<S: Lanes>(s: S, row: &mut [f32], scale: f32, key_scales: &[f32], softcap: f32) {
    let scale = s.splat(scale);
    for x in row.chunks_exact_mut(S::LANES) {
        s.store(x, s.mul(scale, s.load(x)));
    }
    if !key_scales.is_empty() {
        for (x, scale) in row.chunks_exact_mut(S::LANES).zip(key_scales.chunks_exact(S::LANES)) {
            s.store(x, s.mul(s.load(x), s.load(scale)));
        }
    }
    if softcap != 0.0 {
        for x in row.chunks_exact_mut(S::LANES) {
            let capped = Tanh::of(s, s.mul(s.load(x), s.splat(1.0 / softcap)));
            s.store(x, s.mul(s.splat(softcap), capped));
        }
    }
}
