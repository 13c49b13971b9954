//! Composite operators as smaller ones. One function per decomposition named in the op list; each gives the function
//! that appends to a graph the nodes which compute the same outputs, or `None` for an operator that is not composite.
//!
//! Intermediate values are f32, so that a decomposition rounds where its composite rounds.

use crate::attrs::*;
use crate::dtype::DType;
use crate::error::Result;
use crate::for_each_op;
use crate::graph::{Graph, TensorId};
use crate::op::{Op, OpKind};

/// Appends nodes to the graph that read `inputs` and write `outputs`. `false`, with the graph untouched, when this
/// instance has no decomposition.
pub type Decompose = fn(&Op, &mut Graph, &[Option<TensorId>], &[TensorId]) -> Result<bool>;

/// Appends the decomposition of an operator to a graph; `false` when it has none.
///
/// # Errors
/// The operands do not fit the operator.
pub fn decompose(op: &Op, graph: &mut Graph, inputs: &[Option<TensorId>], outputs: &[TensorId]) -> Result<bool> {
    decomposition(op.kind()).map_or(Ok(false), |f| f(op, graph, inputs, outputs))
}

const PLAIN: NoAttrs = NoAttrs {};

const fn none() -> Option<Decompose> {
    None
}

const fn silu_mul() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::SiluMul(attrs) = op else { return Ok(false) };
        if attrs.clamp != 0.0 {
            return Ok(false);
        }
        let x = inputs[0];
        let (gate, up) = match inputs.get(1).copied().flatten() {
            Some(up) => (x, Some(up)),
            None => {
                let shape = g.desc(x.expect("silu_mul has its first operand")).shape;
                let half = (shape.last_dim() / 2) as u32;
                let axis = shape.len() as u32 - 1;
                let mut part = |start| g.add(Op::Slice(SliceAttrs { axis, start, len: half }), &[x]).map(|v| v[0]);
                let (first, second) = (part(0)?, part(half)?);
                if attrs.gate_second { (Some(second), Some(first)) } else { (Some(first), Some(second)) }
            }
        };
        let silu = g.add_as(Op::Silu(PLAIN), &[gate], DType::F32)?[0];
        g.add_into(Op::Mul(PLAIN), &[Some(silu), up], outputs)?;
        Ok(true)
    })
}

/// Appends what follows a plain product `c` (f32): bias, residual, activation.
fn epilogue(
    g: &mut Graph,
    epilogue: Epilogue,
    mut c: TensorId,
    bias: Option<TensorId>,
    residual: Option<TensorId>,
    outputs: &[TensorId],
) -> Result<bool> {
    let last_is_bias = epilogue == Epilogue::Bias || epilogue == Epilogue::BiasResidual && residual.is_none();
    if let (Some(b), false) = (bias, last_is_bias) {
        c = g.add(Op::Add(PLAIN), &[Some(c), Some(b)])?[0];
    }
    match epilogue {
        Epilogue::None => g.add_into(Op::Cast(PLAIN), &[Some(c)], outputs)?,
        Epilogue::Bias => g.add_into(Op::Add(PLAIN), &[Some(c), bias], outputs)?,
        Epilogue::BiasResidual => g.add_into(Op::Add(PLAIN), &[Some(c), residual], outputs)?,
        Epilogue::SiluMul => g.add_into(Op::SiluMul(SiluMulAttrs::default()), &[Some(c), None], outputs)?,
        Epilogue::Gelu => g.add_into(Op::Gelu(GeluAttrs::default()), &[Some(c)], outputs)?,
    };
    Ok(true)
}

const fn matmul() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::Matmul(attrs) = op else { return Ok(false) };
        if attrs.epilogue == Epilogue::None {
            return Ok(false);
        }
        let plain = Op::Matmul(MatmulAttrs { epilogue: Epilogue::None, ..*attrs });
        let at = |i: usize| inputs.get(i).copied().flatten();
        let c = g.add_as(plain, &[at(0), at(1)], DType::F32)?[0];
        epilogue(g, attrs.epilogue, c, at(2), at(3), outputs)
    })
}

const fn add_rms_norm() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::AddRmsNorm(attrs) = op else { return Ok(false) };
        let sum = g.add_as(Op::Add(PLAIN), &inputs[..2], DType::F32)?[0];
        let w = inputs.get(2).copied().flatten();
        // `sum` may be written in place of an operand, so it is written once nothing reads that operand any more.
        g.add_into(Op::Cast(PLAIN), &[Some(sum)], &outputs[..1])?;
        g.add_into(Op::RmsNorm(*attrs), &[Some(sum), w], &outputs[1..])?;
        Ok(true)
    })
}

const fn matmul_quant() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::MatmulQuant(attrs) = op else { return Ok(false) };
        let at = |i: usize| inputs.get(i).copied().flatten();
        let desc = g.desc(at(1).expect("matmul_quant has its weights")).clone();
        let (n, k) = (desc.shape[0], desc.shape[1]);
        let group = if attrs.group_size == 0 { k } else { attrs.group_size as usize };
        let grouped = !desc.dtype.is_block();
        if grouped && (at(4).is_some() || attrs.group_rows > 1 || group == 0 || k % group != 0) {
            return Ok(false);
        }
        let mut w = g.add_as(Op::Cast(PLAIN), &[at(1)], DType::F32)?[0];
        if grouped {
            let per_group = |g: &mut Graph, id: TensorId| -> Result<TensorId> {
                let f32s = g.add_as(Op::Cast(PLAIN), &[Some(id)], DType::F32)?[0];
                g.reshape(f32s, &[n, k / group, 1])
            };
            let mut cubes = g.reshape(w, &[n, k / group, group])?;
            if let Some(zeros) = at(3) {
                let zeros = per_group(g, zeros)?;
                cubes = g.op1(Op::Sub(PLAIN), &[cubes, zeros])?;
            }
            let scales = per_group(g, at(2).expect("grouped codes have scales"))?;
            let scaled = g.op1(Op::Mul(PLAIN), &[cubes, scales])?;
            w = g.reshape(scaled, &[n, k])?;
        }
        let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue: attrs.epilogue, ..Default::default() });
        g.add_into(op, &[at(0), Some(w), at(5), at(6)], outputs)?;
        Ok(true)
    })
}

const fn split() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::Split(attrs) = op else { return Ok(false) };
        for (i, &out) in outputs.iter().enumerate() {
            let len = g.desc(out).shape[attrs.axis as usize] as u32;
            let slice = Op::Slice(SliceAttrs { axis: attrs.axis, start: i as u32 * len, len });
            g.add_into(slice, inputs, &[out])?;
        }
        Ok(true)
    })
}

macro_rules! decomposition_table {
    ($($(#[doc = $doc:literal])* $variant:ident($attrs:ident) = $code:literal, $name:literal, $tier:ident,
       [$($input:literal),*] => [$($output:literal),*], $rule:ident, $cost:ident, $decompose:ident;)*) => {
        fn decomposition(kind: OpKind) -> Option<Decompose> {
            match kind { $(OpKind::$variant => $decompose(),)* }
        }
    };
}

for_each_op!(decomposition_table);
