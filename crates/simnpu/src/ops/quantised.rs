//! Products of quantised weights.

use qiao_core::{DType, MatmulQuantAttrs, NodeView, Op, Result, TensorDesc};
use qiao_reference::Args;
use qiao_reference::value::{Output, Value, load_exact};

use super::matmul::{finish, floats, product, required};
use super::truths::truth;
use crate::fractal::Fractal;
use crate::limits::Numerics;
use crate::numbers::dot_i8;

/// Scales of codes: which belongs to each.
struct Groups {
    scales: Value,
    zeros: Option<Value>,
    /// The group of each input channel.
    of_channel: Vec<usize>,
    rows: usize,
}

impl Groups {
    /// The scales of a node's codes; nothing where some channel's group has none, which the truth knows the words for.
    fn of(attrs: &MatmulQuantAttrs, args: &Args<'_>) -> Result<Option<Groups>> {
        let k = args.desc(1).shape[1];
        let group = if attrs.group_size == 0 { k } else { attrs.group_size as usize };
        let (scales, zeros) = (args.value(2)?, args.opt(3)?);
        let groups = scales.shape[1];
        let of_channel: Vec<usize> = match args.opt(4)? {
            None => (0..k).map(|c| c / group.max(1)).collect(),
            Some(g_idx) if g_idx.data.iter().all(|g| (0.0..groups as f64).contains(g)) => {
                g_idx.data.iter().map(|&g| g as usize).collect()
            }
            Some(_) => return Ok(None),
        };
        Ok(Some(Groups { scales, zeros, of_channel, rows: (attrs.group_rows as usize).max(1) }))
    }

    /// `(code − zero)·scale` of row n.
    fn dequantise(&self, n: usize, codes: &[f64], out: &mut [f32]) {
        let at = n / self.rows * self.scales.shape[1];
        for ((out, code), &g) in out.iter_mut().zip(codes).zip(&self.of_channel) {
            let zero = self.zeros.as_ref().map_or(0.0, |z| z.data[at + g]);
            *out = ((code - zero) * self.scales.data[at + g]) as f32;
        }
    }
}

/// `matmul_quant`: each row of the weight is dequantised to f32, then multiplied.
///
/// # Errors
/// Data that breaks the operator's meaning.
pub(super) fn matmul_quant(numerics: Numerics, node: NodeView<'_>, bytes: &[Option<&[u8]>]) -> Result<Vec<Output>> {
    let Op::MatmulQuant(attrs) = node.op() else { unreachable!("the table pairs matmul_quant with its kernel") };
    let (args, w) = (Args::new(node, bytes), node.required(1));
    let (n, k) = (w.shape[0], w.shape[1]);
    let plain = |i: usize| node.input(i).is_none_or(|d| d.dtype.is_activation());
    if k == 0 || ![0, 5, 6].into_iter().all(plain) || !node.output(0).dtype.is_activation() {
        return truth(numerics, node, bytes);
    }
    let groups = if w.dtype.is_block() { None } else { Groups::of(attrs, &args)? };
    if groups.is_none() && !w.dtype.is_block() {
        return truth(numerics, node, bytes);
    }
    let a = floats(numerics, node.required(0), required(bytes, 0))?;
    let c = product(numerics, &a, [n, k], |first, tile| {
        for (i, out) in tile.chunks_exact_mut(k).enumerate() {
            let codes = args.row(1, &[first + i])?;
            match &groups {
                Some(groups) => groups.dequantise(first + i, &codes, out),
                None => out.iter_mut().zip(codes).for_each(|(o, x)| *o = x as f32),
            }
        }
        Ok(())
    })?;
    finish(numerics, attrs.epilogue, (c, n), &node, bytes, [5, 6])
}

/// Codes of a tensor, row-major, whatever its layout.
fn codes(desc: &TensorDesc, bytes: &[u8]) -> Result<Vec<i8>> {
    let plain = TensorDesc { layout: 0, ..desc.clone() };
    let rows = match desc.layout {
        0 => load_exact(desc, bytes)?.1,
        layout => Fractal::check(&plain, layout)?.unpack(bytes),
    };
    Ok(rows.into_iter().map(|b| b as i8).collect())
}

/// `scaled_matmul`: an exact sum in 32 bits, then two scales and a bias in f32.
///
/// # Errors
/// Operands that are too short.
pub(super) fn scaled_matmul(numerics: Numerics, node: NodeView<'_>, bytes: &[Option<&[u8]>]) -> Result<Vec<Output>> {
    let (a_desc, b_desc) = (node.required(0), node.required(1));
    if node.input(4).is_some_and(|d| d.dtype == DType::F64) || node.output(0).dtype == DType::F64 {
        return truth(numerics, node, bytes);
    }
    let (a, b) = (codes(a_desc, required(bytes, 0))?, codes(b_desc, required(bytes, 1))?);
    let scale = |i: usize| floats(numerics, node.required(i), required(bytes, i));
    let (sa, sb) = (scale(2)?, scale(3)?);
    let bias = match node.input(4) {
        Some(desc) => Some(floats(numerics, desc, required(bytes, 4))?),
        None => None,
    };
    let joins = Args::new(node, bytes).opt(5)?;
    let (m, n, k) = (a_desc.shape[0], b_desc.shape[0], a_desc.shape[1]);
    let at = |s: &[f32], i: usize| if s.len() == 1 { s[0] } else { s[i] };
    let mut c = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let sum = f64::from(dot_i8(&a[i * k..(i + 1) * k], &b[j * k..(j + 1) * k]));
            let sum = (sum + joins.as_ref().map_or(0.0, |s| s.data[j])) as f32;
            let value = sum * at(&sa, i) * at(&sb, j) + bias.as_ref().map_or(0.0, |b| b[j]);
            let value = if numerics.flush && value.is_subnormal() { 0.0 } else { value };
            c.push(f64::from(value));
        }
    }
    Ok(vec![Output::Values(c)])
}
