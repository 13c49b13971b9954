//! Super-blocks of 256: sub-blocks whose scales (and minima) are small integers times a shared f16.
//!
//! Every sub-block is fitted alone; the shared factors follow from the largest; then, by turns, each sub-block takes the
//! integers of the least error near its own and the shared factors are refitted to all codes.

use super::levels::Levels;
use super::search::{Block, neighbours, stored};
use super::settle::Settled;

/// Turns of sub-blocks and shared factors.
const TURNS: usize = 3;

/// The share of an f16 nearest to `v`, never 0 for what is not 0.
fn shared(v: f32) -> f32 {
    let d = stored(v);
    if d == 0.0 && v != 0.0 { neighbours(if v < 0.0 { -0.0 } else { 0.0 })[0] } else { d }
}

/// How a format with scales and minima holds them.
pub(crate) struct AffineForm<'a> {
    /// The largest code.
    pub(crate) top: f32,
    /// The largest integer scale or minimum.
    pub(crate) limit: u8,
    /// Elements of a sub-block.
    pub(crate) part: usize,
    /// Shares of the range that starts cut off.
    pub(crate) cuts: &'a [f32],
    /// What the largest scale and minimum are divided by, per start.
    pub(crate) divisors: &'a [f32],
}

/// Settles scales and minima: `x ≈ d·scale·q − dmin·min`, all of them at least 0.
pub(crate) fn affine(b: Block<'_>, form: &AffineForm<'_>) -> Settled {
    let count = b.x.len() / form.part;
    let parts: Vec<Block<'_>> = (0..count).map(|s| b.part(s * form.part, form.part)).collect();
    let mut fits = [(0f32, 0f32); 16];
    for (fit, p) in fits.iter_mut().zip(&parts) {
        *fit = p.fit_affine(form.top, true, form.cuts);
    }
    let fits = &fits[..count];
    let scale = fits.iter().map(|f| f.0).fold(0f32, f32::max);
    let min = fits.iter().map(|f| -f.1).fold(0f32, f32::max);
    let mut best: Option<(f32, Settled)> = None;
    for divisor in form.divisors {
        let (d, dmin) = (shared(scale / divisor), shared(min / divisor));
        let near = |v: f32, d: f32| if d == 0.0 { 0.0 } else { (v / d).round().clamp(0.0, form.limit as f32) };
        let mut s = Settled { d, dmin, ..Settled::default() };
        for (i, f) in fits.iter().enumerate() {
            (s.scales[i], s.mins[i]) = (near(f.0, d) as i16, near(-f.1, dmin) as u8);
        }
        turn_affine(&parts, form, s, &mut best);
    }
    best.map(|(_, s)| s).unwrap_or_default()
}

/// Lets sub-blocks and shared factors take turns from `s` on, and keeps what is better than `best`.
fn turn_affine(parts: &[Block<'_>], form: &AffineForm<'_>, mut s: Settled, best: &mut Option<(f32, Settled)>) {
    let mut last = f32::INFINITY;
    for _ in 0..TURNS {
        let mut total = 0.0;
        for (i, p) in parts.iter().enumerate() {
            total += near_affine(*p, form, &mut s, i);
        }
        if best.as_ref().is_none_or(|b| total < b.0) {
            *best = Some((total, s.clone()));
        }
        if total >= last {
            return;
        }
        last = total;
        let Some((d, dmin)) = refit_affine(parts, form, &s) else { return };
        if (d, dmin) == (s.d, s.dmin) {
            return;
        }
        (s.d, s.dmin) = (d, dmin);
    }
}

/// Moves scale and minimum of sub-block i to the best within one step of where they are; gives the error.
fn near_affine(p: Block<'_>, form: &AffineForm<'_>, s: &mut Settled, i: usize) -> f32 {
    let (scale, min) = (s.scales[i], s.mins[i]);
    let mut best = (f32::INFINITY, scale, min);
    for sc in (scale - 1).max(0)..=(scale + 1).min(form.limit as i16) {
        for mn in min.saturating_sub(1)..=(min + 1).min(form.limit) {
            let e = p.affine_error(form.top, s.d * sc as f32, -s.dmin * mn as f32);
            if e < best.0 {
                best = (e, sc, mn);
            }
            if s.dmin == 0.0 {
                break;
            }
        }
    }
    (s.scales[i], s.mins[i]) = (best.1, best.2);
    best.0
}

/// The shared factors that suit the codes best, in f16: a 2×2 least squares problem.
fn refit_affine(parts: &[Block<'_>], form: &AffineForm<'_>, s: &Settled) -> Option<(f32, f32)> {
    let [mut aa, mut ab, mut bb, mut xa, mut xb] = [0f64; 5];
    for (i, p) in parts.iter().enumerate() {
        let (sc, mn) = (s.scales[i] as f64, s.mins[i] as f64);
        let offset = -s.dmin * s.mins[i] as f32;
        let t = p.affine_step(form.top, s.d * s.scales[i] as f32, offset);
        let [w, q, qq] = [t.w, t.q, t.qq].map(f64::from);
        let (x, xq) = (t.x as f64 + offset as f64 * w, t.xq as f64 + offset as f64 * q);
        aa += sc * sc * qq;
        ab += sc * mn * q;
        bb += mn * mn * w;
        xa += sc * xq;
        xb += mn * x;
    }
    let det = aa * bb - ab * ab;
    let (d, dmin) = if det > 1e-9 * aa * bb {
        ((xa * bb - ab * xb) / det, (ab * xa - aa * xb) / det)
    } else if aa > 0.0 {
        ((xa + s.dmin as f64 * ab) / aa, s.dmin as f64)
    } else if bb > 0.0 {
        (s.d as f64, -xb / bb)
    } else {
        return None;
    };
    (d >= 0.0 && dmin >= 0.0).then(|| (stored(d as f32), stored(dmin as f32)))
}

/// How a format with scales alone holds them.
pub(crate) struct ScaledForm<'a> {
    /// The least and the largest integer scale.
    pub(crate) scales: (i16, i16),
    /// Elements of a sub-block.
    pub(crate) part: usize,
    /// Ratios of the peak that starts lay on the ends of the levels.
    pub(crate) ratios: &'a [f32],
    /// Ratios of the least integer scale that the largest scale is laid on.
    pub(crate) spreads: &'a [f32],
}

/// Settles scales: `x ≈ d·scale·level`.
pub(crate) fn scaled<L: Levels>(b: Block<'_>, levels: L, form: &ScaledForm<'_>) -> Settled {
    let count = b.x.len() / form.part;
    let parts: Vec<Block<'_>> = (0..count).map(|s| b.part(s * form.part, form.part)).collect();
    let mut fits = [0f32; 16];
    for (fit, p) in fits.iter_mut().zip(&parts) {
        *fit = p.fit(levels, form.ratios);
    }
    let largest = fits.iter().fold(0f32, |m, &f| if f.abs() > m.abs() { f } else { m });
    let mut best: Option<(f32, Settled)> = None;
    for end in [form.scales.0, form.scales.1] {
        for spread in form.spreads {
            let mut s = Settled { d: shared(largest / (end as f32 * spread)), ..Settled::default() };
            let (lo, hi) = (form.scales.0 as f32, form.scales.1 as f32);
            for (scale, f) in s.scales.iter_mut().zip(&fits[..count]) {
                *scale = if s.d == 0.0 { 0 } else { (f / s.d).round().clamp(lo, hi) as i16 };
            }
            turn_scaled(&parts, levels, form, s, &mut best);
        }
    }
    best.map(|(_, s)| s).unwrap_or_default()
}

/// Lets sub-blocks and the shared factor take turns from `s` on, and keeps what is better than `best`.
fn turn_scaled<L: Levels>(
    parts: &[Block<'_>],
    levels: L,
    form: &ScaledForm<'_>,
    mut s: Settled,
    best: &mut Option<(f32, Settled)>,
) {
    let mut last = f32::INFINITY;
    for _ in 0..TURNS {
        let (mut total, mut xl, mut ll) = (0.0, 0f64, 0f64);
        for (i, p) in parts.iter().enumerate() {
            let scale = s.scales[i];
            let mut near = (f32::INFINITY, scale);
            for sc in (scale - 1).max(form.scales.0)..=(scale + 1).min(form.scales.1) {
                let e = p.error(levels, s.d * sc as f32);
                if e < near.0 {
                    near = (e, sc);
                }
            }
            s.scales[i] = near.1;
            total += near.0;
            let (sc, t) = (near.1 as f64, p.step(levels, s.d * near.1 as f32));
            (xl, ll) = (xl + sc * t.xl as f64, ll + sc * sc * t.ll as f64);
        }
        if best.as_ref().is_none_or(|b| total < b.0) {
            *best = Some((total, s.clone()));
        }
        if total >= last || ll <= 0.0 {
            return;
        }
        last = total;
        let d = stored((xl / ll) as f32);
        if d == s.d {
            return;
        }
        s.d = d;
    }
}
