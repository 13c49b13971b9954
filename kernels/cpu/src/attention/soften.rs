//! Scores to weights.

use super::{KEYS, Lanes, Soften};
use crate::math::{Tanh, Unary, exp_below};
use crate::simd::MAX_LANES;

/// The largest lane; NaN where there is one.
#[inline(always)]
fn max_lane<S: Lanes>(s: S, v: S::V) -> f32 {
    let mut lanes = s.lanes(v);
    if S::LANES > 8 {
        keep_larger::<8>(&mut lanes);
    }
    if S::LANES > 4 {
        keep_larger::<4>(&mut lanes);
    }
    keep_larger::<2>(&mut lanes);
    keep_larger::<1>(&mut lanes);
    lanes[0]
}

/// Keeps the larger of each two lanes that are `N` apart.
#[inline(always)]
fn keep_larger<const N: usize>(lanes: &mut [f32; MAX_LANES]) {
    for i in 0..N {
        let (a, b) = (lanes[i], lanes[i + N]);
        lanes[i] = if b.is_nan() || b > a { b } else { a };
    }
}

/// Turns a row of scores into weights; gives the row's largest score so far, and the sum of these weights.
///
/// A key has its lane by its place, so a sum is the same whatever else is in the row.
#[inline(always)]
pub(crate) fn soften<S: Lanes>(s: S, b: &mut Soften<'_>) -> (f32, f32) {
    let row = &mut b.row[..KEYS];
    assert!(b.first < b.end && b.end <= KEYS, "keys {} to {} of {KEYS}", b.first, b.end);
    scale_scores(s, row, b.scale, b.key_scales, b.softcap);
    if b.first > 0 || b.end < KEYS {
        row[..b.first].fill(f32::NEG_INFINITY);
        row[b.end..].fill(f32::NEG_INFINITY);
    }
    let mut most = [s.splat(b.max); 2];
    for two in row.chunks_exact(2 * S::LANES) {
        most = [s.max_nan(most[0], s.load(two)), s.max_nan(most[1], s.load(&two[S::LANES..]))];
    }
    let top = max_lane(s, s.max_nan(most[0], most[1]));
    if top == f32::NEG_INFINITY {
        row.fill(0.0);
        return (top, 0.0);
    }
    let center = s.splat(top);
    let mut total = [s.splat(0.0); 2];
    for two in row.chunks_exact_mut(2 * S::LANES) {
        let (first, second) = two.split_at_mut(S::LANES);
        let p = [exp_below(s, s.sub(s.load(first), center)), exp_below(s, s.sub(s.load(second), center))];
        total = [s.add(total[0], p[0]), s.add(total[1], p[1])];
        s.store(first, p[0]);
        s.store(second, p[1]);
    }
    if !b.value_scales.is_empty() {
        for (p, scale) in row.chunks_exact_mut(S::LANES).zip(b.value_scales.chunks_exact(S::LANES)) {
            s.store(p, s.mul(s.load(p), s.load(scale)));
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
