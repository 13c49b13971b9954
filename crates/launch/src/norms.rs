//! rms_norm, add_rms_norm, layer_norm, and RMS norms whose rows are quantised at once.

use qiao_core::{Accept, Graph, NodeView, NormAttrs, Op, OpKind, Reason, Result, Row, Storage, TensorId};

use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row};
use crate::rowwise::{Fields, Rows, accessor, all_floats, blocks, dense_vector, number, team};

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::RmsNorm, "rms_norm", |node| accepts(node, &[1]), norm),
        row(OpKind::AddRmsNorm, "add_rms_norm", |node| accepts(node, &[2]), norm),
        row(OpKind::LayerNorm, "layer_norm", |node| accepts(node, &[1, 2]), norm),
    ]
}

fn accepts(node: &NodeView<'_>, weights: &[usize]) -> Result<Accept, Reason> {
    weights.iter().try_for_each(|&w| dense_vector(node, w).map(|_| ()))?;
    all_floats(node)
}

/// A norm as its kernels see it.
struct Norm {
    /// What the kernels' names begin with.
    name: &'static str,
    /// First operand, second operand, sum, y; rows of nothing where the operator has none.
    rows: [Rows; 4],
    /// The addresses of operands and results, in order.
    addresses: Vec<Arg>,
    attrs: NormAttrs,
    weight: Option<u32>,
    bias: Option<u32>,
}

impl Norm {
    /// The norm of a node; nothing where it is another operator's.
    fn of(node: &NodeView<'_>) -> Option<Self> {
        let (name, inputs, weight, bias) = match node.kind() {
            OpKind::RmsNorm => ("rms_norm", 2, 1, None),
            OpKind::AddRmsNorm => ("add_rms_norm", 3, 2, None),
            OpKind::LayerNorm => ("layer_norm", 3, 1, Some(2)),
            _ => return None,
        };
        let attrs = match *node.op() {
            Op::RmsNorm(attrs) | Op::AddRmsNorm(attrs) => attrs,
            Op::LayerNorm(attrs) => NormAttrs { eps: attrs.eps, ..NormAttrs::default() },
            _ => return None,
        };
        let x = Rows::of(node.required(0));
        let rows = match node.kind() {
            OpKind::AddRmsNorm => [x, Rows::of(node.required(1)), Rows::of(node.output(0)), Rows::of(node.output(1))],
            _ => [x, Rows::none(), Rows::none(), Rows::of(node.output(0))],
        };
        let outputs = (0..node.node.outputs.len()).map(|i| Arg::output(node, i));
        let addresses = (0..inputs).map(|i| Arg::optional(node, i)).chain(outputs).collect();
        let dtype = |input: usize| node.input(input).map(|d| number(d.dtype));
        Some(Norm { name, rows, addresses, attrs, weight: dtype(weight), bias: bias.and_then(dtype) })
    }

    /// How its operands are reached, and the threads of a row.
    fn how(&self, chip: &Chip) -> (&'static str, usize) {
        let given: Vec<&Rows> = self.rows.iter().filter(|r| r.count > 0).collect();
        let (how, x) = (accessor(&given), &self.rows[0]);
        (how, team(how, x.count, x.len, chip, true))
    }

    fn fields(&self) -> Fields {
        let y = &self.rows[3];
        let offset = if self.weight.is_some() { self.attrs.weight_offset as f32 } else { 0.0 };
        let fields = self.rows.iter().fold(Fields::default(), Fields::rows).size(y.count).size(y.len);
        let fields = fields.u32(self.weight.unwrap_or(0)).u32(self.bias.unwrap_or(0));
        fields.f32(self.attrs.eps).f32(offset).flag(self.attrs.round_before_weight).u32(0)
    }

    fn is_empty(&self) -> bool {
        self.rows[0].count * self.rows[0].len == 0
    }
}

fn norm(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let norm = Norm::of(node).expect("the table pairs norms with their kernels");
    if norm.is_empty() {
        return Ok(Prepared::default());
    }
    let (how, team) = norm.how(chip);
    let args = norm.addresses.iter().cloned().chain([norm.fields().arg()]).collect();
    let grid = [blocks(norm.rows[0].count, team), 1, 1];
    let launch = Launch::new(&format!("{}_{how}_{team}", norm.name), grid, 0, args);
    Ok(Prepared { launches: vec![launch], scratch: 0 })
}

/// An RMS norm and the quantisation of its y as one launch: the position of the latter, and what runs. y is written where
/// somebody else reads it too.
pub(crate) fn with_codes(graph: &Graph, index: usize, chip: &Chip) -> Option<(usize, Prepared)> {
    /// Elements that a thread keeps.
    const KEPT: usize = 32;
    let node = graph.node(index);
    let norm = Norm::of(&node).filter(|n| n.name != "layer_norm" && !n.is_empty())?;
    let (how, team) = norm.how(chip);
    if how == "any" || norm.rows[0].len > KEPT * team {
        return None;
    }
    let y = *node.node.outputs.last()?;
    let root = |id: TensorId| graph.root(id).0;
    let reads = |n: usize, id: TensorId| graph.nodes()[n].inputs.iter().flatten().any(|&i| root(i) == root(id));
    let writes = |n: usize, id: TensorId| graph.nodes()[n].outputs.iter().any(|&o| root(o) == root(id));
    let readers: Vec<usize> = (index + 1..graph.nodes().len()).filter(|&n| reads(n, y)).collect();
    let last = *readers.first()?;
    let codes = graph.node(last);
    if codes.kind() != OpKind::QuantizeDynamic || codes.node.inputs[0] != Some(y) {
        return None;
    }
    // The norm moves to where its codes are made.
    let moves = (index + 1..last).all(|n| {
        node.node.inputs.iter().flatten().all(|&id| !writes(n, id))
            && node.node.outputs.iter().all(|&id| !writes(n, id) && !reads(n, id))
    });
    let shared =
        |o: &TensorId| node.node.inputs.iter().flatten().chain(&node.node.outputs).any(|&i| root(i) == root(*o));
    if !moves || codes.node.outputs.iter().any(shared) {
        return None;
    }
    let mut args = norm.addresses.clone();
    if readers.len() == 1 && graph.tensor(y).storage == Storage::Temporary {
        *args.last_mut()? = Arg::Null;
    }
    let (q, scale) = (Rows::of(codes.output(0)), Rows::of_elements(codes.output(1)));
    args.extend([Arg::output(&codes, 0), Arg::output(&codes, 1), norm.fields().rows(&q).rows(&scale).arg()]);
    let grid = [blocks(norm.rows[0].count, team), 1, 1];
    let launch = Launch::new(&format!("{}_codes_{how}_{team}", norm.name), grid, 0, args);
    Some((last, Prepared { launches: vec![launch], scratch: 0 }))
}
