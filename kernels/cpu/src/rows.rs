//! Operations on rows of f32: elementwise, reductions, norms, softmax pieces, rotary embedding.
//!
//! Reductions keep four vectors of partial sums, so the error grows with the length of a lane's
//! share and not with that of the row.

use crate::math::{self, Unary};
use crate::simd::Simd;

/// Applies an expression to vectors of the inputs, tails included, and stores the result.
macro_rules! map {
    ($s:ident, $out:ident, [$($x:ident),+], $value:expr) => {{
        $(assert_eq!($out.len(), $x.len(), concat!("lengths of output and ", stringify!($x)));)+
        let whole = $out.len() - $out.len() % S::LANES;
        let mut at = 0;
        while at < whole {
            // SAFETY: the inputs are as long as the output, and `at + LANES` is at most that.
            unsafe {
                let value = {
                    $(let $x = $s.load_ptr($x.as_ptr().add(at));)+
                    $value
                };
                $s.store_ptr($out.as_mut_ptr().add(at), value);
            }
            at += S::LANES;
        }
        if at < $out.len() {
            let value = {
                $(let $x = $s.load_tail(&$x[at..], 1.0);)+
                $value
            };
            $s.store_tail(&mut $out[at..], value);
        }
    }};
}

/// `out = f(x)`.
#[inline(always)]
pub(crate) fn unary<S: Simd, F: Unary>(s: S, out: &mut [f32], x: &[f32]) {
    map!(s, out, [x], F::of(s, x));
}

/// `out = a + b`.
#[inline(always)]
pub(crate) fn add<S: Simd>(s: S, out: &mut [f32], a: &[f32], b: &[f32]) {
    map!(s, out, [a, b], s.add(a, b));
}

/// `out = a - b`.
#[inline(always)]
pub(crate) fn sub<S: Simd>(s: S, out: &mut [f32], a: &[f32], b: &[f32]) {
    map!(s, out, [a, b], s.sub(a, b));
}

/// `out = a · b`.
#[inline(always)]
pub(crate) fn mul<S: Simd>(s: S, out: &mut [f32], a: &[f32], b: &[f32]) {
    map!(s, out, [a, b], s.mul(a, b));
}

/// `out = a / b`.
#[inline(always)]
pub(crate) fn div<S: Simd>(s: S, out: &mut [f32], a: &[f32], b: &[f32]) {
    map!(s, out, [a, b], s.div(a, b));
}

/// `out = silu(gate) · up`.
#[inline(always)]
pub(crate) fn silu_mul<S: Simd>(s: S, out: &mut [f32], gate: &[f32], up: &[f32]) {
    map!(s, out, [gate, up], math::silu_mul(s, gate, up));
}

/// `y += alpha · x`.
#[inline(always)]
pub(crate) fn axpy<S: Simd>(s: S, y: &mut [f32], alpha: f32, x: &[f32]) {
    assert_eq!(y.len(), x.len(), "axpy: lengths of y and x");
    let alpha = s.splat(alpha);
    let mut x = x.chunks_exact(S::LANES);
    let mut y = y.chunks_exact_mut(S::LANES);
    for (y, x) in y.by_ref().zip(x.by_ref()) {
        let sum = s.madd(alpha, s.load(x), s.load(y));
        s.store(y, sum);
    }
    let y = y.into_remainder();
    let sum = s.madd(alpha, s.load_tail(x.remainder(), 0.0), s.load_tail(y, 0.0));
    s.store_tail(y, sum);
}

/// `x = alpha · x`.
#[inline(always)]
pub(crate) fn scale<S: Simd>(s: S, x: &mut [f32], alpha: f32) {
    let alpha = s.splat(alpha);
    let mut x = x.chunks_exact_mut(S::LANES);
    for x in x.by_ref() {
        let scaled = s.mul(alpha, s.load(x));
        s.store(x, scaled);
    }
    let x = x.into_remainder();
    let scaled = s.mul(alpha, s.load_tail(x, 0.0));
    s.store_tail(x, scaled);
}

/// Partial results per reduction.
const CHAINS: usize = 4;

/// Folds vectors of the inputs into four partial results, which start as `$from`, and then into
/// one vector; lanes past the end are read as `$fill`.
macro_rules! fold {
    ($s:ident, $len:expr, [$($x:ident),+], $from:expr, $fill:expr, |$acc:ident| $step:expr, $join:ident) => {{
        let fill: f32 = $fill;
        let mut parts = [$s.splat($from); CHAINS];
        let len = $len;
        let mut at = 0;
        while at + CHAINS * S::LANES <= len {
            for (c, part) in parts.iter_mut().enumerate() {
                // SAFETY: the rows have `len` elements, and `at + CHAINS * LANES` is at most that.
                $(let $x = unsafe { $s.load_ptr($x.as_ptr().add(at + c * S::LANES)) };)+
                let $acc = *part;
                *part = $step;
            }
            at += CHAINS * S::LANES;
        }
        for part in &mut parts {
            if at < len {
                let end = len.min(at + S::LANES);
                $(let $x = $s.load_tail(&$x[at..end], fill);)+
                let $acc = *part;
                *part = $step;
                at = end;
            }
        }
        let [a, b, c, d] = parts;
        $s.$join($s.$join(a, b), $s.$join(c, d))
    }};
}

/// `Σ x`; 0 for an empty row.
#[inline(always)]
pub(crate) fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    s.sum_lanes(fold!(s, x.len(), [x], 0.0, 0.0, |acc| s.add(acc, x), add))
}

/// `Σ x²`; 0 for an empty row.
#[inline(always)]
pub(crate) fn sum_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    s.sum_lanes(fold!(s, x.len(), [x], 0.0, 0.0, |acc| s.madd(x, x, acc), add))
}

/// `Σ a·b`; 0 for empty rows.
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot: lengths of a and b");
    s.sum_lanes(fold!(s, a.len(), [a, b], 0.0, 0.0, |acc| s.madd(a, b, acc), add))
}

/// The largest element; NaN where there is one; -∞ for an empty row.
#[inline(always)]
pub(crate) fn max<S: Simd>(s: S, x: &[f32]) -> f32 {
    let v = fold!(s, x.len(), [x], f32::NEG_INFINITY, f32::NEG_INFINITY, |acc| s.max_nan(acc, x), max_nan);
    let lanes = s.lanes(v);
    lanes[..S::LANES].iter().fold(f32::NEG_INFINITY, |m, x| if x.is_nan() || *x > m { *x } else { m })
}

/// `Σ (x - mean)²`.
#[inline(always)]
fn sum_square_deviations<S: Simd>(s: S, x: &[f32], mean: f32) -> f32 {
    let center = s.splat(mean);
    let v = fold!(
        s,
        x.len(),
        [x],
        0.0,
        mean,
        |acc| {
            let d = s.sub(x, center);
            s.madd(d, d, acc)
        },
        add
    );
    s.sum_lanes(v)
}

/// `out = x · (w + offset) / √(mean(x²) + eps)`.
#[inline(always)]
pub(crate) fn rms_norm<S: Simd>(s: S, out: &mut [f32], x: &[f32], w: &[f32], eps: f32, offset: f32) {
    let mean = sum_squares(s, x) / x.len() as f32;
    let factor = s.splat(1.0 / (mean + eps).sqrt());
    let offset = s.splat(offset);
    map!(s, out, [x, w], s.mul(s.mul(x, factor), s.add(w, offset)));
}

/// `out = (x - mean) / √(variance + eps) · w + b`, the variance from deviations, in a second pass.
#[inline(always)]
pub(crate) fn layer_norm<S: Simd>(s: S, out: &mut [f32], x: &[f32], w: &[f32], b: &[f32], eps: f32) {
    let n = x.len() as f32;
    let mean = sum(s, x) / n;
    let variance = sum_square_deviations(s, x, mean) / n;
    let factor = s.splat(1.0 / (variance + eps).sqrt());
    let mean = s.splat(mean);
    map!(s, out, [x, w, b], s.madd(s.mul(s.sub(x, mean), factor), w, b));
}

/// `out = exp(x - max)`, returning the sum; zeros and 0 where `max` is -∞ (a fully masked row).
#[inline(always)]
pub(crate) fn exp_sub_sum<S: Simd>(s: S, out: &mut [f32], x: &[f32], max: f32) -> f32 {
    assert_eq!(out.len(), x.len(), "a result has as many elements as its operand");
    if max == f32::NEG_INFINITY {
        out.fill(0.0);
        return 0.0;
    }
    let center = s.splat(max);
    let mut total = [s.splat(0.0); 2];
    let (mut outs, mut rows) = (out.chunks_exact_mut(S::LANES), x.chunks_exact(S::LANES));
    for (i, (out, x)) in outs.by_ref().zip(rows.by_ref()).enumerate() {
        let e = math::exp_below(s, s.sub(s.load(x), center));
        s.store(out, e);
        total[i % 2] = s.add(total[i % 2], e);
    }
    let (out, x) = (outs.into_remainder(), rows.remainder());
    if !x.is_empty() {
        let e = math::exp_below(s, s.sub(s.load_tail(x, f32::NEG_INFINITY), center));
        s.store_tail(out, e);
        total[0] = s.add(total[0], e);
    }
    s.sum_lanes(s.add(total[0], total[1]))
}

/// Rotates the pairs `(x[i], x[i + h])`, `h = rotary_dim / 2`.
#[inline(always)]
pub(crate) fn rope_half_split<S: Simd>(s: S, x: &mut [f32], cos: &[f32], sin: &[f32], rotary_dim: usize) {
    let half = rotary_dim / 2;
    let (first, rest) = x.split_at_mut(half);
    let second = &mut rest[..half];
    let (cos, sin) = (&cos[..half], &sin[..half]);
    let whole = half - half % S::LANES;
    let mut at = 0;
    while at < whole {
        // SAFETY: all four have `half` elements, and `at + LANES` is at most that.
        unsafe {
            let (a, b) = (s.load_ptr(first.as_ptr().add(at)), s.load_ptr(second.as_ptr().add(at)));
            let (c, d) = (s.load_ptr(cos.as_ptr().add(at)), s.load_ptr(sin.as_ptr().add(at)));
            s.store_ptr(first.as_mut_ptr().add(at), s.sub(s.mul(a, c), s.mul(b, d)));
            s.store_ptr(second.as_mut_ptr().add(at), s.add(s.mul(b, c), s.mul(a, d)));
        }
        at += S::LANES;
    }
    for i in whole..half {
        let (a, b) = (first[i], second[i]);
        first[i] = a * cos[i] - b * sin[i];
        second[i] = b * cos[i] + a * sin[i];
    }
}

/// Rotates the pairs `(x[2i], x[2i + 1])`.
#[inline(always)]
pub(crate) fn rope_interleaved<S: Simd>(_s: S, x: &mut [f32], cos: &[f32], sin: &[f32], rotary_dim: usize) {
    let half = rotary_dim / 2;
    let pairs = x[..2 * half].chunks_exact_mut(2);
    for ((pair, cos), sin) in pairs.zip(&cos[..half]).zip(&sin[..half]) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = b * cos + a * sin;
    }
}
