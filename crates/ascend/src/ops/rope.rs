//! The row of rope: rows of cos and sin by position, each element's pair spread over the head, and the rotation in f32.

use qiao_core::{Accept, DType, NodeView, Op, OpKind, Property, Reason, Result, RopeStyle, Row, Rule, TensorDesc};

use super::accept::{FLOATS, among, dense, plain};
use super::launcher::{At, Launcher};
use super::moves::Rows;
use super::{Launch, row, row_in};
use crate::codes::data_type;
use crate::operators::{Calls, Tensor};

const NEEDS: &[&str] = &[
    "aclnnRotaryPositionEmbedding",
    "aclnnInplaceCopy",
    "aclnnCast",
    "aclnnClamp",
    "aclnnEmbedding",
    "aclnnNeTensor",
    "aclnnInplaceMaskedFillScalar",
];

/// Elements of a head that the operator takes at most.
const WIDEST: usize = 896;

pub(super) fn rows() -> Vec<Row<Launch>> {
    vec![row_in(row(OpKind::Rope, "rope", NEEDS, accepts, rope), room)]
}

fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let Op::Rope(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    plain(node, None)?;
    let x = node.required(0);
    let d = x.shape.last_dim();
    among(node, 0, FLOATS)?;
    among(node, 1, &[DType::I32])?;
    among(node, 2, &[DType::F32])?;
    among(node, 3, &[DType::F32])?;
    among(node, 4, &[x.dtype])?;
    (0..5).try_for_each(|i| match node.operands().nth(i) {
        Some((i, desc)) => dense(i, desc),
        None => Ok(()),
    })?;
    // A part of a head is the pieces' work.
    if attrs.rotary_dim != 0 && attrs.rotary_dim as usize != d {
        return Err(Reason::attribute("rotary_dim", Rule::Equal, attrs.rotary_dim as usize, d));
    }
    if d > WIDEST {
        return Err(Reason::operand(0, Property::Dim(2), Rule::AtMost, d, WIDEST));
    }
    Ok(Accept::Native)
}

/// Room for positions in range, which were not, rows of cos and sin, the same for every element of a head, x and y in f32.
fn room(node: &NodeView<'_>) -> Vec<usize> {
    let x = node.required(0);
    let (t, d) = (x.shape[0], x.shape.last_dim());
    let wide = if x.dtype == DType::F32 { 0 } else { 4 * x.elements() };
    vec![4 * t, t, 2 * t * d, 2 * t * d, 4 * t * d, 4 * t * d, wide, wide]
}

/// Spreads a row of one value a pair over the elements of a head.
fn spread(l: &mut Launcher<'_>, from: usize, to: usize, t: usize, d: usize, style: RopeStyle) -> Result<Tensor> {
    let (pairs, elements) = match style {
        RopeStyle::HalfSplit => ([t, 1, d / 2], [t, 2, d / 2]),
        RopeStyle::Interleaved => ([t, d / 2, 1], [t, d / 2, 2]),
    };
    let (from, all) = (l.room(from, DType::F32, &pairs)?, l.room(to, DType::F32, &elements)?);
    l.copy(all, from)?;
    l.room(to, DType::F32, &[1, t, 1, d])
}

fn rope(l: &mut Launcher<'_>, node: &NodeView<'_>, room: &[usize]) -> Result<()> {
    let Op::Rope(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    let x = node.required(0);
    let [t, h, d] = x.shape[..] else { unreachable!("the rule asks for [T, H, D]") };
    let positions = node.node.inputs[1].expect("the graph checked that positions are given");
    let rows = Rows::of(l, positions, node.required(2).shape[0], &room[..2])?;
    let mut angles = [std::ptr::null(); 2];
    for (i, angle) in angles.iter_mut().enumerate() {
        let (table, taken) = (l.input(node, 2 + i)?, l.room(room[2 + i], DType::F32, &[t, d / 2])?);
        rows.take(l, table, taken)?;
        *angle = spread(l, room[2 + i], room[4 + i], t, d, attrs.style)?;
    }
    let mode = i64::from(attrs.style == RopeStyle::Interleaved);
    let four = |dtype| TensorDesc::new(dtype, &[1, t, h, d]);
    let (from, to) =
        (l.at(node.node.inputs[0].expect("the graph checked that x is given")), l.at(node.node.outputs[0]));
    if x.dtype == DType::F32 {
        let (x, y) = (l.view(from, &four(DType::F32)?)?, l.view(to, &four(DType::F32)?)?);
        return l.rotary(x, angles[0], angles[1], mode, y);
    }
    let at = |l: &Launcher<'_>, offset| At { base: l.scratch(offset), holds: x.elements(), offset: 0 };
    let (narrow, wide) = (l.view(from, &four(x.dtype)?)?, l.view(at(l, room[6]), &four(DType::F32)?)?);
    let (turned, y) = (l.view(at(l, room[7]), &four(DType::F32)?)?, l.view(to, &four(x.dtype)?)?);
    l.cast(narrow, data_type(DType::F32).unwrap_or(0), wide)?;
    l.rotary(wide, angles[0], angles[1], mode, turned)?;
    l.cast(turned, data_type(x.dtype).unwrap_or(0), y)
}
