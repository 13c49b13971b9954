//! Elementwise functions, one algorithm for every tier.
//!
//! The inside is f64: 53 bits leave nothing of f32's troubles (cancellation in tanh, the
//! amplified argument in the tails of gelu, subnormal results), and one rounding at the end gives
//! results within one unit in the last place over the whole range. NaN propagates.

use crate::simd::Simd;

/// A function of one f32.
pub(crate) trait Unary {
    /// The function, lane by lane.
    fn of<S: Simd>(s: S, x: S::V) -> S::V;
}

/// `c[0] + c[1] x + c[2] x² + …`, by Horner.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::D, c: &[f64; N]) -> S::D {
    let mut sum = s.d_splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = s.d_madd(sum, x, s.d_splat(c[i]));
    }
    sum
}

/// Adding this to a small number leaves its nearest integer in the low bits.
const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 · 2^52

/// 1/(n+1)! for n = 0, 1, …: (exp(r) - 1)/r on |r| <= ln 2 / 2, to better than 2^-36.
const EXPM1: [f64; 10] = [
    1.0,
    1.0 / 2.0,
    1.0 / 6.0,
    1.0 / 24.0,
    1.0 / 120.0,
    1.0 / 720.0,
    1.0 / 5_040.0,
    1.0 / 40_320.0,
    1.0 / 362_880.0,
    1.0 / 3_628_800.0,
];

/// Splits `exp(x) = (1 + q) · p` with `p` a power of two: returns `(q, p)`.
///
/// The argument is held to ±708, where p stays a normal f64.
#[inline(always)]
fn exp_parts<S: Simd>(s: S, x: S::D) -> (S::D, S::D) {
    let x = s.d_min(s.d_splat(708.0), s.d_max(s.d_splat(-708.0), x));
    let shifted = s.d_madd(x, s.d_splat(std::f64::consts::LOG2_E), s.d_splat(ROUND));
    let n = s.d_sub(shifted, s.d_splat(ROUND));
    let r = s.d_madd(n, s.d_splat(-std::f64::consts::LN_2), x);
    let q = s.d_mul(r, polynomial(s, r, &EXPM1));
    (q, s.d_pow2(shifted))
}

/// `exp(x)` in f64 lanes, to about 36 bits.
#[inline(always)]
fn exp<S: Simd>(s: S, x: S::D) -> S::D {
    let (q, p) = exp_parts(s, x);
    s.d_madd(p, q, p)
}

/// `(exp(r) - 1 - r) / r²` in powers of r, on `|r| <= ln 2 / 2`: the smallest error of `exp(r)`, below 2^-27.
const EXP_BELOW: [f32; 5] = [0.499_999_94, 0.166_665_2, 0.041_668_393, 0.008_368_781, 0.001_381_446_7];

/// ln 2 to 15 bits, so that small multiples of it are exact, and the rest of it.
pub(crate) const LN_2_BELOW: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];

/// Adding this to a small number leaves its nearest integer, more by 127, in the low bits.
const ROUND_BELOW: f32 = 12_582_912.0 + 127.0; // 1.5 · 2^23 + 127

/// -127 ln 2, where the power of two in the exponential has become 0.
pub(crate) const LEAST: f32 = -88.029_69;

/// `exp(x)` for x of at most 0, in f32 lanes: within two units in the last place where the result is a normal number; 0 for -∞, NaN for NaN.
#[inline(always)]
pub(crate) fn exp_below<S: Simd>(s: S, x: S::V) -> S::V {
    s.exp_below(x)
}

/// [`exp_below`] without a table.
#[inline(always)]
pub(crate) fn exp_below_by_polynomial<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(LEAST), x);
    let shifted = s.madd(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND_BELOW));
    let n = s.sub(shifted, s.splat(ROUND_BELOW));
    let r = s.madd(n, s.splat(-LN_2_BELOW[0]), x);
    let r = s.madd(n, s.splat(-LN_2_BELOW[1]), r);
    let mut sum = s.splat(EXP_BELOW[4]);
    for c in EXP_BELOW[..4].iter().rev() {
        sum = s.madd(sum, r, s.splat(*c));
    }
    let p = s.pow2(shifted);
    s.madd(p, s.madd(s.mul(r, r), sum, r), p)
}

/// `1 + exp(-x)` in f64 lanes.
///
/// `exp(y) > y`, so the maximum changes nothing but at y = ∞, where it makes the bounded
/// exponential infinite.
#[inline(always)]
fn one_plus_exp_minus<S: Simd>(s: S, x: S::D) -> S::D {
    let y = s.d_sub(s.d_splat(0.0), x);
    s.d_add(s.d_splat(1.0), s.d_max(exp(s, y), y))
}

/// `exp(x)`.
pub(crate) struct Exp;

impl Unary for Exp {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        s.narrow(exp(s, s.widen(x)))
    }
}

/// `1 / (1 + exp(-x))`.
pub(crate) struct Sigmoid;

impl Unary for Sigmoid {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        s.narrow(s.d_div(s.d_splat(1.0), one_plus_exp_minus(s, s.widen(x))))
    }
}

/// `x / (1 + exp(-x))` in f64 lanes; NaN at -∞, as the formula has it.
#[inline(always)]
fn silu<S: Simd>(s: S, x: S::D) -> S::D {
    s.d_div(x, one_plus_exp_minus(s, x))
}

/// `x / (1 + exp(-x))`.
pub(crate) struct Silu;

impl Unary for Silu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        s.narrow(silu(s, s.widen(x)))
    }
}

/// `silu(gate) · up`, rounded once.
#[inline(always)]
pub(crate) fn silu_mul<S: Simd>(s: S, gate: S::V, up: S::V) -> S::V {
    s.narrow(s.d_mul(silu(s, s.widen(gate)), s.widen(up)))
}

/// `tanh(x) = m / (m + 2)` with `m = exp(2x) - 1`, which is exact near zero.
pub(crate) struct Tanh;

impl Unary for Tanh {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        let x = s.widen(x);
        let twice = s.d_add(x, x);
        let twice = s.d_min(s.d_splat(60.0), s.d_max(s.d_splat(-60.0), twice));
        let (q, p) = exp_parts(s, twice);
        let m = s.d_madd(p, q, s.d_sub(p, s.d_splat(1.0)));
        s.narrow(s.d_div(m, s.d_add(m, s.d_splat(2.0))))
    }
}

/// `x · (1 + tanh(√(2/π)(x + 0.044715 x³))) / 2 = x / (1 + exp(-2√(2/π)(x + 0.044715 x³)))`;
/// NaN at -∞, as the formula has it.
pub(crate) struct GeluTanh;

impl Unary for GeluTanh {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        const TWICE_SQRT_2_OVER_PI: f64 = 1.595_769_121_605_730_7;
        let x = s.widen(x);
        let square = s.d_mul(x, x);
        let inner = s.d_madd(square, s.d_splat(0.044715 * TWICE_SQRT_2_OVER_PI), s.d_splat(TWICE_SQRT_2_OVER_PI));
        s.narrow(s.d_div(x, one_plus_exp_minus(s, s.d_mul(x, inner))))
    }
}

/// `log(erfc(z) / (2t)) + z²` in powers of `2t - 1`, where `t = 1/(1 + z/2)`, `z >= 0`: the
/// interpolating polynomial at Chebyshev points, with an error below 2e-10.
const LOG_ERFC: [f64; 16] = [
    -1.3649412647274992,
    0.6726432239794664,
    0.04734332106458865,
    -0.046895610475031546,
    -0.009872991517334562,
    0.008824945014995533,
    0.0017614052566954363,
    -0.002345885531314096,
    -0.00015632149138689044,
    0.0006741136594889952,
    -7.092398019281632e-05,
    -0.000175796312021248,
    4.159786882951266e-05,
    3.483575824247964e-05,
    -8.064859287060244e-06,
    -3.7643578707502456e-06,
];

/// `x · erfc(-x/√2) / 2`; NaN at -∞, as the formula has it.
///
/// With `q = erfc(|x|/√2)/2`, the factor of x is `q` below zero and `1 - q` above, so nothing cancels.
pub(crate) struct GeluErf;

impl Unary for GeluErf {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        let one = s.d_splat(1.0);
        let size = s.widen(s.abs(x));
        let x = s.widen(x);
        let half_z = s.d_mul(size, s.d_splat(0.5 * std::f64::consts::FRAC_1_SQRT_2));
        let t = s.d_div(one, s.d_add(one, half_z));
        let log = polynomial(s, s.d_sub(s.d_add(t, t), one), &LOG_ERFC);
        let square = s.d_mul(size, size);
        let q = s.d_mul(t, exp(s, s.d_madd(square, s.d_splat(-0.5), log)));
        let factor = s.d_if_negative(x, q, s.d_sub(one, q));
        s.narrow(s.d_mul(x, factor))
    }
}

/// `max(x, 0)`, NaN kept.
pub(crate) struct Relu;

impl Unary for Relu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        s.max(s.splat(0.0), x)
    }
}
