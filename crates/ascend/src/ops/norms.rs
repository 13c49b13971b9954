//! Rows of norms. Each operator writes the reciprocal root of every row beside its result, which nobody reads.

use qiao_core::{Accept, DType, NodeView, NormAttrs, Op, OpKind, Property, Reason, Result, Row, Rule, TensorId};

use super::accept::{FLOATS, all_of_one, among, plain, present, unset};
use super::launcher::Launcher;
use super::{Launch, row, row_in};
use crate::operators::{Calls, Tensor};

pub(super) fn rows() -> Vec<Row<Launch>> {
    vec![
        row_in(row(OpKind::RmsNorm, "rms_norm", &["aclnnRmsNorm"], plain_norm, rms_norm), roots),
        row_in(row(OpKind::RmsNorm, "gemma_rms_norm", &["aclnnGemmaRmsNorm"], offset_norm, rms_norm), roots),
        row_in(
            row(OpKind::AddRmsNorm, "add_rms_norm", &["aclnnAddRmsNorm", "aclnnInplaceCopy"], added_norm, add_rms_norm),
            |n| {
                let sum = n.required(0).elements() * n.required(0).dtype.block_bytes();
                let mut room = roots(n);
                room.push(if in_place(n) { sum } else { 0 });
                room
            },
        ),
        row(OpKind::LayerNorm, "layer_norm", &["aclnnLayerNorm"], layered, layer_norm),
    ]
}

/// Room for the reciprocal root of every row.
fn roots(node: &NodeView<'_>) -> Vec<usize> {
    vec![4 * node.required(0).shape.rows()]
}

fn norm_attrs(node: &NodeView<'_>) -> NormAttrs {
    match node.op() {
        Op::RmsNorm(attrs) | Op::AddRmsNorm(attrs) => *attrs,
        _ => unreachable!("the table pairs operators with rows"),
    }
}

/// What the norms ask for: the weight is operand `w`.
fn normed(node: &NodeView<'_>, w: usize) -> Result<(), Reason> {
    plain(node, None)?;
    present(node, w)?;
    unset("round_before_weight", norm_attrs(node).round_before_weight)
}

fn plain_norm(node: &NodeView<'_>) -> Result<Accept, Reason> {
    normed(node, 1)?;
    unset("weight_offset", norm_attrs(node).weight_offset != 0)?;
    let x = node.required(0).dtype;
    among(node, 0, FLOATS)?;
    among(node, 1, &[x, DType::F32])?;
    among(node, 2, &[x])?;
    Ok(Accept::Native)
}

fn offset_norm(node: &NodeView<'_>) -> Result<Accept, Reason> {
    normed(node, 1)?;
    let offset = norm_attrs(node).weight_offset;
    if offset != 1 {
        return Err(Reason::attribute("weight_offset", Rule::OneOf, offset as usize, "0, 1"));
    }
    all_of_one(node, FLOATS)?;
    Ok(Accept::Native)
}

/// The object of every row's reciprocal root.
fn roots_of(l: &mut Launcher<'_>, node: &NodeView<'_>, room: &[usize]) -> Result<Tensor> {
    let mut shape = node.required(0).shape.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = 1;
    }
    l.room(room[0], DType::F32, &shape)
}

fn rms_norm(l: &mut Launcher<'_>, node: &NodeView<'_>, room: &[usize]) -> Result<()> {
    let attrs = norm_attrs(node);
    let (x, w, y) = (l.input(node, 0)?, l.input(node, 1)?, l.output(node, 0)?);
    let rstd = roots_of(l, node, room)?;
    match attrs.weight_offset {
        0 => l.rms_norm(x, w, f64::from(attrs.eps), y, rstd),
        _ => l.gemma_rms_norm(x, w, f64::from(attrs.eps), y, rstd),
    }
}

/// Whether the sum is written over an operand, of which the operator's page says nothing.
fn in_place(node: &NodeView<'_>) -> bool {
    let root = |id: TensorId| node.graph.root(id).0;
    let sum = root(node.node.outputs[0]);
    node.node.inputs.iter().flatten().any(|id| root(*id) == sum)
}

fn added_norm(node: &NodeView<'_>) -> Result<Accept, Reason> {
    normed(node, 2)?;
    unset("weight_offset", norm_attrs(node).weight_offset != 0)?;
    all_of_one(node, FLOATS)?;
    Ok(Accept::Native)
}

fn add_rms_norm(l: &mut Launcher<'_>, node: &NodeView<'_>, room: &[usize]) -> Result<()> {
    let x = node.required(0);
    let (a, b, w) = (l.input(node, 0)?, l.input(node, 1)?, l.input(node, 2)?);
    let (sum, y) = (l.output(node, 0)?, l.output(node, 1)?);
    let rstd = roots_of(l, node, room)?;
    let eps = f64::from(norm_attrs(node).eps);
    if !in_place(node) {
        return l.add_rms_norm(a, b, w, eps, y, rstd, sum);
    }
    let apart = l.room(room[1], x.dtype, &x.shape)?;
    l.add_rms_norm(a, b, w, eps, y, rstd, apart)?;
    l.copy(sum, apart)
}

fn layered(node: &NodeView<'_>) -> Result<Accept, Reason> {
    plain(node, None)?;
    all_of_one(node, FLOATS)?;
    if node.required(0).rank() == 0 {
        return Err(Reason::operand(0, Property::Rank, Rule::AtLeast, 0usize, 1usize));
    }
    Ok(Accept::Native)
}

fn layer_norm(l: &mut Launcher<'_>, node: &NodeView<'_>, _: &[usize]) -> Result<()> {
    let Op::LayerNorm(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    let (x, w, b, y) = (l.input(node, 0)?, l.input(node, 1)?, l.input(node, 2)?, l.output(node, 0)?);
    let shape = l.ints(&[node.required(0).shape.last_dim() as i64])?;
    let none = std::ptr::null();
    l.layer_norm(x, shape, w, b, f64::from(attrs.eps), y, none, none)
}
