//! Quantised products and the quantisation of activations.

use qiao_core::{DType, MatmulQuantAttrs, NoAttrs, Result};

use super::matmul::{Factors, before_epilogue, finish, transposed};
use super::rows::larger;
use super::{Outputs, bad_data, one};
use crate::args::Args;
use crate::round;
use crate::value::{Output, Value};

/// One row quantised symmetrically: `scale = max abs / largest code`, rounded to f32, and the codes `x / scale` as the
/// dtype rounds them. A row of zeros has scale 0 and codes 0; NaN and ∞ make the scale NaN or ∞.
pub(crate) fn quantised_row(row: &[f64], dtype: DType) -> (f64, Vec<f64>) {
    let most = row.iter().map(|x| x.abs()).fold(0.0, larger);
    let scale = round::round(DType::F32, most / largest_code(dtype));
    if scale == 0.0 {
        return (0.0, vec![0.0; row.len()]);
    }
    (scale, row.iter().map(|x| round::round(dtype, x / scale)).collect())
}

/// How far the codes of a row may be from [`quantised_row`]'s: where a scale one unit in the last place off, its
/// reciprocal and a product, each rounded to f32, end at another code. Codes half way between two are exact where every
/// way to the scale is: a power of two, with the largest code taken. Numbers below the smallest normal f32 may be
/// flushed.
pub(crate) fn code_limits(row: &[f64], dtype: DType) -> Vec<f64> {
    let most = row.iter().map(|x| x.abs()).fold(0.0, larger);
    let (scale, codes) = quantised_row(row, dtype);
    if scale == 0.0 || !scale.is_finite() {
        return vec![0.0; row.len()];
    }
    let unit = round::unit(DType::F32);
    let exact = scale.log2().fract() == 0.0 && most == scale * largest_code(dtype);
    let stray = if exact { 0.0 } else { round::ulp(DType::F32, scale) / scale + 3.0 * unit };
    let limit = |(x, code): (&f64, &f64)| {
        let at = |factor: f64| (round::round(dtype, x / scale * factor) - code).abs();
        let flushed = if most < round::min_normal(DType::F32) { code.abs() } else { 0.0 };
        at(1.0 + stray).max(at(1.0 - stray)).max(flushed)
    };
    row.iter().zip(&codes).map(limit).collect()
}

pub(crate) fn quantize_dynamic(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    let x = x.value(0)?;
    let rows: usize = if x.row_len() == 0 { x.shape[..x.shape.len() - 1].iter().product() } else { 0 };
    let (mut codes, mut scales) = (Vec::new(), vec![0.0; rows]);
    for row in x.rows() {
        let (scale, quantised) = quantised_row(row, DType::I8);
        scales.push(scale);
        codes.extend(quantised);
    }
    Ok(vec![Output::Values(codes), Output::Values(scales)])
}

/// The code of `x / scale + zero`, and how far another's may be from it where its numbers are rounded to f32 on the way.
/// Codes half way between two are exact where every way to them is: a scale that is a power of two and a whole zero.
pub(crate) fn static_code(x: f64, scale: f64, zero: f64) -> (f64, f64) {
    let steps = x / scale;
    let code = round::round(DType::I8, steps + zero);
    let exact = scale.log2().fract() == 0.0 && zero.fract() == 0.0 && steps.abs() < 2f64.powi(12);
    let flushed = x != 0.0 && x.abs() < round::min_normal(DType::F32) || scale.abs() < round::min_normal(DType::F32);
    if exact && !flushed || !(steps + zero).is_finite() {
        return (code, 0.0);
    }
    let stray = 3.0 * round::unit(DType::F32) * (steps.abs() + zero.abs());
    let at = |error: f64| (round::round(DType::I8, steps + zero + error) - code).abs();
    let at_zero = if flushed { (round::round(DType::I8, zero) - code).abs() } else { 0.0 };
    (code, at(stray).max(at(-stray)).max(at_zero))
}

/// Scale and zero of a `quantize_static`.
pub(crate) fn static_grid(x: &Args<'_>) -> Result<(f64, f64)> {
    Ok((x.value(1)?.data[0], x.opt(2)?.map_or(0.0, |zero| zero.data[0])))
}

pub(crate) fn quantize_static(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    let (scale, zero) = static_grid(x)?;
    one(x.value(0)?.data.iter().map(|&x| static_code(x, scale, zero).0).collect())
}

/// The dequantised weights `[N, K]` of a `matmul_quant`: `(code − zero)·scale` by group, or the values of the blocks.
fn dequantised(attrs: &MatmulQuantAttrs, x: &Args<'_>) -> Result<Value> {
    let mut w = x.value(1)?;
    if x.desc(1).dtype.is_block() || w.data.is_empty() {
        return Ok(w);
    }
    let k = w.shape[1];
    let group = if attrs.group_size == 0 { k } else { attrs.group_size as usize };
    let rows = (attrs.group_rows as usize).max(1);
    let (scales, zeros) = (x.value(2)?, x.opt(3)?);
    let groups = scales.shape[1];
    let of_channel: Vec<usize> = match x.opt(4)? {
        None => (0..k).map(|c| c / group).collect(),
        Some(g_idx) => g_idx.data.iter().map(|&g| group_at(g, groups)).collect::<Result<_>>()?,
    };
    for (n, row) in w.data.chunks_exact_mut(k).enumerate() {
        for (code, &g) in row.iter_mut().zip(&of_channel) {
            let at = n / rows * groups + g;
            *code = (*code - zeros.as_ref().map_or(0.0, |z| z.data[at])) * scales.data[at];
        }
    }
    Ok(w)
}

fn group_at(g: f64, groups: usize) -> Result<usize> {
    if (0.0..groups as f64).contains(&g) {
        Ok(g as usize)
    } else {
        Err(bad_data("matmul_quant g_idx", format!("group {g} of {groups}"), "name groups that have scales"))
    }
}

impl Factors {
    /// The operands of a `matmul_quant`, dequantised.
    pub(crate) fn of_quant(attrs: &MatmulQuantAttrs, x: &Args<'_>) -> Result<Factors> {
        let (a, w) = (x.value(0)?, dequantised(attrs, x)?);
        let (n, k) = (w.shape[0], w.shape[1]);
        Ok(Factors { a: a.data, b: transposed(&w.data, n, k), k, n, rows: x.desc(0).shape.rows() })
    }
}

pub(crate) fn matmul_quant(attrs: &MatmulQuantAttrs, x: &Args<'_>) -> Outputs {
    let f = Factors::of_quant(attrs, x)?;
    let c = f.multiply(before_epilogue(attrs.epilogue, x.out(0).elements()));
    finish(attrs.epilogue, x, c, f.n, 5, 6)
}

/// `(Σ_k a[m, k]·b[n, k] + sum_bias[n])·sa[m]·sb[n] + bias[n]`, the sum of integers exact.
pub(crate) fn scaled_matmul(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    let (a, b, sa, sb, bias) = (x.value(0)?, x.value(1)?, x.value(2)?, x.value(3)?, x.opt(4)?);
    let joins = x.opt(5)?;
    let scale = |s: &Value, i: usize| if s.data.len() == 1 { s.data[0] } else { s.data[i] };
    let (m, n, k) = (a.shape[0], b.shape[0], a.shape[1]);
    let mut y = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let (a, b) = (&a.data[i * k..(i + 1) * k], &b.data[j * k..(j + 1) * k]);
            let sum: i64 = a.iter().zip(b).map(|(&a, &b)| a as i64 * b as i64).sum();
            let sum = sum as f64 + joins.as_ref().map_or(0.0, |s| s.data[j]);
            y.push(sum * scale(&sa, i) * scale(&sb, j) + bias.as_ref().map_or(0.0, |b| b.data[j]));
        }
    }
    one(y)
}

/// The largest code of a quantised cache, or 0 for a cache that takes no scale.
pub(crate) fn largest_code(dtype: DType) -> f64 {
    match dtype {
        DType::I8 => 127.0,
        DType::F8E4M3 | DType::F8E5M2 => 448.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_may_be_off_only_where_f32_cannot_tell() {
        // The scale is 1/4: halves are exact in any arithmetic, and go to even.
        let exact = [31.75, 0.125, -0.375, 3.0];
        assert_eq!(quantised_row(&exact, DType::I8), (0.25, vec![127.0, 0.0, -2.0, 12.0]));
        assert_eq!(code_limits(&exact, DType::I8), [0.0; 4]);
        // The scale is 10/127, rounded: 2.5 steps lie within its error of a tie, 2.4 steps do not.
        let scale = round::round(DType::F32, 10.0 / 127.0);
        assert_eq!(code_limits(&[10.0, 2.5 * scale, 2.4 * scale], DType::I8), [0.0, 1.0, 0.0]);
        assert_eq!(code_limits(&[0.0, 0.0], DType::F8E4M3), [0.0, 0.0]);
        assert_eq!(code_limits(&[f64::NAN, 1.0], DType::I8), [0.0, 0.0]);
    }

    #[test]
    fn rows_of_subnormals_may_be_flushed() {
        let row = [1e-40, -5e-41];
        let limits = code_limits(&row, DType::I8);
        assert!(quantised_row(&row, DType::I8).1.iter().zip(limits).all(|(code, limit)| limit >= code.abs()));
    }
}
