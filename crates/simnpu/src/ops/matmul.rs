//! Matrix products in the chip's own loops.

use qiao_core::{Epilogue, MatmulAttrs, NodeView, Op, Result, TensorDesc};
use qiao_reference::value::{Output, Value};

use super::truths::truth;
use crate::fractal::Fractal;
use crate::limits::Numerics;
use crate::numbers::{dot, flush, widen};

/// Elements of a tensor in f32, row-major; zeros for those that the chip flushes.
///
/// # Errors
/// Fewer bytes than the tensor takes.
pub(super) fn floats(numerics: Numerics, desc: &TensorDesc, bytes: &[u8]) -> Result<Vec<f32>> {
    let mut out = vec![0f32; desc.elements()];
    if desc.dtype.is_activation() && desc.is_contiguous() {
        widen(desc.dtype, bytes, &mut out);
    } else {
        let value = Value::load(desc, bytes)?;
        out.iter_mut().zip(value.data).for_each(|(o, x)| *o = x as f32);
    }
    if numerics.flush {
        flush(&mut out);
    }
    Ok(out)
}

/// The same for an optional operand.
fn optional(
    numerics: Numerics,
    node: &NodeView<'_>,
    bytes: &[Option<&[u8]>],
    index: usize,
) -> Result<Option<Vec<f32>>> {
    match (node.input(index), bytes.get(index).copied().flatten()) {
        (Some(desc), Some(bytes)) => floats(numerics, desc, bytes).map(Some),
        _ => Ok(None),
    }
}

/// The bytes of a required operand.
pub(super) fn required<'a>(bytes: &[Option<&'a [u8]>], index: usize) -> &'a [u8] {
    bytes.get(index).copied().flatten().unwrap_or_default()
}

/// Rows of a weight that take part in a product at a time.
const TILE: usize = 16;

/// `c[m, n] = Σ_k a[m, k]·b[n, k]`; `rows(first, out)` gives as many rows of b, from the first on, as `out` holds.
pub(super) fn product(
    numerics: Numerics,
    a: &[f32],
    [n, k]: [usize; 2],
    mut rows: impl FnMut(usize, &mut [f32]) -> Result<()>,
) -> Result<Vec<f32>> {
    let m = a.len().checked_div(k).unwrap_or(0);
    let mut c = vec![0f32; m * n];
    let mut tile = vec![0f32; TILE * k];
    for first in (0..n).step_by(TILE) {
        let count = TILE.min(n - first);
        let tile = &mut tile[..count * k];
        rows(first, tile)?;
        if numerics.flush {
            flush(tile);
        }
        for (a, c) in a.chunks_exact(k.max(1)).zip(c.chunks_exact_mut(n)) {
            for (b, c) in tile.chunks_exact(k).zip(&mut c[first..first + count]) {
                *c = dot(numerics.accumulate, a, b);
            }
        }
    }
    Ok(c)
}

/// Row-major `[columns, rows]` of row-major `[rows, columns]`.
fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0f32; x.len()];
    for (r, row) in x.chunks_exact(columns.max(1)).enumerate() {
        row.iter().enumerate().for_each(|(c, &v)| out[c * rows + r] = v);
    }
    out
}

/// The product with one b `[N, K]` or, unless it is transposed, `[K, N]`; it may be in blocks.
fn with_matrix(
    numerics: Numerics,
    a: &[f32],
    [n, k]: [usize; 2],
    transposed_b: bool,
    desc: &TensorDesc,
    bytes: &[u8],
) -> Result<Vec<f32>> {
    let plain = TensorDesc { layout: 0, ..desc.clone() };
    if !transposed_b {
        let b = match desc.layout {
            0 => floats(numerics, desc, bytes)?,
            layout => floats(numerics, &plain, &Fractal::check(&plain, layout)?.unpack(bytes))?,
        };
        return with_rows(numerics, a, [n, k], &transposed(&b, k, n));
    }
    if desc.layout != 0 {
        let fractal = Fractal::check(&plain, desc.layout)?;
        return product(numerics, a, [n, k], |first, out| {
            let rows = out.len() / k;
            fractal.pieces(bytes, first, rows, |row, column, bytes| {
                let at = row * k + column;
                let end = (at + bytes.len() / desc.dtype.block_bytes()).min((row + 1) * k);
                widen(desc.dtype, bytes, &mut out[at..end]);
            });
            Ok(())
        });
    }
    let size = desc.dtype.block_bytes();
    product(numerics, a, [n, k], |first, out| {
        widen(desc.dtype, &bytes[first * k * size..][..out.len() * size], out);
        Ok(())
    })
}

/// The product with rows `[N, K]` of f32.
fn with_rows(numerics: Numerics, a: &[f32], [n, k]: [usize; 2], b: &[f32]) -> Result<Vec<f32>> {
    product(numerics, a, [n, k], |first, out| {
        out.copy_from_slice(&b[first * k..][..out.len()]);
        Ok(())
    })
}

fn multiply(
    numerics: Numerics,
    attrs: &MatmulAttrs,
    node: &NodeView<'_>,
    bytes: &[Option<&[u8]>],
) -> Result<(Vec<f32>, usize)> {
    let (a_desc, b_desc) = (node.required(0), node.required(1));
    let a = floats(numerics, a_desc, required(bytes, 0))?;
    let (r, c) = (b_desc.shape[b_desc.rank() - 2], b_desc.shape[b_desc.rank() - 1]);
    let (n, k) = if attrs.trans_b { (r, c) } else { (c, r) };
    let rows = a_desc.shape.rows();
    if k == 0 {
        return Ok((vec![0f32; rows * n], n));
    }
    let b = required(bytes, 1);
    if b_desc.rank() == 2 && (b_desc.layout != 0 || b_desc.is_contiguous()) {
        return Ok((with_matrix(numerics, &a, [n, k], attrs.trans_b, b_desc, b)?, n));
    }
    // Batches, and matrices with gaps.
    let all = floats(numerics, b_desc, b)?;
    let step = n * k;
    let m = if b_desc.rank() == 2 { rows } else { a_desc.shape[a_desc.rank() - 2] };
    let mut out = Vec::with_capacity(rows * n);
    for (i, a) in a.chunks_exact((m * k).max(1)).enumerate() {
        let at = if b_desc.rank() == 2 { 0 } else { i * step };
        let own = &all[at..at + step];
        let turned = if attrs.trans_b { Vec::new() } else { transposed(own, k, n) };
        let own = if attrs.trans_b { own } else { &turned };
        out.extend(with_rows(numerics, a, [n, k], own)?);
    }
    Ok((out, n))
}

/// `2/√π·∫₀ˣ e^−t² dt`, by the series whose terms are all of one sign.
fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { 1f64.copysign(x) };
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-17 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
}

fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    // −∞·0 is 0 here, as the limit is.
    if x == f64::NEG_INFINITY { 0.0 } else { (0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32 }
}

fn silu(x: f32) -> f32 {
    if x == f32::NEG_INFINITY { 0.0 } else { x / (1.0 + (-x).exp()) }
}

/// What follows a product c `[.., N]`, rounded by whoever stores it.
pub(super) fn finish(
    numerics: Numerics,
    kind: Epilogue,
    (mut c, n): (Vec<f32>, usize),
    node: &NodeView<'_>,
    bytes: &[Option<&[u8]>],
    [bias, residual]: [usize; 2],
) -> Result<Vec<Output>> {
    if let Some(bias) = optional(numerics, node, bytes, bias)? {
        c.chunks_exact_mut(n.max(1)).for_each(|row| row.iter_mut().zip(&bias).for_each(|(c, b)| *c += b));
    }
    let mut c = match kind {
        Epilogue::None | Epilogue::Bias => c,
        Epilogue::BiasResidual => {
            let residual = optional(numerics, node, bytes, residual)?.unwrap_or_default();
            c.iter().zip(residual).map(|(c, r)| c + r).collect()
        }
        Epilogue::Gelu => c.into_iter().map(gelu).collect(),
        Epilogue::SiluMul => c
            .chunks_exact(n.max(1))
            .flat_map(|row| {
                let (gate, up) = row.split_at(n / 2);
                gate.iter().zip(up).map(|(&g, &u)| silu(g) * u)
            })
            .collect(),
    };
    if numerics.flush {
        flush(&mut c);
    }
    Ok(vec![Output::Values(c.into_iter().map(f64::from).collect())])
}

/// `matmul`. Operands of other dtypes than f32, f16 and bf16 are left to the truth.
///
/// # Errors
/// Operands that are too short.
pub(super) fn matmul(numerics: Numerics, node: NodeView<'_>, bytes: &[Option<&[u8]>]) -> Result<Vec<Output>> {
    let Op::Matmul(attrs) = node.op() else { unreachable!("the table pairs matmul with its kernel") };
    if !node.operands().all(|(_, d)| d.dtype.is_activation()) {
        return truth(numerics, node, bytes);
    }
    let c = multiply(numerics, attrs, &node, bytes)?;
    finish(numerics, attrs.epilogue, c, &node, bytes, [2, 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_is_known_at_a_few_places() {
        for (x, want) in
            [(0.0, 0.0), (0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (3.0, 0.999_977_909_503_001_4)]
        {
            assert!((erf(x) - want).abs() < 1e-14, "{x}: {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!((gelu(f32::NEG_INFINITY), gelu(f32::INFINITY)), (0.0, f32::INFINITY));
    }
}
