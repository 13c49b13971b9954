//! Rows of attention. The operator takes lengths from the host, so that they are read once an execution; a prompt of several
//! sequences is one call for each, since packed queries over pages are not documented.

use qiao_core::{
    Accept, AttentionAttrs, DType, Error, NodeView, Op, OpKind, Pages, Property, Reason, Result, Row, Rule, TensorDesc,
    TensorId,
};

use super::accept::{absent, dense, plain, unset};
use super::cache::{BLOCK, paged};
use super::launcher::{At, Launcher};
use super::{Launch, row};
use crate::operators::{Calls, Tensor};

/// Rows and columns of the mask of causal attention.
const MASK: usize = 2048;

/// What a head's elements are a multiple of, and their most.
const HEAD: (usize, usize) = (16, 512);

/// The most query heads, queries' heads to one of keys, and elements of a token's keys.
const MOST: (usize, usize, usize) = (256, 64, 65_535);

const NEEDS: &[&str] = &["aclnnFusedInferAttentionScoreV3"];

pub(super) fn rows() -> Vec<Row<Launch>> {
    vec![
        row(OpKind::AttentionPrefill, "attention_prefill", NEEDS, prompt, prefill),
        row(OpKind::AttentionDecode, "attention_decode", NEEDS, token, decode),
    ]
}

/// The bytes of the mask of causal attention: 1 above the diagonal, which is not seen.
pub(crate) fn mask() -> Vec<u8> {
    let row = |i: usize| (0..MASK).map(move |j| u8::from(j > i));
    (0..MASK).flat_map(row).collect()
}

fn attrs_of(node: &NodeView<'_>) -> AttentionAttrs {
    match node.op() {
        Op::AttentionPrefill(attrs) | Op::AttentionDecode(attrs) => *attrs,
        _ => unreachable!("the table pairs operators with rows"),
    }
}

/// What both rows ask for: operands 0 to 2 are q, k and v, the others integers but for those from `last` on.
fn attends(node: &NodeView<'_>, last: usize) -> Result<(), Reason> {
    let attrs = attrs_of(node);
    plain(node, None)?;
    (last..last + 3).try_for_each(|i| absent(node, i))?;
    unset("softcap", attrs.softcap != 0.0)?;
    unset("window", attrs.window != 0)?;
    let (q, out) = (node.required(0), node.node.inputs.len());
    for (i, desc) in node.operands() {
        let floats = [DType::F16, DType::BF16];
        match i {
            0 if !floats.contains(&q.dtype) => return Err(Reason::dtype(0, q.dtype, &floats)),
            0..3 if desc.dtype != q.dtype => return Err(Reason::dtype(i, desc.dtype, &[q.dtype])),
            i if i == out && desc.dtype != q.dtype => return Err(Reason::dtype(i, desc.dtype, &[q.dtype])),
            3.. if i < out && desc.dtype != DType::I32 => return Err(Reason::dtype(i, desc.dtype, &[DType::I32])),
            i => dense(i, desc)?,
        }
    }
    heads(node)
}

/// # Errors
/// Heads that the operator does not take.
fn heads(node: &NodeView<'_>) -> Result<(), Reason> {
    let (q, k, v) = (node.required(0), node.required(1), node.required(2));
    let (h, d, dv) = (q.shape[1], q.shape[2], v.shape.last_dim());
    let kv = k.shape[k.rank() - 2];
    if !d.is_multiple_of(HEAD.0) {
        return Err(Reason::operand(0, Property::Dim(2), Rule::MultipleOf, d, HEAD.0));
    }
    if d > HEAD.1 {
        return Err(Reason::operand(0, Property::Dim(2), Rule::AtMost, d, HEAD.1));
    }
    if dv != d {
        return Err(Reason::operand(2, Property::Dim(v.rank() - 1), Rule::Equal, dv, d));
    }
    if h > MOST.0 || h > MOST.1 * kv {
        return Err(Reason::operand(0, Property::Dim(1), Rule::AtMost, h, MOST.0.min(MOST.1 * kv)));
    }
    match kv * d > MOST.2 {
        true => Err(Reason::operand(1, Property::Dim(k.rank() - 2), Rule::AtMost, kv, MOST.2 / d)),
        false => Ok(()),
    }
}

fn prompt(node: &NodeView<'_>) -> Result<Accept, Reason> {
    attends(node, 6)?;
    if node.input(5).is_some() {
        let layout = attrs_of(node).kv_layout;
        paged(layout, 1, node.required(1))?;
        paged(layout, 2, node.required(2))?;
    }
    Ok(Accept::Native)
}

fn token(node: &NodeView<'_>) -> Result<Accept, Reason> {
    attends(node, 5)?;
    let layout = attrs_of(node).kv_layout;
    paged(layout, 1, node.required(1))?;
    paged(layout, 2, node.required(2))?;
    Ok(Accept::Native)
}

/// Keys and values as a call finds them.
enum Keys {
    /// Pages, by a table's rows from this sequence on.
    Paged { table: TensorId, first: usize },
    /// Packed rows from this one on.
    Packed { first: usize },
}

/// One call: queries `[B, S, H, D]` from this row of q on, as many lengths.
struct Part {
    row: usize,
    batch: usize,
    queries: usize,
    lengths: Vec<i64>,
    keys: Keys,
    causal: bool,
}

fn id(node: &NodeView<'_>, i: usize) -> TensorId {
    node.node.inputs[i].expect("the graph checked that operands are given")
}

/// What was read from the device and can't be right.
fn bad(what: &str, why: String) -> Error {
    Error::internal(format!("attention {what}"), why)
}

/// The lengths, none of them negative.
fn lengths(l: &mut Launcher<'_>, node: &NodeView<'_>, operand: usize, what: &str) -> Result<Vec<i64>> {
    let list = l.integers(id(node, operand))?;
    match list.iter().find(|n| **n < 0) {
        Some(n) => Err(bad(what, format!("{n} is negative"))),
        None => Ok(list.into_iter().map(i64::from).collect()),
    }
}

/// Every page that is named for a key must be there: the operator does not look.
fn check_table(l: &mut Launcher<'_>, node: &NodeView<'_>, operand: usize, lens: &[i64]) -> Result<()> {
    let pages = Pages::of(node.required(1), attrs_of(node).kv_layout).expect("the row asks for pages");
    let width = node.required(operand).shape[1];
    let table = l.integers(id(node, operand))?;
    for (row, &len) in table.chunks_exact(width.max(1)).zip(lens) {
        let used = (len as usize).div_ceil(BLOCK);
        if used > width {
            return Err(bad("kv_len", format!("{len} keys, and a table for {}", width * BLOCK)));
        }
        if let Some(block) = row[..used].iter().find(|b| **b < 0 || **b as usize >= pages.blocks) {
            return Err(bad("block_table", format!("block {block} of {}", pages.blocks)));
        }
    }
    Ok(())
}

fn prefill(l: &mut Launcher<'_>, node: &NodeView<'_>, _: &[usize]) -> Result<()> {
    let (cu, lens) = (lengths(l, node, 3, "cu_q")?, lengths(l, node, 4, "kv_len")?);
    let q = node.required(0);
    let ends = cu.last().copied().unwrap_or(0) as usize;
    if cu.first() != Some(&0) || !cu.is_sorted() || ends > q.shape[0] {
        return Err(bad("cu_q", format!("{cu:?} does not rise from 0 to at most {}", q.shape[0])));
    }
    let is_paged = node.input(5).is_some();
    if is_paged {
        check_table(l, node, 5, &lens)?;
    } else if lens.iter().sum::<i64>() as usize > node.required(1).shape[0] {
        return Err(bad("kv_len", format!("{lens:?} are more than {} keys", node.required(1).shape[0])));
    }
    // What no sequence writes is zero: rows behind the last, and those of a sequence without keys.
    let idle = ends < q.shape[0] || cu.windows(2).zip(&lens).any(|(w, len)| w[1] > w[0] && *len == 0);
    if idle {
        clear_rows(l, node, 0, q.shape[0])?;
    }
    let mut packed = 0;
    for (i, (w, &len)) in cu.windows(2).zip(&lens).enumerate() {
        let first = packed;
        packed += len as usize;
        let (row, queries) = (w[0] as usize, (w[1] - w[0]) as usize);
        if queries == 0 || len == 0 {
            continue;
        }
        let keys = if is_paged { Keys::Paged { table: id(node, 5), first: i } } else { Keys::Packed { first } };
        // One query sees all its keys, whatever is said.
        let causal = attrs_of(node).causal && queries > 1;
        attend(l, node, &Part { row, batch: 1, queries, lengths: vec![len], keys, causal })?;
    }
    Ok(())
}

fn decode(l: &mut Launcher<'_>, node: &NodeView<'_>, _: &[usize]) -> Result<()> {
    let lens = lengths(l, node, 3, "kv_len")?;
    check_table(l, node, 4, &lens)?;
    let mut row = 0;
    // Sequences without keys are zeros, and part the others into runs.
    for run in lens.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
        let keys = Keys::Paged { table: id(node, 4), first: row };
        match run[0] {
            0 => clear_rows(l, node, row, run.len())?,
            _ => {
                let part = Part { row, batch: run.len(), queries: 1, lengths: run.to_vec(), keys, causal: false };
                attend(l, node, &part)?;
            }
        }
        row += run.len();
    }
    Ok(())
}

/// Sets rows of the result to zero.
fn clear_rows(l: &mut Launcher<'_>, node: &NodeView<'_>, first: usize, rows: usize) -> Result<()> {
    let (out, at) = (node.output(0), l.at(node.node.outputs[0]));
    let size = out.dtype.block_bytes();
    let width = out.shape[1] * out.shape[2] * size;
    l.clear(at.base + at.offset * size + first * width, rows * width)
}

/// One call of the operator.
fn attend(l: &mut Launcher<'_>, node: &NodeView<'_>, part: &Part) -> Result<()> {
    let (q, k) = (node.required(0), node.required(1));
    let (h, d, kv) = (q.shape[1], q.shape[2], k.shape[k.rank() - 2]);
    let queries = TensorDesc::new(q.dtype, &[part.batch, part.queries, h, d])?;
    let from = |at: At| At { offset: at.offset + part.row * h * d, ..at };
    let (query, out) =
        (l.view(from(l.at(id(node, 0))), &queries)?, l.view(from(l.at(node.node.outputs[0])), &queries)?);
    let keys = match &part.keys {
        Keys::Paged { .. } => TensorDesc::new(k.dtype, &[k.shape[0], BLOCK, kv * d])?,
        Keys::Packed { .. } => TensorDesc::new(k.dtype, &[1, part.lengths[0] as usize, kv, d])?,
    };
    let mut lists = [std::ptr::null(); 2];
    for (i, list) in lists.iter_mut().enumerate() {
        let at = l.at(id(node, 1 + i));
        let skipped = if let Keys::Packed { first } = part.keys { first * kv * d } else { 0 };
        let tensor = l.view(At { offset: at.offset + skipped, ..at }, &keys)?;
        *list = l.list(&[tensor])?;
    }
    let (table, block): (Tensor, i64) = match part.keys {
        Keys::Paged { table, first } => {
            let (width, at) = (l.graph().desc(table).shape[1], l.at(table));
            let rows = TensorDesc::new(DType::I32, &[part.batch, width])?;
            (l.view(At { offset: at.offset + first * width, ..at }, &rows)?, BLOCK as i64)
        }
        Keys::Packed { .. } => (std::ptr::null(), 0),
    };
    let (mask, sparse) = match part.causal {
        true => {
            let desc = TensorDesc::new(DType::Bool, &[MASK, MASK])?;
            (l.view(At { base: l.mask(), holds: MASK * MASK, offset: 0 }, &desc)?, 3)
        }
        false => (std::ptr::null(), 0),
    };
    let lengths = l.ints(&part.lengths)?;
    let given = attrs_of(node).scale;
    let scale = if given == 0.0 { 1.0 / (d as f64).sqrt() } else { f64::from(given) };
    const NONE: Tensor = std::ptr::null();
    const ALL: i64 = i32::MAX as i64;
    l.attention(
        query,
        lists[0],
        lists[1],
        NONE,
        mask,
        NONE,
        lengths,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        table,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        h as i64,
        scale,
        ALL,
        ALL,
        c"BSND".as_ptr(),
        kv as i64,
        sparse,
        0,
        block,
        0,
        false,
        0,
        0,
        out,
        NONE,
    )
}
