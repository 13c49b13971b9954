//! quantize_dynamic, quantize_static.

use qiao_core::{Accept, NodeView, OpKind, Property, Reason, Result, Row, Rule};

use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row};
use crate::rowwise::{Fields, Rows, accessor, blocks, floats, team};

/// Threads of a block of the static kernel.
const THREADS: usize = 256;

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::QuantizeDynamic, "quantize_dynamic", |node| floats(node, &[0]), dynamic),
        row(OpKind::QuantizeStatic, "quantize_static", fits_a_grid, fixed),
    ]
}

fn dynamic(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let x = Rows::of(node.required(0));
    if x.count == 0 {
        return Ok(Prepared::default());
    }
    let (q, scale) = (Rows::of(node.output(0)), Rows::of_elements(node.output(1)));
    let fields = Fields::default().rows(&x).rows(&q).rows(&scale).size(x.count).size(x.len);
    let how = accessor(&[&x]);
    let team = team(how, x.count, x.len, chip, false);
    let args = vec![Arg::input(node, 0), Arg::output(node, 0), Arg::output(node, 1), fields.arg()];
    let launch = Launch::new(&format!("quantize_dynamic_{how}_{team}"), [blocks(x.count, team), 1, 1], 0, args);
    Ok(Prepared { launches: vec![launch], scratch: 0 })
}

/// A thread for each element is counted in 32 bits.
fn fits_a_grid(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let elements = node.required(0).elements();
    if elements > i32::MAX as usize {
        return Err(Reason::operand(0, Property::Dim(0), Rule::AtMost, elements, i32::MAX as usize));
    }
    floats(node, &[0])
}

fn fixed(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let (from, to) = (node.required(0), node.output(0));
    if from.elements() == 0 {
        return Ok(Prepared::default());
    }
    let whole = from.is_contiguous() && to.is_contiguous();
    let [x, q] = [from, to].map(|desc| if whole { Rows::flat(desc) } else { Rows::of(desc) });
    let how = accessor(&[&x]);
    let elements_at_once = if how == "any" { 1 } else { 16 / x.dtype.block_bytes() };
    let slots = x.count * x.len.div_ceil(elements_at_once);
    let fields = Fields::default().rows(&x).rows(&q).size(x.count).size(x.len);
    let args =
        vec![Arg::input(node, 0), Arg::input(node, 1), Arg::optional(node, 2), Arg::output(node, 0), fields.arg()];
    let launch = Launch::new(&format!("quantize_static_{how}"), [slots.div_ceil(THREADS) as u32, 1, 1], 0, args);
    Ok(Prepared { launches: vec![launch], scratch: 0 })
}
