//! Dense products.

use qiao_core::{Accept, MatmulAttrs, NodeView, Op, OpKind, Reason, Result, Row};
use qiao_launch::Prepared;
use qiao_launch::product::Product;

use super::product::{self, Call, WHOLE};
use super::{Prepare, Target, own};

/// The rows of this family, best kernel first for each operator.
pub(crate) fn rows() -> Vec<Row<Prepare>> {
    vec![own(OpKind::Matmul, "gemv", accepts_few, prepare), own(OpKind::Matmul, "gemm", accepts, prepare)]
}

fn read(node: &NodeView<'_>) -> Result<Product, Reason> {
    let Op::Matmul(MatmulAttrs { trans_b, epilogue, .. }) = *node.op() else {
        unreachable!("the table pairs matmul with its kernels")
    };
    Product::of(node, trans_b, epilogue)
}

fn accepts_few(node: &NodeView<'_>) -> Result<Accept, Reason> {
    product::few(&read(node)?)?;
    Ok(Accept::Native)
}

fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    read(node).map(|_| Accept::Native)
}

fn prepare(node: &NodeView<'_>, target: &Target) -> Result<Prepared> {
    let product = read(node).expect("the row accepted the node");
    let args = product::args(node, [Some(1), None, None, Some(0), Some(2), Some(3)]);
    Ok(Call { product, groups: WHOLE, args }.prepare(target))
}
