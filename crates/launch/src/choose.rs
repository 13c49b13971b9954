//! argmax, top_k, sample.

use qiao_core::{Accept, DType, NodeView, Op, OpKind, Property, Reason, Result, Row, Rule};

use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row};
use crate::rowwise::{Fields, Rows, accessor, blocks, floats, team};

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::Argmax, "argmax", |node| floats(node, &[0]), argmax),
        row(OpKind::TopK, "top_k", k_fits, top_k),
        row(OpKind::Sample, "sample", columns_fit, sample),
    ]
}

/// Bytes of an element's place in its row's order.
const PLACE: usize = 8;

fn argmax(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    /// Elements below which a row is not worth another block.
    const LEAST: usize = 4096;
    let (x, y) = (Rows::of(node.required(0)), Rows::of_elements(node.output(0)));
    if x.count == 0 {
        return Ok(Prepared::default());
    }
    let how = accessor(&[&x]);
    let team = team(how, x.count, x.len, chip, false);
    let wanted = (2 * chip.processors as usize / x.count).clamp(1, x.len.div_ceil(LEAST));
    let span = if team == 32 { x.len } else { x.len.div_ceil(wanted) }.next_multiple_of(8);
    let parts = x.len.div_ceil(span);
    let fields = || Fields::default().rows(&x).rows(&y).size(x.count).size(x.len).size(parts).size(span).arg();
    let places = if parts == 1 { Arg::Null } else { Arg::Scratch(0) };
    let args = vec![Arg::input(node, 0), Arg::output(node, 0), places.clone(), fields()];
    let mut launches =
        vec![Launch::new(&format!("argmax_{how}_{team}"), [blocks(x.count * parts, team), 1, 1], 0, args)];
    if parts > 1 {
        let args = vec![Arg::output(node, 0), places, fields()];
        launches.push(Launch::new("argmax_join", [blocks(x.count, 32), 1, 1], 0, args));
    }
    Ok(Prepared { launches, scratch: if parts == 1 { 0 } else { x.count * parts * PLACE } })
}

/// The largest k whose places a block sorts.
const MOST_K: usize = 4096;

fn k_fits(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let Op::TopK(attrs) = *node.op() else { unreachable!("the table pairs top_k with its kernel") };
    if attrs.k as usize > MOST_K {
        return Err(Reason::attribute("k", Rule::AtMost, attrs.k as usize, MOST_K));
    }
    floats(node, &[0])
}

/// Blocks take spans of a row and leave the k largest of each, until one block has all that are left.
fn top_k(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    /// Elements that a block chooses among.
    const SPAN: usize = 8192;
    /// Longest row and largest k of the kernel that takes the largest k times.
    const FEW: (usize, usize) = (512, 16);
    let Op::TopK(attrs) = *node.op() else { unreachable!("the table pairs top_k with its kernel") };
    let (k, x) = (attrs.k as usize, Rows::of(node.required(0)));
    if x.count == 0 {
        return Ok(Prepared::default());
    }
    let results = [0, 1].map(|i| Arg::output(node, i));
    let (values, indices) = (Rows::of(node.output(0)), Rows::of(node.output(1)));
    let room = k.next_power_of_two();
    let fields = |cols: usize, parts: usize| {
        let fields = Fields::default().rows(&x).rows(&values).rows(&indices).size(x.count).size(cols).size(k);
        fields.size(parts).size(room).u32(0).arg()
    };
    if x.len <= FEW.0 && k <= FEW.1 {
        let args = [Arg::input(node, 0)].into_iter().chain(results).chain([fields(x.len, 1)]).collect();
        let launch = Launch::new("top_k_few", [blocks(x.count, 32), 1, 1], 0, args);
        return Ok(Prepared { launches: vec![launch], scratch: 0 });
    }
    let (mut prepared, mut cols, mut from) = (Prepared::default(), x.len, None);
    loop {
        let parts = cols.div_ceil(SPAN);
        let to = if parts == 1 { Arg::Null } else { Arg::Scratch(prepared.scratch) };
        let common = [Arg::input(node, 0)].into_iter().chain(results.clone()).chain([to.clone(), fields(cols, parts)]);
        let (name, args) = match from {
            None => (format!("top_k_{}", accessor(&[&x])), common.collect()),
            Some(from) => ("top_k_places".to_string(), [from].into_iter().chain(common).collect()),
        };
        let shared = (room * PLACE) as u32;
        prepared.launches.push(Launch::new(&name, [(x.count * parts) as u32, 1, 1], shared, args));
        if parts == 1 {
            return Ok(prepared);
        }
        prepared.scratch += (x.count * parts * k * PLACE).next_multiple_of(256);
        (cols, from) = (parts * k, Some(to));
    }
}

fn columns_fit(node: &NodeView<'_>) -> Result<Accept, Reason> {
    /// Above this the mass of a row does not fit 64 bits.
    const MOST: usize = 1 << 22;
    let cols = node.required(0).shape.last_dim();
    if cols > MOST {
        return Err(Reason::operand(0, Property::Dim(1), Rule::AtMost, cols, MOST));
    }
    floats(node, &[0])
}

fn sample(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let x = Rows::of(node.required(0));
    if x.count == 0 {
        return Ok(Prepared::default());
    }
    let fields = Fields::default().rows(&x).size(x.count).size(x.len);
    let fields = fields.flag(node.required(3).dtype == DType::I64).u32(0);
    let steps = (1..6).map(|i| node.required(i).strides[0]).chain([node.output(0).strides[0]]);
    let fields = steps.fold(fields, |f, step| f.u64(step as u64));
    let inputs = [0, 1, 2, 3, 4, 5].map(|i| Arg::input(node, i));
    let args = inputs.into_iter().chain([Arg::output(node, 0), fields.arg()]).collect();
    let threads = if x.len <= 8192 { 256 } else { 1024 };
    let name = format!("sample_{}_{threads}", accessor(&[&x]));
    Ok(Prepared { launches: vec![Launch::new(&name, [x.count as u32, 1, 1], 0, args)], scratch: 0 })
}
