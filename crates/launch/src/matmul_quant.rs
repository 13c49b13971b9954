//! Products with quantised weights, the activations as they are: no weight and no activation is rounded on the way.
//!
//! Codes are exact in f16 and bf16, and so are their products with activations; scales multiply sums in f32. An f32 activation is
//! three bf16, whose sums are joined. Formats, zeros and orders that have no kernel are refused and go through the decomposition.

use qiao_core::{Accept, DType, Epilogue, MatmulQuantAttrs, NodeView, Op, OpKind, Property, Reason, Result, Row, Rule};

use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row, suffix};
use crate::prepack::{CHUNK, Order, format, pack, tile_bytes, word};
use crate::sound::alignment;
use crate::tiles::{
    FEW, Path, Rows, Scratch, accepts_rows, accepts_sizes, accepts_weight, kind, planes, rows as rows_of, spread, stage,
};

/// Inputs of a block, the smallest group.
const BLOCK: usize = 32;

/// Bytes that `few` and `many` stage activations and results in.
const SHARED: [u32; 2] = [2 * 32 * 320, 2 * 128 * 320];

/// What kernels do after a sum, in their numbers.
const PLAIN: u32 = 0;
const GELU: u32 = 1;
const SILU_MUL: u32 = 2;
const PARTIAL: u32 = 3;

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::MatmulQuant, "gemv_quant", accepts_few, product),
        row(OpKind::MatmulQuant, "gemm_quant", accepts, product),
    ]
}

fn attrs(node: &NodeView<'_>) -> MatmulQuantAttrs {
    let Op::MatmulQuant(attrs) = *node.op() else { unreachable!("the table pairs matmul_quant with its kernels") };
    attrs
}

fn accepts_few(node: &NodeView<'_>) -> std::result::Result<Accept, Reason> {
    let a = node.required(0);
    let m = a.shape.rows().saturating_mul(planes(a.dtype));
    if m > FEW {
        return Err(Reason::operand(0, Property::Dim(0), Rule::AtMost, a.shape.rows(), FEW / planes(a.dtype)));
    }
    accepts(node)
}

fn accepts(node: &NodeView<'_>) -> std::result::Result<Accept, Reason> {
    let (a, w) = (node.required(0), node.required(1));
    let Some(format) = format(w.dtype) else {
        return Err(Reason::operand(1, Property::Dtype, Rule::None, w.dtype, ""));
    };
    let beside = 1..5;
    for (i, desc) in node.operands().filter(|(i, _)| !beside.contains(i) || *i >= node.node.inputs.len()) {
        if !desc.dtype.is_activation() {
            return Err(Reason::dtype(i, desc.dtype, &[DType::F32, DType::F16, DType::BF16]));
        }
    }
    if let Some((i, desc)) = node.operands().find(|(i, desc)| *i != 1 && desc.layout != 0) {
        return Err(Reason::operand(i, Property::Layout, Rule::None, format!("{:#x}", desc.layout).as_str(), ""));
    }
    accepts_rows(node, 0, false)?;
    accepts_rows(node, 6, true)?;
    accepts_rows(node, node.node.inputs.len(), true)?;
    accepts_sizes(a.shape.rows(), w.shape[0], w.shape[1])?;
    if format.grouped {
        accepts_groups(node)?;
    }
    accepts_weight(node, attrs(node).epilogue == Epilogue::SiluMul)
}

/// Accepts groups of a power of two of blocks, or one; scales that are floats, zeros that are codes
/// with a sign where the weight's have one.
fn accepts_groups(node: &NodeView<'_>) -> std::result::Result<(), Reason> {
    let (w, size) = (node.required(1), attrs(node).group_size as usize);
    if node.input(4).is_some() {
        return Err(Reason::operand(4, Property::Presence, Rule::None, "given", ""));
    }
    if size != 0 && size < w.shape[1] && !(size.is_multiple_of(BLOCK) && (size / BLOCK).is_power_of_two()) {
        return Err(Reason::attribute("group_size", Rule::OneOf, size, "0, 32, 64, 128 and further doubles"));
    }
    let scales = node.required(2);
    if !scales.dtype.is_activation() {
        return Err(Reason::dtype(2, scales.dtype, &[DType::F32, DType::F16, DType::BF16]));
    }
    let Some(zeros) = node.input(3) else { return Ok(()) };
    // Differences of codes of one sign are at most 256 and so exact in bf16.
    let allowed: &[DType] = match w.dtype {
        DType::U4 | DType::U8 => &[DType::U8, DType::U4],
        DType::I4 | DType::I8 => &[DType::I8, DType::I4],
        _ => return Err(Reason::operand(3, Property::Presence, Rule::None, "given", "")),
    };
    if !allowed.contains(&zeros.dtype) {
        return Err(Reason::dtype(3, zeros.dtype, allowed));
    }
    Ok(())
}

/// The fields of the kernels' `Product` that do not change from launch to launch.
struct Product {
    n: usize,
    k: usize,
    chunks: usize,
    order: Order,
    residual: Rows,
    y: Rows,
    bias_step: usize,
    scales: [usize; 2],
    zeros: [usize; 2],
    /// Blocks of a group as a power of two; groups; rows of the weight to a row of scales.
    groups: [usize; 3],
    kinds: [u32; 5],
    tail: u32,
}

/// The fields that do: elements between rows of a, and of y; rows of a; what follows; parts of K.
struct Step {
    lda: usize,
    ldy: usize,
    m: usize,
    tail: u32,
    splits: usize,
}

impl Product {
    fn new(node: &NodeView<'_>) -> Product {
        let (attrs, w) = (attrs(node), node.required(1));
        let (n, k) = (w.shape[0], w.shape[1]);
        let strides = |i: usize| node.input(i).map_or([0, 0], |d| [d.strides[0], d.strides[1]]);
        let kind_of = |i: usize| node.input(i).map_or(0, |d| kind(d.dtype));
        let size = if attrs.group_size == 0 { k } else { k.min(attrs.group_size as usize) };
        // Where there is one group, every block is in it.
        let shift = if size == k { 31 } else { (size / BLOCK).trailing_zeros() as usize };
        Product {
            n,
            k,
            chunks: k.div_ceil(CHUNK),
            order: Order::new(n, attrs.epilogue == Epilogue::SiluMul),
            residual: node.input(6).and_then(rows_of).unwrap_or(Rows { row: 0, step: 1 }),
            y: rows_of(node.output(0)).unwrap_or(Rows { row: 0, step: 1 }),
            bias_step: node.input(5).map_or(0, |d| d.strides[0]),
            scales: strides(2),
            zeros: strides(3),
            groups: [shift, k.div_ceil(size.max(1)).max(1), (attrs.group_rows as usize).max(1)],
            kinds: [kind_of(2), kind_of(3), kind_of(5), kind_of(6), kind(node.output(0).dtype)],
            tail: match attrs.epilogue {
                Epilogue::Gelu => GELU,
                Epilogue::SiluMul => SILU_MUL,
                _ => PLAIN,
            },
        }
    }

    /// The struct as it lies in memory.
    fn arg(&self, step: &Step) -> Arg {
        let mut out = Vec::with_capacity(136);
        let [scale_row, scale_group] = self.scales;
        let [zero_row, zero_group] = self.zeros;
        let strides =
            [step.lda, step.ldy, self.residual.row, self.bias_step, scale_row, scale_group, zero_row, zero_group];
        strides.iter().for_each(|&s| out.extend((s as u64).to_ne_bytes()));
        let Order { tiles, tile_rows, half_rows, limit } = self.order;
        let [shift, groups, group_rows] = self.groups;
        for value in
            [step.m, self.n, self.k, self.chunks, tiles, tile_rows, half_rows, limit, shift, groups, group_rows]
        {
            out.extend(word(value));
        }
        self.kinds.iter().for_each(|k| out.extend(k.to_ne_bytes()));
        out.extend(step.tail.to_ne_bytes());
        out.extend(word(step.splits));
        Arg::Struct(out)
    }
}

/// The weight in tiles: as it is bound, or packed into scratch first.
fn weight(node: &NodeView<'_>, pairs: bool, scratch: &mut Scratch, launches: &mut Vec<Launch>) -> Result<Arg> {
    let desc = node.required(1);
    if desc.layout != 0 {
        return Ok(Arg::input(node, 1));
    }
    let to = scratch.take(tile_bytes(desc, pairs)?);
    launches.extend(pack(desc, pairs, Arg::input(node, 1), to.clone())?);
    Ok(to)
}

fn product(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let p = Product::new(node);
    let (mut scratch, mut launches) = (Scratch::default(), Vec::new());
    let w = weight(node, p.tail == SILU_MUL, &mut scratch, &mut launches)?;
    let first = node.node.inputs[0].expect("a product has its activations");
    let a = stage(node, alignment(node.graph, first), &mut scratch, &mut launches);
    let m = node.required(0).shape.rows();
    let path = Path::new(m * a.planes, p.order.tiles, p.chunks, SHARED, chip);
    let format = format(node.required(1).dtype).expect("the table accepts only weights that have tiles");
    let halves = if node.required(0).dtype == DType::F16 { DType::F16 } else { DType::BF16 };
    let symbol = format!("quant_{}_{}_{}", path.name, format.name, suffix(halves));
    let [scales, zeros, bias, residual] = [2, 3, 5, 6].map(|i| Arg::optional(node, i));
    let y = Arg::output(node, 0);
    if path.splits == 1 && a.planes == 1 {
        let step = p.arg(&Step { lda: a.row, ldy: p.y.row, m, tail: p.tail, splits: 1 });
        launches.push(Launch::new(
            &symbol,
            path.grid,
            path.shared,
            vec![w, scales, zeros, a.arg, bias, residual, y, step],
        ));
        return Ok(Prepared { launches, scratch: scratch.bytes });
    }
    let width = p.order.tiles * 16;
    let sums = scratch.take(path.splits * a.planes * m * width * 4);
    let step = p.arg(&Step { lda: a.row, ldy: width, m: m * a.planes, tail: PARTIAL, splits: path.splits });
    let args = vec![w, scales, zeros, a.arg, Arg::Null, Arg::Null, sums.clone(), step];
    launches.push(Launch::new(&symbol, path.grid, path.shared, args));
    let step = p.arg(&Step { lda: a.planes, ldy: p.y.row, m, tail: p.tail, splits: path.splits });
    let features = if p.tail == SILU_MUL { p.order.limit } else { p.n };
    launches.push(Launch::new("quant_finish", spread(features * m), 0, vec![sums, bias, residual, y, step]));
    Ok(Prepared { launches, scratch: scratch.bytes })
}
