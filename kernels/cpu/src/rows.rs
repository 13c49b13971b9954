//! Operations on rows: elementwise, reductions, norms, softmax pieces, rotary embedding. Arithmetic is in f32; norms, pieces of softmax
//! and rotary embedding read and write rows of f32, f16 and bf16 as they lie.
//!
//! Reductions keep four vectors of partial sums, so the error grows with the length of a lane's
//! share and not with that of the row.

use crate::layout::{Sealed, Weight};
use crate::math::{self, Unary};
use crate::simd::{Simd, prefetch};

/// A row of a result, and how it is written.
#[derive(Debug)]
pub struct RowMut<'a, T> {
    /// The elements.
    pub row: &'a mut [T],
    /// Whether it goes past the caches, as far as it lies on whole lines. Other threads see it after
    /// [`stream_fence`](crate::stream_fence).
    pub past: bool,
    /// As many bytes from each of these on are asked for while a row goes past the caches. A hint: they may be anywhere.
    pub ahead: &'a [*const u8],
}

impl<'a, T> RowMut<'a, T> {
    /// A row that is found in the caches again.
    pub fn kept(row: &'a mut [T]) -> Self {
        RowMut { row, past: false, ahead: &[] }
    }

    fn goes_past(&self) -> bool {
        self.past && self.row.as_ptr().addr().is_multiple_of(64)
    }
}

/// Computes a row of a result from vectors of the inputs, tails included, and writes it as it asks.
macro_rules! write {
    ($s:ident, $out:ident: $t:ty, [$($x:ident),+], $value:expr) => {{
        $(assert_eq!($out.row.len(), $x.len(), concat!("lengths of output and ", stringify!($x)));)+
        let whole = $out.row.len() - $out.row.len() % S::LANES;
        let (past, ahead) = ($out.goes_past(), $out.ahead);
        let to = $out.row.as_mut_ptr();
        let mut at = 0;
        // SAFETY: the inputs are as long as the output, and `at + LANES` is at most that; a row that goes past the caches starts on
        // a line.
        unsafe {
            if past {
                while at < whole {
                    for next in ahead {
                        prefetch(next.wrapping_add(at * size_of::<$t>()), 64);
                    }
                    let value = {
                        $(let $x = Sealed::load_row($s, $x.as_ptr().add(at));)+
                        $value
                    };
                    <$t>::stream_row($s, to.add(at), value);
                    at += S::LANES;
                }
            }
            while at < whole {
                let value = {
                    $(let $x = Sealed::load_row($s, $x.as_ptr().add(at));)+
                    $value
                };
                <$t>::store_row($s, to.add(at), value);
                at += S::LANES;
            }
        }
        if at < $out.row.len() {
            let value = {
                $(let $x = $s.load_tail_of(&$x[at..], 1.0);)+
                $value
            };
            let lanes = $s.lanes(value);
            $out.row[at..].iter_mut().zip(lanes).for_each(|(out, lane)| *out = <$t>::narrow(lane));
        }
    }};
}

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
                $(let $x = unsafe { Sealed::load_row($s, $x.as_ptr().add(at + c * S::LANES)) };)+
                let $acc = *part;
                *part = $step;
            }
            at += CHAINS * S::LANES;
        }
        for part in &mut parts {
            if at < len {
                let end = len.min(at + S::LANES);
                $(let $x = $s.load_tail_of(&$x[at..end], fill);)+
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
pub(crate) fn sum<S: Simd, T: Weight>(s: S, x: &[T]) -> f32 {
    s.sum_lanes(fold!(s, x.len(), [x], 0.0, 0.0, |acc| s.add(acc, x), add))
}

/// `Σ x²`; 0 for an empty row.
#[inline(always)]
pub(crate) fn sum_squares<S: Simd, T: Weight>(s: S, x: &[T]) -> f32 {
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
pub(crate) fn max<S: Simd, T: Weight>(s: S, x: &[T]) -> f32 {
    let v = fold!(s, x.len(), [x], f32::NEG_INFINITY, f32::NEG_INFINITY, |acc| s.max_nan(acc, x), max_nan);
    let lanes = s.lanes(v);
    lanes[..S::LANES].iter().fold(f32::NEG_INFINITY, |m, x| if x.is_nan() || *x > m { *x } else { m })
}

/// `Σ (x - mean)²`.
#[inline(always)]
fn sum_square_deviations<S: Simd, T: Weight>(s: S, x: &[T], mean: f32) -> f32 {
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
pub(crate) fn rms_norm<S: Simd, X: Weight, T: Weight>(
    s: S,
    out: RowMut<'_, T>,
    x: &[X],
    w: &[f32],
    eps: f32,
    offset: f32,
) {
    let mean = sum_squares(s, x) / x.len() as f32;
    let factor = s.splat(1.0 / (mean + eps).sqrt());
    let offset = s.splat(offset);
    write!(s, out: T, [x, w], s.mul(s.mul(x, factor), s.add(w, offset)));
}

/// `out = (x - mean) / √(variance + eps) · w + b`, the variance from deviations, in a second pass.
#[inline(always)]
pub(crate) fn layer_norm<S: Simd, T: Weight>(s: S, out: RowMut<'_, T>, x: &[T], w: &[f32], b: &[f32], eps: f32) {
    let n = x.len() as f32;
    let mean = sum(s, x) / n;
    let variance = sum_square_deviations(s, x, mean) / n;
    let factor = s.splat(1.0 / (variance + eps).sqrt());
    let mean = s.splat(mean);
    write!(s, out: T, [x, w, b], s.madd(s.mul(s.sub(x, mean), factor), w, b));
}

/// `out = a + b`, unrounded.
#[inline(always)]
pub(crate) fn sum_of<S: Simd, T: Weight>(s: S, out: &mut [f32], a: &[T], b: &[T]) {
    let out = RowMut::kept(out);
    write!(s, out: f32, [a, b], s.add(a, b));
}

/// `out = alpha · x`.
#[inline(always)]
pub(crate) fn scaled<S: Simd, T: Weight>(s: S, out: RowMut<'_, T>, x: &[f32], alpha: f32) {
    let alpha = s.splat(alpha);
    write!(s, out: T, [x], s.mul(alpha, x));
}

/// `out = exp(x - max)`, returning the sum; zeros and 0 where `max` is -∞ (a fully masked row). As many bytes as the row has
/// are asked for from each address in `ahead` on.
#[inline(always)]
pub(crate) fn exp_sub_sum<S: Simd, T: Weight>(s: S, out: &mut [f32], x: &[T], max: f32, ahead: &[*const u8]) -> f32 {
    assert_eq!(out.len(), x.len(), "a result has as many elements as its operand");
    if max == f32::NEG_INFINITY {
        out.fill(0.0);
        return 0.0;
    }
    let center = s.splat(max);
    let mut total = [s.splat(0.0); 2];
    let (mut outs, mut rows) = (out.chunks_exact_mut(S::LANES), x.chunks_exact(S::LANES));
    for (i, (out, x)) in outs.by_ref().zip(rows.by_ref()).enumerate() {
        for next in ahead {
            prefetch(next.wrapping_add(i * S::LANES * size_of::<T>()), 64);
        }
        // SAFETY: the chunk holds LANES elements.
        let x = unsafe { T::load_row(s, x.as_ptr()) };
        let e = math::exp_below(s, s.sub(x, center));
        s.store(out, e);
        total[i % 2] = s.add(total[i % 2], e);
    }
    let (out, x) = (outs.into_remainder(), rows.remainder());
    if !x.is_empty() {
        let e = math::exp_below(s, s.sub(s.load_tail_of(x, f32::NEG_INFINITY), center));
        s.store_tail(out, e);
        total[0] = s.add(total[0], e);
    }
    s.sum_lanes(s.add(total[0], total[1]))
}

/// Rotates the pairs `(x[first + i], x[first + i + h])`, where `h` is how many angles there are; the other elements stay.
#[inline(always)]
pub(crate) fn rope_half_split<S: Simd, T: Weight>(
    s: S,
    out: RowMut<'_, T>,
    x: &[T],
    cos: &[f32],
    sin: &[f32],
    first: usize,
) {
    let half = cos.len();
    assert_eq!(out.row.len(), x.len(), "lengths of output and x");
    assert_eq!(sin.len(), half, "lengths of sines and cosines");
    let last = first + 2 * half;
    let past =
        out.goes_past() && (first * size_of::<T>()).is_multiple_of(64) && (half * size_of::<T>()).is_multiple_of(64);
    let (ahead, out) = (out.ahead, out.row);
    out[..first].copy_from_slice(&x[..first]);
    out[last..].copy_from_slice(&x[last..]);
    let (x, out) = (&x[first..last], &mut out[first..last]);
    let whole = half - half % S::LANES;
    let mut at = 0;
    while at < whole {
        // SAFETY: tables have `half` elements, rows twice as many, and `at + LANES` is at most `half`. Where the row goes past the
        // caches both halves start on lines.
        unsafe {
            let (a, b) = (T::load_row(s, x.as_ptr().add(at)), T::load_row(s, x.as_ptr().add(half + at)));
            let (c, d) = (s.load_ptr(cos.as_ptr().add(at)), s.load_ptr(sin.as_ptr().add(at)));
            let (a, b) = (s.sub(s.mul(a, c), s.mul(b, d)), s.add(s.mul(b, c), s.mul(a, d)));
            let to = out.as_mut_ptr().add(at);
            if past {
                for next in ahead {
                    prefetch(next.wrapping_add(at * size_of::<T>()), 64);
                    prefetch(next.wrapping_add((half + at) * size_of::<T>()), 64);
                }
                T::stream_row(s, to, a);
                T::stream_row(s, to.add(half), b);
            } else {
                T::store_row(s, to, a);
                T::store_row(s, to.add(half), b);
            }
        }
        at += S::LANES;
    }
    for i in whole..half {
        let (a, b) = (x[i].widen(), x[half + i].widen());
        out[i] = T::narrow(a * cos[i] - b * sin[i]);
        out[half + i] = T::narrow(b * cos[i] + a * sin[i]);
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
