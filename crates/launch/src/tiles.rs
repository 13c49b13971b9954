//! What products with weights in tiles share: how activations lie, which kernel takes them, and how K is cut.

use qiao_core::{Accept, DType, NodeView, Property, Reason, Rule, TensorDesc};

use crate::launch::{Arg, Chip, Launch};
use crate::prepack::{CHUNK, MOST, MOST_INPUTS, PAIRS, TILES, has_tiles, word};
use crate::sound::can_be_packed;

/// Threads of a kernel that stages or joins, and the most blocks of it.
const THREADS: usize = 256;
const MOST_BLOCKS: usize = 1 << 16;

/// The fewest chunks of K in a part of it.
const PART: usize = 4;

/// The most parts of K.
const MOST_PARTS: usize = 16;

/// Elements between rows, and between the elements of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) row: usize,
    pub(crate) step: usize,
}

/// How the rows of a tensor lie, all outer axes taken as one; `None` where they are not evenly spaced.
pub(crate) fn rows(desc: &TensorDesc) -> Option<Rows> {
    let outer = desc.rank().checked_sub(1)?;
    let step = if desc.shape[outer] > 1 { desc.strides[outer] } else { 1 };
    let mut found: Option<(usize, usize)> = None;
    for axis in (0..outer).rev().filter(|&axis| desc.shape[axis] != 1) {
        found = match found {
            None => Some((desc.strides[axis], desc.strides[axis].checked_mul(desc.shape[axis])?)),
            Some((row, next)) if next == desc.strides[axis] => Some((row, next.checked_mul(desc.shape[axis])?)),
            Some(_) => return None,
        };
    }
    Some(Rows { row: found.map_or(desc.shape[outer] * step, |(row, _)| row), step })
}

/// Accepts an operand whose rows are evenly spaced, and contiguous where they must be.
pub(crate) fn accepts_rows(node: &NodeView<'_>, operand: usize, contiguous: bool) -> Result<(), Reason> {
    let Some((_, desc)) = node.operands().find(|(i, _)| *i == operand) else { return Ok(()) };
    match rows(desc) {
        Some(rows) if rows.step == 1 || !contiguous => Ok(()),
        _ if desc.elements() == 0 => Ok(()),
        _ => Err(Reason::strides(
            operand,
            if contiguous { "evenly spaced rows, contiguous" } else { "evenly spaced rows" },
        )),
    }
}

/// Accepts sizes that the kernels can count: rows of activations with their parts, features, inputs, blocks of a grid.
pub(crate) fn accepts_sizes(m: usize, n: usize, k: usize) -> Result<(), Reason> {
    let blocks = n.div_ceil(128).saturating_mul(m.saturating_mul(3).div_ceil(32));
    for (operand, size, most) in [(0, m, MOST), (1, n, MOST), (1, k, MOST_INPUTS), (0, blocks, i32::MAX as usize)] {
        if size > most {
            return Err(Reason::operand(operand, Property::Memory, Rule::AtMost, size, most));
        }
    }
    Ok(())
}

/// A weight in tiles, one that will be once it is packed, or one that a plan packs for itself each time.
pub(crate) fn accepts_weight(node: &NodeView<'_>, pairs: bool) -> Result<Accept, Reason> {
    let w = node.required(1);
    let wanted = if pairs { PAIRS } else { TILES };
    if !has_tiles(w) {
        return Err(Reason::strides(1, "two axes, and rows of packed codes contiguous"));
    }
    match w.layout {
        0 if w.constant && can_be_packed(node, 1) => Ok(Accept::Relayout { operand: 1, layout: wanted }),
        0 => Ok(Accept::Native),
        l if l == wanted => Ok(Accept::Native),
        l => Err(Reason::operand(
            1,
            Property::Layout,
            Rule::Equal,
            format!("{l:#x}").as_str(),
            format!("{wanted:#x}").as_str(),
        )),
    }
}

/// How a table is stored, as the kernels know it.
pub(crate) fn kind(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
        DType::U8 => 3,
        DType::I8 => 4,
        DType::U4 => 5,
        _ => 6,
    }
}

/// The kernel for a number of rows, and the shape of its launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// `gemv`, `few` or `many`.
    pub(crate) name: &'static str,
    pub(crate) grid: [u32; 3],
    pub(crate) shared: u32,
    /// Parts of K, whose sums another kernel joins.
    pub(crate) splits: usize,
}

/// The most rows that stream the weights once, as the columns of one fragment.
pub(crate) const FEW: usize = 8;

/// Rows beyond which blocks take 128 of them.
const SOME: usize = 64;

impl Path {
    /// The path of `m` rows through tiles of weights; `shared` is what the kernels `few` and `many` stage in.
    ///
    /// Blocks of 8 tiles are few where weights are narrow, so that K is cut until every processor has as many as it holds.
    pub(crate) fn new(m: usize, tiles: usize, chunks: usize, shared: [u32; 2], chip: &Chip) -> Path {
        if m <= FEW {
            return Path { name: "gemv", grid: [tiles as u32, 1, 1], shared: 0, splits: 1 };
        }
        let many = m > SOME && shared[1] <= chip.shared;
        let blocks = tiles.div_ceil(8) * m.div_ceil(if many { 128 } else { 32 });
        let room = chip.processors as usize * if many { 1 } else { 3 };
        let splits = (room / blocks.max(1)).clamp(1, (chunks / PART).clamp(1, MOST_PARTS));
        let name = if many { "many" } else { "few" };
        Path { name, grid: [blocks as u32, splits as u32, 1], shared: shared[usize::from(many)], splits }
    }
}

/// Scratch that is handed out piece by piece.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) bytes: usize,
}

impl Scratch {
    /// The next piece.
    pub(crate) fn take(&mut self, bytes: usize) -> Arg {
        let at = self.bytes;
        self.bytes = (at + bytes).next_multiple_of(256);
        Arg::Scratch(at)
    }
}

/// A grid of one thread for each of `count`, or for some.
pub(crate) fn spread(count: usize) -> [u32; 3] {
    [count.div_ceil(THREADS).min(MOST_BLOCKS) as u32, 1, 1]
}

/// Activations as the kernels read them: where they are, elements between rows, and how many parts each is a sum of.
pub(crate) struct Activations {
    pub(crate) arg: Arg,
    pub(crate) row: usize,
    pub(crate) planes: usize,
}

/// The parts of which activations of a dtype are a sum: an f32 is three bf16.
pub(crate) fn planes(dtype: DType) -> usize {
    if dtype == DType::F32 { 3 } else { 1 }
}

/// Activations of whole chunks on multiples of 16 bytes are read where they are; others are staged, filled up with zeros.
pub(crate) fn stage(
    node: &NodeView<'_>,
    align: usize,
    scratch: &mut Scratch,
    launches: &mut Vec<Launch>,
) -> Activations {
    let desc = node.required(0);
    let (m, k, size) = (desc.shape.rows(), desc.shape.last_dim(), desc.dtype.block_bytes());
    let lie = rows(desc).unwrap_or(Rows { row: k, step: 1 });
    let planes = planes(desc.dtype);
    let wide = align.is_multiple_of(16) && (lie.row * size).is_multiple_of(16);
    if planes == 1 && lie.step == 1 && wide && k.is_multiple_of(CHUNK) {
        return Activations { arg: Arg::input(node, 0), row: lie.row, planes };
    }
    let row = k.next_multiple_of(CHUNK);
    let to = scratch.take(planes * m * row * size.min(2));
    let mut staging = Vec::with_capacity(32);
    for value in [lie.row, lie.step] {
        staging.extend((value as u64).to_ne_bytes());
    }
    for value in [m, k, row / CHUNK, 0] {
        staging.extend(word(value));
    }
    let symbol = match size {
        1 => "quant_stage_8",
        2 => "quant_stage_16",
        _ => "quant_stage_f32",
    };
    if m * row > 0 {
        let args = vec![Arg::input(node, 0), to.clone(), Arg::Struct(staging)];
        launches.push(Launch::new(symbol, spread(m * row), 0, args));
    }
    Activations { arg: to, row, planes }
}
