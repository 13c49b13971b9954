//! The search that all encoders share: weighted least squares over scales (and minima) and the codes that they lead to.
//!
//! From each of several starts, codes are chosen for the scale and the scale is then refitted to the codes; what is
//! kept is always the scale with the least error of the codes chosen for it. The number of passes over a block is fixed.

use half::f16;

use super::levels::Levels;

/// Magnitudes below this count as 0 before scales are rounded: far below what an f16 scale can tell from 0.
const TINY: f32 = 1e-12;

/// Elements that are summed in lanes of their own.
const TILE: usize = 16;

/// Shares of a code by which starts of formats without sub-blocks move the upper end of the range.
const BEYOND: [f32; 10] = [-0.8, -0.6, -0.4, -0.2, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5];
/// How often the best of all starts is refitted at most.
const POLISHES: usize = 8;
/// A start whose codes lose so many times what the best ones do is not refitted.
const HOPELESS: f32 = 1.5;

/// Elements and the weights of their squared errors, both of one length.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) w: &'a [f32],
}

/// Codes chosen for a scale: their error, and the scale that suits these codes best.
pub(crate) struct Step {
    pub(crate) error: f32,
    pub(crate) refit: f32,
    /// Σw·x·level.
    pub(crate) xl: f32,
    /// Σw·level².
    pub(crate) ll: f32,
}

/// Codes chosen for a scale and an offset, `x ≈ scale·q + offset`.
pub(crate) struct AffineStep {
    pub(crate) error: f32,
    /// Σw.
    pub(crate) w: f32,
    /// Σw·(x − offset).
    pub(crate) x: f32,
    /// Σw·q.
    pub(crate) q: f32,
    /// Σw·q².
    pub(crate) qq: f32,
    /// Σw·(x − offset)·q.
    pub(crate) xq: f32,
}

/// 1/d, and 0 for 0.
#[inline(always)]
pub(crate) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The number that the f16 nearest to `d` holds; beyond the range the largest finite one.
pub(crate) fn stored(d: f32) -> f32 {
    f16::from_f32(d.clamp(-65504.0, 65504.0)).to_f32()
}

/// The f16 numbers next to a stored one: further from 0 and nearer to it, of the same sign.
pub(crate) fn neighbours(d: f32) -> [f32; 2] {
    let bits = f16::from_f32(d).to_bits();
    let (sign, magnitude) = (bits & 0x8000, bits & 0x7fff);
    [(magnitude + 1).min(0x7bff), magnitude.saturating_sub(1)].map(|m| f16::from_bits(sign | m).to_f32())
}

impl<'a> Block<'a> {
    /// The elements `from..from + len`.
    pub(crate) fn part(self, from: usize, len: usize) -> Block<'a> {
        Block { x: &self.x[from..from + len], w: &self.w[from..from + len] }
    }

    /// Sums of M terms over all elements. Element i of a tile is summed in lane i, so that the loop over a tile has no
    /// order to keep; lanes are then added in a fixed order.
    #[inline(always)]
    fn sum<const M: usize>(self, term: impl Fn(f32, f32) -> [f32; M]) -> [f32; M] {
        let mut lanes = [[0f32; TILE]; M];
        for (x, w) in self.x.chunks(TILE).zip(self.w.chunks(TILE)) {
            let n = x.len().min(w.len()).min(TILE);
            for i in 0..n {
                let t = term(x[i], w[i]);
                for (lane, t) in lanes.iter_mut().zip(t) {
                    lane[i] += t;
                }
            }
        }
        lanes.map(|mut lane| {
            for half in [8, 4, 2, 1] {
                for i in 0..half {
                    lane[i] += lane[i + half];
                }
            }
            lane[0]
        })
    }

    /// The element of the largest magnitude, and the one of the largest weighted square.
    fn peaks(self) -> [f32; 2] {
        let (mut plain, mut weighted, mut most) = (0f32, 0f32, -1f32);
        for (&x, &w) in self.x.iter().zip(self.w) {
            if x.abs() > plain.abs() {
                plain = x;
            }
            if w * x * x > most {
                (weighted, most) = (x, w * x * x);
            }
        }
        [plain, weighted]
    }

    /// The error of the codes that `d` leads to.
    #[inline(always)]
    pub(crate) fn error<L: Levels>(self, levels: L, d: f32) -> f32 {
        let id = inverse(d);
        let [e] = self.sum(|x, w| {
            let r = x - d * levels.nearest(x * id);
            [w * r * r]
        });
        e
    }

    /// The error of the codes that `d` leads to, and the scale that suits these codes best.
    #[inline(always)]
    pub(crate) fn step<L: Levels>(self, levels: L, d: f32) -> Step {
        let id = inverse(d);
        let [error, xl, ll] = self.sum(|x, w| {
            let l = levels.nearest(x * id);
            let (r, wl) = (x - d * l, w * l);
            [w * r * r, wl * x, wl * l]
        });
        Step { error, refit: if ll > 0.0 { xl / ll } else { d }, xl, ll }
    }

    /// The scale of the least error, before any rounding. The peak is laid on each end of the levels, on `ratios` of it;
    /// the peak by weight, where it is another, on every third of them.
    pub(crate) fn fit<L: Levels>(self, levels: L, ratios: &[f32]) -> f32 {
        let peaks = self.peaks();
        let (lo, hi) = levels.ends();
        let ends = [lo, hi];
        let mut best = (self.error(levels, 0.0), 0.0);
        for (i, &peak) in peaks.iter().enumerate() {
            if peak.abs() < TINY || i == 1 && peak == peaks[0] {
                continue;
            }
            for &end in &ends[..if lo == -hi { 1 } else { 2 }] {
                for ratio in ratios.iter().step_by(1 + 2 * i) {
                    let mut d = peak / (end * ratio);
                    for _ in 0..2 {
                        let s = self.step(levels, d);
                        if s.error < best.0 {
                            best = (s.error, d);
                        } else if s.error > HOPELESS * best.0 {
                            break;
                        }
                        d = s.refit;
                    }
                }
            }
        }
        best.1
    }

    /// As [`Block::fit`], with a scale of at least 0.
    pub(crate) fn fit_positive<L: Levels>(self, levels: L, ratios: &[f32]) -> f32 {
        let d = self.fit(levels, ratios);
        if d >= 0.0 {
            return d;
        }
        let (lo, hi) = levels.ends();
        let mut best = (self.error(levels, 0.0), 0.0);
        for peak in self.peaks() {
            for ratio in ratios {
                // Which end the peak meets under a positive scale.
                let mut d = peak / (if peak < 0.0 { lo } else { hi } * ratio);
                for _ in 0..2 {
                    let s = self.step(levels, d);
                    if s.error < best.0 && d >= 0.0 {
                        best = (s.error, d);
                    }
                    d = s.refit;
                }
            }
        }
        best.1
    }

    /// The f16 scale of the least error near that of [`Block::fit`] and near those that lay the peak on an end of the levels.
    pub(crate) fn fit_stored<L: Levels>(self, levels: L, ratios: &[f32]) -> f32 {
        let d = self.fit(levels, ratios);
        let peak = self.peaks()[0];
        let (lo, hi) = levels.ends();
        let mut best = (self.error(levels, 0.0), 0.0);
        let take = |d: f32, best: &mut (f32, f32)| {
            let s = self.step(levels, d);
            if s.error < best.0 {
                *best = (s.error, d);
            }
            stored(s.refit)
        };
        for start in [d, peak / lo, peak / hi] {
            let again = take(stored(start), &mut best);
            take(again, &mut best);
        }
        for _ in 0..2 {
            for near in neighbours(best.1) {
                take(near, &mut best);
            }
        }
        best.1
    }

    /// The error of the codes that a scale and an offset lead to, `x ≈ scale·q + offset`, `q` in 0..=top.
    #[inline(always)]
    pub(crate) fn affine_error(self, top: f32, scale: f32, offset: f32) -> f32 {
        let levels = super::levels::Linear { lo: 0.0, hi: top };
        let id = inverse(scale);
        let [e] = self.sum(|x, w| {
            let x = x - offset;
            let r = x - scale * levels.nearest(x * id);
            [w * r * r]
        });
        e
    }

    /// As [`Block::affine_error`], with the sums that refit scale and offset.
    #[inline(always)]
    pub(crate) fn affine_step(self, top: f32, scale: f32, offset: f32) -> AffineStep {
        let levels = super::levels::Linear { lo: 0.0, hi: top };
        let id = inverse(scale);
        let [error, w, x, q, qq, xq] = self.sum(|x, w| {
            let x = x - offset;
            let q = levels.nearest(x * id);
            let (r, wq) = (x - scale * q, w * q);
            [w * r * r, w, w * x, wq, wq * q, wq * x]
        });
        AffineStep { error, w, x, q, qq, xq }
    }

    /// Scale and offset of the least error, before any rounding. With `below_zero` the offset is at most 0. The range
    /// of the elements is cut by each of `cuts` (shares of it) at either end.
    pub(crate) fn fit_affine(self, top: f32, below_zero: bool, cuts: &[f32]) -> (f32, f32) {
        let bound = |v: f32| if below_zero { v.min(0.0) } else { v };
        let lo = bound(self.x.iter().copied().fold(f32::MAX, f32::min));
        let hi = self.x.iter().copied().fold(f32::MIN, f32::max);
        let flat = (self.affine_error(top, 0.0, lo), (0.0, lo));
        if hi - lo < TINY {
            return flat.1;
        }
        let mut best = flat;
        let start = |from: f32, to: f32, best: &mut (f32, (f32, f32))| {
            let (mut scale, mut offset) = ((to - from) / top, from);
            for _ in 0..2 {
                let s = self.affine_step(top, scale, offset);
                if s.error < best.0 {
                    *best = (s.error, (scale, offset));
                } else if s.error > HOPELESS * best.0 {
                    break;
                }
                let Some(next) = s.refit(offset, below_zero) else { break };
                (scale, offset) = next;
            }
        };
        for a in cuts {
            for b in cuts {
                // Where the offset is held at 0 only the upper end can be cut, the finer for it.
                let b = if below_zero && lo == 0.0 { b + a / 4.0 } else { *b };
                start(bound(lo + a * (hi - lo)), hi - b * (hi - lo), &mut best);
            }
        }
        let [w, x, xx] = self.sum(|x, w| [w, w * x, w * x * x]);
        let mean = x / w;
        let spread = 2.5 * (xx / w - mean * mean).max(0.0).sqrt();
        let (from, to) = (bound(lo.max(mean - spread)), hi.min(mean + spread));
        if to > from {
            start(from, to, &mut best);
        }
        if below_zero && hi < 0.0 {
            start(lo, 0.0, &mut best);
        }
        // With its end some of a code before or behind the last, a lone outlier leaves the others their place.
        let beyond: &[f32] = if below_zero { &[0.5, 1.0] } else { &BEYOND };
        for share in beyond {
            start(lo, hi + share * (hi - lo) / top, &mut best);
        }
        self.polish_affine(top, below_zero, best.1)
    }

    /// Refits scale and offset to their codes for as long as that helps.
    fn polish_affine(self, top: f32, below_zero: bool, (mut scale, mut offset): (f32, f32)) -> (f32, f32) {
        let mut best = (f32::INFINITY, (scale, offset));
        for _ in 0..POLISHES {
            let s = self.affine_step(top, scale, offset);
            if s.error >= best.0 {
                break;
            }
            best = (s.error, (scale, offset));
            let Some(next) = s.refit(offset, below_zero) else { break };
            (scale, offset) = next;
        }
        best.1
    }

    /// The f16 scale and offset of the least error near the best of [`Block::fit_affine`] and near the whole range.
    pub(crate) fn fit_affine_stored(self, top: f32, cuts: &[f32]) -> (f32, f32) {
        let (scale, offset) = self.fit_affine(top, false, cuts);
        let lo = self.x.iter().copied().fold(f32::MAX, f32::min);
        let hi = self.x.iter().copied().fold(f32::MIN, f32::max);
        let mut best = (f32::MAX, (0.0, 0.0));
        for (scale, offset) in [(scale, offset), ((hi - lo) / top, lo)] {
            let offset = stored(offset);
            let [up, down] = neighbours(offset);
            for offset in [offset, up, down] {
                let mut d = stored(scale);
                for _ in 0..3 {
                    let s = self.affine_step(top, d, offset);
                    if s.error < best.0 {
                        best = (s.error, (d, offset));
                    }
                    d = stored(if s.qq > 0.0 { s.xq / s.qq } else { d });
                }
            }
        }
        for near in neighbours(best.1.0) {
            let e = self.affine_error(top, near, best.1.1);
            if e < best.0 {
                best = (e, (near, best.1.1));
            }
        }
        best.1
    }
}

impl AffineStep {
    /// Scale and offset that suit these codes best; `offset` is the one that they were chosen for.
    pub(crate) fn refit(&self, offset: f32, below_zero: bool) -> Option<(f32, f32)> {
        let det = self.w * self.qq - self.q * self.q;
        if det <= 1e-6 * self.w * self.qq {
            return None;
        }
        let scale = (self.w * self.xq - self.x * self.q) / det;
        let shift = (self.x - scale * self.q) / self.w;
        let (scale, offset) = if below_zero && offset + shift > 0.0 {
            // The offset is held at 0: Σw·x·q about 0 over Σw·q².
            ((self.xq + offset * self.q) / self.qq, 0.0)
        } else {
            (scale, offset + shift)
        };
        (scale > 0.0).then_some((scale, offset))
    }
}
