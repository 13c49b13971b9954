//! Attention: decoding and prompts, over pages or packed keys.
//!
//! All kernels take the same operands and one struct of sizes, strides and attributes; lengths, tables and slots are read on
//! the card, so a launch depends on shapes alone. Where a launch would leave processors idle, keys are cut into parts whose
//! running numbers lie in scratch, and `attention_join` adds them up in their order.

use qiao_core::{
    Accept, AttentionAttrs, DType, NodeView, Op, OpKind, Property, Reason, Result as CoreResult, Row, Rule,
};

use crate::cache::{self, Cache, aligned, kind, steps_are};
use crate::fields::Fields;
use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row};

/// Elements of a key and a value that the plain kernel has room for.
const PLAIN_DIMS: usize = 1408;
/// Parts that keys are cut into, at most: `MOST_SPLITS` in the kernels.
const MOST_SPLITS: usize = 128;
/// Bytes that the running numbers of parts may take.
const SPLIT_BYTES: usize = 64 << 20;
/// Bytes of shared memory that prefill's kernels have beside what they are launched with, at most.
const STATIC_SHARED: u32 = 6 << 10;

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    let rounded = |name, dtype, accepts| Row {
        act_dtype: Some(dtype),
        ..row(OpKind::AttentionPrefill, name, accepts, prefill_tiles as Prepare)
    };
    vec![
        row(OpKind::AttentionDecode, "attention_decode", accepts_decode_tiles, decode_tiles),
        row(OpKind::AttentionDecode, "attention_plain", accepts_plain, plain),
        rounded("attention_prefill_f16", DType::F16, accepts_prefill_f16),
        rounded("attention_prefill_bf16", DType::BF16, accepts_prefill_bf16),
        row(OpKind::AttentionPrefill, "attention_plain", accepts_plain, plain),
    ]
}

/// Where the operands of either operator are.
struct At {
    cu_q: Option<usize>,
    kv_len: usize,
    table: usize,
    sinks: usize,
    scales: [usize; 2],
}

fn at(kind: OpKind) -> At {
    if kind == OpKind::AttentionDecode {
        At { cu_q: None, kv_len: 3, table: 4, sinks: 5, scales: [6, 7] }
    } else {
        At { cu_q: Some(3), kv_len: 4, table: 5, sinks: 6, scales: [7, 8] }
    }
}

fn attrs(node: &NodeView<'_>) -> AttentionAttrs {
    let (Op::AttentionPrefill(a) | Op::AttentionDecode(a)) = *node.op() else {
        unreachable!("the table pairs attention with its kernels")
    };
    a
}

/// What every kernel takes.
fn accepts_any(node: &NodeView<'_>) -> Result<(), Reason> {
    // With the sinks left out, their position may be that of the result.
    cache::accepts_floats(node, &[0, at(node.kind()).sinks, node.node.inputs.len()])?;
    cache::accepts(node, [1, 2])?;
    let q = node.required(0);
    let most = i32::MAX as usize;
    if q.shape[0].saturating_mul(q.shape[1]) > most {
        return Err(Reason::operand(0, Property::Dim(0), Rule::AtMost, q.shape[0], most));
    }
    if q.shape[1] > usize::from(u16::MAX) {
        return Err(Reason::operand(0, Property::Dim(1), Rule::AtMost, q.shape[1], usize::from(u16::MAX)));
    }
    Ok(())
}

fn accepts_plain(node: &NodeView<'_>) -> Result<Accept, Reason> {
    accepts_any(node)?;
    let (d, dv) = (node.required(0).shape.last_dim(), node.required(2).shape.last_dim());
    if d.saturating_add(dv) > PLAIN_DIMS {
        return Err(Reason::operand(0, Property::Dim(2), Rule::AtMost, d, PLAIN_DIMS.saturating_sub(dv)));
    }
    Ok(Accept::Native)
}

/// Keys and values of one dtype whose heads lie in whole groups of eight elements, at most 256 of them.
fn accepts_tiles(node: &NodeView<'_>) -> Result<DType, Reason> {
    accepts_any(node)?;
    let dtype = node.required(1).dtype;
    if node.required(2).dtype != dtype {
        return Err(Reason::dtype(2, node.required(2).dtype, &[dtype]));
    }
    for i in [1, 2] {
        let desc = node.required(i);
        let (axis, size) = (desc.rank() - 1, desc.shape.last_dim());
        if !size.is_multiple_of(8) {
            return Err(Reason::operand(i, Property::Dim(axis), Rule::MultipleOf, size, 8));
        }
        if size == 0 || size > 256 {
            return Err(Reason::operand(i, Property::Dim(axis), Rule::AtMost, size, 256));
        }
        if !aligned(node, i, 8 * dtype.block_bytes()) {
            return Err(Reason::strides(i, "multiples of 8 elements"));
        }
    }
    Ok(dtype)
}

fn is_codes(dtype: DType) -> bool {
    !dtype.is_activation()
}

fn accepts_decode_tiles(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let (dtype, q) = (accepts_tiles(node)?, node.required(0).dtype);
    match dtype {
        DType::F32 => Err(Reason::dtype(1, dtype, &[DType::F16, DType::BF16, DType::I8])),
        DType::F16 if q != DType::F16 => Err(Reason::dtype(0, q, &[DType::F16])),
        _ => Ok(Accept::Native),
    }
}

fn accepts_prefill_f16(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let (dtype, q) = (accepts_tiles(node)?, node.required(0).dtype);
    match (q, dtype) {
        (DType::F16, DType::F16) => Ok(Accept::Native),
        (DType::F16, _) => Err(Reason::dtype(1, dtype, &[DType::F16])),
        _ => Err(Reason::dtype(0, q, &[DType::F16])),
    }
}

fn accepts_prefill_bf16(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let (dtype, q) = (accepts_tiles(node)?, node.required(0).dtype);
    match (q, dtype) {
        (DType::BF16, DType::BF16) => Ok(Accept::Native),
        (DType::F16 | DType::BF16, _) if is_codes(dtype) => Ok(Accept::Native),
        (DType::F16 | DType::BF16, _) => Err(Reason::dtype(1, dtype, &[q, DType::I8])),
        _ => Err(Reason::dtype(0, q, &[DType::F16, DType::BF16])),
    }
}

/// The sizes of a node.
struct Step<'a> {
    node: &'a NodeView<'a>,
    attrs: AttentionAttrs,
    at: At,
    k: Cache,
    v: Cache,
    batch: usize,
    tokens: usize,
    heads: usize,
    d: usize,
    /// Columns of the block table.
    columns: usize,
}

impl<'a> Step<'a> {
    fn new(node: &'a NodeView<'a>) -> Self {
        let (attrs, at) = (attrs(node), at(node.kind()));
        let paged = node.input(at.table).is_some();
        let cache = |i: usize| Cache::new(node, i, at.scales[i - 1], attrs.kv_layout, paged);
        let q = node.required(0);
        Step {
            k: cache(1),
            v: cache(2),
            batch: node.required(at.kv_len).elements(),
            tokens: q.shape[0],
            heads: q.shape[1],
            d: q.shape[2],
            columns: node.input(at.table).map_or(0, |t| t.shape[1]),
            node,
            attrs,
            at,
        }
    }

    fn is_paged(&self) -> bool {
        self.node.input(self.at.table).is_some()
    }

    fn group(&self) -> usize {
        self.heads / self.k.pages.heads
    }

    /// Keys that a query can see, at most.
    fn keys(&self) -> usize {
        let size = self.k.pages.block_size;
        let room = if self.is_paged() { self.columns.saturating_mul(size) } else { size };
        if self.attrs.window > 0 { room.min((self.attrs.window as usize).saturating_add(self.tokens)) } else { room }
    }

    /// Tiles of at most `rows` rows that the queries of a key head are cut into, at most. Those of no sequence are one more.
    fn tiles(&self, rows: usize) -> usize {
        match self.at.cu_q {
            None => self.batch * self.group().div_ceil(rows),
            Some(_) => self.tokens * self.group() / rows + self.batch.min(self.tokens) + 1,
        }
    }

    fn fields(&self, splits: usize) -> Fields {
        let (node, at) = (self.node, &self.at);
        let (q, y) = (node.required(0), node.output(0));
        let strides = |i: Option<usize>| {
            i.and_then(|i| node.input(i))
                .map_or([0; 2], |d| [d.strides[0], if d.rank() == 2 { d.strides[1] } else { 0 }])
        };
        let [cu, len, table, sinks] = [at.cu_q, Some(at.kv_len), Some(at.table), Some(at.sinks)].map(strides);
        let wide = |i: Option<usize>| usize::from(i.and_then(|i| node.input(i)).is_some_and(|d| d.dtype == DType::I64));
        let number = |dtype: DType| kind(dtype).expect("the row accepts these dtypes");
        // Tables of a pool without tokens name no place.
        let size = self.k.pages.block_size;
        let columns = if size == 0 { 0 } else { self.columns };
        let sink = node.input(at.sinks).map_or(0, |d| number(d.dtype));
        let decode = at.cu_q.is_none();
        Fields::default()
            .longs(&q.strides[..3])
            .longs(&y.strides[..3])
            .longs(&self.k.strides)
            .longs(&self.v.strides)
            .longs(&self.k.scale)
            .longs(&self.v.scale)
            .longs(&[table[0], table[1], cu[0], len[0], sinks[0]])
            .words(&[self.tokens, self.batch, self.heads, self.k.pages.heads, self.d, self.v.pages.head_dim])
            .words(&[if self.is_paged() { size.max(1) } else { size }, self.k.pages.blocks, columns, splits])
            .words(&[self.attrs.window as usize])
            .words(&[q.dtype, self.k.dtype, self.v.dtype, y.dtype].map(number))
            .words(&[sink, wide(at.cu_q), wide(Some(at.kv_len)), wide(Some(at.table))])
            .words(
                &[self.attrs.causal && !decode, self.is_paged(), self.has_whole_queries(), self.has_pairs()]
                    .map(usize::from),
            )
            .floats(&self.factors())
            .end()
    }

    /// What multiplies a product, and the ceiling of its hyperbolic tangent, in units of log2; no ceiling is 0.
    fn factors(&self) -> [f32; 2] {
        let scale = if self.attrs.scale == 0.0 { 1.0 / (self.d as f64).sqrt() } else { f64::from(self.attrs.scale) };
        match f64::from(self.attrs.softcap) {
            0.0 => [(scale * std::f64::consts::LOG2_E) as f32, 0.0],
            cap => [(scale / cap) as f32, (cap * std::f64::consts::LOG2_E) as f32],
        }
    }

    /// Whether queries may be read 16 bytes at a time.
    fn has_whole_queries(&self) -> bool {
        self.d.is_multiple_of(8) && aligned(self.node, 0, 16)
    }

    /// Whether results may be written two at a time.
    fn has_pairs(&self) -> bool {
        let id = self.node.node.outputs[0];
        let (desc, bytes) = (self.node.graph.desc(id), 2 * self.node.output(0).dtype.block_bytes());
        self.v.pages.head_dim.is_multiple_of(2)
            && steps_are(desc, bytes)
            && self.node.graph.root(id).1.is_multiple_of(bytes)
    }

    fn args(&self, splits: usize) -> Vec<Arg> {
        let (node, at) = (self.node, &self.at);
        let part = if splits > 1 { Arg::Scratch(0) } else { Arg::Null };
        let mut args = vec![Arg::output(node, 0), part];
        args.extend([0, 1, 2, at.scales[0], at.scales[1]].map(|i| Arg::optional(node, i)));
        args.push(at.cu_q.map_or(Arg::Null, |i| Arg::input(node, i)));
        args.extend([at.kv_len, at.table, at.sinks].map(|i| Arg::optional(node, i)));
        args.push(self.fields(splits).arg());
        args
    }

    /// A launch of tiles of `rows` rows, and what joins its parts.
    fn prepared(&self, symbol: &str, rows: usize, shared: u32, ways: Ways) -> Prepared {
        let y = self.node.output(0);
        if y.elements() == 0 {
            return Prepared::default();
        }
        let tiles = self.tiles(rows);
        let floats = self.tokens * self.heads * (self.v.pages.head_dim + 2);
        let busy = match self.at.cu_q {
            None => tiles,
            Some(_) => (self.tokens * self.group()).div_ceil(rows),
        };
        let most = MOST_SPLITS.min(self.keys().div_ceil(ways.least)).min(SPLIT_BYTES / (4 * floats)).max(1);
        let splits = ways.splits(busy * self.k.pages.heads, self.keys(), most);
        let grid = [tiles as u32, self.k.pages.heads as u32, splits as u32];
        let mut launches = vec![Launch::new(symbol, grid, shared, self.args(splits))];
        if splits > 1 {
            let rows = (self.tokens * self.heads) as u32;
            launches.push(Launch::new("attention_join", [rows, 1, 1], 0, self.args(splits)));
        }
        Prepared { launches, scratch: if splits > 1 { splits * floats * 4 } else { 0 } }
    }
}

/// What the number of parts follows from.
#[derive(Clone, Copy)]
struct Ways {
    /// Blocks that run at once.
    at_once: usize,
    /// Keys of a part, at least.
    least: usize,
    /// What starting a block costs, and joining parts, in keys.
    start: usize,
}

impl Ways {
    /// The number of parts, at most `most`, for which `blocks` blocks over `keys` keys each end soonest: blocks run in waves.
    fn splits(self, blocks: usize, keys: usize, most: usize) -> usize {
        let time = |parts: usize| {
            let waves = blocks.saturating_mul(parts).div_ceil(self.at_once.max(1));
            let join = if parts > 1 { self.start } else { 0 };
            waves.saturating_mul(keys.div_ceil(parts) + self.start).saturating_add(join)
        };
        (1..=most).min_by_key(|&parts| time(parts)).unwrap_or(1)
    }
}

/// The kernels' size of a head.
fn padded(step: &Step<'_>) -> usize {
    let size = step.d.max(step.v.pages.head_dim);
    [64, 96, 128, 256].into_iter().find(|&p| size <= p).expect("the row accepts 256 elements at most")
}

fn decode_tiles(node: &NodeView<'_>, chip: &Chip) -> CoreResult<Prepared> {
    let step = Step::new(node);
    let size = padded(&step);
    let from = if is_codes(step.k.dtype) { "codes" } else { step.k.dtype.name() };
    let blocks = match size {
        64 => 4,
        96 | 128 if from != "codes" => 3,
        _ => 2,
    };
    let ways = Ways { at_once: blocks * chip.processors as usize, least: 128, start: 128 };
    Ok(step.prepared(&format!("attention_decode_{from}_{size}"), 16, 0, ways))
}

fn prefill_tiles(node: &NodeView<'_>, chip: &Chip) -> CoreResult<Prepared> {
    let step = Step::new(node);
    let size = padded(&step);
    // As the kernels' text has them.
    let (rows, keys) = match size {
        256 => (64, 32),
        96 => (128, 32),
        128 if is_codes(step.k.dtype) => (128, 32),
        _ => (128, 64),
    };
    let shared = ((rows + 2 * keys) * (size + 8) * 2) as u32;
    if shared + STATIC_SHARED > chip.shared {
        return plain(node, chip);
    }
    let q = node.required(0).dtype.name();
    let from = if is_codes(step.k.dtype) { format!("codes_{q}") } else { q.into() };
    let ways = Ways { at_once: 2 * chip.processors as usize, least: 256, start: 128 };
    Ok(step.prepared(&format!("attention_prefill_{from}_{size}"), rows, shared, ways))
}

fn plain(node: &NodeView<'_>, chip: &Chip) -> CoreResult<Prepared> {
    let step = Step::new(node);
    let floats = [&step.k, &step.v].iter().all(|c| c.dtype == DType::F32);
    let shared = (8 * 4 * (step.d + step.v.pages.head_dim)) as u32;
    let ways = Ways { at_once: 4 * chip.processors as usize, least: 128, start: 64 };
    let symbol = if floats { "attention_plain_f32" } else { "attention_plain_any" };
    Ok(step.prepared(symbol, 8, shared, ways))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: Ways = Ways { at_once: 396, least: 128, start: 128 };

    #[test]
    fn a_lone_sequence_of_many_keys_fills_the_card_once() {
        let parts = CARD.splits(8, 32768, MOST_SPLITS);
        assert_eq!(parts, 396 / 8);
    }

    #[test]
    fn more_blocks_than_run_at_once_are_cut_into_few_parts_or_none() {
        assert_eq!(CARD.splits(100 * 396, 4096, 32), 1);
        assert!(CARD.splits(400, 4096, 32) <= 16, "blocks of a wave hardly begun are worth cutting, not more");
    }

    #[test]
    fn few_keys_are_never_cut() {
        assert_eq!(CARD.splits(8, 100, 1), 1);
        assert_eq!(CARD.splits(1, 0, 1), 1);
    }
}
