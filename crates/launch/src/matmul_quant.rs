//! Products with quantised weights, the activations as they are: no weight and no activation is rounded on the way.
//!
//! Codes are exact in f16 and bf16, and so are their products with activations; scales multiply sums in f32. An f32 activation is
//! three bf16, whose sums are joined. Formats, zeros and orders that have no kernel are refused and go through the decomposition.

use qiao_core::{
    Accept, DType, Epilogue, Graph, MatmulQuantAttrs, NodeView, Op, OpKind, Property, Reason, Result, Row, Rule,
};

use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row, suffix};
use crate::prepack::{CHUNK, Order, format, pack, tile_bytes, word};
use crate::several::{Part, Several};
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

    /// What products of one a may differ in, by itself.
    fn own_bytes(&self, step: &Step) -> Vec<u8> {
        let longs = [step.ldy, self.bias_step].map(|v| (v as u64).to_ne_bytes());
        let [.., bias, _, y] = self.kinds;
        let words = [word(self.n), word(self.order.limit), bias.to_ne_bytes(), y.to_ne_bytes()];
        longs.into_iter().flatten().chain(words.into_iter().flatten()).collect()
    }

    /// The struct without what is this product's own.
    fn shared_bytes(&self, step: &Step) -> Vec<u8> {
        let [scales, zeros, _, residual, _] = self.kinds;
        let order = Order { limit: 0, tiles: 0, ..self.order };
        let kinds = [scales, zeros, 0, residual, 0];
        Product { n: 0, bias_step: 0, order, kinds, ..*self }.bytes(&Step { ldy: 0, ..*step })
    }

    fn arg(&self, step: &Step) -> Arg {
        Arg::Struct(self.bytes(step))
    }

    /// The struct as it lies in memory.
    fn bytes(&self, step: &Step) -> Vec<u8> {
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
        out
    }
}

/// What a product has of its own.
struct Operands {
    w: Arg,
    scales: Arg,
    zeros: Arg,
    bias: Arg,
    y: Arg,
}

impl Operands {
    /// A launch of a product on a path.
    fn launch(self, symbol: &str, path: &Path, a: Arg, residual: Arg, p: &Product, step: &Step) -> Launch {
        if path.name == "gemv" {
            return self.several(symbol, path, a, residual, p, step).launch();
        }
        let Operands { w, scales, zeros, bias, y } = self;
        let args = vec![w, scales, zeros, a, bias, residual, y, p.arg(step)];
        Launch::new(symbol, path.grid, path.shared, args)
    }

    /// A product by the kernel that takes several.
    fn several(self, symbol: &str, path: &Path, a: Arg, residual: Arg, p: &Product, step: &Step) -> Several {
        let Operands { w, scales, zeros, bias, y } = self;
        let part = Part { addresses: vec![w, scales, zeros, bias, y], own: p.own_bytes(step), blocks: path.grid[0] };
        let shared = p.shared_bytes(step);
        Several { symbol: symbol.into(), a, residual, shared, parts: vec![part], up: None, batches: 1 }
    }
}

/// A product of few rows as one of several, where its weight is packed and its activations are read where they are; after the
/// sums what is said.
fn few(node: &NodeView<'_>, tail: Option<u32>, chip: &Chip) -> Option<Several> {
    let p = accepts_few(node).ok().filter(|a| *a == Accept::Native).map(|_| Product::new(node))?;
    let (mut scratch, mut launches) = (Scratch::default(), Vec::new());
    let a = stage(node, alignment(node.graph, node.node.inputs[0]?), &mut scratch, &mut launches);
    let m = node.required(0).shape.rows();
    if node.required(1).layout == 0 || !launches.is_empty() || a.planes != 1 || m == 0 || p.n == 0 {
        return None;
    }
    let path = Path::new(m, p.order.tiles, p.chunks, SHARED, chip);
    let [w, scales, zeros, bias, residual] = [1, 2, 3, 5, 6].map(|i| Arg::optional(node, i));
    let own = Operands { w, scales, zeros, bias, y: Arg::output(node, 0) };
    let step = Step { lda: a.row, ldy: p.y.row, m, tail: tail.unwrap_or(p.tail), splits: 1 };
    let symbol = symbol(node, &path);
    (path.name == "gemv").then(|| own.several(&symbol, &path, a.arg, residual, &p, &step))
}

/// This one as one of several products.
pub(crate) fn one_of(node: &NodeView<'_>, chip: &Chip) -> Option<Several> {
    few(node, None, chip)
}

/// Two products and the product of the one's SiLU with the other, as one launch.
pub(crate) fn gated(graph: &Graph, [gate, up]: [usize; 2], at: usize, chip: &Chip) -> Option<Launch> {
    let [gate, up, at] = [gate, up, at].map(|n| graph.node(n));
    let plain = |n: &NodeView<'_>| attrs(n).epilogue == Epilogue::None && n.input(5).is_none() && n.input(6).is_none();
    if !plain(&gate) || !plain(&up) || at.output(0).layout != 0 || at.output(0) != gate.output(0) {
        return None;
    }
    let [mut first, second] = [few(&gate, Some(SILU_MUL), chip)?, few(&up, Some(SILU_MUL), chip)?];
    let alike = first.symbol == second.symbol && first.a == second.a && first.shared == second.shared;
    if !alike || first.parts[0].own != second.parts[0].own {
        return None;
    }
    first.parts[0].addresses[4] = Arg::output(&at, 0);
    first.up = Some((second.parts[0].addresses[..3].to_vec(), true));
    Some(first.launch())
}

/// The kernel of a path for a node's format and activations.
fn symbol(node: &NodeView<'_>, path: &Path) -> String {
    let format = format(node.required(1).dtype).expect("the table accepts only weights that have tiles");
    let halves = if node.required(0).dtype == DType::F16 { DType::F16 } else { DType::BF16 };
    format!("quant_{}_{}_{}", path.name, format.name, suffix(halves))
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
    let symbol = symbol(node, &path);
    let [scales, zeros, bias, residual] = [2, 3, 5, 6].map(|i| Arg::optional(node, i));
    let y = Arg::output(node, 0);
    if path.splits == 1 && a.planes == 1 {
        let step = Step { lda: a.row, ldy: p.y.row, m, tail: p.tail, splits: 1 };
        let own = Operands { w, scales, zeros, bias, y };
        launches.push(own.launch(&symbol, &path, a.arg, residual, &p, &step));
        return Ok(Prepared { launches, scratch: scratch.bytes });
    }
    let width = p.order.tiles * 16;
    let sums = scratch.take(path.splits * a.planes * m * width * 4);
    let step = Step { lda: a.row, ldy: width, m: m * a.planes, tail: PARTIAL, splits: path.splits };
    let own = Operands { w, scales, zeros, bias: Arg::Null, y: sums.clone() };
    launches.push(own.launch(&symbol, &path, a.arg, Arg::Null, &p, &step));
    let step = p.arg(&Step { lda: a.planes, ldy: p.y.row, m, tail: p.tail, splits: path.splits });
    let features = if p.tail == SILU_MUL { p.order.limit } else { p.n };
    launches.push(Launch::new("quant_finish", spread(features * m), 0, vec![sums, bias, residual, y, step]));
    Ok(Prepared { launches, scratch: scratch.bytes })
}
