//! Operators that work element by element: arithmetic with broadcasting, activations, silu_mul.

use qiao_core::{Accept, DType, GeluForm, NodeView, Op, OpKind, Reason, Result, Row, TensorId};

use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row, suffix};
use crate::sound::alignment;
use crate::walk::{Launched, Walk, broadcast_strides, no_layouts};

/// Bytes of one access of the kernels for rows.
const WIDE: usize = 16;

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    let mut out = Vec::new();
    for (op, name) in [(OpKind::Add, "add"), (OpKind::Sub, "sub"), (OpKind::Mul, "mul"), (OpKind::Div, "div")] {
        out.push(row(op, name, all_activations, binary));
    }
    for (op, name) in [
        (OpKind::Silu, "silu"),
        (OpKind::Gelu, "gelu"),
        (OpKind::Relu, "relu"),
        (OpKind::Sigmoid, "sigmoid"),
        (OpKind::Tanh, "tanh"),
        (OpKind::Exp, "exp"),
    ] {
        out.push(row(op, name, all_activations, unary));
    }
    out.push(row(OpKind::SiluMul, "silu_mul", all_activations, silu_mul));
    out
}

/// Accepts f32, f16 and bf16 in every operand.
fn all_activations(node: &NodeView<'_>) -> Result<Accept, Reason> {
    for (i, desc) in node.operands() {
        if !desc.dtype.is_activation() {
            return Err(Reason::dtype(i, desc.dtype, &[DType::F32, DType::F16, DType::BF16]));
        }
    }
    no_layouts(node)
}

/// The number by which the kernels know a dtype.
fn code(dtype: DType) -> Arg {
    Arg::U32(match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        _ => 2,
    })
}

/// An operand: its address, its dtype, and the largest power of two that its address is a multiple of.
struct Side {
    arg: Arg,
    dtype: DType,
    align: usize,
}

impl Side {
    fn new(node: &NodeView<'_>, id: TensorId) -> Side {
        let (arg, dtype) = (Arg::Tensor(id.index(), 0), node.graph.desc(id).dtype);
        Side { arg, dtype, align: alignment(node.graph, id) }
    }

    fn input(node: &NodeView<'_>, i: usize) -> Side {
        Side::new(node, node.node.inputs[i].expect("the table accepts a node with its operands"))
    }

    /// The same from an element on.
    fn from(&self, element: usize) -> Side {
        let Arg::Tensor(tensor, start) = self.arg else { unreachable!("an operand is a tensor") };
        let bytes = element * self.dtype.block_bytes();
        let align = if bytes == 0 { self.align } else { self.align.min(1 << bytes.trailing_zeros()) };
        Side { arg: Arg::Tensor(tensor, start + bytes), dtype: self.dtype, align }
    }
}

/// How rows are spread over blocks: the grid, and the blocks of a row.
fn spread(rows: u64, cols: u64, dtype: DType) -> Option<([u32; 3], u32)> {
    let chunk = (256 * 2 * WIDE / dtype.block_bytes()) as u64;
    let chunks = u32::try_from(cols.div_ceil(chunk)).ok()?;
    let blocks = u32::try_from(rows.checked_mul(u64::from(chunks))?).ok()?;
    (blocks <= i32::MAX as u32).then_some(([blocks, 1, 1], chunks))
}

/// Whether rows of one dtype all start on a multiple of 16 bytes, but for those that repeat one element.
fn starts_wide(sides: &[(&Side, u64, u64)]) -> bool {
    let dtype = sides[0].0.dtype;
    sides.iter().all(|&(side, stride, step)| {
        let bytes = stride as usize * dtype.block_bytes();
        side.dtype == dtype && (step == 0 || side.align.is_multiple_of(WIDE) && bytes.is_multiple_of(WIDE))
    })
}

fn one(launch: Launch) -> Result<Prepared> {
    Ok(Prepared { launches: vec![launch], scratch: 0 })
}

fn binary_launch(a: &Side, b: &Side, y: &Side, walk: &Walk<3>, op: u32, clamp: f32) -> Result<Prepared> {
    let args = |rest: Vec<Arg>| [a.arg.clone(), b.arg.clone(), y.arg.clone()].into_iter().chain(rest).collect();
    if let Some((rows, cols, strides, steps)) = walk.rows()
        && starts_wide(&[(a, strides[0], steps[0]), (b, strides[1], steps[1]), (y, strides[2], 1)])
        && let Some((grid, chunks)) = spread(rows, cols, y.dtype)
    {
        let numbers = [Arg::U32(op), Arg::F32(clamp), Arg::U64(cols), Arg::U32(chunks)];
        let steps = steps[..2].iter().map(|&s| Arg::U32(s as u32));
        let rest = numbers.into_iter().chain(strides.map(Arg::U64)).chain(steps).collect();
        return one(Launch::new(&format!("binary_{}", suffix(y.dtype)), grid, 0, args(rest)));
    }
    let types = [a, b, y].map(|side| code(side.dtype));
    let rest = [walk.arg(), Arg::U32(op), Arg::F32(clamp)].into_iter().chain(types).collect();
    one(Launch::new("binary_any", walk.grid(), 0, args(rest)))
}

fn binary(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let out = node.output(0);
    let (a, b) = (node.required(0), node.required(1));
    let strides = [broadcast_strides(a, &out.shape), broadcast_strides(b, &out.shape)];
    let walk = Walk::new(&out.shape, [&strides[0], &strides[1], &out.strides]);
    let op = match node.kind() {
        OpKind::Add => 0,
        OpKind::Sub => 1,
        OpKind::Mul => 2,
        _ => 3,
    };
    let y = Side::new(node, node.node.outputs[0]);
    binary_launch(&Side::input(node, 0), &Side::input(node, 1), &y, &walk, op, 0.0)
}

fn silu_mul(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let Op::SiluMul(attrs) = *node.op() else { unreachable!("the table pairs silu_mul with its kernel") };
    let (x, out) = (node.required(0), node.output(0));
    let (whole, y) = (Side::input(node, 0), Side::new(node, node.node.outputs[0]));
    let (gate, up, up_strides) = match node.input(1) {
        Some(up) => (whole, Side::input(node, 1), up.strides),
        None => {
            let half = out.shape.last_dim() * x.strides.last_dim();
            let (first, second) = (whole.from(0), whole.from(half));
            let (gate, up) = if attrs.gate_second { (second, first) } else { (first, second) };
            (gate, up, x.strides)
        }
    };
    let walk = Walk::new(&out.shape, [&x.strides, &up_strides, &out.strides]);
    binary_launch(&gate, &up, &y, &walk, 4, attrs.clamp)
}

fn unary(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let op = match node.op() {
        Op::Silu(_) => 0,
        Op::Gelu(a) if a.form == GeluForm::Erf => 1,
        Op::Gelu(_) => 2,
        Op::Relu(_) => 3,
        Op::Sigmoid(_) => 4,
        Op::Tanh(_) => 5,
        _ => 6,
    };
    let (x, y) = (Side::input(node, 0), Side::new(node, node.node.outputs[0]));
    let out = node.output(0);
    let walk = Walk::new(&out.shape, [&node.required(0).strides, &out.strides]);
    if let Some((rows, cols, strides, steps)) = walk.rows()
        && steps[0] == 1
        && starts_wide(&[(&x, strides[0], 1), (&y, strides[1], 1)])
        && let Some((grid, chunks)) = spread(rows, cols, y.dtype)
    {
        let numbers = [Arg::U32(op), Arg::U64(cols), Arg::U32(chunks)];
        let args = [x.arg, y.arg].into_iter().chain(numbers).chain(strides.map(Arg::U64)).collect();
        return one(Launch::new(&format!("unary_{}", suffix(y.dtype)), grid, 0, args));
    }
    let rest = [walk.arg(), Arg::U32(op), code(x.dtype), code(y.dtype)];
    let grid = walk.grid();
    one(Launch::new("unary_any", grid, 0, [x.arg, y.arg].into_iter().chain(rest).collect()))
}
