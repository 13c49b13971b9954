//! Operators that work row by row: norms, softmax, reductions, choices.

use super::Decompose;
use super::pieces::{PLAIN, Pieces, given, required};
use crate::attrs::*;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::TensorId;
use crate::op::Op;
use crate::shape::{Dims, TensorDesc};

pub(super) const fn add_rms_norm() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::AddRmsNorm(attrs) = op else { return Ok(false) };
        let sum = g.add_as(Op::Add(PLAIN), &inputs[..2], DType::F32)?[0];
        // The sum may be written in place of an operand, so it is written once nothing reads that operand any more.
        g.add_into(Op::Cast(PLAIN), &[Some(sum)], &outputs[..1])?;
        g.add_into(Op::RmsNorm(*attrs), &[Some(sum), given(inputs, 2)], &outputs[1..])?;
        Ok(true)
    })
}

/// `rms_norm(x − mean)·w + b`: the mean square of what is left is the variance.
pub(super) const fn layer_norm() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::LayerNorm(attrs) = op else { return Ok(false) };
        let (p, x) = (&mut Pieces(g), required(inputs, 0));
        let mean = p.reduce(ReduceKind::Mean, x)?;
        let centred = p.sub(x, mean)?;
        let norm = Op::RmsNorm(NormAttrs { eps: attrs.eps, ..Default::default() });
        let operands = [Some(centred), given(inputs, 1)];
        match given(inputs, 2) {
            None => g.add_into(norm, &operands, outputs)?,
            Some(b) => {
                let y = g.add_as(norm, &operands, DType::F32)?[0];
                g.add_into(Op::Add(PLAIN), &[Some(y), Some(b)], outputs)?
            }
        };
        Ok(true)
    })
}

/// `e^(s − m) / Σ e^(s − m)`, s the scores and m the largest of the row.
///
/// A row without a score above −∞ has m cut to the lowest finite number, so that every exponential is 0, and the sum, which
/// is at least 1 in every other row, cut to 1. What a causal row does not see is −∞ before and 0 after, whatever it was.
pub(super) const fn softmax() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::Softmax(attrs) = op else { return Ok(false) };
        let p = &mut Pieces(g);
        let mut scores = required(inputs, 0);
        if attrs.scale != 0.0 {
            scores = p.scaled(scores, attrs.scale)?;
        }
        if let Some(mask) = given(inputs, 1) {
            scores = p.add(scores, mask)?;
        }
        let hidden = if attrs.causal { Hidden::of(&p.shape(scores))? } else { None };
        if let Some(hidden) = &hidden {
            let seen = hidden.replaced(p, scores, f32::NEG_INFINITY)?;
            scores = p.0.op1(Op::Copy(PLAIN), &[seen])?;
        }
        let most = p.reduce(ReduceKind::Max, scores)?;
        let most = p.at_least(most, f32::MIN)?;
        let less = p.sub(scores, most)?;
        let exp = p.exp(less)?;
        let sum = p.reduce(ReduceKind::Sum, exp)?;
        let sum = p.at_least(sum, 1.0)?;
        match hidden {
            None => p.write(Op::Div(PLAIN), &[exp, sum], outputs[0])?,
            Some(hidden) => {
                let dtype = p.desc(outputs[0]).dtype;
                let y = p.0.add_as(Op::Div(PLAIN), &[Some(exp), Some(sum)], dtype)?[0];
                let seen = hidden.replaced(p, y, 0.0)?;
                p.write(Op::Copy(PLAIN), &[seen], outputs[0])?;
            }
        }
        Ok(true)
    })
}

/// What the rows of `[.., Tq, Tk]` do not see when row i sees columns j ≤ Tk − Tq + i.
///
/// A matrix is copied to where the step from row to row is one less than the width w = Tq + Tk − 1 of another matrix over the
/// same bytes: element (i, j) of the one lies in column j − i of the other, so that a diagonal becomes a column, and all that
/// is not seen the box of its last Tq − 1 columns. Copies alone, so that not even NaN gets through.
struct Hidden {
    shape: Dims,
    batch: usize,
    rows: usize,
    columns: usize,
    width: usize,
}

impl Hidden {
    /// Nothing where every row sees all.
    fn of(shape: &Dims) -> Result<Option<Hidden>> {
        let rank = shape.len();
        let (rows, columns) = (shape[rank - 2], shape[rank - 1]);
        let batch = Dims::new(&shape[..rank - 2])?.elements()?;
        let width = rows + columns - 1;
        Ok((rows > 1).then_some(Hidden { shape: *shape, batch, rows, columns, width }))
    }

    /// The tensor with `value` where a row does not see: a window of its shape onto a new temporary, in its dtype.
    fn replaced(&self, p: &mut Pieces<'_>, x: TensorId, value: f32) -> Result<TensorId> {
        let Hidden { shape, batch, rows, columns, width } = *self;
        let dtype = p.desc(x).dtype;
        let room = width.checked_mul(rows).and_then(|n| n.checked_add(rows));
        let room = room.ok_or_else(|| {
            Error::invalid("causal softmax", format!("{shape} has more elements than fit"), "use a smaller shape")
        })?;
        let base = p.0.temporary(format!("causal.{}", p.0.nodes().len()), TensorDesc::new(dtype, &[batch, room])?);
        let rank = shape.len();
        let mut strides = [0; crate::MAX_RANK];
        (strides[rank - 1], strides[rank - 2]) = (1, width - 1);
        let mut step = room;
        for axis in (0..rank - 2).rev() {
            strides[axis] = step;
            step = step.saturating_mul(shape[axis].max(1));
        }
        let size = dtype.block_bytes();
        let cells = TensorDesc::strided(dtype, &shape, &strides[..rank])?;
        let cells = p.0.view(base, cells, (rows - 1) * size)?;
        let unseen = TensorDesc::strided(dtype, &[batch, rows, rows - 1], &[room, width, 1])?;
        let unseen = p.0.view(base, unseen, columns * size)?;
        p.write(Op::Copy(PLAIN), &[x], cells)?;
        let one = p.filled(dtype, &[1], value)?;
        let all = TensorDesc::strided(dtype, &[batch, rows, rows - 1], &[0, 0, 0])?;
        let all = p.0.view(one, all, 0)?;
        p.write(Op::Copy(PLAIN), &[all], unseen)?;
        Ok(cells)
    }
}

/// The mean from the sum, the sum from a product with ones, the largest from the first of the largest.
pub(super) const fn reduce() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::Reduce(attrs) = op else { return Ok(false) };
        let (p, x, out) = (&mut Pieces(g), required(inputs, 0), outputs[0]);
        let shape = p.shape(out);
        let n = p.shape(x)[attrs.axis as usize];
        match attrs.kind {
            ReduceKind::Mean => {
                let sum = p.f32(Op::Reduce(ReduceAttrs { kind: ReduceKind::Sum, ..*attrs }), &[x])?;
                let count = p.scalar(n as f32)?;
                p.write(Op::Div(PLAIN), &[sum, count], out)?;
            }
            ReduceKind::Sum => {
                let rows = p.with_axis_last(x, attrs.axis as usize)?;
                let rows = p.plain(rows)?;
                let rows = p.0.reshape(rows, &[shape.elements()?, n])?;
                let ones = p.filled(DType::F32, &[1, n], 1.0)?;
                let sums = p.f32(Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() }), &[rows, ones])?;
                let sums = p.0.reshape(sums, &shape)?;
                p.move_into(sums, out)?;
            }
            ReduceKind::Max => {
                let rows = p.with_axis_last(x, attrs.axis as usize)?;
                let largest = p.0.add(Op::TopK(TopKAttrs { k: 1 }), &[Some(rows)])?[0];
                let largest = p.0.reshape(largest, &shape)?;
                p.move_into(largest, out)?;
            }
        }
        Ok(true)
    })
}

/// The index of the first of the largest.
pub(super) const fn argmax() -> Option<Decompose> {
    Some(|_, g, inputs, outputs| {
        let p = &mut Pieces(g);
        let indices = p.0.add(Op::TopK(TopKAttrs { k: 1 }), &[Some(required(inputs, 0))])?[1];
        let shape = p.shape(outputs[0]);
        let indices = p.0.reshape(indices, &shape)?;
        p.write(Op::Copy(PLAIN), &[indices], outputs[0])?;
        Ok(true)
    })
}
