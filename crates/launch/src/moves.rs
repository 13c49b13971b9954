//! Operators that move elements: copy, fill, concat, split, slice, transpose, and rows of a table of the result's own dtype.

use qiao_core::{Accept, DType, NodeView, Op, OpKind, Property, Reason, Result, Row, Rule, TensorDesc, TensorId};
use qiao_quant::minifloat::{BF16, F8E4M3, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F16, encode_e8m0};

use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row};
use crate::sound::alignment;
use crate::walk::{Launched, Walk, no_layouts};

/// The most bytes that a kernel moves at a time.
const WIDEST: u64 = 16;

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::Copy, "copy", no_layouts, copy),
        row(OpKind::Fill, "fill", fills, fill),
        row(OpKind::Concat, "concat", no_layouts, concat),
        row(OpKind::Split, "split", no_layouts, split),
        row(OpKind::Slice, "slice", no_layouts, slice),
        row(OpKind::Transpose, "transpose", no_layouts, transpose),
    ]
}

/// A tensor as bytes: where its first one is, and how many bytes each axis of a shape steps, an axis for the bytes of an
/// element or of a row of blocks last.
#[derive(Clone)]
pub(crate) struct Bytes {
    tensor: usize,
    start: usize,
    align: usize,
    pub(crate) strides: Vec<usize>,
}

/// The shape that [`Bytes`] step through.
pub(crate) fn byte_shape(dtype: DType, shape: &[usize]) -> Vec<usize> {
    let (elems, bytes) = (dtype.block_elems(), dtype.block_bytes());
    match (dtype.is_packed(), shape.split_last()) {
        (true, Some((columns, outer))) => [outer, &[columns / elems * bytes]].concat(),
        _ => [shape, &[bytes]].concat(),
    }
}

impl Bytes {
    /// A tensor, its axes in their order.
    pub(crate) fn new(node: &NodeView<'_>, id: TensorId) -> Bytes {
        let desc = node.graph.desc(id);
        Bytes::with(node, id, &desc.strides)
    }

    /// A tensor with other strides.
    pub(crate) fn with(node: &NodeView<'_>, id: TensorId, strides: &[usize]) -> Bytes {
        let dtype = node.graph.desc(id).dtype;
        let (elems, bytes) = (dtype.block_elems(), dtype.block_bytes());
        let outer = if dtype.is_packed() { &strides[..strides.len().saturating_sub(1)] } else { strides };
        let strides = outer.iter().map(|s| s / elems * bytes).chain([1]).collect();
        Bytes { tensor: id.index(), start: 0, align: alignment(node.graph, id), strides }
    }

    /// The same from this element of its memory on.
    fn from(mut self, dtype: DType, element: usize) -> Bytes {
        self.start = element / dtype.block_elems() * dtype.block_bytes();
        self
    }

    pub(crate) fn arg(&self) -> Arg {
        Arg::Tensor(self.tensor, self.start)
    }

    /// What the first byte's address is a multiple of, 16 at the most.
    pub(crate) fn align(&self) -> u64 {
        let start = if self.start == 0 { WIDEST } else { 1 << self.start.trailing_zeros().min(4) };
        start.min(self.align as u64)
    }
}

/// Turns a walk over bytes into one over as many bytes at a time as the moved tensors allow, at most `limit`: how many.
pub(crate) fn widen<const N: usize>(walk: &mut Walk<N>, moved: [bool; N], limit: u64) -> u64 {
    let moved: Vec<usize> = (0..N).filter(|&k| moved[k]).collect();
    if walk.dims.is_empty() || moved.iter().any(|&k| walk.steps[k][0] != 1) {
        return 1;
    }
    let fits = |unit: u64| {
        let steps = moved.iter().flat_map(|&k| &walk.steps[k][1..]);
        walk.dims[0].is_multiple_of(unit)
            && limit.is_multiple_of(unit)
            && steps.into_iter().all(|s| s.is_multiple_of(unit))
    };
    let unit = [WIDEST, 8, 4, 2].into_iter().find(|&unit| fits(unit)).unwrap_or(1);
    walk.dims[0] /= unit;
    for &k in &moved {
        walk.steps[k][1..].iter_mut().for_each(|s| *s /= unit);
    }
    if walk.dims[0] == 1 {
        walk.dims.remove(0);
        walk.steps.iter_mut().for_each(|s| {
            s.remove(0);
        });
    }
    unit
}

/// Moves what lies in a shape of bytes.
fn moves(shape: &[usize], from: &Bytes, to: &Bytes) -> Launch {
    let mut walk = Walk::new(shape, [&from.strides, &to.strides]);
    let unit = widen(&mut walk, [true, true], from.align().min(to.align()));
    Launch::new(&format!("move_{unit}"), walk.grid(), 0, vec![from.arg(), to.arg(), walk.arg()])
}

fn prepared(launches: Vec<Launch>) -> Result<Prepared> {
    Ok(Prepared { launches, scratch: 0 })
}

fn input(node: &NodeView<'_>, i: usize) -> TensorId {
    node.node.inputs[i].expect("the table accepts a node with its operands")
}

/// `y = x`, of one shape and dtype.
pub(crate) fn copy(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let (x, y) = (node.required(0), node.node.outputs[0]);
    prepared(vec![moves(&byte_shape(x.dtype, &x.shape), &Bytes::new(node, input(node, 0)), &Bytes::new(node, y))])
}

/// A window of a tensor that starts at this index of an axis.
fn window(node: &NodeView<'_>, id: TensorId, axis: usize, start: usize) -> Bytes {
    let desc = node.graph.desc(id);
    Bytes::new(node, id).from(desc.dtype, start * desc.strides[axis])
}

fn concat(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let Op::Concat(attrs) = *node.op() else { unreachable!("the table pairs concat with its kernel") };
    let (axis, y) = (attrs.axis as usize, node.node.outputs[0]);
    let mut start = 0;
    let mut launches = Vec::new();
    for i in 0..node.node.inputs.len() {
        let part = node.required(i);
        if part.elements() > 0 {
            let shape = byte_shape(part.dtype, &part.shape);
            launches.push(moves(&shape, &Bytes::new(node, input(node, i)), &window(node, y, axis, start)));
        }
        start += part.shape[axis];
    }
    prepared(launches)
}

fn split(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let Op::Split(attrs) = *node.op() else { unreachable!("the table pairs split with its kernel") };
    let axis = attrs.axis as usize;
    let part = |(i, &y): (usize, &TensorId)| {
        let desc = node.graph.desc(y);
        let from = window(node, input(node, 0), axis, i * desc.shape[axis]);
        moves(&byte_shape(desc.dtype, &desc.shape), &from, &Bytes::new(node, y))
    };
    prepared(node.node.outputs.iter().enumerate().map(part).collect())
}

fn slice(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let Op::Slice(attrs) = *node.op() else { unreachable!("the table pairs slice with its kernel") };
    let y = node.output(0);
    let from = window(node, input(node, 0), attrs.axis as usize, attrs.start as usize);
    prepared(vec![moves(&byte_shape(y.dtype, &y.shape), &from, &Bytes::new(node, node.node.outputs[0]))])
}

fn transpose(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let Op::Transpose(attrs) = *node.op() else { unreachable!("the table pairs transpose with its kernel") };
    let (x, y) = (node.required(0), node.output(0));
    let axes = attrs.perm.axes(x.rank()).expect("the graph checked the permutation");
    let strides: Vec<usize> = axes.iter().map(|&axis| x.strides[axis]).collect();
    let from = Bytes::with(node, input(node, 0), &strides);
    prepared(vec![moves(&byte_shape(y.dtype, &y.shape), &from, &Bytes::new(node, node.node.outputs[0]))])
}

/// A number as the bytes of an element, repeated; none for a dtype whose elements share bytes.
fn pattern(dtype: DType, value: f64) -> Option<u64> {
    let whole = value.round_ties_even();
    let code = match dtype {
        DType::F64 => value.to_bits(),
        DType::F32 => u64::from((value as f32).to_bits()),
        DType::F16 => u64::from(F16.encode(value)),
        DType::BF16 => u64::from(BF16.encode(value)),
        DType::F8E4M3 => u64::from(F8E4M3.encode(value)),
        DType::F8E5M2 => u64::from(F8E5M2.encode(value)),
        DType::F8E4M3Fnuz => u64::from(F8E4M3FNUZ.encode(value)),
        DType::F8E5M2Fnuz => u64::from(F8E5M2FNUZ.encode(value)),
        DType::F8E8M0 => u64::from(encode_e8m0(value)),
        // `as` saturates and turns NaN into 0.
        DType::I64 => whole as i64 as u64,
        DType::I32 => u64::from(whole as i32 as u32),
        DType::I16 => u64::from(whole as i16 as u16),
        DType::I8 => u64::from(whole as i8 as u8),
        DType::U64 => whole as u64,
        DType::U32 => u64::from(whole as u32),
        DType::U16 => u64::from(whole as u16),
        DType::U8 => u64::from(whole as u8),
        DType::Bool => u64::from(whole >= 1.0),
        _ => return None,
    };
    Some((0..8 / dtype.block_bytes()).fold(0, |all, i| all | code << (8 * dtype.block_bytes() * i)))
}

/// Whether elements are read and written one by one.
pub(crate) fn is_scalar(dtype: DType) -> bool {
    pattern(dtype, 0.0).is_some()
}

fn fills(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let y = node.output(0);
    match is_scalar(y.dtype) {
        true => no_layouts(node),
        false => Err(Reason::operand(0, Property::Dtype, Rule::None, y.dtype, "")),
    }
}

fn fill(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let Op::Fill(attrs) = *node.op() else { unreachable!("the table pairs fill with its kernel") };
    let (y, to) = (node.output(0), Bytes::new(node, node.node.outputs[0]));
    let mut walk = Walk::new(&byte_shape(y.dtype, &y.shape), [&to.strides]);
    let unit = widen(&mut walk, [true], to.align());
    let value = pattern(y.dtype, f64::from(attrs.value)).expect("the table accepts a dtype that has numbers");
    let args = vec![to.arg(), walk.arg(), Arg::U64(value)];
    prepared(vec![Launch::new(&format!("fill_{unit}"), walk.grid(), 0, args)])
}

/// What stands in a row that is none: NaN, and 0 in a dtype that has none.
fn missing(dtype: DType) -> u64 {
    pattern(dtype, f64::NAN).unwrap_or(0)
}

/// Rows of a table that a result takes as they are: how they step through the ids, and how far one row is from the next.
pub(crate) fn gather_same(node: &NodeView<'_>) -> Result<Prepared> {
    let [table, ids, y] = [node.required(0), node.required(1), node.output(0)];
    let (from, to) = (Bytes::new(node, input(node, 0)), Bytes::new(node, node.node.outputs[0]));
    let shape = byte_shape(y.dtype, &y.shape);
    let behind = shape.len() - ids.rank();
    // The table steps along the columns alone, and the ids along their own axes.
    let of_table = [&vec![0; ids.rank()][..], &from.strides[1..]].concat();
    let of_ids = [&ids.strides[..], &vec![0; behind]].concat();
    let mut walk = Walk::new(&shape, [&of_table, &of_ids, &to.strides]);
    let row = from.strides[0] as u64;
    let start = if row == 0 { WIDEST } else { 1 << row.trailing_zeros().min(4) };
    let unit = widen(&mut walk, [true, false, true], from.align().min(to.align()).min(start));
    let numbers = [Arg::U64(table.shape[0] as u64), Arg::U64(row / unit), wide(ids), Arg::U64(missing(y.dtype))];
    let args = [from.arg(), Arg::input(node, 1), to.arg(), walk.arg()].into_iter().chain(numbers).collect();
    prepared(vec![Launch::new(&format!("gather_{unit}"), walk.grid(), 0, args)])
}

/// Whether ids have 64 bits.
pub(crate) fn wide(ids: &TensorDesc) -> Arg {
    Arg::U32(u32::from(ids.dtype == DType::I64))
}
