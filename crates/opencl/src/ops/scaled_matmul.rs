//! Products of int8 codes: exact int32 sums, then the scales and what joins them.

use qiao_core::{Accept, DType, NodeView, OpKind, Property, Reason, Result, Row, Rule};
use qiao_kernels_opencl::Size;
use qiao_launch::fields::Fields;
use qiao_launch::{Arg, Launch, Prepared};

use super::product::{FEW, MOST_Y, table_type};
use super::{Prepare, Target, own};

/// The rows of this family, best kernel first for each operator.
pub(crate) fn rows() -> Vec<Row<Prepare>> {
    vec![own(OpKind::ScaledMatmul, "gemm_i8", accepts, prepare)]
}

fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let out = node.node.inputs.len();
    for (i, desc) in node.operands() {
        if (i == 4 || i == out) && !(desc.dtype.is_activation() || desc.dtype == DType::I32 && i == 5) {
            return Err(Reason::dtype(i, desc.dtype, &[DType::F32, DType::F16, DType::BF16]));
        }
        if desc.layout != 0 {
            let layout = format!("{:#x}", desc.layout);
            return Err(Reason::operand(i, Property::Layout, Rule::Equal, layout.as_str(), "0"));
        }
    }
    // Rows of a go in bands along y, and columns are counted in 32 bits.
    for (i, most) in [(0, MOST_Y * FEW), (1, i32::MAX as usize)] {
        let size = node.required(i).shape[0];
        if size > most {
            return Err(Reason::operand(i, Property::Dim(0), Rule::AtMost, size, most));
        }
    }
    Ok(Accept::Native)
}

/// The kernels' `Scaled`.
fn fields(node: &NodeView<'_>) -> Arg {
    let (a, b, c) = (node.required(0), node.required(1), node.output(0));
    let step = |i: usize| node.input(i).map_or(0, |d| if d.shape[0] > 1 { d.strides[0] } else { 0 });
    let number = |dtype| table_type(dtype).expect("dtypes were checked");
    let bias = node.input(4).map_or(0, |d| number(d.dtype));
    Fields::default()
        .longs(&[a, b, c].map(|d| [d.strides[0], d.strides[1]]).concat())
        .longs(&[2, 3, 4, 5].map(step))
        .words(&[a.shape[0], b.shape[0], a.shape[1], bias, number(c.dtype), 0])
        .end()
        .arg()
}

fn prepare(node: &NodeView<'_>, target: &Target) -> Result<Prepared> {
    let (m, n) = (node.required(0).shape[0], node.required(1).shape[0]);
    if m * n == 0 {
        return Ok(Prepared::default());
    }
    let size = |size| target.tuning.size(size) as usize;
    let columns = size(Size::Team) / size(Size::TeamLanes);
    let (symbol, grid) = match (target.tuning.is_processor, m == 1) {
        (true, alone) => {
            let groups = n.div_ceil(size(Size::FewColumns)).min(target.shares());
            (if alone { "scaled_rows_1" } else { "scaled_rows_n" }, [groups, 1])
        }
        (false, true) => ("scaled_team_1", [n.div_ceil(columns), 1]),
        (false, false) => ("scaled_team_8", [n.div_ceil(columns), m.div_ceil(FEW)]),
    };
    let mut args: Vec<Arg> = [1, 0, 2, 3, 4, 5].iter().map(|&i| Arg::optional(node, i)).collect();
    args.extend([Arg::output(node, 0), fields(node)]);
    let [x, y] = grid.map(|n| u32::try_from(n).expect("the row accepts what fits"));
    Ok(Prepared { launches: vec![Launch::new(symbol, [x, y, 1], 0, args)], scratch: 0 })
}
