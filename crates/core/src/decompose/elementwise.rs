//! Operators that work element by element.

use std::f32::consts::FRAC_2_PI;

use super::Decompose;
use super::pieces::{PLAIN, Pieces, required};
use crate::attrs::*;
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::TensorId;
use crate::op::Op;

/// `a + (−1)·b`; the product is exact.
pub(super) const fn sub() -> Option<Decompose> {
    Some(|_, g, inputs, outputs| {
        let (a, b) = (inputs[0], inputs[1]);
        let minus = Pieces(g).scalar(-1.0)?;
        let negative = g.add_as(Op::Mul(PLAIN), &[b, Some(minus)], DType::F32)?[0];
        g.add_into(Op::Add(PLAIN), &[a, Some(negative)], outputs)?;
        Ok(true)
    })
}

/// `1 + e^−x`.
fn one_and_exp(p: &mut Pieces<'_>, x: TensorId) -> Result<TensorId> {
    let negative = p.scaled(x, -1.0)?;
    let exp = p.exp(negative)?;
    p.plus(exp, 1.0)
}

pub(super) const fn sigmoid() -> Option<Decompose> {
    Some(|_, g, inputs, outputs| {
        let p = &mut Pieces(g);
        let below = one_and_exp(p, required(inputs, 0))?;
        let one = p.scalar(1.0)?;
        p.write(Op::Div(PLAIN), &[one, below], outputs[0])?;
        Ok(true)
    })
}

pub(super) const fn silu() -> Option<Decompose> {
    Some(|_, g, inputs, outputs| {
        let (p, x) = (&mut Pieces(g), required(inputs, 0));
        let below = one_and_exp(p, x)?;
        p.write(Op::Div(PLAIN), &[x, below], outputs[0])?;
        Ok(true)
    })
}

/// The tanh form as `x / (1 + e^−2u)`, `u = √(2/π)·x·(1 + 0.044715·x²)`, where nothing cancels. The list has no erf, and a
/// polynomial for it would spend the operator's whole tolerance.
pub(super) const fn gelu() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::Gelu(attrs) = op else { return Ok(false) };
        if attrs.form != GeluForm::Tanh {
            return Ok(false);
        }
        let (p, x) = (&mut Pieces(g), required(inputs, 0));
        let square = p.mul(x, x)?;
        let cubic = p.scaled(square, 0.044715)?;
        let bent = p.plus(cubic, 1.0)?;
        let bent = p.mul(x, bent)?;
        let twice = p.scaled(bent, 2.0 * FRAC_2_PI.sqrt())?;
        let below = one_and_exp(p, twice)?;
        p.write(Op::Div(PLAIN), &[x, below], outputs[0])?;
        Ok(true)
    })
}

/// The larger of each pair (x, 0).
pub(super) const fn relu() -> Option<Decompose> {
    Some(|_, g, inputs, outputs| {
        let p = &mut Pieces(g);
        let x = p.plain(required(inputs, 0))?;
        let y = p.at_least(x, 0.0)?;
        p.move_into(y, outputs[0])?;
        Ok(true)
    })
}

/// `silu(gate)·up`, both cut before where there is a clamp.
pub(super) const fn silu_mul() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::SiluMul(attrs) = op else { return Ok(false) };
        let (p, x) = (&mut Pieces(g), required(inputs, 0));
        let (mut gate, mut up) = match inputs.get(1).copied().flatten() {
            Some(up) => (x, up),
            None => {
                let shape = p.shape(x);
                let (axis, half) = (shape.len() - 1, shape.last_dim() / 2);
                let (first, second) = (p.slice(x, axis, 0, half)?, p.slice(x, axis, half, half)?);
                if attrs.gate_second { (second, first) } else { (first, second) }
            }
        };
        if attrs.clamp != 0.0 {
            gate = p.plain(gate)?;
            gate = p.at_most(gate, attrs.clamp)?;
            up = p.plain(up)?;
            up = p.at_least(up, -attrs.clamp)?;
            up = p.at_most(up, attrs.clamp)?;
        }
        let silu = p.f32(Op::Silu(PLAIN), &[gate])?;
        p.write(Op::Mul(PLAIN), &[silu, up], outputs[0])?;
        Ok(true)
    })
}
