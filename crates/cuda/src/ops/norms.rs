//! rms_norm, add_rms_norm, layer_norm.

use qiao_core::{Accept, NodeView, NormAttrs, Op, OpKind, Reason, Result, Row};

use super::launch::{Arg, Chip, Launch, Prepare, Prepared, row};
use super::rowwise::{Fields, Rows, accessor, all_floats, blocks, dense_vector, number, team};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::RmsNorm, "rms_norm", |node| accepts(node, &[1]), rms_norm),
        row(OpKind::AddRmsNorm, "add_rms_norm", |node| accepts(node, &[2]), add_rms_norm),
        row(OpKind::LayerNorm, "layer_norm", |node| accepts(node, &[1, 2]), layer_norm),
    ]
}

fn accepts(node: &NodeView<'_>, weights: &[usize]) -> Result<Accept, Reason> {
    weights.iter().try_for_each(|&w| dense_vector(node, w).map(|_| ()))?;
    all_floats(node)
}

/// What a norm's kernels ask for beside the rows of their operands.
struct Norm {
    weight: Option<usize>,
    bias: Option<usize>,
    attrs: NormAttrs,
}

/// The launch of a norm over these rows: first operand, second operand, sum, y.
fn launch(
    name: &str,
    node: &NodeView<'_>,
    chip: &Chip,
    rows: [&Rows; 4],
    norm: &Norm,
    addresses: Vec<Arg>,
) -> Prepared {
    let [a, _, _, y] = rows;
    if a.count * a.len == 0 {
        return Prepared::default();
    }
    let given: Vec<&Rows> = rows.into_iter().filter(|r| r.count > 0).collect();
    let how = accessor(&given);
    let team = team(how, a.count, a.len, chip, true);
    let dtype = |input: Option<usize>| input.and_then(|i| node.input(i)).map(|d| number(d.dtype));
    let weighted = dtype(norm.weight);
    let offset = if weighted.is_some() { norm.attrs.weight_offset as f32 } else { 0.0 };
    let fields = rows.into_iter().fold(Fields::default(), Fields::rows);
    let fields = fields.size(y.count).size(y.len).u32(weighted.unwrap_or(0)).u32(dtype(norm.bias).unwrap_or(0));
    let fields = fields.f32(norm.attrs.eps).f32(offset).flag(norm.attrs.round_before_weight);
    let args = addresses.into_iter().chain([fields.arg()]).collect();
    let launch = Launch::new(&format!("{name}_{how}_{team}"), [blocks(a.count, team), 1, 1], 0, args);
    Prepared { launches: vec![launch], scratch: 0 }
}

fn rms_norm(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let Op::RmsNorm(attrs) = *node.op() else { unreachable!("the table pairs rms_norm with its kernel") };
    let (x, y) = (Rows::of(node.required(0)), Rows::of(node.output(0)));
    let norm = Norm { weight: Some(1), bias: None, attrs };
    let args = vec![Arg::input(node, 0), Arg::optional(node, 1), Arg::output(node, 0)];
    Ok(launch("rms_norm", node, chip, [&x, &Rows::none(), &Rows::none(), &y], &norm, args))
}

fn add_rms_norm(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let Op::AddRmsNorm(attrs) = *node.op() else { unreachable!("the table pairs add_rms_norm with its kernel") };
    let [a, b] = [0, 1].map(|i| Rows::of(node.required(i)));
    let [sum, y] = [0, 1].map(|i| Rows::of(node.output(i)));
    let norm = Norm { weight: Some(2), bias: None, attrs };
    let inputs = [0, 1, 2].map(|i| Arg::optional(node, i));
    let args = inputs.into_iter().chain([0, 1].map(|i| Arg::output(node, i))).collect();
    Ok(launch("add_rms_norm", node, chip, [&a, &b, &sum, &y], &norm, args))
}

fn layer_norm(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let Op::LayerNorm(attrs) = *node.op() else { unreachable!("the table pairs layer_norm with its kernel") };
    let (x, y) = (Rows::of(node.required(0)), Rows::of(node.output(0)));
    let attrs = NormAttrs { eps: attrs.eps, ..NormAttrs::default() };
    let norm = Norm { weight: Some(1), bias: Some(2), attrs };
    let args = vec![Arg::input(node, 0), Arg::optional(node, 1), Arg::optional(node, 2), Arg::output(node, 0)];
    Ok(launch("layer_norm", node, chip, [&x, &Rows::none(), &Rows::none(), &y], &norm, args))
}
