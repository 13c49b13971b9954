//! A graph while the pieces of one operator are appended to it.

use crate::attrs::*;
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::op::Op;
use crate::shape::{Dims, TensorDesc};

/// The attributes of operators that have none.
pub(super) const PLAIN: NoAttrs = NoAttrs {};

/// Appends pieces to a graph. Unless a method says otherwise its result is a new f32 temporary, row-major without gaps.
pub(super) struct Pieces<'a>(pub(super) &'a mut Graph);

impl Pieces<'_> {
    pub(super) fn desc(&self, id: TensorId) -> TensorDesc {
        self.0.desc(id).clone()
    }

    pub(super) fn shape(&self, id: TensorId) -> Dims {
        self.0.desc(id).shape
    }

    /// The first result of an operator, in f32.
    pub(super) fn f32(&mut self, op: Op, inputs: &[TensorId]) -> Result<TensorId> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        Ok(self.0.add_as(op, &inputs, DType::F32)?[0])
    }

    /// Writes a result into a tensor that is there.
    pub(super) fn write(&mut self, op: Op, inputs: &[TensorId], output: TensorId) -> Result<()> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.0.add_into(op, &inputs, &[output]).map(|_| ())
    }

    pub(super) fn filled(&mut self, dtype: DType, shape: &[usize], value: f32) -> Result<TensorId> {
        let id = self.0.temporary(format!("fill.{}", self.0.nodes().len()), TensorDesc::new(dtype, shape)?);
        self.write(Op::Fill(FillAttrs { value }), &[], id)?;
        Ok(id)
    }

    /// A tensor of rank 0, which broadcasts with all.
    pub(super) fn scalar(&mut self, value: f32) -> Result<TensorId> {
        self.filled(DType::F32, &[], value)
    }

    pub(super) fn add(&mut self, a: TensorId, b: TensorId) -> Result<TensorId> {
        self.f32(Op::Add(PLAIN), &[a, b])
    }

    pub(super) fn sub(&mut self, a: TensorId, b: TensorId) -> Result<TensorId> {
        self.f32(Op::Sub(PLAIN), &[a, b])
    }

    pub(super) fn mul(&mut self, a: TensorId, b: TensorId) -> Result<TensorId> {
        self.f32(Op::Mul(PLAIN), &[a, b])
    }

    pub(super) fn div(&mut self, a: TensorId, b: TensorId) -> Result<TensorId> {
        self.f32(Op::Div(PLAIN), &[a, b])
    }

    pub(super) fn exp(&mut self, x: TensorId) -> Result<TensorId> {
        self.f32(Op::Exp(PLAIN), &[x])
    }

    pub(super) fn scaled(&mut self, x: TensorId, factor: f32) -> Result<TensorId> {
        let factor = self.scalar(factor)?;
        self.mul(x, factor)
    }

    pub(super) fn plus(&mut self, x: TensorId, value: f32) -> Result<TensorId> {
        let value = self.scalar(value)?;
        self.add(x, value)
    }

    /// The tensor in f32 without gaps: itself where it is so already.
    pub(super) fn plain(&mut self, x: TensorId) -> Result<TensorId> {
        let desc = self.0.desc(x);
        if desc.dtype != DType::F32 {
            return self.f32(Op::Cast(PLAIN), &[x]);
        }
        if desc.is_contiguous() { Ok(x) } else { self.0.op1(Op::Copy(PLAIN), &[x]) }
    }

    /// Writes a tensor of the same shape and any plain dtype into one that is there.
    pub(super) fn move_into(&mut self, x: TensorId, output: TensorId) -> Result<()> {
        let same = self.0.desc(x).dtype == self.0.desc(output).dtype;
        self.write(if same { Op::Copy(PLAIN) } else { Op::Cast(PLAIN) }, &[x], output)
    }

    /// Part of a tensor along an axis, in the tensor's dtype.
    pub(super) fn slice(&mut self, x: TensorId, axis: usize, start: usize, len: usize) -> Result<TensorId> {
        let attrs = SliceAttrs { axis: axis as u32, start: start as u32, len: len as u32 };
        self.0.op1(Op::Slice(attrs), &[x])
    }

    /// Tensors of one dtype one after the other along an axis, in their dtype.
    pub(super) fn concat(&mut self, parts: &[TensorId], axis: usize) -> Result<TensorId> {
        self.0.op1(Op::Concat(ConcatAttrs { axis: axis as u32 }), parts)
    }

    /// A reduction along the last axis, which stays with size 1.
    pub(super) fn reduce(&mut self, kind: ReduceKind, x: TensorId) -> Result<TensorId> {
        let axis = self.shape(x).len() as u32 - 1;
        self.f32(Op::Reduce(ReduceAttrs { kind, axis, keep_dim: true }), &[x])
    }

    /// `max(x, value)` of an f32 tensor without gaps; NaN stays. A reduction over pairs is the one operator of the list
    /// that takes the larger of two without rounding either.
    pub(super) fn at_least(&mut self, x: TensorId, value: f32) -> Result<TensorId> {
        let shape = self.shape(x);
        let column = self.0.reshape(x, &[shape.elements()?, 1])?;
        let bound = self.filled(DType::F32, &[shape.elements()?, 1], value)?;
        let pairs = self.concat(&[column, bound], 1)?;
        let larger = self.reduce(ReduceKind::Max, pairs)?;
        self.0.reshape(larger, &shape)
    }

    /// `min(x, value)` of an f32 tensor without gaps; NaN stays.
    pub(super) fn at_most(&mut self, x: TensorId, value: f32) -> Result<TensorId> {
        let negative = self.scaled(x, -1.0)?;
        let least = self.at_least(negative, -value)?;
        self.scaled(least, -1.0)
    }

    /// The tensor with an axis moved to the end, in its dtype.
    pub(super) fn with_axis_last(&mut self, x: TensorId, axis: usize) -> Result<TensorId> {
        let rank = self.shape(x).len();
        if axis + 1 == rank {
            return Ok(x);
        }
        let axes: Vec<usize> = (0..rank).filter(|&a| a != axis).chain([axis]).collect();
        let perm = Perm::new(&axes).expect("every axis is named once");
        self.0.op1(Op::Transpose(TransposeAttrs { perm }), &[x])
    }
}

/// An operand that the list does not mark as optional.
pub(super) fn required(inputs: &[Option<TensorId>], index: usize) -> TensorId {
    given(inputs, index).expect("the graph checked that required operands are given")
}

/// An operand, where it is given.
pub(super) fn given(inputs: &[Option<TensorId>], index: usize) -> Option<TensorId> {
    inputs.get(index).copied().flatten()
}
