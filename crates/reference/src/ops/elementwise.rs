//! Operators that work element by element.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use qiao_core::{GeluAttrs, GeluForm, NoAttrs, SiluMulAttrs};

use super::movement::spread;
use super::{Outputs, one};
use crate::args::Args;

fn unary(x: &Args<'_>, f: impl Fn(f64) -> f64) -> Outputs {
    one(x.value(0)?.data.into_iter().map(f).collect())
}

fn binary(x: &Args<'_>, f: impl Fn(f64, f64) -> f64) -> Outputs {
    let (a, b) = (spread(&x.value(0)?, x), spread(&x.value(1)?, x));
    one(a.into_iter().zip(b).map(|(a, b)| f(a, b)).collect())
}

pub(crate) fn add(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    binary(x, |a, b| a + b)
}

pub(crate) fn sub(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    binary(x, |a, b| a - b)
}

pub(crate) fn mul(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    binary(x, |a, b| a * b)
}

pub(crate) fn div(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    binary(x, |a, b| a / b)
}

/// `x / (1 + e^−x)`.
pub(crate) fn silu_of(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// `x·Φ(x)`, with erfc so that nothing cancels.
pub(crate) fn gelu_erf_of(x: f64) -> f64 {
    0.5 * x * libm::erfc(-x * FRAC_1_SQRT_2)
}

/// `0.5·x·(1 + tanh u)` with `u = √(2/π)·(x + 0.044715·x³)`, as the equal `x / (1 + e^−2u)`, where nothing cancels.
fn gelu_tanh_of(x: f64) -> f64 {
    let u = (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x);
    x / (1.0 + (-2.0 * u).exp())
}

pub(crate) fn silu(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    unary(x, silu_of)
}

pub(crate) fn gelu(attrs: &GeluAttrs, x: &Args<'_>) -> Outputs {
    match attrs.form {
        GeluForm::Erf => unary(x, gelu_erf_of),
        GeluForm::Tanh => unary(x, gelu_tanh_of),
    }
}

pub(crate) fn relu(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    unary(x, |x| if x <= 0.0 { 0.0 } else { x })
}

pub(crate) fn sigmoid(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    unary(x, |x| 1.0 / (1.0 + (-x).exp()))
}

pub(crate) fn tanh(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    unary(x, f64::tanh)
}

pub(crate) fn exp(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    unary(x, f64::exp)
}

/// The gates and the ups of a `silu_mul`.
pub(crate) fn gate_and_up(attrs: &SiluMulAttrs, x: &Args<'_>) -> qiao_core::Result<(Vec<f64>, Vec<f64>)> {
    let first = x.value(0)?;
    if let Some(up) = x.opt(1)? {
        return Ok((first.data, up.data));
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for row in first.rows() {
        let (left, right) = row.split_at(row.len() / 2);
        a.extend_from_slice(left);
        b.extend_from_slice(right);
    }
    Ok(if attrs.gate_second { (b, a) } else { (a, b) })
}

/// `silu(gate)·up`; with a clamp c the gate is cut to at most c and the up to ± c first. NaN stays NaN.
pub(crate) fn silu_mul(attrs: &SiluMulAttrs, x: &Args<'_>) -> Outputs {
    let (mut gate, mut up) = gate_and_up(attrs, x)?;
    if attrs.clamp != 0.0 {
        let c = attrs.clamp as f64;
        gate.iter_mut().for_each(|g| *g = g.clamp(f64::NEG_INFINITY, c));
        up.iter_mut().for_each(|u| *u = u.clamp(-c, c));
    }
    one(gate.into_iter().zip(up).map(|(g, u)| silu_of(g) * u).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_have_their_known_values() {
        assert_eq!(silu_of(0.0), 0.0);
        assert!((silu_of(1.0) - 0.731_058_578_630_005).abs() < 1e-14);
        // Φ(1) and Φ(−8) of the standard normal distribution.
        assert!((gelu_erf_of(1.0) - 0.841_344_746_068_543).abs() < 1e-14);
        assert!((gelu_erf_of(-8.0) / (-8.0 * 6.220_960_574_271_785e-16) - 1.0).abs() < 1e-12);
        assert!((gelu_tanh_of(1.0) - 0.841_191_990_608_276).abs() < 1e-14);
        let naive = 0.5 * -2.0 * (1.0 + ((2.0 / PI).sqrt() * (-2.0 - 0.044715 * 8.0)).tanh());
        assert!((gelu_tanh_of(-2.0) - naive).abs() < 1e-14);
    }
}
