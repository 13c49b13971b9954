//! Rows of matrix products.

use qiao_core::{Accept, Epilogue, NodeView, Op, OpKind, Property, Reason, Result, Row, Rule, TensorDesc, sound};

use super::accept::{FLOATS, all_of_one, dense, plain};
use super::launcher::Launcher;
use super::nz::{Blocks, NZ};
use super::{Launch, row};
use crate::operators::{Calls, Tensor};

/// `KEEP_DTYPE`: no operand is rounded before it is multiplied.
const KEEP_DTYPE: i8 = 0;

/// The highest rank of a product's operand.
const MOST_DIMS: usize = 6;

pub(super) fn rows() -> Vec<Row<Launch>> {
    vec![
        row(OpKind::Matmul, "matmul_nz", &["aclnnMatmulWeightNz"], by_blocks, multiply_blocks),
        row(OpKind::Matmul, "matmul", &["aclnnMatmul"], by_rows, multiply),
    ]
}

/// What both rows ask for.
fn product(node: &NodeView<'_>, packed: Option<usize>) -> Result<(), Reason> {
    let Op::Matmul(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    plain(node, packed)?;
    if attrs.epilogue != Epilogue::None {
        return Err(Reason::attribute("epilogue", Rule::Equal, attrs.epilogue.to_string().as_str(), "none"));
    }
    all_of_one(node, FLOATS)?;
    // What a product is rounded to on the way to another dtype is not documented, and results with gaps are not taken.
    dense(node.node.inputs.len(), node.output(0))
}

/// A constant weight `[N, K]` in FRACTAL_NZ, or one that is to be brought there.
fn by_blocks(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let Op::Matmul(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    product(node, Some(1))?;
    let (a, w) = (node.required(0), node.required(1));
    if !attrs.trans_b {
        return Err(Reason::attribute("trans_b", Rule::Equal, "false", "true"));
    }
    dense(0, a)?;
    let blocks = Blocks::of(&TensorDesc { layout: 0, ..w.clone() });
    if !w.constant || blocks.is_none() || (w.layout != 0 && w.layout != NZ) {
        return Err(Reason::operand(
            1,
            Property::Layout,
            Rule::Equal,
            w.layout as usize,
            "a constant matrix in FRACTAL_NZ",
        ));
    }
    match w.layout {
        NZ => Ok(Accept::Native),
        _ if sound::can_be_packed(node, 1) => Ok(Accept::Relayout { operand: 1, layout: NZ }),
        _ => Err(Reason::operand(1, Property::Layout, Rule::Equal, 0usize, "bound as a tensor of its own")),
    }
}

fn by_rows(node: &NodeView<'_>) -> Result<Accept, Reason> {
    product(node, None)?;
    let a = node.required(0);
    if a.rank() > MOST_DIMS {
        return Err(Reason::operand(0, Property::Rank, Rule::AtMost, a.rank(), MOST_DIMS));
    }
    Ok(Accept::Native)
}

/// An operand as rows of one matrix, which it is where it has no gaps.
fn rows_of(l: &mut Launcher<'_>, node: &NodeView<'_>, desc: &TensorDesc, output: bool) -> Result<Tensor> {
    let id =
        if output { node.node.outputs[0] } else { node.node.inputs[0].expect("the graph checked that a is given") };
    let flat = TensorDesc::new(desc.dtype, &[desc.shape.rows(), desc.shape.last_dim()])?;
    l.view(l.at(id), &flat)
}

fn multiply_blocks(l: &mut Launcher<'_>, node: &NodeView<'_>, _: &[usize]) -> Result<()> {
    let a = rows_of(l, node, node.required(0), false)?;
    let w = l.weight(node.node.inputs[1].expect("the graph checked that b is given"))?;
    let out = rows_of(l, node, node.output(0), true)?;
    l.matmul_nz(a, w, out, KEEP_DTYPE)
}

fn multiply(l: &mut Launcher<'_>, node: &NodeView<'_>, _: &[usize]) -> Result<()> {
    let Op::Matmul(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    let (x, w) = (node.required(0), node.required(1));
    let id = node.node.inputs[1].expect("the graph checked that b is given");
    let flat = w.rank() == 2 && x.is_contiguous();
    let (a, out) = match flat {
        true => (rows_of(l, node, x, false)?, rows_of(l, node, node.output(0), true)?),
        false => (l.input(node, 0)?, l.output(node, 0)?),
    };
    let b = match attrs.trans_b {
        true => {
            let (mut shape, mut strides) = (w.shape.to_vec(), w.strides.to_vec());
            let last = w.rank() - 1;
            shape.swap(last - 1, last);
            strides.swap(last - 1, last);
            l.view(l.at(id), &TensorDesc::strided(w.dtype, &shape, &strides)?)?
        }
        false => l.tensor(id)?,
    };
    l.matmul(a, b, out, KEEP_DTYPE)
}
