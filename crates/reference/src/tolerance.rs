//! How far a device may be from the truth: a limit per element, from operator, dtypes, sizes and magnitudes.
//!
//! - A limit is the largest allowed |result − golden|, where golden is the truth rounded to the output's dtype. Both
//!   sides round once, so every computed limit holds one unit in the last place of the output.
//! - `u` is the unit roundoff of an f32 accumulator, 2^−24. Sums of mixed signs take the probabilistic bound
//!   `6·√n·u·Σ|terms|`, which a correct loop fails once in 3e7 results; sums of one sign take `n·u`. One that leans to a
//!   side takes the larger of that bound and `n·u·|Σ terms|`: while a sum grows, its roundings may all go one way.
//! - A kernel that rounds activations first (`NodeSupport::act_dtype`) is granted that rounding and no more.
//! - Results below the smallest normal f32 may be flushed.

use std::collections::HashMap;

use qiao_core::{
    AttentionAttrs, DType, Epilogue, KvWriteAttrs, LayerNormAttrs, MatmulAttrs, NodeView, NormAttrs, Op, OpKind,
    Precision, ReduceAttrs, ReduceKind, Result, RopeAttrs, RopeStyle, SoftmaxAttrs,
};

use crate::args::Args;
use crate::class::Class;
use crate::ops::{self, Batch, Factors, Scores, along, before_epilogue, choices, epilogue, gate_and_up, silu_of};
use crate::round::{min_normal, ulp, unit};
use crate::truth::class;
use crate::value::{Output, Patch, Value, Walk};

/// The unit roundoff of an f32 accumulator.
const U: f64 = 5.960_464_477_539_063e-8;
/// Standard deviations that a sum of independent roundings may stray.
const LAMBDA: f64 = 6.0;
/// Where `x / (1 + e^−x)` has left the range of f32's exponential.
const SILU_FLOOR: f64 = 7.523_163_845_262_64e-37;

/// The limit of every element of every output, in row-major order. `truth` is what [`crate::truth::eval`] gave for the
/// same bytes; `act` is the dtype to which the kernel rounds activations first, where it does.
///
/// # Errors
/// Operands that are too short.
pub fn limits(
    node: NodeView<'_>,
    bytes: &[Option<&[u8]>],
    truth: &[Output],
    act: Option<DType>,
) -> Result<Vec<Vec<f64>>> {
    let x = &Args::new(node, bytes);
    let y = |i: usize| match truth.get(i) {
        Some(Output::Values(data)) => &data[..],
        _ => &[],
    };
    Ok(match node.op() {
        Op::Matmul(a) => vec![matmul(a, x, y(0), act)?],
        Op::MatmulQuant(a) => vec![product(a.epilogue, x, Factors::of_quant(a, x)?, [5, 6], y(0), 0.0, act)?],
        Op::AttentionPrefill(a) => vec![attention(a, a.causal, x, Batch::prefill(a, x)?, y(0), act)],
        Op::AttentionDecode(a) => vec![attention(a, false, x, Batch::decode(a, x)?, y(0), act)],
        Op::RmsNorm(a) => vec![norm(a, x, y(0), 0)],
        Op::AddRmsNorm(a) => vec![rounding(OpKind::Add, x, y(0), 0)?, norm(a, x, y(1), 1)],
        Op::LayerNorm(a) => vec![layer_norm(a, x, y(0))?],
        Op::Rope(a) => vec![rope(a, x, y(0))],
        Op::Softmax(a) => vec![softmax(a, x, y(0))?],
        Op::Reduce(a) => vec![reduce(a, x, y(0))?],
        Op::ScaledMatmul(_) => vec![scaled_matmul(x, y(0))?],
        Op::QuantizeDynamic(_) => vec![codes(x)?, steps(DType::F32, y(1))],
        Op::QuantizeStatic(_) => {
            let (scale, zero) = ops::static_grid(x)?;
            vec![x.value(0)?.data.iter().map(|&x| ops::static_code(x, scale, zero).1).collect()]
        }
        Op::KvWrite(a) => kv_write(a, x)?,
        Op::Sample(_) => vec![sample(x)?],
        op => {
            let kind = op.kind();
            let computed = class(kind) == Class::Rounding;
            let of = |i: usize| if computed { rounding(kind, x, y(i), i) } else { Ok(vec![0.0; x.out(i).elements()]) };
            (0..truth.len()).map(of).collect::<Result<_>>()?
        }
    })
}

/// One rounding of the output, and what may be flushed.
fn last(dtype: DType, y: f64) -> f64 {
    ulp(dtype, y) + if dtype.is_float() { min_normal(DType::F32) } else { 0.0 }
}

fn steps(dtype: DType, y: &[f64]) -> Vec<f64> {
    y.iter().map(|&y| ulp(dtype, y)).collect()
}

/// 1 ULP in 16 bits; in f32 1 ULP for arithmetic and 4 for transcendental functions. GELU adds what `1 + erf` loses by
/// cancellation, SiLU the range where its exponential overflows.
fn rounding(kind: OpKind, x: &Args<'_>, y: &[f64], out: usize) -> Result<Vec<f64>> {
    let dtype = x.out(out).dtype;
    let arithmetic = matches!(kind, OpKind::Add | OpKind::Sub | OpKind::Mul | OpKind::Div | OpKind::Relu);
    let ulps = if arithmetic || dtype != DType::F32 { 1.0 } else { 4.0 };
    let mut limits: Vec<f64> = y.iter().map(|&y| ulps * ulp(dtype, y) + min_normal(DType::F32)).collect();
    match x.node().op() {
        Op::Gelu(_) => limits.iter_mut().zip(x.value(0)?.data).for_each(|(l, x)| *l += 4.0 * U * finite(x)),
        Op::Silu(_) => limits.iter_mut().for_each(|l| *l += SILU_FLOOR),
        Op::SiluMul(a) => {
            let up = gate_and_up(a, x)?.1;
            limits.iter_mut().zip(up).for_each(|(l, up)| *l += SILU_FLOOR * finite(up));
        }
        _ => {}
    }
    Ok(limits)
}

/// |x| where it is a finite number, else 0.
fn finite(x: f64) -> f64 {
    if x.is_finite() { x.abs() } else { 0.0 }
}

/// The error that a sum of n terms of mixed signs may have, per unit of Σ|terms|.
fn mixed(n: usize) -> f64 {
    LAMBDA * (n.max(1) as f64).sqrt() * U
}

/// All squares are positive and the root halves their relative error: (n/2 + 8)·u.
fn norm(attrs: &NormAttrs, x: &Args<'_>, y: &[f64], out: usize) -> Vec<f64> {
    let (n, dtype) = (x.desc(0).shape.last_dim() as f64, x.out(out).dtype);
    let step = if attrs.round_before_weight { 2.0 * unit(dtype) } else { 0.0 };
    y.iter().map(|&y| finite(y) * ((n / 2.0 + 8.0) * U + step) + last(dtype, y)).collect()
}

/// The error that a sum of n terms of any signs may have: from Σ|terms| and the sum itself.
fn leaning(n: usize, magnitude: f64, sum: f64) -> f64 {
    (mixed(n) * magnitude).max(n as f64 * U * finite(sum))
}

/// The mean strays by the bound of its row's sum; the deviation from it is divided by the root of a positive sum.
fn layer_norm(attrs: &LayerNormAttrs, args: &Args<'_>, y: &[f64]) -> Result<Vec<f64>> {
    let (x, w, b) = (args.value(0)?, args.opt(1)?, args.opt(2)?);
    let dtype = args.out(0).dtype;
    let mut limits = Vec::with_capacity(y.len());
    for (row, y) in x.rows().zip(y.chunks_exact(x.row_len().max(1))) {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let root = (variance + attrs.eps as f64).sqrt();
        let mean_error = leaning(row.len(), row.iter().map(|x| x.abs()).sum::<f64>() / n, mean);
        for (i, (x, &y)) in row.iter().zip(y).enumerate() {
            let w = w.as_ref().map_or(1.0, |w| w.data[i]).abs() / root;
            let b = b.as_ref().map_or(0.0, |b| b.data[i]).abs();
            let error = w * (mean_error + (x - mean).abs() * (n / 2.0 + 8.0) * U) + 2.0 * U * b;
            limits.push(finite(error) + last(dtype, y));
        }
    }
    Ok(limits)
}

/// Two products and a sum: `|a·c| + |b·s|` is at most the length of the rotated pair.
fn rope(attrs: &RopeAttrs, x: &Args<'_>, y: &[f64]) -> Vec<f64> {
    let d = x.out(0).shape.last_dim();
    let rotary = if attrs.rotary_dim == 0 { d } else { attrs.rotary_dim as usize };
    let (half, start, dtype) = (rotary / 2, attrs.offset as usize, x.out(0).dtype);
    let exact = x.desc(0).dtype == dtype;
    let mut limits: Vec<f64> = y.iter().map(|&y| if exact { 0.0 } else { ulp(dtype, y) }).collect();
    for (limits, y) in limits.chunks_exact_mut(d.max(1)).zip(y.chunks_exact(d.max(1))) {
        for i in 0..half {
            let pair = match attrs.style {
                RopeStyle::HalfSplit => [start + i, start + i + half],
                RopeStyle::Interleaved => [start + 2 * i, start + 2 * i + 1],
            };
            let length = finite(y[pair[0]].hypot(y[pair[1]]));
            for p in pair {
                limits[p] = 3.0 * U * length + last(dtype, y[p]);
            }
        }
    }
    limits
}

/// `(4·R + n + 8)·u` of each value, R the largest `|scale·x| + |mask|` whose score is not lost beside the row's maximum.
fn softmax(attrs: &SoftmaxAttrs, x: &Args<'_>, y: &[f64]) -> Result<Vec<f64>> {
    let (scores, dtype) = (Scores::of(attrs, x)?, x.out(0).dtype);
    let mut limits = Vec::with_capacity(y.len());
    let columns = scores.columns.max(1);
    for (((row, visible), sizes), y) in scores.rows().zip(scores.magnitudes.chunks(columns)).zip(y.chunks(columns)) {
        let most = row[..visible].iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let kept = row[..visible].iter().zip(sizes).filter(|(s, _)| most - **s < 100.0);
        let range = kept.map(|(_, size)| finite(*size)).fold(0.0, f64::max);
        let relative = (4.0 * range + visible as f64 + 8.0) * U;
        limits.extend(y.iter().map(|&y| finite(y) * relative + last(dtype, y)));
    }
    Ok(limits)
}

fn reduce(attrs: &ReduceAttrs, args: &Args<'_>, y: &[f64]) -> Result<Vec<f64>> {
    let (x, axis, dtype) = (args.value(0)?, attrs.axis as usize, args.out(0).dtype);
    if attrs.kind == ReduceKind::Max {
        return Ok(vec![0.0; y.len()]);
    }
    let n = x.shape[axis];
    let share = if attrs.kind == ReduceKind::Mean { 1.0 / n as f64 } else { 1.0 };
    let sums = along(&x, axis, |elements| elements.map(finite).sum());
    Ok(sums.iter().zip(y).map(|(s, &y)| leaning(n, s * share, y) + last(dtype, y)).collect())
}

fn matmul(attrs: &MatmulAttrs, x: &Args<'_>, y: &[f64], act: Option<DType>) -> Result<Vec<f64>> {
    let tf32 = attrs.precision == Precision::Tf32 && x.desc(0).dtype == DType::F32;
    let inputs = if tf32 { 2.0 * unit(DType::F16) } else { 0.0 };
    product(attrs.epilogue, x, Factors::of(attrs, x)?, [2, 3], y, inputs, act)
}

/// `6·√K·u·(Σ|a||b| + |bias| + |residual|)`, plus what the rounding of inputs adds, carried through the activation.
fn product(
    kind: Epilogue,
    x: &Args<'_>,
    factors: Factors,
    [bias, residual]: [usize; 2],
    y: &[f64],
    inputs: f64,
    act: Option<DType>,
) -> Result<Vec<f64>> {
    let (k, n, dtype) = (factors.k, factors.n, x.out(0).dtype);
    let count = before_epilogue(kind, y.len());
    let (bias, residual) = (x.opt(bias)?.map(|b| b.data), x.opt(residual)?.map(|r| r.data));
    let c = epilogue(Epilogue::None, factors.multiply(count), n, bias.as_deref(), None);
    let factors = factors.magnitudes();
    let act_rounding = act.filter(|a| a.is_float()).map_or(0.0, |a| 2.0 * unit(a));
    let magnitude = factors.multiply(count);
    let mut errors: Vec<f64> = magnitude.iter().map(|m| m * (mixed(k) + inputs + act_rounding)).collect();
    if act.is_some_and(|a| !a.is_float()) {
        errors.iter_mut().zip(int8_steps(&factors, count)).for_each(|(e, s)| *e += s);
    }
    for (i, e) in errors.iter_mut().enumerate() {
        *e += mixed(k) * bias.as_ref().map_or(0.0, |b| b[i % n].abs());
    }
    Ok(match kind {
        Epilogue::None | Epilogue::Bias => errors.iter().zip(y).map(|(e, &y)| finite(*e) + last(dtype, y)).collect(),
        Epilogue::BiasResidual => {
            let r = residual.unwrap_or_default();
            errors.iter().zip(y).zip(r).map(|((e, &y), r)| finite(e + mixed(k) * r.abs()) + last(dtype, y)).collect()
        }
        // GELU is nowhere steeper than 1.13.
        Epilogue::Gelu => errors
            .iter()
            .zip(y)
            .zip(&c)
            .map(|((e, &y), c)| finite(1.13 * e + 8.0 * U * c.abs()) + last(dtype, y))
            .collect(),
        Epilogue::SiluMul => (0..y.len())
            .map(|i| {
                // Element i of the output comes from columns j and j + N/2 of its row; SiLU is nowhere steeper than 1.1.
                let gate = i / (n / 2) * n + i % (n / 2);
                let up = gate + n / 2;
                let error = 1.1 * errors[gate] * (c[up].abs() + errors[up]) + silu_of(c[gate]).abs() * errors[up];
                finite(error + 8.0 * U * y[i].abs()) + last(dtype, y[i])
            })
            .collect(),
    })
}

/// What quantising each row of a to 8 bits may add to each product: half a step times Σ|b|.
fn int8_steps(magnitudes: &Factors, count: usize) -> Vec<f64> {
    let k = magnitudes.k.max(1);
    let mut half_steps = Factors { a: magnitudes.a.clone(), b: magnitudes.b.clone(), ..*magnitudes };
    for row in half_steps.a.chunks_exact_mut(k) {
        let most = row.iter().copied().fold(0.0, f64::max);
        row.fill(most / 254.0);
    }
    half_steps.multiply(count)
}

/// Σ weight·|v| times the relative error of the weights: that of their scores, their exponentials and their sum.
fn attention(
    attrs: &AttentionAttrs,
    causal: bool,
    x: &Args<'_>,
    batch: Batch,
    y: &[f64],
    act: Option<DType>,
) -> Vec<f64> {
    let dtype = x.out(0).dtype;
    let act = act.map_or(0.0, |a| if a.is_float() { 2.0 * unit(a) } else { 1.0 / 127.0 });
    let mut limits: Vec<f64> = y.iter().map(|&y| last(dtype, y)).collect();
    let (d, dv) = (batch.d, batch.dv);
    batch.each(attrs, causal, |row, head, s, keys| {
        let scores: Vec<f64> = keys.clone().map(|j| batch.score(attrs, row, s, j, head)).collect();
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let q = norm(&batch.q[row * d..(row + 1) * d]);
        // Σ|q||k| is at most the product of the lengths.
        let most = keys.clone().map(|j| batch.scale * q * norm(batch.key(s, j, head))).fold(0.0, f64::max);
        let relative = 2.0 * most * (mixed(d) + act) + (4.0 * most + keys.len() as f64 + 8.0) * U + act;
        for (j, w) in keys.zip(batch.weights(&scores, head)) {
            let out = &mut limits[row * dv..(row + 1) * dv];
            out.iter_mut().zip(batch.val(s, j, head)).for_each(|(l, v)| *l += finite(w * v * relative));
        }
    });
    limits
}

/// The integer sum is exact; what joins it, two scales, a bias and the output round.
fn scaled_matmul(x: &Args<'_>, y: &[f64]) -> Result<Vec<f64>> {
    let (n, dtype, bias, joins) = (x.out(0).shape.last_dim(), x.out(0).dtype, x.opt(4)?, x.opt(5)?);
    let (sa, sb) = (x.value(2)?, x.value(3)?);
    let scale = |s: &Value, i: usize| if s.data.len() == 1 { s.data[0] } else { s.data[i] };
    let bias = |i: usize| bias.as_ref().map_or(0.0, |b| b.data[i % n].abs());
    let joined = |i: usize| {
        let joins = joins.as_ref().map_or(0.0, |s| s.data[i % n]);
        finite(joins * scale(&sa, i / n) * scale(&sb, i % n))
    };
    let limit = |(i, &y): (usize, &f64)| 4.0 * U * (finite(y) + 2.0 * bias(i) + joined(i)) + last(dtype, y);
    Ok(y.iter().enumerate().map(limit).collect())
}

/// Codes of rows quantised to i8, as [`ops::code_limits`] has them.
fn codes(x: &Args<'_>) -> Result<Vec<f64>> {
    Ok(x.value(0)?.rows().flat_map(|row| ops::code_limits(row, DType::I8)).collect())
}

/// Copies are exact, codes as [`ops::code_limits`] has them, scales within one unit in the last place.
fn kv_write(attrs: &KvWriteAttrs, x: &Args<'_>) -> Result<Vec<Vec<f64>>> {
    let limits = ops::kv_limits(attrs, x)?;
    let of = |(i, patch): (usize, &Patch)| {
        let desc = x.out(i);
        let steps: HashMap<usize, f64> = patch.iter().copied().collect();
        Walk::new(&desc.shape, &desc.strides).map(|at| steps.get(&at).copied().unwrap_or(0.0)).collect()
    };
    Ok(limits.iter().enumerate().map(of).collect())
}

/// Zero, and no limit where u or a filter lies closer to another decision than f32 can tell.
fn sample(x: &Args<'_>) -> Result<Vec<f64>> {
    let (logits, temperature) = (x.value(0)?, x.value(2)?);
    let row = |((row, &t), choice): ((&[f64], &f64), ops::Choice)| {
        let range = row.iter().copied().map(finite).fold(0.0, f64::max) / if t == 0.0 { 1.0 } else { t.abs() };
        let tolerance = mixed(row.len()) + (4.0 * range + 16.0) * U;
        if choice.margin < tolerance { f64::INFINITY } else { 0.0 }
    };
    Ok(logits.rows().zip(&temperature.data).zip(choices(x)?).map(row).collect())
}
