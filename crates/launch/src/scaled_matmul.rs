//! Products of int8 codes: exact int32 sums on the tensor cores, then the scales and what joins them.

use qiao_core::{Accept, DType, NodeView, OpKind, Property, Reason, Result, Row, Rule};

use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row};
use crate::prepack::{CHUNK, Order, pack, tile_bytes, word};
use crate::sound::alignment;
use crate::tiles::{
    FEW, Path, Rows, Scratch, accepts_rows, accepts_sizes, accepts_weight, kind, rows as rows_of, spread, stage,
};

/// Bytes that `few` and `many` stage activations and results in.
const SHARED: [u32; 2] = [32 * 132 * 4, 2 * 128 * 160];

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::ScaledMatmul, "gemv_i8", accepts_few, product),
        row(OpKind::ScaledMatmul, "gemm_i8", accepts, product),
    ]
}

fn accepts_few(node: &NodeView<'_>) -> std::result::Result<Accept, Reason> {
    let m = node.required(0).shape.rows();
    if m > FEW {
        return Err(Reason::operand(0, Property::Dim(0), Rule::AtMost, m, FEW));
    }
    accepts(node)
}

fn accepts(node: &NodeView<'_>) -> std::result::Result<Accept, Reason> {
    let (a, b) = (node.required(0), node.required(1));
    let out = node.node.inputs.len();
    for (i, desc) in node.operands().filter(|(i, _)| *i == 4 || *i == out) {
        // What joins the sum is the fifth input; a bias stands before it.
        if !desc.dtype.is_activation() {
            return Err(Reason::dtype(i, desc.dtype, &[DType::F32, DType::F16, DType::BF16]));
        }
    }
    if let Some((i, desc)) = node.operands().find(|(i, desc)| *i != 1 && desc.layout != 0) {
        return Err(Reason::operand(i, Property::Layout, Rule::None, format!("{:#x}", desc.layout).as_str(), ""));
    }
    accepts_rows(node, 0, false)?;
    accepts_rows(node, out, true)?;
    accepts_sizes(a.shape[0], b.shape[0], a.shape[1])?;
    accepts_weight(node, false)
}

/// The kernels' `Scaled` as it lies in memory.
fn fields(node: &NodeView<'_>, lda: usize, splits: usize, partial: bool) -> Arg {
    let step = |i: usize| node.input(i).map_or(0, |d| if d.shape[0] > 1 { d.strides[0] } else { 0 });
    let y = rows_of(node.output(0)).unwrap_or(Rows { row: 0, step: 1 });
    let (a, b) = (node.required(0), node.required(1));
    let (m, n, k) = (a.shape[0], b.shape[0], a.shape[1]);
    let mut out = Vec::with_capacity(80);
    for value in [lda, y.row, step(2), step(3), step(4), step(5)] {
        out.extend((value as u64).to_ne_bytes());
    }
    for value in [m, n, k.div_ceil(CHUNK), Order::new(n, false).tiles] {
        out.extend(word(value));
    }
    let bias = node.input(4).map_or(0, |d| kind(d.dtype));
    for value in [bias, kind(node.output(0).dtype)] {
        out.extend(value.to_ne_bytes());
    }
    out.extend(word(splits));
    out.extend(word(usize::from(partial)));
    Arg::Struct(out)
}

fn product(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let (a, b) = (node.required(0), node.required(1));
    let (m, n, k) = (a.shape[0], b.shape[0], a.shape[1]);
    let (mut scratch, mut launches) = (Scratch::default(), Vec::new());
    let w = if b.layout == 0 {
        let to = scratch.take(tile_bytes(b, false)?);
        launches.extend(pack(b, false, Arg::input(node, 1), to.clone())?);
        to
    } else {
        Arg::input(node, 1)
    };
    let first = node.node.inputs[0].expect("a product has its activations");
    let rows = stage(node, alignment(node.graph, first), &mut scratch, &mut launches);
    let tiles = Order::new(n, false).tiles;
    let path = Path::new(m, tiles, k.div_ceil(CHUNK), SHARED, chip);
    let [sa, sb, bias, joins] = [2, 3, 4, 5].map(|i| Arg::optional(node, i));
    let symbol = format!("scaled_{}", path.name);
    let y = Arg::output(node, 0);
    if path.splits == 1 {
        let args = vec![w, rows.arg, sa, sb, bias, joins, y, fields(node, rows.row, 1, false)];
        launches.push(Launch::new(&symbol, path.grid, path.shared, args));
        return Ok(Prepared { launches, scratch: scratch.bytes });
    }
    let sums = scratch.take(path.splits * m * tiles * 16 * 4);
    let nothing = || Arg::Null;
    let partial = fields(node, rows.row, path.splits, true);
    let args = vec![w, rows.arg, nothing(), nothing(), nothing(), nothing(), sums.clone(), partial];
    launches.push(Launch::new(&symbol, path.grid, path.shared, args));
    let args = vec![sums, sa, sb, bias, joins, y, fields(node, rows.row, path.splits, false)];
    launches.push(Launch::new("scaled_finish", spread(m * n), 0, args));
    Ok(Prepared { launches, scratch: scratch.bytes })
}
