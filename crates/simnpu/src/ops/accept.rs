//! Whether a chip of given limits runs a node.

use qiao_core::{
    Accept, DType, KvInfo, KvLayout, Limit, NodeView, Op, OpKind, Pages, Property, Reason, Rule, TensorDesc,
};

use crate::fractal::Fractal;
use crate::limits::{Limits, Weights};

type Answer = Result<(), Reason>;

/// What the chip asks of a node that it runs.
///
/// # Errors
/// The first limit that the node breaks.
pub(crate) fn accept(limits: &Limits, node: &NodeView<'_>) -> Result<Accept, Reason> {
    for (operand, desc) in node.operands() {
        layout(limits, node, operand, desc)?;
        dtype(limits, operand, desc)?;
        shape(limits, node, operand, desc)?;
    }
    views(limits, node)?;
    particular(limits, node)?;
    weights(limits, node)
}

/// The operand that may be a packed weight.
fn weight_of(kind: OpKind) -> Option<usize> {
    matches!(kind, OpKind::Matmul | OpKind::ScaledMatmul).then_some(1)
}

fn layout(limits: &Limits, node: &NodeView<'_>, operand: usize, desc: &TensorDesc) -> Answer {
    let packs = weight_of(node.kind()) == Some(operand) && limits.weights != Weights::Plain;
    if desc.layout == 0 || packs && Fractal::of(desc).is_some_and(|(id, _)| id == desc.layout) {
        return Ok(());
    }
    let found = format!("{:#x}", desc.layout);
    Err(Reason::operand(operand, Property::Layout, Rule::Equal, found.as_str(), 0usize))
}

fn dtype(limits: &Limits, operand: usize, desc: &TensorDesc) -> Answer {
    let list = if desc.dtype.is_block() { &limits.formats } else { &limits.dtypes };
    if list.contains(&desc.dtype) { Ok(()) } else { Err(Reason::dtype(operand, desc.dtype, list)) }
}

fn shape(limits: &Limits, node: &NodeView<'_>, operand: usize, desc: &TensorDesc) -> Answer {
    if desc.rank() > limits.max_rank {
        return Err(Reason::operand(operand, Property::Rank, Rule::AtMost, desc.rank(), limits.max_rank));
    }
    if !limits.strided && node.kind() != OpKind::Copy && !desc.is_contiguous() {
        return Err(Reason::strides(operand, "those of a tensor without gaps"));
    }
    Ok(())
}

/// Windows onto other tensors start where operands start.
fn views(limits: &Limits, node: &NodeView<'_>) -> Answer {
    let ids = node.node.inputs.iter().copied().chain(node.node.outputs.iter().copied().map(Some));
    for (operand, id) in ids.enumerate() {
        let offset = id.map_or(0, |id| node.graph.root(id).1);
        if !offset.is_multiple_of(limits.align) {
            return Err(Reason::operand(operand, Property::Alignment, Rule::MultipleOf, offset, limits.align));
        }
    }
    Ok(())
}

fn particular(limits: &Limits, node: &NodeView<'_>) -> Answer {
    match node.op() {
        Op::Matmul(_) | Op::ScaledMatmul(_) => inner(limits, node),
        Op::MatmulQuant(attrs) => {
            let k = node.required(1).shape.last_dim();
            let parts = (1..k).contains(&(attrs.group_size as usize)) || attrs.group_rows > 1;
            if parts && !limits.grouped && !node.required(1).dtype.is_block() {
                return Err(Reason::attribute("group_size", Rule::Equal, attrs.group_size as usize, 0usize));
            }
            inner(limits, node)
        }
        Op::Rope(attrs) if !limits.partial_rope => {
            let d = node.required(0).shape.last_dim();
            match attrs.rotary_dim as usize {
                n if n == 0 || n == d => Ok(()),
                n => Err(Reason::attribute("rotary_dim", Rule::Equal, n, d)),
            }
        }
        Op::KvWrite(attrs) => [3, 4].into_iter().try_for_each(|i| pages(limits, node, i, attrs.kv_layout)),
        Op::AttentionPrefill(attrs) if node.input(5).is_some() => {
            [1, 2].into_iter().try_for_each(|i| pages(limits, node, i, attrs.kv_layout))
        }
        Op::AttentionDecode(attrs) => [1, 2].into_iter().try_for_each(|i| pages(limits, node, i, attrs.kv_layout)),
        _ => Ok(()),
    }
}

fn inner(limits: &Limits, node: &NodeView<'_>) -> Answer {
    let a = node.required(0);
    let k = a.shape.last_dim();
    if k.is_multiple_of(limits.k_multiple) {
        return Ok(());
    }
    Err(Reason::operand(0, Property::Dim(a.rank() - 1), Rule::MultipleOf, k, limits.k_multiple))
}

fn pages(limits: &Limits, node: &NodeView<'_>, operand: usize, layout: KvLayout) -> Answer {
    let Some(found) = Pages::of(node.required(operand), layout) else { return Ok(()) };
    let fits = |kv: &KvInfo| kv.layout == layout && (kv.block_size == 0 || kv.block_size == found.block_size);
    if limits.kv.is_empty() || limits.kv.iter().any(fits) {
        return Ok(());
    }
    let text = |layout: KvLayout, size: usize| if size == 0 { layout.to_string() } else { format!("{layout}:{size}") };
    let known: Vec<String> = limits.kv.iter().map(|kv| text(kv.layout, kv.block_size)).collect();
    Err(Reason {
        operand: Some(operand),
        property: Property::Layout,
        rule: Rule::OneOf,
        value: Limit::Text(text(layout, found.block_size)),
        limit: Limit::Text(known.join(", ")),
    })
}

/// What the chip wants done with a constant weight.
fn weights(limits: &Limits, node: &NodeView<'_>) -> Result<Accept, Reason> {
    let Some(operand) = weight_of(node.kind()) else { return Ok(Accept::Native) };
    let desc = node.required(operand);
    let narrow = matches!(desc.dtype, DType::F16 | DType::BF16 | DType::I8);
    if limits.weights == Weights::Plain || !desc.constant || desc.layout != 0 || desc.rank() != 2 || !narrow {
        return Ok(Accept::Native);
    }
    match Fractal::of(desc) {
        // What is packed is a tensor of its own without gaps, or the part of none.
        Some((layout, _)) if desc.is_contiguous() && is_whole(node, operand) => {
            Ok(Accept::Relayout { operand, layout })
        }
        None if limits.weights == Weights::FractalOnly => {
            let axis = if desc.shape[0] <= 1 { 0 } else { 1 };
            Err(Reason::operand(operand, Property::Dim(axis), Rule::AtLeast, desc.shape[axis], 2usize))
        }
        _ => Ok(Accept::Native),
    }
}

/// Whether an operand is a bound tensor that nothing else looks into.
fn is_whole(node: &NodeView<'_>, operand: usize) -> bool {
    let Some(id) = node.node.inputs[operand] else { return false };
    let viewed = |t: &qiao_core::Tensor| matches!(t.storage, qiao_core::Storage::View(root, _) if root == id);
    matches!(node.graph.tensor(id).storage, qiao_core::Storage::Bound(_)) && !node.graph.tensors().iter().any(viewed)
}
