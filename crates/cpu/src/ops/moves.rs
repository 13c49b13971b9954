//! Operators that move elements: copy, cast, fill, gather, concat, split, slice, transpose.

use half::{bf16, f16};
use qiao_core::{Accept, DType, NodeView, Op, OpKind, Property, Reason, Row, Rule, TensorDesc};
use qiao_kernels_cpu::stream_copy;
use qiao_quant::minifloat::{BF16, F4E2M1, F8E4M3FNUZ, F8E5M2FNUZ, F16, Format, decode_e8m0, encode_e8m0};
use qiao_quant::nibble;

use super::access::{FP8, Operand, fp8};
use super::exec::{Core, Exec, Prepare, Prepared, activations, no_layouts, row};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::Copy, "copy", no_layouts, copy),
        row(OpKind::Cast, "cast", casts, cast),
        row(OpKind::Fill, "fill", fills, fill),
        row(OpKind::GatherRows, "gather_rows", gathers, gather_rows),
        row(OpKind::Concat, "concat", no_layouts, concat),
        row(OpKind::Split, "split", no_layouts, split),
        row(OpKind::Slice, "slice", no_layouts, slice),
        row(OpKind::Transpose, "transpose", no_layouts, transpose),
    ]
}

/// Plain elements of one size, moved without looking at them.
struct Move {
    from: Operand,
    to: Operand,
    /// The first element read, written.
    start: (usize, usize),
    /// Bytes of a block and elements in it.
    block: (usize, usize),
    streamed: bool,
}

impl Move {
    fn new(from: Operand, to: Operand, start: (usize, usize)) -> Self {
        let block = (to.dtype.block_bytes(), to.dtype.block_elems());
        let streamed = to.is_streamed() && from.is_dense();
        Move { from, to, start, block, streamed }
    }

    fn run(&self, exec: &Exec<'_>) {
        let (bytes, elems) = self.block;
        let byte = |e: usize| e / elems * bytes;
        let src = exec.address(self.from.tensor).wrapping_add(byte(self.start.0)) as usize;
        let dst = exec.address(self.to.tensor).wrapping_add(byte(self.start.1)) as usize;
        let len = self.from.len;
        exec.rows(self.from.rows(), len, &|first, last, _| {
            for r in first..last {
                let from = (src + byte(self.from.offset(r))) as *const u8;
                let to = (dst + byte(self.to.offset(r))) as *mut u8;
                // SAFETY: the graph checked that both rows lie in their tensors, whose storage is distinct; tasks
                // write disjoint rows.
                unsafe {
                    if self.streamed {
                        let bytes = len / elems * bytes;
                        let out = std::slice::from_raw_parts_mut(to, bytes);
                        stream_copy(out, std::slice::from_raw_parts(from, bytes), &[]);
                    } else {
                        copy_row((from, self.from.step()), (to, self.to.step()), len / elems, bytes);
                    }
                }
            }
        });
    }
}

/// Copies `len` elements (or blocks) of `size` bytes, each side with its step in elements.
///
/// # Safety
/// Both rows are live, and nothing else uses the one written.
unsafe fn copy_row(from: (*const u8, usize), to: (*mut u8, usize), len: usize, size: usize) {
    // SAFETY: as the caller vouches.
    unsafe {
        if len <= 1 || from.1 == 1 && to.1 == 1 {
            return std::ptr::copy_nonoverlapping(from.0, to.0, len * size);
        }
        for i in 0..len {
            std::ptr::copy_nonoverlapping(from.0.add(i * from.1 * size), to.0.add(i * to.1 * size), size);
        }
    }
}

fn moves(list: Vec<Move>) -> Prepared {
    Prepared::with_scratch(0, move |exec| {
        list.iter().for_each(|m| m.run(exec));
        Ok(())
    })
}

fn copy(node: &NodeView<'_>, _: &Core) -> Prepared {
    copy_of(Operand::required(node, 0), Operand::whole_rows(node, 0))
}

/// A window of a tensor along an axis: the operand, and where it starts.
fn window(desc: &TensorDesc, operand: Operand, axis: usize, start: usize, shape: &[usize]) -> (Operand, usize) {
    (operand.with_shape(shape, desc), start * desc.strides[axis])
}

fn concat(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::Concat(attrs) = *node.op() else { unreachable!("the table pairs concat with its kernel") };
    let axis = attrs.axis as usize;
    let mut at = 0;
    let mut list = Vec::new();
    for i in 0..node.node.inputs.len() {
        let part = node.required(i);
        let (to, start) = window(node.output(0), Operand::output(node, 0), axis, at, &part.shape);
        list.push(Move::new(Operand::required(node, i), to, (0, start)));
        at += part.shape[axis];
    }
    moves(list)
}

fn split(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::Split(attrs) = *node.op() else { unreachable!("the table pairs split with its kernel") };
    let axis = attrs.axis as usize;
    let part = |i: usize| {
        let shape = node.output(i).shape;
        let (from, start) = window(node.required(0), Operand::required(node, 0), axis, i * shape[axis], &shape);
        Move::new(from, Operand::output(node, i), (start, 0))
    };
    moves((0..node.node.outputs.len()).map(part).collect())
}

fn slice(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::Slice(attrs) = *node.op() else { unreachable!("the table pairs slice with its kernel") };
    let (axis, shape) = (attrs.axis as usize, node.output(0).shape);
    let (from, start) = window(node.required(0), Operand::required(node, 0), axis, attrs.start as usize, &shape);
    moves(vec![Move::new(from, Operand::output(node, 0), (start, 0))])
}

fn transpose(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::Transpose(attrs) = *node.op() else { unreachable!("the table pairs transpose with its kernel") };
    let axes = attrs.perm.axes(node.required(0).rank()).expect("the graph checked the permutation");
    let from = Operand::permuted(node, node.node.inputs[0].expect("transpose has its operand"), &axes);
    moves(vec![Move::new(from, Operand::output(node, 0), (0, 0))])
}

/// The format of an fp8 dtype, those without negative zero included.
pub(super) fn small(dtype: DType) -> Option<Format> {
    match dtype {
        DType::F8E4M3Fnuz => Some(F8E4M3FNUZ),
        DType::F8E5M2Fnuz => Some(F8E5M2FNUZ),
        d if FP8.contains(&d) => Some(fp8(d)),
        _ => None,
    }
}

/// dtypes whose elements are read and written one by one.
fn is_scalar(dtype: DType) -> bool {
    let wide = dtype.is_activation() || matches!(dtype, DType::F64 | DType::F8E8M0);
    wide || small(dtype).is_some() || dtype.is_int() && !dtype.is_packed()
}

fn casts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let (x, y) = (node.required(0), node.output(0));
    let packed = x.dtype.is_block() || matches!(x.dtype, DType::I4 | DType::U4 | DType::F4E2M1);
    if !(is_scalar(x.dtype) || packed) {
        return Err(Reason::operand(0, Property::Dtype, Rule::None, x.dtype, ""));
    }
    if !is_scalar(y.dtype) {
        return Err(Reason::operand(1, Property::Dtype, Rule::None, y.dtype, ""));
    }
    no_layouts(node)
}

fn cast(node: &NodeView<'_>, _: &Core) -> Prepared {
    let (x, y) = (Operand::required(node, 0), Operand::whole_rows(node, 0));
    if x.dtype == y.dtype {
        return copy_of(x, y);
    }
    let plain = x.dtype.is_activation() && y.dtype.is_activation();
    let wide = matches!(x.dtype, DType::I64 | DType::U64);
    // Elements of packed dtypes have no addresses of their own.
    let packed = x.dtype.is_packed();
    let [x, y] = if packed { [x, y] } else { Operand::in_pieces([x, y]) };
    let floats = match plain {
        true => x.room_to_read(),
        false if packed => y.len,
        false => 0,
    };
    Prepared::with_scratch(floats, move |exec| {
        let k = exec.kernels();
        let at = [x.tensor, y.tensor].map(|t| exec.address(t) as usize);
        exec.rows(y.rows(), y.len, &|first, last, thread| {
            // SAFETY: the pool gave this thread, and tasks write disjoint rows of a result that shares no storage
            // with the operand.
            unsafe {
                let buf = exec.scratch(thread);
                for r in first..last {
                    if plain {
                        let row = x.read(k, at[0] as *const u8, r, buf);
                        y.write(k, at[1] as *mut u8, r, 0, row);
                    } else if packed {
                        unpack_row(&x, at[0] as *const u8, r, &mut buf[..y.len]);
                        (0..y.len).for_each(|i| put(&y, at[1] as *mut u8, r, i, f64::from(buf[i])));
                    } else if wide {
                        (0..y.len)
                            .for_each(|i| put_wide(&y, at[1] as *mut u8, r, i, get_wide(&x, at[0] as *const u8, r, i)));
                    } else {
                        (0..y.len).for_each(|i| put(&y, at[1] as *mut u8, r, i, get(&x, at[0] as *const u8, r, i)));
                    }
                }
            }
        });
        Ok(())
    })
}

fn copy_of(x: Operand, y: Operand) -> Prepared {
    let [x, y] = if y.dtype.block_elems() == 1 { Operand::in_pieces([x, y]) } else { [x, y] };
    moves(vec![Move::new(x, y, (0, 0))])
}

/// Decodes a row of a packed dtype; the graph checked that rows are whole blocks.
///
/// # Safety
/// As [`Operand::read`].
pub(super) unsafe fn unpack_row(x: &Operand, base: *const u8, r: usize, out: &mut [f32]) {
    let (elems, bytes) = (x.dtype.block_elems(), x.dtype.block_bytes());
    let start = x.offset(r) / elems * bytes;
    // SAFETY: the caller vouches for the row, which is a whole number of blocks.
    let row = unsafe { std::slice::from_raw_parts(base.add(start), x.len / elems * bytes) };
    let code = |j: usize| nibble::u4(row, j);
    match x.dtype {
        DType::I4 => out.iter_mut().enumerate().for_each(|(j, o)| *o = f32::from(nibble::i4(row, j))),
        DType::U4 => out.iter_mut().enumerate().for_each(|(j, o)| *o = f32::from(code(j))),
        DType::F4E2M1 => out.iter_mut().enumerate().for_each(|(j, o)| *o = F4E2M1.decode(u32::from(code(j))) as f32),
        block => qiao_quant::decode_row(block, row, out).expect("the table accepts only formats that can be decoded"),
    }
}

/// One element of i64 or u64.
///
/// # Safety
/// As [`Operand::read`].
unsafe fn get_wide(x: &Operand, base: *const u8, r: usize, i: usize) -> i128 {
    let at = x.offset(r) + i * x.step();
    // SAFETY: the caller vouches for the row.
    unsafe {
        match x.dtype {
            DType::I64 => i128::from(*base.cast::<i64>().add(at)),
            _ => i128::from(*base.cast::<u64>().add(at)),
        }
    }
}

/// Rounds an integer of 64 bits once, which may have more bits than f64.
///
/// # Safety
/// As [`Operand::write`].
unsafe fn put_wide(y: &Operand, base: *mut u8, r: usize, i: usize, value: i128) {
    let at = y.offset(r) + i * y.step();
    // SAFETY: as the caller vouches.
    unsafe {
        match y.dtype {
            DType::I64 => *base.cast::<i64>().add(at) = value.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
            DType::U64 => *base.cast::<u64>().add(at) = value.clamp(0, u64::MAX.into()) as u64,
            DType::F64 => *base.cast::<f64>().add(at) = value as f64,
            _ => put(y, base, r, i, to_odd(value)),
        }
    }
}

/// An integer as f64, rounded to odd where it is inexact, so that one more rounding to fewer bits is the right one
/// (Boldo and Melquiond 2008).
fn to_odd(value: i128) -> f64 {
    let near = value as f64;
    let error = value - near as i128;
    match (error == 0 || near.to_bits() & 1 == 1, (error > 0) == (near > 0.0)) {
        (true, _) => near,
        (_, true) => f64::from_bits(near.to_bits() + 1),
        _ => f64::from_bits(near.to_bits() - 1),
    }
}

/// The format of an fp8 dtype that a table row accepted.
fn format(dtype: DType) -> Format {
    small(dtype).expect("the table accepts only formats that it knows")
}

/// One element of a scalar dtype as f64; 64-bit integers are rounded, all others exact.
///
/// # Safety
/// As [`Operand::read`].
pub(super) unsafe fn get(x: &Operand, base: *const u8, r: usize, i: usize) -> f64 {
    let at = x.offset(r) + i * x.step();
    // SAFETY: the caller vouches for the row.
    unsafe {
        match x.dtype {
            DType::F64 => *base.cast::<f64>().add(at),
            DType::F32 => f64::from(*base.cast::<f32>().add(at)),
            DType::F16 => (*base.cast::<f16>().add(at)).to_f64(),
            DType::BF16 => (*base.cast::<bf16>().add(at)).to_f64(),
            DType::I64 => *base.cast::<i64>().add(at) as f64,
            DType::I32 => f64::from(*base.cast::<i32>().add(at)),
            DType::I16 => f64::from(*base.cast::<i16>().add(at)),
            DType::I8 => f64::from(*base.cast::<i8>().add(at)),
            DType::U64 => *base.cast::<u64>().add(at) as f64,
            DType::U32 => f64::from(*base.cast::<u32>().add(at)),
            DType::U16 => f64::from(*base.cast::<u16>().add(at)),
            DType::U8 => f64::from(*base.add(at)),
            DType::Bool => f64::from(u8::from(*base.add(at) != 0)),
            DType::F8E8M0 => decode_e8m0(*base.add(at)),
            dtype => format(dtype).decode(u32::from(*base.add(at))),
        }
    }
}

/// One element as f32; 4-bit codes have none of their own address.
///
/// # Safety
/// As [`Operand::read`].
pub(super) unsafe fn number(x: &Operand, base: *const u8, r: usize, i: usize) -> f32 {
    let at = x.offset(r) + i;
    // SAFETY: the caller vouches for the element; rows of 4-bit codes lie side by side.
    let byte = || unsafe { [*base.add(at / 2)] };
    match x.dtype {
        DType::I4 => f32::from(nibble::i4(&byte(), at % 2)),
        DType::U4 => f32::from(nibble::u4(&byte(), at % 2)),
        DType::F4E2M1 => F4E2M1.decode(u32::from(nibble::u4(&byte(), at % 2))) as f32,
        // SAFETY: as the caller vouches.
        _ => unsafe { get(x, base, r, i) as f32 },
    }
}

/// Rounds a value to one element of a scalar dtype: half to even, integers saturating, NaN to integer 0.
///
/// # Safety
/// As [`Operand::write`].
unsafe fn put(y: &Operand, base: *mut u8, r: usize, i: usize, value: f64) {
    let at = y.offset(r) + i * y.step();
    let whole = value.round_ties_even();
    // SAFETY: the caller vouches for the row. `as` saturates and turns NaN into 0.
    unsafe {
        match y.dtype {
            DType::F64 => *base.cast::<f64>().add(at) = value,
            DType::F32 => *base.cast::<f32>().add(at) = value as f32,
            // The conversions of f64 in `half` round twice.
            DType::F16 => *base.cast::<u16>().add(at) = F16.encode(value) as u16,
            DType::BF16 => *base.cast::<u16>().add(at) = BF16.encode(value) as u16,
            DType::I64 => *base.cast::<i64>().add(at) = whole as i64,
            DType::I32 => *base.cast::<i32>().add(at) = whole as i32,
            DType::I16 => *base.cast::<i16>().add(at) = whole as i16,
            DType::I8 => *base.cast::<i8>().add(at) = whole as i8,
            DType::U64 => *base.cast::<u64>().add(at) = whole as u64,
            DType::U32 => *base.cast::<u32>().add(at) = whole as u32,
            DType::U16 => *base.cast::<u16>().add(at) = whole as u16,
            DType::U8 => *base.add(at) = whole as u8,
            DType::Bool => *base.add(at) = u8::from(whole >= 1.0),
            DType::F8E8M0 => *base.add(at) = encode_e8m0(value),
            dtype => *base.add(at) = format(dtype).encode(value) as u8,
        }
    }
}

/// The bytes of an element that is NaN; of 0 in a dtype that has none.
fn no_number(dtype: DType) -> [u8; 8] {
    match dtype {
        DType::F64 => f64::NAN.to_le_bytes(),
        DType::F32 => first_bytes(f32::NAN.to_le_bytes()),
        DType::F16 => first_bytes(f16::NAN.to_le_bytes()),
        DType::BF16 => first_bytes(bf16::NAN.to_le_bytes()),
        DType::F8E8M0 => first_bytes([encode_e8m0(f64::NAN)]),
        dtype => small(dtype).map_or([0; 8], |f| first_bytes([f.encode(f64::NAN) as u8])),
    }
}

fn first_bytes<const N: usize>(bytes: [u8; N]) -> [u8; 8] {
    std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0))
}

fn fills(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let y = node.output(0);
    if is_scalar(y.dtype) {
        no_layouts(node)
    } else {
        Err(Reason::operand(0, Property::Dtype, Rule::None, y.dtype, ""))
    }
}

fn fill(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::Fill(attrs) = *node.op() else { unreachable!("the table pairs fill with its kernel") };
    let y = Operand::output(node, 0);
    let size = y.dtype.block_bytes();
    Prepared::with_scratch(0, move |exec| {
        let to = exec.address(y.tensor) as usize;
        exec.rows(y.rows(), y.len, &|first, last, _| {
            for r in first..last {
                let row = (to + y.offset(r) * size) as *mut u8;
                // SAFETY: tasks write disjoint rows of the result, each of at least one element.
                unsafe {
                    put(&y, to as *mut u8, r, 0, f64::from(attrs.value));
                    (1..y.len).for_each(|i| row.add(i * y.step() * size).copy_from_nonoverlapping(row, size));
                }
            }
        });
        Ok(())
    })
}

fn gathers(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let (table, y) = (node.required(0), node.output(0));
    let unpacked = table.dtype.is_block() || table.dtype == DType::F4E2M1;
    if unpacked || table.dtype.is_activation() && y.dtype.is_activation() {
        return activations(node, &[2]);
    }
    if table.dtype == y.dtype && (!table.dtype.is_packed() || y.rows_are_contiguous()) {
        return no_layouts(node);
    }
    if !is_scalar(table.dtype) || !is_scalar(y.dtype) {
        return Err(Reason::operand(0, Property::Dtype, Rule::None, table.dtype, ""));
    }
    no_layouts(node)
}

fn gather_rows(node: &NodeView<'_>, _: &Core) -> Prepared {
    let [table, ids] = [0, 1].map(|i| Operand::required(node, i));
    let y = Operand::output(node, 0);
    let count = table.shape[0];
    let same = table.dtype == y.dtype;
    let (size, elems) = (y.dtype.block_bytes(), y.dtype.block_elems());
    let missing = no_number(y.dtype);
    Prepared::with_scratch(2 * y.len, move |exec| {
        let k = exec.kernels();
        let at = [&table, &ids, &y].map(|o| exec.address(o.tensor) as usize);
        exec.rows(y.rows(), y.len, &|first, last, thread| {
            for r in first..last {
                // SAFETY: the pool gave this thread, ids hold one entry per row of the result, and tasks write
                // disjoint rows of a result that shares no storage with the operands.
                unsafe {
                    let (buf, out) = exec.scratch(thread).split_at_mut(y.len);
                    let entry = ids.offset(r / ids.len.max(1)) + r % ids.len.max(1) * ids.step();
                    let id = ids.index(at[1] as *const u8, entry);
                    let to = (at[2] + y.offset(r) / elems * size) as *mut u8;
                    let len = y.len / elems;
                    let Some(id) = usize::try_from(id).ok().filter(|&id| id < count) else {
                        (0..len).for_each(|i| to.add(i * y.step() * size).copy_from(missing.as_ptr(), size));
                        continue;
                    };
                    if same {
                        let from = (at[0] + table.offset(id) / elems * size) as *const u8;
                        copy_row((from, table.step()), (to, y.step()), len, size);
                    } else if table.dtype.is_packed() {
                        unpack_row(&table, at[0] as *const u8, id, &mut out[..y.len]);
                        y.write(k, at[2] as *mut u8, r, 0, &out[..y.len]);
                    } else if !table.dtype.is_activation() || !y.dtype.is_activation() {
                        let row = at[0] as *const u8;
                        (0..y.len).for_each(|i| put(&y, at[2] as *mut u8, r, i, get(&table, row, id, i)));
                    } else {
                        let row = table.read(k, at[0] as *const u8, id, buf);
                        y.write(k, at[2] as *mut u8, r, 0, row);
                    }
                }
            }
        });
        Ok(())
    })
}
