//! Rotary positions.

use qiao_core::{Accept, DType, NodeView, Op, OpKind, Reason, Result, RopeStyle, Row};

use super::launch::{Arg, Chip, Launch, Prepare, Prepared, row};
use super::rowwise::{Fields, Rows, accessor, floats};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![row(OpKind::Rope, "rope", accepts, rope)]
}

fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    floats(node, &[0, 4])
}

fn rope(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let Op::Rope(attrs) = *node.op() else { unreachable!("the table pairs rope with its kernel") };
    let [x, positions, cos, sin] = [0, 1, 2, 3].map(|i| node.required(i));
    if x.elements() == 0 {
        return Ok(Prepared::default());
    }
    let (tokens, heads, dim) = (x.shape[0], x.shape[1], x.shape[2]);
    let rotary = if attrs.rotary_dim == 0 { dim } else { attrs.rotary_dim as usize };
    let (from, to) = (Rows::of(x), Rows::of(node.output(0)));
    let fields = Fields::default().rows(&from).rows(&to).size(heads).size(dim).size(rotary / 2).u32(attrs.offset);
    let fields = fields.flag(attrs.style == RopeStyle::Interleaved).flag(positions.dtype == DType::I64);
    let fields = fields.size(cos.shape[0]).u32(0).u64(positions.strides[0] as u64);
    let fields = [cos, sin].iter().flat_map(|t| t.strides.iter()).fold(fields, |f, &stride| f.u64(stride as u64));
    let inputs = [0, 1, 2, 3].map(|i| Arg::input(node, i));
    let args = inputs.into_iter().chain([Arg::output(node, 0), fields.arg()]).collect();
    let name = format!("rope_{}", accessor(&[&from, &to]));
    Ok(Prepared { launches: vec![Launch::new(&name, [tokens as u32, 1, 1], 0, args)], scratch: 0 })
}
