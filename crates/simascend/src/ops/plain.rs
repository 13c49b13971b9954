//! Operators that work element by element, and those that move.

use qiao_core::{DType, GeluAttrs, GeluForm, NoAttrs, Op};
use qiao_reference::value::Output;

use super::{FLOATS, Handle, among, by_truth, same_shape, store_all};
use crate::codes::{NN_INVALID, dtype};
use crate::executors::{Operands, Prepared};
use crate::tensors::Shared;
use crate::world::{Refused, refused};

pub(super) const SILU: Op = Op::Silu(NoAttrs {});
pub(super) const RELU: Op = Op::Relu(NoAttrs {});
pub(super) const SIGMOID: Op = Op::Sigmoid(NoAttrs {});
pub(super) const TANH: Op = Op::Tanh(NoAttrs {});
pub(super) const EXP: Op = Op::Exp(NoAttrs {});

const MOVED: &[DType] = &[
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::Bool,
    DType::F64,
];

pub(super) fn copy(o: &mut Operands<'_>, to: Handle, from: Handle) -> Result<Prepared, Refused> {
    let (to, from) = (o.tensor(to, "selfRef")?, o.tensor(from, "src")?);
    among(o, &to, "selfRef", MOVED)?;
    among(o, &from, "src", &[to.dtype])?;
    Ok(Prepared::new(move |memory| {
        let value = from.load(memory)?;
        if to.dtype == DType::I64 || to.dtype == DType::F64 || to.view == from.view {
            // Bit for bit.
            let desc = from.desc();
            let (_, bytes) =
                qiao_reference::value::load_exact(&desc, from.bytes(memory)?).map_err(|e| e.to_string())?;
            return to.store(memory, &Output::Exact(bytes));
        }
        let values = value.broadcast(&to.view);
        store_all(&to, memory, values)
    }))
}

pub(super) fn cast(o: &mut Operands<'_>, x: Handle, number: i32, out: Handle) -> Result<Prepared, Refused> {
    let (x, out) = (o.tensor(x, "self")?, o.tensor(out, "out")?);
    among(o, &x, "self", MOVED)?;
    among(o, &out, "out", MOVED)?;
    same_shape(&x, &out, "self and out")?;
    if dtype(number) != Some(out.dtype) {
        return refused(NN_INVALID, format!("dtype {number}, and out is {}", out.dtype));
    }
    Ok(by_truth(Op::Cast(NoAttrs {}), vec![Some(x)], vec![out]))
}

pub(super) fn fill(o: &mut Operands<'_>, to: Handle, value: Handle) -> Result<Prepared, Refused> {
    let (to, value) = (o.tensor(to, "selfRef")?, o.scalar(value, "value")?);
    among(o, &to, "selfRef", MOVED)?;
    Ok(Prepared::new(move |memory| {
        let all = vec![value; to.elements()];
        store_all(&to, memory, all)
    }))
}

fn with_alpha(
    o: &mut Operands<'_>,
    a: Handle,
    b: Handle,
    alpha: Handle,
    out: Handle,
    sign: f64,
) -> Result<Prepared, Refused> {
    let alpha = o.scalar(alpha, "alpha")? * sign;
    if alpha != sign {
        return refused(NN_INVALID, "this library knows alpha 1 only");
    }
    if sign > 0.0 { binary(o, a, b, out, |a, b| a + b) } else { binary(o, a, b, out, |a, b| a - b) }
}

pub(super) fn add(o: &mut Operands<'_>, a: Handle, b: Handle, alpha: Handle, out: Handle) -> Result<Prepared, Refused> {
    with_alpha(o, a, b, alpha, out, 1.0)
}

pub(super) fn sub(o: &mut Operands<'_>, a: Handle, b: Handle, alpha: Handle, out: Handle) -> Result<Prepared, Refused> {
    with_alpha(o, a, b, alpha, out, -1.0)
}

/// The shape to which two broadcast, if they do.
fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    let dim = |i| match (at(a, i), at(b, i)) {
        (1, d) | (d, 1) => Some(d),
        (x, y) => (x == y).then_some(x),
    };
    (0..rank).map(dim).collect()
}

pub(super) fn binary(
    o: &mut Operands<'_>,
    a: Handle,
    b: Handle,
    out: Handle,
    f: fn(f64, f64) -> f64,
) -> Result<Prepared, Refused> {
    let (a, b, out) = (o.tensor(a, "self")?, o.tensor(b, "other")?, o.tensor(out, "out")?);
    for (tensor, what) in [(&a, "self"), (&b, "other"), (&out, "out")] {
        among(o, tensor, what, FLOATS)?;
    }
    both(a, b, out, f)
}

fn both(a: Shared, b: Shared, out: Shared, f: fn(f64, f64) -> f64) -> Result<Prepared, Refused> {
    if broadcast(&a.view, &b.view).is_none_or(|s| *s != *out.view) {
        return refused(NN_INVALID, format!("{:?} and {:?} do not broadcast to {:?}", a.view, b.view, out.view));
    }
    Ok(Prepared::new(move |memory| {
        let (x, y) = (a.load(memory)?.broadcast(&out.view), b.load(memory)?.broadcast(&out.view));
        store_all(&out, memory, x.into_iter().zip(y).map(|(x, y)| f(x, y)).collect())
    }))
}

pub(super) fn muls(o: &mut Operands<'_>, a: Handle, by: Handle, out: Handle) -> Result<Prepared, Refused> {
    let (a, by, out) = (o.tensor(a, "self")?, o.scalar(by, "other")?, o.tensor(out, "out")?);
    among(o, &a, "self", FLOATS)?;
    among(o, &out, "out", FLOATS)?;
    same_shape(&a, &out, "self and out")?;
    Ok(Prepared::new(move |memory| {
        let values = a.load(memory)?.data;
        store_all(&out, memory, values.into_iter().map(|v| v * by).collect())
    }))
}

pub(super) fn unary(o: &mut Operands<'_>, op: Op, x: Handle, out: Handle) -> Result<Prepared, Refused> {
    let (x, out) = (o.tensor(x, "self")?, o.tensor(out, "out")?);
    among(o, &x, "self", FLOATS)?;
    among(o, &out, "out", &[x.dtype])?;
    same_shape(&x, &out, "self and out")?;
    Ok(by_truth(op, vec![Some(x)], vec![out]))
}

pub(super) fn gelu(o: &mut Operands<'_>, x: Handle, approximate: i64, out: Handle) -> Result<Prepared, Refused> {
    let form = match approximate {
        0 => GeluForm::Erf,
        1 => GeluForm::Tanh,
        other => return refused(NN_INVALID, format!("approximate {other}")),
    };
    unary(o, Op::Gelu(GeluAttrs { form }), x, out)
}

pub(super) fn clamp(
    o: &mut Operands<'_>,
    x: Handle,
    least: Handle,
    most: Handle,
    out: Handle,
) -> Result<Prepared, Refused> {
    let (least, most) = (o.scalar(least, "clipValueMin")?, o.scalar(most, "clipValueMax")?);
    let (x, out) = (o.tensor(x, "self")?, o.tensor(out, "out")?);
    among(o, &x, "self", MOVED)?;
    among(o, &out, "out", &[x.dtype])?;
    same_shape(&x, &out, "self and out")?;
    Ok(Prepared::new(move |memory| {
        let values = x.load(memory)?.data;
        store_all(&out, memory, values.into_iter().map(|v| v.min(most).max(least)).collect())
    }))
}

pub(super) fn ne(o: &mut Operands<'_>, a: Handle, b: Handle, out: Handle) -> Result<Prepared, Refused> {
    let (a, b, out) = (o.tensor(a, "self")?, o.tensor(b, "other")?, o.tensor(out, "out")?);
    among(o, &a, "self", MOVED)?;
    among(o, &b, "other", &[a.dtype])?;
    among(o, &out, "out", &[DType::Bool])?;
    both(a, b, out, |a, b| f64::from(u8::from(a != b)))
}

pub(super) fn masked_fill(o: &mut Operands<'_>, to: Handle, mask: Handle, value: Handle) -> Result<Prepared, Refused> {
    let (to, mask, value) = (o.tensor(to, "selfRef")?, o.tensor(mask, "mask")?, o.scalar(value, "value")?);
    among(o, &to, "selfRef", &[DType::Bool, DType::I8, DType::I32, DType::I64, DType::F32, DType::F16, DType::BF16])?;
    among(o, &mask, "mask", &[DType::Bool])?;
    if broadcast(&to.view, &mask.view).is_none_or(|s| *s != *to.view) {
        return refused(NN_INVALID, format!("a mask {:?} for {:?}", mask.view, to.view));
    }
    Ok(Prepared::new(move |memory| {
        let hidden = mask.load(memory)?.broadcast(&to.view);
        let values = to.load(memory)?.data;
        let chosen = values.into_iter().zip(hidden).map(|(v, m)| if m != 0.0 { value } else { v });
        let chosen = chosen.collect();
        store_all(&to, memory, chosen)
    }))
}

pub(super) fn cat(o: &mut Operands<'_>, parts: Handle, dim: i64, out: Handle) -> Result<Prepared, Refused> {
    let (parts, out) = (o.list(parts, "tensors")?, o.tensor(out, "out")?);
    for part in &parts {
        among(o, part, "a tensor", &[out.dtype])?;
    }
    among(o, &out, "out", MOVED)?;
    let rank = out.view.len() as i64;
    let axis = if dim < 0 { dim + rank } else { dim };
    if !(0..rank).contains(&axis) {
        return refused(NN_INVALID, format!("dim {dim} of {rank}"));
    }
    let op = Op::Concat(qiao_core::ConcatAttrs { axis: axis as u32 });
    Ok(by_truth(op, parts.into_iter().map(Some).collect(), vec![out]))
}
