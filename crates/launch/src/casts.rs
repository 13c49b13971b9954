//! Elements in another dtype: cast, and rows of a table whose dtype is not the result's.

use qiao_core::{Accept, DType, NodeView, OpKind, Property, Reason, Result, Row, Rule, TensorDesc};

use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row};
use crate::moves::{copy, gather_same, is_scalar, wide};
use crate::sound::alignment;
use crate::walk::{Launched, Walk, no_layouts};

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    vec![row(OpKind::Cast, "cast", casts, cast), row(OpKind::GatherRows, "gather_rows", gathers, gather_rows)]
}

/// The dtypes in the order in which the kernels number them.
const TYPES: [DType; 18] = [
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F8E4M3,
    DType::F8E5M2,
    DType::F8E8M0,
    DType::F8E4M3Fnuz,
    DType::F8E5M2Fnuz,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U64,
    DType::U32,
    DType::U16,
    DType::U8,
    DType::Bool,
];

/// The number by which the kernels know a dtype.
fn code(dtype: DType) -> Arg {
    let found = TYPES.iter().position(|&d| d == dtype);
    Arg::U32(found.expect("the table accepts dtypes that the kernels know") as u32)
}

/// What a block's address is a multiple of, and how many elements a thread unpacks; none for dtypes that are not packed.
fn packing(dtype: DType) -> Option<(usize, usize)> {
    Some(match dtype {
        DType::I4 | DType::U4 | DType::F4E2M1 => (1, 2),
        DType::Mxfp4 => (1, 8),
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::Q3K | DType::Q6K | DType::Iq4Nl => (2, 8),
        DType::Q4_1 | DType::Q5_1 | DType::Q2K => (4, 8),
        DType::Q4K | DType::Q5K | DType::Iq4Xs => (8, 8),
        _ => return None,
    })
}

/// Accepts a packed operand that starts where its blocks may, for a result of any plain dtype.
fn unpacks(node: &NodeView<'_>, align: usize) -> Result<Accept, Reason> {
    let id = node.node.inputs[0].expect("the graph checked the operand");
    let start = node.graph.root(id).1;
    if !alignment(node.graph, id).is_multiple_of(align) {
        return Err(Reason::operand(0, Property::Alignment, Rule::MultipleOf, start, align));
    }
    no_layouts(node)
}

fn casts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let (x, y) = (node.required(0), node.output(0));
    if !is_scalar(y.dtype) {
        return Err(Reason::operand(1, Property::Dtype, Rule::None, y.dtype, ""));
    }
    match packing(x.dtype) {
        Some((align, _)) => unpacks(node, align),
        None if is_scalar(x.dtype) => no_layouts(node),
        None => Err(Reason::operand(0, Property::Dtype, Rule::None, x.dtype, "")),
    }
}

fn one(launch: Launch) -> Result<Prepared> {
    Ok(Prepared { launches: vec![launch], scratch: 0 })
}

fn cast(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let (x, y) = (node.required(0), node.output(0));
    if x.dtype == y.dtype {
        return copy(node, chip);
    }
    if let Some((_, at_once)) = packing(x.dtype) {
        return unpack(node, at_once, None);
    }
    let walk = Walk::new(&y.shape, [&x.strides, &y.strides]);
    let ids = [node.node.inputs[0].expect("cast has its operand"), node.node.outputs[0]];
    let starts_wide = ids.iter().all(|&id| alignment(node.graph, id) >= 16);
    let (from, to) = (Arg::input(node, 0), Arg::output(node, 0));
    let plain = x.dtype.is_activation() && y.dtype.is_activation();
    if plain && starts_wide && matches!(walk.rows(), Some((1, _, _, [1, 1]))) {
        let blocks = u32::try_from(walk.count().div_ceil(8 * 256)).ok().filter(|&b| b <= i32::MAX as u32);
        if let Some(blocks) = blocks {
            let symbol = format!("cast_{}_{}", x.dtype, y.dtype);
            return one(Launch::new(&symbol, [blocks, 1, 1], 0, vec![from, to, Arg::U64(walk.count())]));
        }
    }
    let args = vec![from, to, walk.arg(), code(x.dtype), code(y.dtype)];
    one(Launch::new("cast_any", walk.grid(), 0, args))
}

fn gathers(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let (table, y) = (node.required(0), node.output(0));
    if table.dtype == y.dtype {
        return no_layouts(node);
    }
    if !is_scalar(y.dtype) {
        return Err(Reason::operand(2, Property::Dtype, Rule::None, y.dtype, ""));
    }
    match packing(table.dtype) {
        Some((align, _)) => unpacks(node, align),
        None if is_scalar(table.dtype) => no_layouts(node),
        None => Err(Reason::operand(0, Property::Dtype, Rule::None, table.dtype, "")),
    }
}

fn gather_rows(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let [table, ids, y] = [node.required(0), node.required(1), node.output(0)];
    if table.dtype == y.dtype {
        return gather_same(node);
    }
    if let Some((_, at_once)) = packing(table.dtype) {
        return unpack(node, at_once, Some(ids));
    }
    let of_table = [&vec![0; ids.rank()][..], &table.strides[1..]].concat();
    let of_ids = [&ids.strides[..], &[0]].concat();
    let walk = Walk::new(&y.shape, [&of_table, &of_ids, &y.strides]);
    let numbers = [Arg::U64(table.shape[0] as u64), Arg::U64(table.strides[0] as u64), wide(ids)];
    let mut args = vec![Arg::input(node, 0), Arg::input(node, 1), Arg::output(node, 0), walk.arg()];
    args.extend(numbers);
    args.extend([code(table.dtype), code(y.dtype)]);
    one(Launch::new("gather_any", walk.grid(), 0, args))
}

/// Rows of a packed operand as numbers: all of them in order, or those that ids name.
fn unpack(node: &NodeView<'_>, at_once: usize, ids: Option<&TensorDesc>) -> Result<Prepared> {
    let (x, y) = (node.required(0), node.output(0));
    let (elems, bytes) = (x.dtype.block_elems(), x.dtype.block_bytes());
    let outer = y.rank() - 1;
    let in_bytes = |stride: usize| stride / elems * bytes;
    let (of_x, of_ids): (Vec<usize>, Vec<usize>) = match ids {
        Some(ids) => (vec![0; outer], ids.strides.to_vec()),
        None => (x.strides[..outer].iter().map(|&s| in_bytes(s)).collect(), vec![0; outer]),
    };
    let walk = Walk::new(&y.shape[..outer], [&of_x, &of_ids, &y.strides[..outer]]);
    let groups = (y.shape[outer] / at_once) as u64;
    let blocks = (walk.count() * groups).div_ceil(256).min(1 << 20) as u32;
    let table = (ids.map_or(Arg::Null, |_| Arg::input(node, 1)), ids.map_or(Arg::U32(0), wide));
    let (rows, row) = if ids.is_some() { (x.shape[0], in_bytes(x.strides[0])) } else { (0, 0) };
    let mut args = vec![Arg::input(node, 0), table.0, table.1, Arg::U64(rows as u64), Arg::U64(row as u64)];
    args.extend([Arg::output(node, 0), code(y.dtype), walk.arg()]);
    args.extend([Arg::U64(groups), Arg::U64(if groups * at_once as u64 > 1 { y.strides[outer] as u64 } else { 1 })]);
    one(Launch::new(&format!("unpack_{}", x.dtype), [blocks, 1, 1], 0, args))
}
