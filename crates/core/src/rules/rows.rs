//! Rules of operators that work row by row: norms, softmax, reductions, choices.

use super::{Operands, OutDtype, OutSpec, bad_attr, non_negative};
use crate::dtype::DType;
use crate::error::Result;
use crate::op::Op;
use crate::rules::layout::broadcast_shape;

fn row(x: &Operands<'_>, weights: &[usize]) -> Result<OutSpec> {
    let a = x.get(0)?;
    x.float(0)?;
    x.check(0, a.rank() > 0, || "give it at least one dim".into())?;
    for &w in weights {
        x.float(w)?;
        x.opt_shape(w, &[a.shape.last_dim()])?;
    }
    Ok(OutSpec { shape: Some(a.shape), dtype: OutDtype::Float(a.dtype) })
}

fn norm_attrs(op: &Op, x: &Operands<'_>) -> Result<()> {
    let (Op::RmsNorm(attrs) | Op::AddRmsNorm(attrs)) = op else { unreachable!("the list pairs norms with their rule") };
    non_negative(x.kind, "eps", attrs.eps)?;
    if attrs.weight_offset > 1 {
        return Err(bad_attr(x.kind, "weight_offset", attrs.weight_offset, "use 0 or 1"));
    }
    Ok(())
}

pub(crate) fn norm(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    norm_attrs(op, x)?;
    Ok(vec![row(x, &[1])?])
}

pub(crate) fn add_norm(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    norm_attrs(op, x)?;
    let out = row(x, &[2])?;
    x.float(1)?;
    x.shape(1, &x.get(0)?.shape)?;
    Ok(vec![out.clone(), out])
}

pub(crate) fn layer_norm(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::LayerNorm(attrs) = op else { unreachable!("the list pairs layer_norm with its rule") };
    non_negative(x.kind, "eps", attrs.eps)?;
    Ok(vec![row(x, &[1, 2])?])
}

pub(crate) fn softmax(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::Softmax(attrs) = op else { unreachable!("the list pairs softmax with its rule") };
    if !attrs.scale.is_finite() {
        return Err(bad_attr(x.kind, "scale", attrs.scale, "give it a finite value"));
    }
    let out = row(x, &[])?;
    let a = x.get(0)?;
    x.check(0, !attrs.causal || a.rank() >= 2, || "a causal softmax needs [.., Tq, Tk]".into())?;
    x.float(1)?;
    if let Some(mask) = x.opt(1) {
        let fits = broadcast_shape(&a.shape, &mask.shape).is_some_and(|s| *s == *a.shape);
        x.check(1, fits, || format!("give it a shape that broadcasts to {}", a.shape))?;
    }
    Ok(vec![out])
}

pub(crate) fn reduce(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::Reduce(attrs) = op else { unreachable!("the list pairs reduce with its rule") };
    let a = x.get(0)?;
    x.float(0)?;
    let axis = attrs.axis as usize;
    if axis >= a.rank() {
        return Err(bad_attr(x.kind, "axis", axis, format!("use an axis below the rank, {}", a.rank())));
    }
    x.check(0, a.shape[axis] > 0, || "give the reduced axis at least one element".into())?;
    let mut shape = a.shape.to_vec();
    if attrs.keep_dim {
        shape[axis] = 1;
    } else {
        shape.remove(axis);
    }
    Ok(vec![OutSpec::new(&shape, OutDtype::Float(a.dtype))?])
}

pub(crate) fn argmax(_: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let a = x.get(0)?;
    x.float(0)?;
    x.check(0, a.rank() > 0 && a.shape.last_dim() > 0, || "give it at least one element a row".into())?;
    Ok(vec![OutSpec::new(&a.shape[..a.rank() - 1], OutDtype::Fixed(DType::I32))?])
}

pub(crate) fn top_k(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::TopK(attrs) = op else { unreachable!("the list pairs top_k with its rule") };
    let a = x.get(0)?;
    x.float(0)?;
    x.check(0, a.rank() > 0, || "give it at least one dim".into())?;
    let k = attrs.k as usize;
    if k == 0 || k > a.shape.last_dim() {
        return Err(bad_attr(x.kind, "k", k, format!("use 1 to {}", a.shape.last_dim())));
    }
    let mut shape = a.shape.to_vec();
    shape[a.rank() - 1] = k;
    Ok(vec![OutSpec::new(&shape, OutDtype::Fixed(a.dtype))?, OutSpec::new(&shape, OutDtype::Fixed(DType::I32))?])
}

pub(crate) fn sample(_: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let logits = x.rank(0, 2)?;
    x.float(0)?;
    x.check(0, logits.shape[1] > 0, || "give it at least one logit a row".into())?;
    for i in 1..6 {
        x.shape(i, &[logits.shape[0]])?;
        if i == 3 { x.index(i)? } else { x.f32(i)? }
    }
    Ok(vec![OutSpec::new(&[logits.shape[0]], OutDtype::Fixed(DType::I32))?])
}

pub(crate) fn quantize_static(_: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let a = x.get(0)?;
    x.float(0)?;
    for i in 1..3 {
        x.f32(i)?;
        x.opt_shape(i, &[1])?;
    }
    Ok(vec![OutSpec { shape: Some(a.shape), dtype: OutDtype::Fixed(DType::I8) }])
}

pub(crate) fn quantize_dynamic(_: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let a = x.get(0)?;
    x.float(0)?;
    x.check(0, a.rank() > 0, || "give it at least one dim".into())?;
    Ok(vec![
        OutSpec { shape: Some(a.shape), dtype: OutDtype::Fixed(DType::I8) },
        OutSpec::new(&a.shape[..a.rank() - 1], OutDtype::Fixed(DType::F32))?,
    ])
}
