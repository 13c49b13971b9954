//! Operators that work row by row: norms, softmax, reductions, tables.

use qiao_core::{DType, LayerNormAttrs, NoAttrs, NormAttrs, Op, ReduceAttrs, ReduceKind, SiluMulAttrs, SoftmaxAttrs};
use qiao_reference::Value;

use super::{FLOATS, Handle, among, by_truth, dense, results, same_shape, store_all};
use crate::codes::{NN_INVALID, dtype};
use crate::executors::{Operands, Prepared};
use crate::tensors::Shared;
use crate::world::{Refused, refused};

pub(super) fn swiglu(o: &mut Operands<'_>, x: Handle, dim: i64, out: Handle) -> Result<Prepared, Refused> {
    let (x, out) = (o.tensor(x, "x")?, o.tensor(out, "out")?);
    among(o, &x, "x", FLOATS)?;
    among(o, &out, "out", &[x.dtype])?;
    dense(&x, "x")?;
    dense(&out, "out")?;
    if dim != -1 && dim != x.view.len() as i64 - 1 {
        return refused(NN_INVALID, format!("this library splits the last dim only, and not {dim}"));
    }
    Ok(by_truth(Op::SiluMul(SiluMulAttrs::default()), vec![Some(x), None], vec![out]))
}

pub(super) fn embedding(o: &mut Operands<'_>, table: Handle, ids: Handle, out: Handle) -> Result<Prepared, Refused> {
    let (table, ids, out) = (o.tensor(table, "weight")?, o.tensor(ids, "indices")?, o.tensor(out, "out")?);
    among(o, &ids, "indices", &[DType::I32, DType::I64])?;
    among(o, &table, "weight", &[out.dtype])?;
    among(o, &out, "out", &[DType::F32, DType::F16, DType::BF16, DType::I8, DType::I32, DType::U8])?;
    if table.view.len() != 2 {
        return refused(NN_INVALID, "weight has two dims");
    }
    Ok(Prepared::new(move |memory| {
        let rows = table.view[0] as f64;
        if let Some(id) = ids.load(memory)?.data.into_iter().find(|id| !(0.0..rows).contains(id)) {
            return Err(format!("index {id} of {rows} rows"));
        }
        let found = results(Op::GatherRows(NoAttrs {}), &[Some(table), Some(ids)], std::slice::from_ref(&out), memory)?;
        out.store(memory, &found[0])
    }))
}

pub(super) fn scatter(o: &mut Operands<'_>, to: Handle, ids: Handle, rows: Handle) -> Result<Prepared, Refused> {
    let (to, ids, rows) = (o.tensor(to, "varRef")?, o.tensor(ids, "indices")?, o.tensor(rows, "updates")?);
    among(o, &to, "varRef", &[DType::F16, DType::BF16, DType::F32, DType::I64, DType::Bool, DType::I8])?;
    among(o, &rows, "updates", &[to.dtype])?;
    among(o, &ids, "indices", &[DType::I32, DType::I64])?;
    let n = ids.view.first().copied().unwrap_or(0);
    if to.view.len() != 2 || *ids.view != [n, 1] || *rows.view != [n, to.view[1]] {
        return refused(NN_INVALID, format!("indices {:?} and updates {:?} for {:?}", ids.view, rows.view, to.view));
    }
    Ok(Prepared::new(move |memory| {
        let size = to.dtype.block_bytes();
        let (_, bytes) =
            qiao_reference::value::load_exact(&rows.desc(), rows.bytes(memory)?).map_err(|e| e.to_string())?;
        let mut seen = std::collections::HashSet::new();
        for (id, row) in ids.load(memory)?.data.into_iter().zip(bytes.chunks_exact(to.view[1] * size)) {
            if !(0.0..to.view[0] as f64).contains(&id) || !seen.insert(id as usize) {
                return Err(format!("index {id} is out of range or stands twice"));
            }
            for (i, element) in row.chunks_exact(size).enumerate() {
                let at = to.offset + id as usize * to.strides[0] + i * to.strides[1];
                memory.write(to.data + at * size, size)?.copy_from_slice(element);
            }
        }
        Ok(())
    }))
}

/// The reciprocal root of each row's mean square.
fn reciprocals(x: &Value, eps: f64) -> Vec<f64> {
    let n = x.row_len() as f64;
    x.rows().map(|row| 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / n + eps).sqrt()).collect()
}

/// # Errors
/// What is written beside the result is not f32 with one value a row.
fn beside(o: &Operands<'_>, x: &Shared, out: &Shared, what: &str) -> Result<(), Refused> {
    among(o, out, what, &[DType::F32])?;
    let mut want = x.view.to_vec();
    *want.last_mut().ok_or_else(|| (NN_INVALID, "x has a dim".to_string()))? = 1;
    if *out.view == *want { Ok(()) } else { refused(NN_INVALID, format!("{what} is {:?}, not {want:?}", out.view)) }
}

pub(super) fn rms_norm(
    o: &mut Operands<'_>,
    x: Handle,
    w: Handle,
    eps: f64,
    weight_offset: u32,
    y: Handle,
    rstd: Handle,
) -> Result<Prepared, Refused> {
    let (x, w, y, rstd) = (o.tensor(x, "x")?, o.tensor(w, "gamma")?, o.tensor(y, "yOut")?, o.tensor(rstd, "rstdOut")?);
    among(o, &x, "x", FLOATS)?;
    among(o, &w, "gamma", &[x.dtype, DType::F32])?;
    among(o, &y, "yOut", &[x.dtype])?;
    same_shape(&x, &y, "x and yOut")?;
    beside(o, &x, &rstd, "rstdOut")?;
    let op = Op::RmsNorm(NormAttrs { eps: eps as f32, weight_offset, round_before_weight: false });
    Ok(Prepared::new(move |memory| {
        let found = results(op, &[Some(x.clone()), Some(w)], std::slice::from_ref(&y), memory)?;
        let each = reciprocals(&x.load(memory)?, eps);
        y.store(memory, &found[0])?;
        store_all(&rstd, memory, each)
    }))
}

#[allow(clippy::too_many_arguments, reason = "as many as are documented")]
pub(super) fn add_rms_norm(
    o: &mut Operands<'_>,
    a: Handle,
    b: Handle,
    w: Handle,
    eps: f64,
    y: Handle,
    rstd: Handle,
    sum: Handle,
) -> Result<Prepared, Refused> {
    let (a, b, w) = (o.tensor(a, "x1")?, o.tensor(b, "x2")?, o.tensor(w, "gamma")?);
    let (y, rstd, sum) = (o.tensor(y, "yOut")?, o.tensor(rstd, "rstdOut")?, o.tensor(sum, "xOut")?);
    among(o, &a, "x1", FLOATS)?;
    for (tensor, what) in [(&b, "x2"), (&w, "gamma"), (&y, "yOut"), (&sum, "xOut")] {
        among(o, tensor, what, &[a.dtype])?;
    }
    same_shape(&a, &b, "x1 and x2")?;
    beside(o, &a, &rstd, "rstdOut")?;
    let op = Op::AddRmsNorm(NormAttrs { eps: eps as f32, ..Default::default() });
    Ok(Prepared::new(move |memory| {
        let found = results(op, &[Some(a.clone()), Some(b.clone()), Some(w)], &[sum.clone(), y.clone()], memory)?;
        let (x1, x2) = (a.load(memory)?, b.load(memory)?);
        let x = Value::new(&a.view, x1.data.iter().zip(&x2.data).map(|(x, y)| x + y).collect());
        sum.store(memory, &found[0])?;
        y.store(memory, &found[1])?;
        store_all(&rstd, memory, reciprocals(&x, eps))
    }))
}

#[allow(clippy::too_many_arguments, reason = "as many as are documented")]
pub(super) fn layer_norm(
    o: &mut Operands<'_>,
    x: Handle,
    shape: Handle,
    w: Handle,
    b: Handle,
    eps: f64,
    y: Handle,
    mean: Handle,
    rstd: Handle,
) -> Result<Prepared, Refused> {
    let (x, shape, y) = (o.tensor(x, "input")?, o.ints(shape, "normalizedShape")?, o.tensor(y, "out")?);
    let (w, b) = (o.optional(w, "weightOptional")?, o.optional(b, "biasOptional")?);
    if !mean.is_null() || !rstd.is_null() {
        return refused(NN_INVALID, "this library writes no mean and no rstd");
    }
    among(o, &x, "input", FLOATS)?;
    among(o, &y, "out", &[x.dtype])?;
    for t in w.iter().chain(&b) {
        among(o, t, "weight or bias", &[x.dtype])?;
    }
    if shape != [x.view.last_dim() as i64] {
        return refused(NN_INVALID, format!("normalizedShape {shape:?} of {:?}", x.view));
    }
    let op = Op::LayerNorm(LayerNormAttrs { eps: eps as f32 });
    Ok(by_truth(op, vec![Some(x), w, b], vec![y]))
}

pub(super) fn softmax(o: &mut Operands<'_>, x: Handle, dim: i64, out: Handle) -> Result<Prepared, Refused> {
    let (x, out) = (o.tensor(x, "self")?, o.tensor(out, "out")?);
    among(o, &x, "self", FLOATS)?;
    among(o, &out, "out", FLOATS)?;
    same_shape(&x, &out, "self and out")?;
    if dim != -1 && dim != x.view.len() as i64 - 1 {
        return refused(NN_INVALID, format!("this library takes the last dim only, and not {dim}"));
    }
    Ok(by_truth(Op::Softmax(SoftmaxAttrs::default()), vec![Some(x), None], vec![out]))
}

fn reduce(
    o: &mut Operands<'_>,
    kind: ReduceKind,
    x: Handle,
    dims: Handle,
    keep: bool,
    out: Handle,
) -> Result<Prepared, Refused> {
    let (x, dims, out) = (o.tensor(x, "self")?, o.ints(dims, "dims")?, o.tensor(out, "out")?);
    among(o, &x, "self", FLOATS)?;
    among(o, &out, "out", FLOATS)?;
    let [axis] = dims[..] else { return refused(NN_INVALID, "this library reduces one dim at a time") };
    if !(0..x.view.len() as i64).contains(&axis) {
        return refused(NN_INVALID, format!("dim {axis} of {:?}", x.view));
    }
    let op = Op::Reduce(ReduceAttrs { kind, axis: axis as u32, keep_dim: keep });
    Ok(by_truth(op, vec![Some(x)], vec![out]))
}

fn typed(o: &mut Operands<'_>, number: i32, out: Handle) -> Result<(), Refused> {
    let out = o.tensor(out, "out")?;
    if dtype(number) == Some(out.dtype) {
        Ok(())
    } else {
        refused(NN_INVALID, format!("dtype {number} of {}", out.dtype))
    }
}

pub(super) fn sum(
    o: &mut Operands<'_>,
    x: Handle,
    dims: Handle,
    keep: bool,
    number: i32,
    out: Handle,
) -> Result<Prepared, Refused> {
    typed(o, number, out)?;
    reduce(o, ReduceKind::Sum, x, dims, keep, out)
}

pub(super) fn mean(
    o: &mut Operands<'_>,
    x: Handle,
    dims: Handle,
    keep: bool,
    number: i32,
    out: Handle,
) -> Result<Prepared, Refused> {
    typed(o, number, out)?;
    reduce(o, ReduceKind::Mean, x, dims, keep, out)
}

pub(super) fn amax(
    o: &mut Operands<'_>,
    x: Handle,
    dims: Handle,
    keep: bool,
    out: Handle,
) -> Result<Prepared, Refused> {
    reduce(o, ReduceKind::Max, x, dims, keep, out)
}

pub(super) fn argmax(o: &mut Operands<'_>, x: Handle, dim: i64, keep: bool, out: Handle) -> Result<Prepared, Refused> {
    let (x, out) = (o.tensor(x, "self")?, o.tensor(out, "out")?);
    among(o, &x, "self", FLOATS)?;
    among(o, &out, "out", &[DType::I32, DType::I64])?;
    if keep || (dim != -1 && dim != x.view.len() as i64 - 1) {
        return refused(NN_INVALID, "this library takes the last dim only, and drops it");
    }
    Ok(by_truth(Op::Argmax(NoAttrs {}), vec![Some(x)], vec![out]))
}
