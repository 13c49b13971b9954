//! Operations on rows: elementwise, reductions, norms, softmax pieces, rotary embedding. Arithmetic is in f32; norms, pieces of softmax
//! and rotary embedding read and write rows of f32, f16 and bf16 as they lie.
//!
//! Reductions keep four vectors of partial sums, so the error grows with the length of a lane's
//! share and not with that of the row.

use crate::layout::{Sealed, Weight};
use crate::math::{self, Unary};
use crate::simd::{MAX_LANES, Simd, prefetch};

/// A row of a result, and how it is written.
#[derive(Debug)]
pub struct RowMut<'a, T> {
    /// The elements.
    pub row: &'a mut [T],
    /// Whether it goes past the caches, as far as it fills whole lines. Other threads see it after
    /// [`stream_fence`](crate::stream_fence).
    pub past: bool,
    /// As many bytes from here on are asked for while a row that goes past the caches is computed. A hint: they may be anywhere.
    pub ahead: Option<*const u8>,
}

impl<'a, T> RowMut<'a, T> {
    /// A row that is found in the caches again.
    pub fn kept(row: &'a mut [T]) -> Self {
        RowMut { row, past: false, ahead: None }
    }

    /// How many elements lie before the first whole line of a row that goes past the caches.
    fn before_lines(&self) -> usize {
        if self.past { self.row.as_ptr().align_offset(64).min(self.row.len()) } else { 0 }
    }

    /// What is asked for while the row is computed.
    fn ahead(&self) -> Ahead {
        Ahead { from: self.ahead.filter(|_| self.past), each: size_of::<T>() }
    }
}

/// Bytes that are asked for while elements are read, so many for each.
#[derive(Clone, Copy)]
struct Ahead {
    from: Option<*const u8>,
    each: usize,
}

impl Ahead {
    const NONE: Ahead = Ahead { from: None, each: 0 };

    /// The first and the second half, for two passes over `len` elements.
    #[inline(always)]
    fn halves(self, len: usize) -> [Ahead; 2] {
        let each = self.each / 2;
        [Ahead { each, ..self }, Ahead { from: self.from.map(|from| from.wrapping_add(len * each)), each }]
    }

    /// Asks for what belongs to so many elements from element `at` on.
    #[inline(always)]
    fn ask(self, at: usize, count: usize) {
        if let Some(from) = self.from {
            prefetch(from.wrapping_add(at * self.each), count * self.each);
        }
    }
}

/// Computes a row of a result from vectors of the inputs, tails included, and writes it as it asks.
macro_rules! write {
    ($s:ident, $out:ident: $t:ty, $ahead:expr, [$($x:ident),+], $value:expr) => {{
        $(assert_eq!($out.row.len(), $x.len(), concat!("lengths of output and ", stringify!($x)));)+
        let (ahead, past, len): (Ahead, bool, usize) = ($ahead, $out.past, $out.row.len());
        let mut at = 0;
        let head = $out.before_lines();
        while at < head {
            let end = head.min(at + S::LANES);
            write!(@few $s, $out: $t, at..end, [$($x),+], $value);
            at = end;
        }
        let to = $out.row.as_mut_ptr();
        // SAFETY: the inputs are as long as the output, and the vectors end within that; what goes past the caches starts on a
        // line.
        unsafe {
            while at + 2 * S::LANES <= len {
                ahead.ask(at, 2 * S::LANES);
                let values = {
                    $(let $x = Sealed::load_two($s, $x.as_ptr().add(at));)+
                    [{ $(let $x = $x[0];)+ $value }, { $(let $x = $x[1];)+ $value }]
                };
                if past {
                    <$t>::stream_two($s, to.add(at), values);
                } else {
                    <$t>::store_two($s, to.add(at), values);
                }
                at += 2 * S::LANES;
            }
            if at + S::LANES <= len {
                let value = {
                    $(let $x = Sealed::load_row($s, $x.as_ptr().add(at));)+
                    $value
                };
                <$t>::store_row($s, to.add(at), value);
                at += S::LANES;
            }
        }
        if at < len {
            write!(@few $s, $out: $t, at..len, [$($x),+], $value);
        }
    }};
    (@few $s:ident, $out:ident: $t:ty, $few:expr, [$($x:ident),+], $value:expr) => {
        let value = {
            $(let $x = $s.load_tail_of(&$x[$few], 1.0);)+
            $value
        };
        let lanes = $s.lanes(value);
        $out.row[$few].iter_mut().zip(lanes).for_each(|(out, lane)| *out = <$t>::narrow(lane));
    };
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
    ($s:ident, $len:expr, $ahead:expr, [$($x:ident),+], $from:expr, $fill:expr, |$acc:ident| $step:expr, $join:ident) => {{
        let (fill, ahead): (f32, Ahead) = ($fill, $ahead);
        let mut parts = [$s.splat($from); CHAINS];
        let len = $len;
        let mut at = 0;
        while at + CHAINS * S::LANES <= len {
            ahead.ask(at, CHAINS * S::LANES);
            for c in [0, 2] {
                // SAFETY: the rows have `len` elements, and `at + CHAINS * LANES` is at most that.
                $(let $x = unsafe { Sealed::load_two($s, $x.as_ptr().add(at + c * S::LANES)) };)+
                for (i, part) in parts[c..c + 2].iter_mut().enumerate() {
                    $(let $x = $x[i];)+
                    let $acc = *part;
                    *part = $step;
                }
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
    sum_and_ask(s, x, Ahead::NONE)
}

#[inline(always)]
fn sum_and_ask<S: Simd, T: Weight>(s: S, x: &[T], ahead: Ahead) -> f32 {
    s.sum_lanes(fold!(s, x.len(), ahead, [x], 0.0, 0.0, |acc| s.add(acc, x), add))
}

/// `Σ x²`; 0 for an empty row.
#[inline(always)]
pub(crate) fn sum_squares<S: Simd, T: Weight>(s: S, x: &[T]) -> f32 {
    s.sum_lanes(fold!(s, x.len(), Ahead::NONE, [x], 0.0, 0.0, |acc| s.madd(x, x, acc), add))
}

/// `Σ a·b`; 0 for empty rows.
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot: lengths of a and b");
    s.sum_lanes(fold!(s, a.len(), Ahead::NONE, [a, b], 0.0, 0.0, |acc| s.madd(a, b, acc), add))
}

/// The largest element; NaN where there is one; -∞ for an empty row.
#[inline(always)]
pub(crate) fn max<S: Simd, T: Weight>(s: S, x: &[T]) -> f32 {
    let v = fold!(s, x.len(), Ahead::NONE, [x], f32::NEG_INFINITY, f32::NEG_INFINITY, |acc| s.max_nan(acc, x), max_nan);
    let lanes = s.lanes(v);
    lanes[..S::LANES].iter().fold(f32::NEG_INFINITY, |m, x| if x.is_nan() || *x > m { *x } else { m })
}

/// The largest magnitude; NaN where there is one; 0 for an empty row.
#[inline(always)]
pub(crate) fn largest<S: Simd, T: Weight>(s: S, x: &[T]) -> f32 {
    let v = fold!(s, x.len(), Ahead::NONE, [x], 0.0, 0.0, |acc| s.max_nan(acc, s.abs(x)), max_nan);
    let lanes = s.lanes(v);
    lanes[..S::LANES].iter().fold(0.0, |m, x| if x.is_nan() || *x > m { *x } else { m })
}

/// `Σ (x - mean)²`.
#[inline(always)]
fn sum_square_deviations<S: Simd, T: Weight>(s: S, x: &[T], mean: f32, ahead: Ahead) -> f32 {
    let center = s.splat(mean);
    let v = fold!(
        s,
        x.len(),
        ahead,
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

/// Whether a mean of squares lost nothing to the range of f32, above or below.
#[inline(always)]
fn is_sound(square: f32) -> bool {
    (f32::MIN_POSITIVE..f32::INFINITY).contains(&square)
}

/// An element as f64.
fn wide<T: Weight>(x: &T) -> f64 {
    f64::from(x.widen())
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
    let square = sum_squares(s, x) / x.len() as f32 + eps;
    if !is_sound(square) {
        return rms_norm_in_f64(out.row, x, w, eps, offset);
    }
    let factor = s.splat(1.0 / square.sqrt());
    let offset = s.splat(offset);
    write!(s, out: T, out.ahead(), [x, w], s.mul(s.mul(x, factor), s.add(w, offset)));
}

/// As [`rms_norm`], of rows whose squares are beyond f32.
#[cold]
#[inline(never)]
fn rms_norm_in_f64<X: Weight, T: Weight>(out: &mut [T], x: &[X], w: &[f32], eps: f32, offset: f32) {
    assert_eq!([out.len(); 2], [x.len(), w.len()], "lengths of output, x and w");
    let square = x.iter().map(|x| wide(x).powi(2)).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (square + f64::from(eps)).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(w) {
        *out = T::narrow((wide(x) * factor) as f32 * (w + offset));
    }
}

/// `out = (x - mean) / √(variance + eps) · w + b`, the variance from deviations, in a second pass.
#[inline(always)]
pub(crate) fn layer_norm<S: Simd, T: Weight>(s: S, out: RowMut<'_, T>, x: &[T], w: &[f32], b: &[f32], eps: f32) {
    let (n, ahead) = (x.len() as f32, out.ahead().halves(x.len()));
    let mean = sum_and_ask(s, x, ahead[0]) / n;
    let square = sum_square_deviations(s, x, mean, ahead[1]) / n + eps;
    if !is_sound(square) {
        return layer_norm_in_f64(out.row, x, w, b, eps);
    }
    let factor = s.splat(1.0 / square.sqrt());
    let mean = s.splat(mean);
    write!(s, out: T, Ahead::NONE, [x, w, b], s.madd(s.mul(s.sub(x, mean), factor), w, b));
}

/// As [`layer_norm`], of rows whose sum or squares are beyond f32.
#[cold]
#[inline(never)]
fn layer_norm_in_f64<T: Weight>(out: &mut [T], x: &[T], w: &[f32], b: &[f32], eps: f32) {
    assert_eq!([out.len(); 3], [x.len(), w.len(), b.len()], "lengths of output, x, w and b");
    let n = x.len() as f64;
    let mean = x.iter().map(wide).sum::<f64>() / n;
    let variance = x.iter().map(|x| (wide(x) - mean).powi(2)).sum::<f64>() / n;
    let factor = 1.0 / (variance + f64::from(eps)).sqrt();
    for (((out, x), w), b) in out.iter_mut().zip(x).zip(w).zip(b) {
        *out = T::narrow(((wide(x) - mean) * factor * f64::from(*w) + f64::from(*b)) as f32);
    }
}

/// `out = a + b`, unrounded.
#[inline(always)]
pub(crate) fn sum_of<S: Simd, T: Weight>(s: S, out: &mut [f32], a: &[T], b: &[T]) {
    let out = RowMut::kept(out);
    write!(s, out: f32, Ahead::NONE, [a, b], s.add(a, b));
}

/// `out = alpha · x`.
#[inline(always)]
pub(crate) fn scaled<S: Simd, T: Weight>(s: S, out: RowMut<'_, T>, x: &[f32], alpha: f32) {
    let alpha = s.splat(alpha);
    write!(s, out: T, out.ahead(), [x], s.mul(alpha, x));
}

/// `out = exp(x - max)`, returning the sum; zeros and 0 where `max` is -∞ (a fully masked row).
#[inline(always)]
pub(crate) fn exp_sub_sum<S: Simd, T: Weight>(s: S, out: &mut [f32], x: &[T], max: f32) -> f32 {
    if max == f32::NEG_INFINITY {
        out.fill(0.0);
        return 0.0;
    }
    exponentials(s, out, x, max, |_| {})
}

/// `out = exp(x - center)`, returning the sum; `beside` is called before each two vectors of elements from its argument on.
#[inline(always)]
fn exponentials<S: Simd, T: Weight>(s: S, out: &mut [f32], x: &[T], center: f32, mut beside: impl FnMut(usize)) -> f32 {
    assert_eq!(out.len(), x.len(), "a result has as many elements as its operand");
    let (center, len) = (s.splat(center), x.len());
    let [mut even, mut odd] = [s.splat(0.0); 2];
    let mut at = 0;
    while at + 2 * S::LANES <= len {
        beside(at);
        // SAFETY: both rows have `len` elements, and `at + 2 * LANES` is at most that.
        unsafe {
            let [a, b] = T::load_two(s, x.as_ptr().add(at));
            let (a, b) = (math::exp_below(s, s.sub(a, center)), math::exp_below(s, s.sub(b, center)));
            f32::store_two(s, out.as_mut_ptr().add(at), [a, b]);
            (even, odd) = (s.add(even, a), s.add(odd, b));
        }
        at += 2 * S::LANES;
    }
    for total in [&mut even, &mut odd] {
        if at < len {
            let end = len.min(at + S::LANES);
            let e = math::exp_below(s, s.sub(s.load_tail_of(&x[at..end], f32::NEG_INFINITY), center));
            s.store_tail(&mut out[at..end], e);
            *total = s.add(*total, e);
            at = end;
        }
    }
    s.sum_lanes(s.add(even, odd))
}

/// One row of a softmax, `out = p · factor`, and beside it the exponentials of the next, `next = exp(x - m)` where m is the largest of
/// x: the factor that makes a softmax of them. Of a fully masked row they are zeros. Any of the rows may be empty.
#[inline(always)]
pub(crate) fn softmax<S: Simd, T: Weight>(
    s: S,
    out: RowMut<'_, T>,
    (p, factor): (&[f32], f32),
    next: &mut [f32],
    x: &[T],
) -> f32 {
    assert_eq!(out.row.len(), p.len(), "lengths of output and exponentials");
    // A NaN is passed over here, and comes back in the sum.
    let most = fold!(s, x.len(), Ahead::NONE, [x], f32::NEG_INFINITY, f32::NEG_INFINITY, |acc| s.max(x, acc), max);
    let max = s.lanes(most)[..S::LANES].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (past, ahead, head) = (out.past, out.ahead(), out.before_lines());
    scaled(s, RowMut::kept(&mut out.row[..head]), &p[..head], factor);
    let (row, p) = (&mut out.row[head..], &p[head..]);
    let (alpha, mut done) = (s.splat(factor), 0);
    let center = if max == f32::NEG_INFINITY { 0.0 } else { max };
    let sum = exponentials(s, next, x, center, |at| {
        ahead.ask(at, 2 * S::LANES);
        if done + 2 * S::LANES <= p.len() {
            // SAFETY: both rows are as long, and the vectors end within that; what goes past the caches starts on a line.
            unsafe {
                let two = f32::load_two(s, p.as_ptr().add(done));
                let two = [s.mul(alpha, two[0]), s.mul(alpha, two[1])];
                let to = row.as_mut_ptr().add(done);
                if past { T::stream_two(s, to, two) } else { T::store_two(s, to, two) }
            }
            done += 2 * S::LANES;
        }
    });
    scaled(s, RowMut { row: &mut row[done..], past, ahead: None }, &p[done..], factor);
    if sum == 0.0 { 1.0 } else { 1.0 / sum }
}

/// Rotates the pairs `(x[first + i], x[first + i + h])`, where `h` is how many angles there are, of each `dim` elements; the others
/// stay.
#[inline(always)]
pub(crate) fn rope_half_split<S: Simd, T: Weight>(
    s: S,
    out: RowMut<'_, T>,
    x: &[T],
    cos: &[f32],
    sin: &[f32],
    (first, dim): (usize, usize),
) {
    let half = cos.len();
    assert_eq!(out.row.len(), x.len(), "lengths of output and x");
    assert_eq!(sin.len(), half, "lengths of sines and cosines");
    assert!(x.len().is_multiple_of(dim), "{} elements are not heads of {dim}", x.len());
    let on_lines = |elements: usize| (elements * size_of::<T>()).is_multiple_of(64);
    let past = out.past && out.before_lines() == 0 && [first, half, dim].into_iter().all(on_lines);
    let ahead = out.ahead();
    for (i, (out, x)) in out.row.chunks_exact_mut(dim).zip(x.chunks_exact(dim)).enumerate() {
        ahead.ask(i * dim, dim);
        rotate(s, out, x, (cos, sin), first, past);
    }
}

/// Rotates the pairs of one head; `past` where all parts of it lie on whole lines and go past the caches.
#[inline(always)]
fn rotate<S: Simd, T: Weight>(s: S, out: &mut [T], x: &[T], (cos, sin): (&[f32], &[f32]), first: usize, past: bool) {
    let half = cos.len();
    let last = first + 2 * half;
    if last - first < x.len() {
        out[..first].copy_from_slice(&x[..first]);
        out[last..].copy_from_slice(&x[last..]);
    }
    let (x, out) = (&x[first..last], &mut out[first..last]);
    let turn = |a, b, cos, sin| (s.sub(s.mul(a, cos), s.mul(b, sin)), s.add(s.mul(b, cos), s.mul(a, sin)));
    let mut at = 0;
    // SAFETY: tables have `half` elements, rows twice as many, and the vectors end within `half`. Where the row goes past the
    // caches both halves start on lines.
    unsafe {
        while at + 2 * S::LANES <= half {
            let (a, b) = (T::load_two(s, x.as_ptr().add(at)), T::load_two(s, x.as_ptr().add(half + at)));
            let (c, d) = (f32::load_two(s, cos.as_ptr().add(at)), f32::load_two(s, sin.as_ptr().add(at)));
            let two = [turn(a[0], b[0], c[0], d[0]), turn(a[1], b[1], c[1], d[1])];
            let (a, b) = ([two[0].0, two[1].0], [two[0].1, two[1].1]);
            let to = out.as_mut_ptr().add(at);
            if past {
                T::stream_two(s, to, a);
                T::stream_two(s, to.add(half), b);
            } else {
                T::store_two(s, to, a);
                T::store_two(s, to.add(half), b);
            }
            at += 2 * S::LANES;
        }
        if at + S::LANES <= half {
            let (a, b) = (T::load_row(s, x.as_ptr().add(at)), T::load_row(s, x.as_ptr().add(half + at)));
            let (a, b) = turn(a, b, s.load_ptr(cos.as_ptr().add(at)), s.load_ptr(sin.as_ptr().add(at)));
            let to = out.as_mut_ptr().add(at);
            T::store_row(s, to, a);
            T::store_row(s, to.add(half), b);
            at += S::LANES;
        }
    }
    for i in at..half {
        let (a, b) = (x[i].widen(), x[half + i].widen());
        out[i] = T::narrow(a * cos[i] - b * sin[i]);
        out[half + i] = T::narrow(b * cos[i] + a * sin[i]);
    }
}

/// Rotates the pairs `(x[2i], x[2i + 1])`.
#[inline(always)]
pub(crate) fn rope_interleaved<S: Simd>(_s: S, x: &mut [f32], cos: &[f32], sin: &[f32], rotary_dim: usize) {
    let half = rotary_dim / 2;
    rotate_neighbours(&mut x[..2 * half], &cos[..half], &sin[..half]);
}

/// Rotates the pairs `(x[2i], x[2i + 1])`, one for each angle.
#[inline(always)]
fn rotate_neighbours(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, cos), sin) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = b * cos + a * sin;
    }
}

/// Rotates the pairs `(x[first + 2i], x[first + 2i + 1])` of each `dim` elements; the others stay.
#[inline(always)]
pub(crate) fn rope_neighbours<S: Simd, T: Weight>(
    s: S,
    out: RowMut<'_, T>,
    x: &[T],
    cos: &[f32],
    sin: &[f32],
    (first, dim): (usize, usize),
) {
    /// Pairs that are rotated together.
    const PAIRS: usize = 2 * MAX_LANES;
    let half = cos.len();
    assert_eq!(out.row.len(), x.len(), "lengths of output and x");
    assert_eq!(sin.len(), half, "lengths of sines and cosines");
    assert!(x.len().is_multiple_of(dim), "{} elements are not heads of {dim}", x.len());
    let ahead = out.ahead();
    for (i, (out, x)) in out.row.chunks_exact_mut(dim).zip(x.chunks_exact(dim)).enumerate() {
        ahead.ask(i * dim, dim);
        let last = first + 2 * half;
        out[..first].copy_from_slice(&x[..first]);
        out[last..].copy_from_slice(&x[last..]);
        let (x, out) = (&x[first..last], &mut out[first..last]);
        let mut at = 0;
        while at + PAIRS <= half {
            let mut wide = [0.0; 2 * PAIRS];
            // SAFETY: rows have `2 * half` elements, the vectors end within those, and within the array.
            unsafe {
                for j in (0..2 * PAIRS).step_by(2 * S::LANES) {
                    f32::store_two(s, wide.as_mut_ptr().add(j), T::load_two(s, x.as_ptr().add(2 * at + j)));
                }
                rotate_neighbours(&mut wide, &cos[at..at + PAIRS], &sin[at..at + PAIRS]);
                for j in (0..2 * PAIRS).step_by(2 * S::LANES) {
                    T::store_two(s, out.as_mut_ptr().add(2 * at + j), f32::load_two(s, wide.as_ptr().add(j)));
                }
            }
            at += PAIRS;
        }
        for i in at..half {
            let (a, b) = (x[2 * i].widen(), x[2 * i + 1].widen());
            out[2 * i] = T::narrow(a * cos[i] - b * sin[i]);
            out[2 * i + 1] = T::narrow(b * cos[i] + a * sin[i]);
        }
    }
}
