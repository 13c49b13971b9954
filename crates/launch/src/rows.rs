//! softmax, reduce.

use qiao_core::{NodeView, Op, OpKind, ReduceKind, Result, Row};

use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row};
use crate::rowwise::{Fields, Rows, accessor, all_floats, blocks, team};

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    vec![row(OpKind::Softmax, "softmax", all_floats, softmax), row(OpKind::Reduce, "reduce", all_floats, reduce)]
}

fn softmax(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let Op::Softmax(attrs) = *node.op() else { unreachable!("the table pairs softmax with its kernel") };
    let (from, to) = (node.required(0), Rows::of(node.output(0)));
    let x = Rows::of(from);
    if x.count * x.len == 0 {
        return Ok(Prepared::default());
    }
    let mask = node.input(1).map_or_else(Rows::none, |mask| Rows::broadcast(mask, &from.shape));
    let queries = if from.rank() >= 2 { from.shape[from.rank() - 2] } else { 1 };
    let scale = if attrs.scale == 0.0 { 1.0 } else { attrs.scale };
    let fields = Fields::default().rows(&x).rows(&mask).rows(&to).size(x.count).size(x.len);
    let fields = fields.size(queries).flag(attrs.causal).f32(scale).u32(0);
    let how = accessor(&[&x, &to]);
    let team = team(how, x.count, x.len, chip, false);
    let args = vec![Arg::input(node, 0), Arg::optional(node, 1), Arg::output(node, 0), fields.arg()];
    let launch = Launch::new(&format!("softmax_{how}_{team}"), [blocks(x.count, team), 1, 1], 0, args);
    Ok(Prepared { launches: vec![launch], scratch: 0 })
}

fn reduce(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let Op::Reduce(attrs) = *node.op() else { unreachable!("the table pairs reduce with its kernel") };
    let (from, axis) = (node.required(0), attrs.axis as usize);
    if from.elements() == 0 {
        return Ok(Prepared::default());
    }
    // The reduced axis innermost, the others in their order: result element r is row r.
    let axes: Vec<usize> = (0..from.rank()).filter(|&a| a != axis).chain([axis]).collect();
    let (x, y) = (Rows::permuted(from, &axes), Rows::of_elements(node.output(0)));
    let kind = match attrs.kind {
        ReduceKind::Sum => 0,
        ReduceKind::Mean => 1,
        ReduceKind::Max => 2,
    };
    let fields = Fields::default().rows(&x).rows(&y).size(x.count).size(x.len).u32(kind).u32(0);
    let args = vec![Arg::input(node, 0), Arg::output(node, 0), fields.arg()];
    let launch = if !x.is_dense() && x.count >= 32 {
        Launch::new("reduce_columns", [x.count.div_ceil(32) as u32, 1, 1], 0, args)
    } else {
        let how = accessor(&[&x]);
        let team = team(how, x.count, x.len, chip, false);
        Launch::new(&format!("reduce_{how}_{team}"), [blocks(x.count, team), 1, 1], 0, args)
    };
    Ok(Prepared { launches: vec![launch], scratch: 0 })
}
