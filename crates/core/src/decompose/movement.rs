//! Operators that move elements: each is a `copy` from or into a window. And rope, which is mostly that.

use super::Decompose;
use super::pieces::{PLAIN, Pieces, required};
use crate::attrs::*;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::op::Op;
use crate::shape::{Dims, TensorDesc};

/// The part of a tensor that has this shape and starts at this index along an axis.
fn window(g: &mut Graph, of: TensorId, shape: Dims, axis: usize, start: usize) -> Result<TensorId> {
    let outer = g.desc(of).clone();
    let desc = TensorDesc { shape, ..outer };
    // An empty part may begin behind the last element.
    let skipped = if desc.elements() == 0 { Some(0) } else { start.checked_mul(desc.strides[axis]) };
    let offset = skipped.and_then(|n| desc.dtype.bytes_for(n)).ok_or_else(|| {
        Error::invalid(format!("window at {start} of axis {axis}"), format!("{desc}"), "stay within the tensor")
    })?;
    g.view(of, desc, offset)
}

pub(super) const fn slice() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::Slice(attrs) = op else { return Ok(false) };
        let shape = g.desc(outputs[0]).shape;
        let part = window(g, required(inputs, 0), shape, attrs.axis as usize, attrs.start as usize)?;
        Pieces(g).write(Op::Copy(PLAIN), &[part], outputs[0])?;
        Ok(true)
    })
}

pub(super) const fn split() -> Option<Decompose> {
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

pub(super) const fn concat() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::Concat(attrs) = op else { return Ok(false) };
        let axis = attrs.axis as usize;
        let mut start = 0;
        for i in 0..inputs.len() {
            let part = required(inputs, i);
            let shape = g.desc(part).shape;
            let room = window(g, outputs[0], shape, axis, start)?;
            Pieces(g).write(Op::Copy(PLAIN), &[part], room)?;
            start += shape[axis];
        }
        Ok(true)
    })
}

pub(super) const fn transpose() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::Transpose(attrs) = op else { return Ok(false) };
        let x = required(inputs, 0);
        let desc = g.desc(x).clone();
        let axes = attrs.perm.axes(desc.rank()).expect("the graph checked the permutation");
        let turned = |dims: &Dims| Dims::new(&axes.iter().map(|&a| dims[a]).collect::<Vec<_>>());
        let desc = TensorDesc { shape: turned(&desc.shape)?, strides: turned(&desc.strides)?, ..desc };
        let view = g.view(x, desc, 0)?;
        Pieces(g).write(Op::Copy(PLAIN), &[view], outputs[0])?;
        Ok(true)
    })
}

/// The rotated span of each head as its two elements of every pair, `[T, H, rotary/2]` each.
fn pairs(p: &mut Pieces<'_>, style: RopeStyle, x: TensorId, start: usize, half: usize) -> Result<[TensorId; 2]> {
    if style == RopeStyle::HalfSplit {
        return Ok([p.slice(x, 2, start, half)?, p.slice(x, 2, start + half, half)?]);
    }
    let (tokens, heads) = (p.shape(x)[0], p.shape(x)[1]);
    let span = p.slice(x, 2, start, 2 * half)?;
    let span = p.0.reshape(span, &[tokens, heads, half, 2])?;
    let mut side = |i| {
        let one = p.slice(span, 3, i, 1)?;
        p.0.reshape(one, &[tokens, heads, half])
    };
    Ok([side(0)?, side(1)?])
}

/// `(a·cos − b·sin, b·cos + a·sin)` with the rows of the tables that the positions name; a position without a row names
/// one of NaN. What is not rotated passes.
pub(super) const fn rope() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::Rope(attrs) = op else { return Ok(false) };
        let [x, positions, cos, sin] = [0, 1, 2, 3].map(|i| required(inputs, i));
        let (out, p) = (outputs[0], &mut Pieces(g));
        let (dtype, [tokens, heads, d]) = (p.desc(out).dtype, [0, 1, 2].map(|i| p.shape(x)[i]));
        let rotary = if attrs.rotary_dim == 0 { d } else { attrs.rotary_dim as usize };
        let (start, half) = (attrs.offset as usize, rotary / 2);
        let row = |p: &mut Pieces<'_>, table| {
            let rows = p.f32(Op::GatherRows(PLAIN), &[table, positions])?;
            p.0.reshape(rows, &[tokens, 1, half])
        };
        let (cos, sin) = (row(p, cos)?, row(p, sin)?);
        let [a, b] = pairs(p, attrs.style, x, start, half)?;
        let (ac, bs, bc, as_) = (p.mul(a, cos)?, p.mul(b, sin)?, p.mul(b, cos)?, p.mul(a, sin)?);
        let a = p.0.add_as(Op::Sub(PLAIN), &[Some(ac), Some(bs)], dtype)?[0];
        let b = p.0.add_as(Op::Add(PLAIN), &[Some(bc), Some(as_)], dtype)?[0];
        let mut parts = vec![a, b];
        if attrs.style == RopeStyle::Interleaved {
            let column = |p: &mut Pieces<'_>, side| p.0.reshape(side, &[tokens, heads, half, 1]);
            let columns = [column(p, a)?, column(p, b)?];
            let joined = p.concat(&columns, 3)?;
            parts = vec![p.0.reshape(joined, &[tokens, heads, rotary])?];
        }
        let passed = |p: &mut Pieces<'_>, from: usize, len: usize| {
            let part = p.slice(x, 2, from, len)?;
            let same = p.desc(part).dtype == dtype;
            if same { Ok(part) } else { p.0.add_as(Op::Cast(PLAIN), &[Some(part)], dtype).map(|v| v[0]) }
        };
        if start > 0 {
            parts.insert(0, passed(p, 0, start)?);
        }
        if start + rotary < d {
            parts.push(passed(p, start + rotary, d - start - rotary)?);
        }
        p.write(Op::Concat(ConcatAttrs { axis: 2 }), &parts, out)?;
        Ok(true)
    })
}
