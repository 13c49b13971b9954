//! Rows that work element by element.

use qiao_core::{Accept, DType, GeluForm, NodeView, Op, OpKind, Property, Reason, ReduceKind, Result, Row, Rule};

use super::accept::{FLOATS, absent, all_of_one, among, dense, plain, present, unset};
use super::launcher::Launcher;
use super::{Launch, row, row_in};
use crate::codes::data_type;
use crate::operators::Calls;

pub(super) fn rows() -> Vec<Row<Launch>> {
    vec![
        row(OpKind::Add, "add", &["aclnnAdd"], pairs, |l, n, _| {
            let (a, b, out) = (l.input(n, 0)?, l.input(n, 1)?, l.output(n, 0)?);
            let one = l.scalar(1.0)?;
            l.add(a, b, one, out)
        }),
        row(OpKind::Sub, "sub", &["aclnnSub"], pairs, |l, n, _| {
            let (a, b, out) = (l.input(n, 0)?, l.input(n, 1)?, l.output(n, 0)?);
            let one = l.scalar(1.0)?;
            l.sub(a, b, one, out)
        }),
        row(OpKind::Mul, "mul", &["aclnnMul"], pairs, |l, n, _| {
            let (a, b, out) = (l.input(n, 0)?, l.input(n, 1)?, l.output(n, 0)?);
            l.mul(a, b, out)
        }),
        row(OpKind::Div, "div", &["aclnnDiv"], pairs, |l, n, _| {
            let (a, b, out) = (l.input(n, 0)?, l.input(n, 1)?, l.output(n, 0)?);
            l.div(a, b, out)
        }),
        row(OpKind::Silu, "silu", &["aclnnSilu"], unary, |l, n, _| {
            let (x, out) = (l.input(n, 0)?, l.output(n, 0)?);
            l.silu(x, out)
        }),
        row(OpKind::Relu, "relu", &["aclnnRelu"], unary, |l, n, _| {
            let (x, out) = (l.input(n, 0)?, l.output(n, 0)?);
            l.relu(x, out)
        }),
        row(OpKind::Sigmoid, "sigmoid", &["aclnnSigmoid"], unary, |l, n, _| {
            let (x, out) = (l.input(n, 0)?, l.output(n, 0)?);
            l.sigmoid(x, out)
        }),
        row(OpKind::Tanh, "tanh", &["aclnnTanh"], unary, |l, n, _| {
            let (x, out) = (l.input(n, 0)?, l.output(n, 0)?);
            l.tanh(x, out)
        }),
        row(OpKind::Exp, "exp", &["aclnnExp"], unary, |l, n, _| {
            let (x, out) = (l.input(n, 0)?, l.output(n, 0)?);
            l.exp(x, out)
        }),
        row(OpKind::Gelu, "gelu", &["aclnnGeluV2"], unary, gelu),
        row(OpKind::SiluMul, "silu_mul", &["aclnnSwiGlu"], halves, |l, n, _| {
            let (x, out) = (l.input(n, 0)?, l.output(n, 0)?);
            l.swiglu(x, -1, out)
        }),
        row_in(row(OpKind::SiluMul, "silu_mul_pair", &["aclnnCat", "aclnnSwiGlu"], gate_and_up, silu_mul), |n| {
            vec![2 * n.required(0).elements() * n.required(0).dtype.block_bytes()]
        }),
        row(OpKind::Reduce, "reduce", &["aclnnReduceSum", "aclnnMean", "aclnnAmax"], reduced, reduce),
    ]
}

/// Two floats and a result. AscendCL computes in the wider dtype of the two, and rounds to the result's after that: so the
/// result may be another dtype only where the wider one is f32.
fn pairs(node: &NodeView<'_>) -> Result<Accept, Reason> {
    plain(node, None)?;
    (0..3).try_for_each(|i| among(node, i, FLOATS))?;
    let (a, b, out) = (node.required(0).dtype, node.required(1).dtype, node.output(0).dtype);
    let wider = match (a, b) {
        (a, b) if a == b => a,
        (DType::F32, _) | (_, DType::F32) => DType::F32,
        _ => return Err(Reason::dtype(1, b, &[a])),
    };
    if wider != DType::F32 && out != wider {
        return Err(Reason::dtype(2, out, &[wider]));
    }
    Ok(Accept::Native)
}

fn unary(node: &NodeView<'_>) -> Result<Accept, Reason> {
    plain(node, None)?;
    all_of_one(node, FLOATS)?;
    Ok(Accept::Native)
}

fn gelu(l: &mut Launcher<'_>, node: &NodeView<'_>, _: &[usize]) -> Result<()> {
    let Op::Gelu(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    let (x, out) = (l.input(node, 0)?, l.output(node, 0)?);
    l.gelu(x, i64::from(attrs.form == GeluForm::Tanh), out)
}

/// What both forms of `silu_mul` ask for.
fn gated(node: &NodeView<'_>) -> Result<(), Reason> {
    let Op::SiluMul(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    plain(node, None)?;
    all_of_one(node, FLOATS)?;
    unset("clamp", attrs.clamp != 0.0)?;
    if node.required(0).rank() == 0 {
        return Err(Reason::operand(0, Property::Rank, Rule::AtLeast, 0usize, 1usize));
    }
    dense(node.node.inputs.len(), node.output(0))
}

fn halves(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let Op::SiluMul(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    gated(node)?;
    absent(node, 1)?;
    unset("gate_second", attrs.gate_second)?;
    dense(0, node.required(0))?;
    Ok(Accept::Native)
}

fn gate_and_up(node: &NodeView<'_>) -> Result<Accept, Reason> {
    gated(node)?;
    present(node, 1)?;
    Ok(Accept::Native)
}

fn silu_mul(l: &mut Launcher<'_>, node: &NodeView<'_>, room: &[usize]) -> Result<()> {
    let x = node.required(0);
    let mut both = x.shape.to_vec();
    if let Some(last) = both.last_mut() {
        *last *= 2;
    }
    let (gate, up, out) = (l.input(node, 0)?, l.input(node, 1)?, l.output(node, 0)?);
    let joined = l.room(room[0], x.dtype, &both)?;
    let parts = l.list(&[gate, up])?;
    l.cat(parts, -1, joined)?;
    l.swiglu(joined, -1, out)
}

/// Sums and means go to f32 as well, where they are summed; the largest stays in its dtype.
fn reduced(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let Op::Reduce(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    plain(node, None)?;
    among(node, 0, FLOATS)?;
    let (x, out) = (node.required(0).dtype, node.output(0).dtype);
    let wider = if attrs.kind == ReduceKind::Max { x } else { DType::F32 };
    if out != x && out != wider {
        return Err(Reason::dtype(1, out, &[x, wider]));
    }
    Ok(Accept::Native)
}

fn reduce(l: &mut Launcher<'_>, node: &NodeView<'_>, _: &[usize]) -> Result<()> {
    let Op::Reduce(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    let (x, out) = (l.input(node, 0)?, l.output(node, 0)?);
    let dims = l.ints(&[i64::from(attrs.axis)])?;
    let number = data_type(node.output(0).dtype).unwrap_or(0);
    match attrs.kind {
        ReduceKind::Sum => l.sum(x, dims, attrs.keep_dim, number, out),
        ReduceKind::Mean => l.mean(x, dims, attrs.keep_dim, number, out),
        ReduceKind::Max => l.largest(x, dims, attrs.keep_dim, out),
    }
}
