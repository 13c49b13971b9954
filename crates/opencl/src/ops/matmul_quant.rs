//! Products with quantised weights, read as they are stored; activations are not rounded.
//!
//! Orders of inputs and groups that no step of the kernels keeps to are refused and go through the decomposition.

use qiao_core::{Accept, DType, MatmulQuantAttrs, NodeView, Op, OpKind, Property, Reason, Result, Row, Rule};
use qiao_launch::Prepared;
use qiao_launch::product::Product;

use super::product::{self, Call, Groups, WHOLE, table_type};
use super::{Prepare, Target, own};

/// The formats that carry their scales, and those with tables beside them.
const BLOCKS: [DType; 13] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2K,
    DType::Q3K,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
    DType::Iq4Nl,
    DType::Iq4Xs,
    DType::Mxfp4,
];
const CODES: [DType; 5] = [DType::I4, DType::U4, DType::I8, DType::U8, DType::F8E4M3];

/// Inputs of a step of the kernels, which is of one group.
const STEP: usize = 32;

/// The rows of this family, best kernel first for each operator.
pub(crate) fn rows() -> Vec<Row<Prepare>> {
    vec![
        own(OpKind::MatmulQuant, "gemv_quant", accepts_few, prepare),
        own(OpKind::MatmulQuant, "gemm_quant", accepts, prepare),
    ]
}

fn attrs(node: &NodeView<'_>) -> MatmulQuantAttrs {
    let Op::MatmulQuant(attrs) = *node.op() else { unreachable!("the table pairs matmul_quant with its kernels") };
    attrs
}

fn read(node: &NodeView<'_>) -> Result<Product, Reason> {
    Product::quantised(node, attrs(node).epilogue)
}

fn accepts_few(node: &NodeView<'_>) -> Result<Accept, Reason> {
    accepts(node)?;
    product::few(&read(node)?)?;
    Ok(Accept::Native)
}

fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let w = node.required(1);
    if !BLOCKS.contains(&w.dtype) && !CODES.contains(&w.dtype) {
        return Err(Reason::operand(1, Property::Dtype, Rule::None, w.dtype, ""));
    }
    read(node)?;
    if w.dtype.block_elems() > 1 && !w.rows_are_contiguous() {
        return Err(Reason::strides(1, "rows of packed codes contiguous"));
    }
    if CODES.contains(&w.dtype) {
        accepts_groups(node)?;
    }
    Ok(Accept::Native)
}

/// Accepts groups of whole steps, or one; scales that are floats, and zeros that are floats or codes.
fn accepts_groups(node: &NodeView<'_>) -> Result<(), Reason> {
    let (w, size) = (node.required(1), attrs(node).group_size as usize);
    if node.input(4).is_some() {
        return Err(Reason::operand(4, Property::Presence, Rule::None, "given", ""));
    }
    if size != 0 && size < w.shape[1] && !size.is_multiple_of(STEP) {
        return Err(Reason::attribute("group_size", Rule::MultipleOf, size, STEP));
    }
    for i in [2, 3] {
        let Some(table) = node.input(i) else { continue };
        if table_type(table.dtype).is_none() || i == 2 && !table.dtype.is_activation() {
            return Err(Reason::dtype(i, table.dtype, &[DType::F32, DType::F16, DType::BF16]));
        }
        if table.layout != 0 {
            let layout = format!("{:#x}", table.layout);
            return Err(Reason::operand(i, Property::Layout, Rule::Equal, layout.as_str(), "0"));
        }
    }
    Ok(())
}

/// How a node's scales and zeros lie.
fn groups(node: &NodeView<'_>) -> Groups {
    let (w, attrs) = (node.required(1), attrs(node));
    if node.input(2).is_none() {
        return WHOLE;
    }
    let strides = |i: usize| node.input(i).map_or([0; 2], |d| [d.strides[0], d.strides[1]]);
    let number = |i: usize| node.input(i).map_or(0, |d| table_type(d.dtype).expect("dtypes were checked"));
    let (k, size) = (w.shape[1], attrs.group_size as usize);
    let size = if size == 0 { k } else { k.min(size) }.max(1);
    Groups {
        scale: strides(2),
        zero: strides(3),
        types: [number(2), number(3)],
        size,
        count: k.div_ceil(size).max(1),
        rows: (attrs.group_rows as usize).max(1),
    }
}

fn prepare(node: &NodeView<'_>, target: &Target) -> Result<Prepared> {
    let product = read(node).expect("the row accepted the node");
    let args = product::args(node, [Some(1), Some(2), Some(3), Some(0), Some(5), Some(6)]);
    Ok(Call { product, groups: groups(node), args }.prepare(target))
}
