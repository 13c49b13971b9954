//! Rules of operators that move elements and of those that work element by element.

use super::{Operands, OutDtype, OutSpec, bad_attr, non_negative};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::Op;
use crate::shape::{Dims, TensorDesc};

pub(crate) fn same(_: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    Ok(vec![OutSpec::like(x.get(0)?)])
}

pub(crate) fn cast(_: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let a = x.get(0)?;
    let dtype = if a.dtype.is_block() { OutDtype::Float(DType::F32) } else { OutDtype::Any(DType::F32) };
    Ok(vec![OutSpec { shape: Some(a.shape), dtype }])
}

pub(crate) fn fill(_: &Op, _: &Operands<'_>) -> Result<Vec<OutSpec>> {
    Ok(vec![OutSpec { shape: None, dtype: OutDtype::Any(DType::F32) }])
}

pub(crate) fn gather_rows(_: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let (table, ids) = (x.rank(0, 2)?, x.get(1)?);
    x.index(1)?;
    let mut shape = ids.shape.to_vec();
    shape.push(table.shape[1]);
    let dtype = match table.dtype {
        d if d.is_block() => OutDtype::Float(DType::F32),
        d if d.is_float() => OutDtype::Float(d),
        d => OutDtype::Fixed(d),
    };
    Ok(vec![OutSpec::new(&shape, dtype)?])
}

/// The shape that two broadcast to, by the rule of numpy.
pub(crate) fn broadcast_shape(a: &Dims, b: &Dims) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |d: &Dims, i: usize| if i + d.len() < rank { 1 } else { d[i + d.len() - rank] };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (m, n) if m == n => Some(m),
            (1, n) => Some(n),
            (m, 1) => Some(m),
            _ => None,
        })
        .collect()
}

pub(crate) fn broadcast(_: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let (a, b) = (x.get(0)?, x.get(1)?);
    x.float(0)?;
    x.float(1)?;
    let shape = broadcast_shape(&a.shape, &b.shape)
        .ok_or_else(|| x.bad(1, format!("give it a shape that broadcasts with {}", a.shape)))?;
    Ok(vec![OutSpec::new(&shape, OutDtype::Float(a.dtype))?])
}

pub(crate) fn unary(_: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    x.float(0)?;
    let a = x.get(0)?;
    Ok(vec![OutSpec { shape: Some(a.shape), dtype: OutDtype::Float(a.dtype) }])
}

pub(crate) fn silu_mul(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::SiluMul(attrs) = op else { unreachable!("the list pairs silu_mul with its rule") };
    non_negative(x.kind, "clamp", attrs.clamp)?;
    let a = x.get(0)?;
    x.float(0)?;
    x.float(1)?;
    if x.opt(1).is_some() {
        x.shape(1, &a.shape)?;
        return Ok(vec![OutSpec { shape: Some(a.shape), dtype: OutDtype::Float(a.dtype) }]);
    }
    x.check(0, a.rank() > 0 && a.shape.last_dim() % 2 == 0, || {
        "give it an even innermost dim, or a second operand".into()
    })?;
    let mut shape = a.shape;
    shape.set(a.rank() - 1, a.shape.last_dim() / 2);
    Ok(vec![OutSpec { shape: Some(shape), dtype: OutDtype::Float(a.dtype) }])
}

fn axis_of(x: &Operands<'_>, a: &TensorDesc, axis: u32) -> Result<usize> {
    if (axis as usize) < a.rank() {
        Ok(axis as usize)
    } else {
        Err(bad_attr(x.kind, "axis", axis, format!("use an axis below the rank, {}", a.rank())))
    }
}

pub(crate) fn concat(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::Concat(attrs) = op else { unreachable!("the list pairs concat with its rule") };
    let first = x.get(0)?;
    let axis = axis_of(x, first, attrs.axis)?;
    let mut shape = first.shape;
    for i in 1..x.descs.len() {
        let b = x.get(i)?;
        let fits = b.dtype == first.dtype
            && b.rank() == first.rank()
            && (0..b.rank()).all(|d| d == axis || b.shape[d] == first.shape[d]);
        x.check(i, fits, || format!("give it dtype and shape of {first}, free along axis {axis}"))?;
        let sum = shape[axis].checked_add(b.shape[axis]);
        shape.set(axis, sum.ok_or_else(|| x.bad(i, "give it fewer elements along the axis"))?);
    }
    Ok(vec![OutSpec { shape: Some(shape), dtype: OutDtype::Fixed(first.dtype) }])
}

pub(crate) fn split(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::Split(attrs) = op else { unreachable!("the list pairs split with its rule") };
    let a = x.get(0)?;
    let axis = axis_of(x, a, attrs.axis)?;
    let parts = attrs.parts as usize;
    if parts == 0 || parts > 1024 || a.shape[axis] % parts != 0 {
        let mend = format!("use 1 to 1024 parts that divide the axis, {}", a.shape[axis]);
        return Err(bad_attr(x.kind, "parts", parts, mend));
    }
    let mut shape = a.shape;
    shape.set(axis, a.shape[axis] / parts);
    Ok(vec![OutSpec { shape: Some(shape), dtype: OutDtype::Fixed(a.dtype) }; parts])
}

pub(crate) fn slice(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::Slice(attrs) = op else { unreachable!("the list pairs slice with its rule") };
    let a = x.get(0)?;
    let axis = axis_of(x, a, attrs.axis)?;
    if attrs.start as usize + attrs.len as usize > a.shape[axis] {
        let found = format!("{} + {}", attrs.start, attrs.len);
        return Err(bad_attr(x.kind, "start + len", found, format!("stay within the axis, {}", a.shape[axis])));
    }
    let block = a.dtype.block_elems();
    let whole = axis + 1 < a.rank()
        || (attrs.start as usize).is_multiple_of(block) && (attrs.len as usize).is_multiple_of(block);
    x.check(0, whole, || format!("cut {} along its innermost axis at multiples of {block}", a.dtype))?;
    let mut shape = a.shape;
    shape.set(axis, attrs.len as usize);
    Ok(vec![OutSpec { shape: Some(shape), dtype: OutDtype::Fixed(a.dtype) }])
}

pub(crate) fn transpose(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::Transpose(attrs) = op else { unreachable!("the list pairs transpose with its rule") };
    let a = x.get(0)?;
    x.check(0, !a.dtype.is_packed(), || "give it a dtype whose elements do not share bytes".into())?;
    let axes = attrs.perm.axes(a.rank()).ok_or_else(|| {
        Error::invalid(
            format!("{} attribute perm", x.kind),
            format!("{:#x}", attrs.perm.0),
            format!("name each of the {} axes once", a.rank()),
        )
    })?;
    let shape: Vec<usize> = axes.iter().map(|&i| a.shape[i]).collect();
    Ok(vec![OutSpec::new(&shape, OutDtype::Fixed(a.dtype))?])
}
