//! Scores to weights.

use super::{KEYS, Lanes, Soften};
use crate::math::{Tanh, Unary};

/// `1/(n+2)!` for n = 0, 1, …: `exp(r) = 1 + r + r²·Σ`, on `|r| <= ln 2 / 2` to better than 2^-27.
const EXP: [f32; 6] = [1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5_040.0];

/// ln 2 to 15 bits, so that small multiples of it are exact, and the rest of it.
const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];

/// Adding this to a small number leaves its nearest integer.
const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23

/// Where the exponential of f32 has become 0.
const LEAST: f32 = -110.0;

/// `exp(x)` for x of at most 0, within two units in the last place; 0 for -∞, NaN for NaN.
#[inline(always)]
fn exp<S: Lanes>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(LEAST), x);
    let n = s.sub(s.madd(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND)), s.splat(ROUND));
    let r = s.madd(n, s.splat(-LN_2[0]), x);
    let r = s.madd(n, s.splat(-LN_2[1]), r);
    let mut sum = s.splat(EXP[5]);
    for c in EXP[..5].iter().rev() {
        sum = s.madd(sum, r, s.splat(*c));
    }
    let value = s.add(s.madd(s.mul(r, r), sum, r), s.splat(1.0));
    s.scale_by_power(value, n)
}

/// Turns a row of scores into weights; gives the row's largest score so far, and the sum of these weights.
///
/// A key has its lane by its place, so a sum is the same whatever else is in the row.
#[inline(always)]
pub(crate) fn soften<S: Lanes>(s: S, b: &mut Soften<'_>) -> (f32, f32) {
    let row = &mut b.row[..KEYS];
    assert!(b.first < b.end && b.end <= KEYS, "keys {} to {} of {KEYS}", b.first, b.end);
    let start = b.first / S::LANES * S::LANES;
    let end = b.end.next_multiple_of(S::LANES);
    let scale = s.splat(b.scale);
    for at in (start..end).step_by(S::LANES) {
        let mut x = s.mul(scale, s.load(&row[at..]));
        if !b.key_scales.is_empty() {
            x = s.mul(x, s.load(&b.key_scales[at..]));
        }
        if b.softcap != 0.0 {
            x = s.mul(s.splat(b.softcap), Tanh::of(s, s.mul(x, s.splat(1.0 / b.softcap))));
        }
        s.store(&mut row[at..], x);
    }
    row[start..b.first].fill(f32::NEG_INFINITY);
    row[b.end..end].fill(f32::NEG_INFINITY);
    let mut most = s.splat(b.max);
    for at in (start..end).step_by(S::LANES) {
        most = s.max_nan(most, s.load(&row[at..]));
    }
    let lanes = s.lanes(most);
    let top = lanes[1..S::LANES].iter().fold(lanes[0], |m, x| if x.is_nan() || *x > m { *x } else { m });
    if top == f32::NEG_INFINITY {
        row[start..end].fill(0.0);
        return (top, 0.0);
    }
    let center = s.splat(top);
    let mut total = [s.splat(0.0); 2];
    for at in (start..end).step_by(S::LANES) {
        let p = exp(s, s.sub(s.load(&row[at..]), center));
        let total = &mut total[at / S::LANES % 2];
        *total = s.add(*total, p);
        let p = if b.value_scales.is_empty() { p } else { s.mul(p, s.load(&b.value_scales[at..])) };
        s.store(&mut row[at..], p);
    }
    (top, s.sum_lanes(s.add(total[0], total[1])))
}
