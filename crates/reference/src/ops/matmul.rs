//! Matrix products and what follows them.

use qiao_core::{Epilogue, MatmulAttrs, Result};

use super::elementwise::{gelu_erf_of, silu_of};
use super::{Outputs, one};
use crate::args::Args;

/// `c[m, n] = Σ_k a[m, k]·b[k, n]`, all row-major. Each element is summed in the order of k.
pub(crate) fn product(a: &[f64], b: &[f64], k: usize, n: usize) -> Vec<f64> {
    if k == 0 || n == 0 {
        return Vec::new();
    }
    let mut c = vec![0.0; a.len() / k * n];
    for (c, a) in c.chunks_exact_mut(n).zip(a.chunks_exact(k)) {
        for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
            c.iter_mut().zip(b).for_each(|(c, b)| *c += a * b);
        }
    }
    c
}

/// Each `[rows, columns]` matrix of a batch as `[columns, rows]`.
pub(crate) fn transposed(x: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let mut out = vec![0.0; x.len()];
    if out.is_empty() {
        return out;
    }
    for (x, out) in x.chunks_exact(rows * columns).zip(out.chunks_exact_mut(rows * columns)) {
        for (r, row) in x.chunks_exact(columns).enumerate() {
            row.iter().enumerate().for_each(|(c, &v)| out[c * rows + r] = v);
        }
    }
    out
}

/// The operands of a product: a `[batch·M, K]` against one b `[K, N]`, or a batch of both.
pub(crate) struct Factors {
    /// Row-major `[.., M, K]`.
    pub(crate) a: Vec<f64>,
    /// Row-major `[K, N]` or `[.., K, N]`.
    pub(crate) b: Vec<f64>,
    /// The length of a dot product.
    pub(crate) k: usize,
    /// Columns of the product.
    pub(crate) n: usize,
    /// Rows of a that meet one b.
    pub(crate) rows: usize,
}

impl Factors {
    /// The operands of a `matmul`.
    pub(crate) fn of(attrs: &MatmulAttrs, x: &Args<'_>) -> Result<Factors> {
        let (a, b) = (x.value(0)?, x.value(1)?);
        let (r, c) = (b.shape[b.shape.len() - 2], b.shape[b.shape.len() - 1]);
        let (k, n) = if attrs.trans_b { (c, r) } else { (r, c) };
        let b_data = if attrs.trans_b { transposed(&b.data, r, c) } else { b.data };
        let rows = if b.shape.len() == 2 { x.desc(0).shape.rows() } else { a.shape[a.shape.len() - 2] };
        Ok(Factors { a: a.data, b: b_data, k, n, rows })
    }

    /// The products of all rows, `count` elements; zeros where K is 0.
    pub(crate) fn multiply(&self, count: usize) -> Vec<f64> {
        let (step_a, step_b) = (self.rows * self.k, self.k * self.n);
        if step_a == 0 || step_b == 0 {
            return vec![0.0; count];
        }
        let shared = self.b.len() == step_b;
        self.a
            .chunks_exact(step_a)
            .enumerate()
            .flat_map(|(i, a)| {
                let b = if shared { &self.b[..] } else { &self.b[i * step_b..(i + 1) * step_b] };
                product(a, b, self.k, self.n)
            })
            .collect()
    }

    /// The same with every element's magnitude.
    pub(crate) fn magnitudes(mut self) -> Factors {
        self.a.iter_mut().chain(&mut self.b).for_each(|x| *x = x.abs());
        self
    }
}

/// What follows a product c `[.., N]`: bias, residual, activation.
pub(crate) fn epilogue(
    kind: Epilogue,
    mut c: Vec<f64>,
    n: usize,
    bias: Option<&[f64]>,
    residual: Option<&[f64]>,
) -> Vec<f64> {
    if let Some(bias) = bias {
        c.chunks_exact_mut(n.max(1)).for_each(|row| row.iter_mut().zip(bias).for_each(|(c, b)| *c += b));
    }
    match kind {
        Epilogue::None | Epilogue::Bias => c,
        Epilogue::BiasResidual => c.iter().zip(residual.unwrap_or_default()).map(|(c, r)| c + r).collect(),
        Epilogue::Gelu => c.into_iter().map(gelu_erf_of).collect(),
        Epilogue::SiluMul => c
            .chunks_exact(n.max(1))
            .flat_map(|row| {
                let (gate, up) = row.split_at(n / 2);
                gate.iter().zip(up).map(|(&g, &u)| silu_of(g) * u)
            })
            .collect(),
    }
}

/// Finishes a product with the bias and residual at these operands.
pub(crate) fn finish(kind: Epilogue, x: &Args<'_>, c: Vec<f64>, n: usize, bias: usize, residual: usize) -> Outputs {
    let (bias, residual) = (x.opt(bias)?, x.opt(residual)?);
    let data = |v: &'_ Option<crate::Value>| v.as_ref().map(|v| v.data.clone());
    one(epilogue(kind, c, n, data(&bias).as_deref(), data(&residual).as_deref()))
}

/// The number of elements of a product before its epilogue, for an output of `out` elements.
pub(crate) fn before_epilogue(kind: Epilogue, out: usize) -> usize {
    if kind == Epilogue::SiluMul { 2 * out } else { out }
}

pub(crate) fn matmul(attrs: &MatmulAttrs, x: &Args<'_>) -> Outputs {
    let f = Factors::of(attrs, x)?;
    let c = f.multiply(before_epilogue(attrs.epilogue, x.out(0).elements()));
    finish(attrs.epilogue, x, c, f.n, 2, 3)
}
