//! Attention over packed keys and pages, in the chip's own loops.

use std::ops::Range;

use qiao_core::{AttentionAttrs, Error, KvLayout, NodeView, Op, Pages, Result, TensorDesc};
use qiao_reference::Args;
use qiao_reference::args::offset;
use qiao_reference::value::Output;

use super::matmul::{floats, required};
use super::truths::truth;
use crate::limits::{Accumulate, Numerics};
use crate::numbers::{LANES, dot, flush, widen};

/// A node's operands, by what they are.
struct Sources<'a> {
    numerics: Numerics,
    attrs: AttentionAttrs,
    node: NodeView<'a>,
    bytes: &'a [Option<&'a [u8]>],
    /// Operands of the scales of keys and values.
    scales: [usize; 2],
    /// Whether a query sees no key behind its own.
    causal: bool,
    heads: usize,
    kv_heads: usize,
    d: usize,
    dv: usize,
}

/// One sequence: its first query, how many, and how many keys.
#[derive(Clone, Copy)]
struct Sequence {
    first: usize,
    queries: usize,
    len: usize,
}

fn bad(what: &str, found: String, mend: &str) -> Error {
    Error::invalid(format!("attention {what}"), found, mend)
}

/// Integers of an index operand, none negative.
fn lengths(args: &Args<'_>, index: usize) -> Result<Vec<usize>> {
    let to_len = |v: f64| {
        if v >= 0.0 { Ok(v as usize) } else { Err(bad("lengths", format!("{v}"), "give lengths of at least 0")) }
    };
    args.value(index)?.data.into_iter().map(to_len).collect()
}

impl<'a> Sources<'a> {
    fn new(
        numerics: Numerics,
        node: NodeView<'a>,
        attrs: AttentionAttrs,
        bytes: &'a [Option<&'a [u8]>],
        scales: [usize; 2],
        causal: bool,
    ) -> Self {
        let (q, k, v) = (node.required(0), node.required(1), node.required(2));
        let kv_heads = Pages::of(k, attrs.kv_layout).map_or_else(|| k.shape[1], |p| p.heads);
        let (heads, d, dv) = (q.shape[1], q.shape[2], v.shape.last_dim());
        Sources { numerics, attrs, node, bytes, scales, causal, heads, kv_heads, d, dv }
    }

    /// Head `head` of the keys (1) or values (2) at the tokens of a sequence, `[len, D]`, out of pages.
    fn paged(&self, operand: usize, table: &[f64], len: usize, head: usize) -> Result<Vec<f32>> {
        let cache = self.node.required(operand);
        let layout = self.attrs.kv_layout;
        let pages = Pages::of(cache, layout).expect("the rule asks for a cache of rank 4");
        let capacity = table.len() * pages.block_size;
        if len > capacity {
            let found = format!("{len} keys, a table for {capacity}");
            return Err(bad("kv_len", found, "name a block for every block_size keys"));
        }
        let args = Args::new(self.node, self.bytes);
        let scale = self.scales[operand - 1];
        let scales = args.opt(scale)?;
        let plain = cache.dtype.is_activation() && cache.strides[3] == 1;
        let bytes = required(self.bytes, operand);
        let d = pages.head_dim;
        let mut out = vec![0f32; len * d];
        for (token, out) in out.chunks_exact_mut(d.max(1)).enumerate().take(len) {
            let block = table[token / pages.block_size];
            if !(0.0..pages.blocks as f64).contains(&block) {
                let found = format!("block {block} of {}", pages.blocks);
                return Err(bad("block_table", found, "name blocks of the cache for every key"));
            }
            let at = match layout {
                KvLayout::BlockTokenHead => [block as usize, token % pages.block_size, head],
                KvLayout::BlockHeadToken => [block as usize, head, token % pages.block_size],
            };
            if plain {
                let size = cache.dtype.block_bytes();
                widen(cache.dtype, &bytes[offset(cache, &at) * size..], out);
            } else {
                let [a, b, c] = at;
                let factor = scales.as_ref().map_or(1.0, |s| s.data[(a * s.shape[1] + b) * s.shape[2] + c]);
                let row = args.row(operand, &at)?;
                out.iter_mut().zip(row).for_each(|(o, x)| *o = (x * factor) as f32);
            }
        }
        if self.numerics.flush {
            flush(&mut out);
        }
        Ok(out)
    }

    /// The keys that query i of a sequence sees.
    fn visible(&self, s: Sequence, i: usize) -> Range<usize> {
        let after = (s.len + i + 1).saturating_sub(s.queries).min(s.len);
        match (self.attrs.window as usize, self.causal) {
            (0, false) => 0..s.len,
            (0, true) => 0..after,
            (window, _) => (s.len + i + 1).saturating_sub(s.queries + window).min(after)..after,
        }
    }

    /// Every query of a sequence against its keys: `keys(operand, head)` gives `[len, D]` of keys (1) or values (2).
    fn attend(
        &self,
        q: &[f32],
        sinks: Option<&[f32]>,
        s: Sequence,
        keys: impl Fn(usize, usize) -> Result<Vec<f32>>,
        y: &mut [f32],
    ) -> Result<()> {
        let scale = if self.attrs.scale == 0.0 { 1.0 / (self.d as f32).sqrt() } else { self.attrs.scale };
        let group = self.heads / self.kv_heads.max(1);
        let mut scores = Vec::new();
        for kv_head in 0..self.kv_heads {
            let (k, v) = (keys(1, kv_head)?, keys(2, kv_head)?);
            for i in 0..s.queries {
                let seen = self.visible(s, i);
                for head in kv_head * group..(kv_head + 1) * group {
                    let row = (s.first + i) * self.heads + head;
                    let q = &q[row * self.d..(row + 1) * self.d];
                    scores.clear();
                    scores.extend(seen.clone().map(|j| {
                        let score = scale * dot(self.numerics.accumulate, q, &k[j * self.d..(j + 1) * self.d]);
                        let cap = self.attrs.softcap;
                        if cap == 0.0 { score } else { cap * (score / cap).tanh() }
                    }));
                    weigh(&mut scores, sinks.map(|s| s[head]));
                    let values = &v[seen.start * self.dv..seen.end * self.dv];
                    add_up(self.numerics.accumulate, &scores, values, &mut y[row * self.dv..(row + 1) * self.dv]);
                }
            }
        }
        Ok(())
    }

    fn finish(&self, mut y: Vec<f32>) -> Vec<Output> {
        if self.numerics.flush {
            flush(&mut y);
        }
        vec![Output::Values(y.into_iter().map(f64::from).collect())]
    }

    fn sinks(&self, index: usize) -> Result<Option<Vec<f32>>> {
        match self.node.input(index) {
            Some(desc) => floats(self.numerics, desc, required(self.bytes, index)).map(Some),
            None => Ok(None),
        }
    }
}

/// Scores become weights: a softmax whose denominator a sink joins. NaN is larger than all.
fn weigh(scores: &mut [f32], sink: Option<f32>) {
    let larger = |m: f32, x: f32| if x.is_nan() || x > m { x } else { m };
    let sink = sink.unwrap_or(f32::NEG_INFINITY);
    let most = scores.iter().copied().fold(sink, |m, x| if m.is_nan() { m } else { larger(m, x) });
    if most == f32::NEG_INFINITY {
        return scores.fill(0.0);
    }
    scores.iter_mut().for_each(|s| *s = (*s - most).exp());
    let sum = scores.iter().sum::<f32>() + (sink - most).exp();
    scores.iter_mut().for_each(|s| *s /= sum);
}

/// `y = Σ_j weight_j·v_j`. A narrow accumulator takes sixteen keys at a time.
fn add_up(accumulate: Accumulate, weights: &[f32], values: &[f32], y: &mut [f32]) {
    y.fill(0.0);
    for (j, (w, v)) in weights.iter().zip(values.chunks_exact(y.len().max(1))).enumerate() {
        y.iter_mut().zip(v).for_each(|(y, v)| *y += w * v);
        if accumulate != Accumulate::F32 && (j + 1) % LANES == 0 {
            y.iter_mut().for_each(|y| *y = accumulate.round(*y));
        }
    }
    y.iter_mut().for_each(|y| *y = accumulate.round(*y));
}

/// Whether the chip's loops take the node: all floats are f32, f16 or bf16, or codes of a cache.
fn is_own(node: &NodeView<'_>) -> bool {
    let wide = |d: &TensorDesc| d.dtype == qiao_core::DType::F64;
    let narrow = |d: &TensorDesc| d.dtype.is_float() && !d.dtype.is_activation();
    let packed = node.required(1).rank() == 3;
    let odd = node.operands().any(|(i, d)| wide(d) || narrow(d) && (packed || !matches!(i, 1 | 2)));
    !odd && node.required(0).shape[2] > 0
}

/// `attention_prefill`.
///
/// # Errors
/// Data that breaks the operator's meaning.
pub(super) fn prefill(numerics: Numerics, node: NodeView<'_>, bytes: &[Option<&[u8]>]) -> Result<Vec<Output>> {
    let Op::AttentionPrefill(attrs) = *node.op() else { unreachable!("the table pairs prefill with its kernel") };
    if !is_own(&node) {
        return truth(numerics, node, bytes);
    }
    let args = Args::new(node, bytes);
    let x = Sources::new(numerics, node, attrs, bytes, [7, 8], attrs.causal);
    let (cu, lens, tokens) = (lengths(&args, 3)?, lengths(&args, 4)?, node.required(0).shape[0]);
    if cu[0] != 0 || cu.windows(2).any(|w| w[0] > w[1]) || cu[cu.len() - 1] > tokens {
        let mend = format!("start at 0, never fall, and end at most at the {tokens} queries");
        return Err(bad("cu_q", format!("{cu:?}"), &mend));
    }
    let q = floats(numerics, node.required(0), required(bytes, 0))?;
    let (sinks, table) = (x.sinks(6)?, args.opt(5)?);
    let packed = match &table {
        Some(_) => None,
        None => {
            let load = |i: usize| floats(numerics, node.required(i), required(bytes, i));
            Some([load(1)?, load(2)?])
        }
    };
    let mut y = vec![0f32; node.output(0).elements()];
    let mut start = 0usize;
    for (b, &len) in lens.iter().enumerate() {
        let s = Sequence { first: cu[b], queries: cu[b + 1] - cu[b], len };
        let end = start.saturating_add(len);
        match (&packed, &table) {
            (Some(kv), _) => {
                let have = node.required(1).shape[0];
                if end > have {
                    let found = format!("{end} keys or more, of {have}");
                    return Err(bad("kv_len", found, "let the lengths add up to the packed keys"));
                }
                let keys = |operand: usize, head: usize| {
                    let d = if operand == 1 { x.d } else { x.dv };
                    let row = |t: usize| (t * x.kv_heads + head) * d;
                    Ok((start..end).flat_map(|t| &kv[operand - 1][row(t)..row(t) + d]).copied().collect())
                };
                x.attend(&q, sinks.as_deref(), s, keys, &mut y)?;
            }
            (None, Some(table)) => {
                let row = &table.data[b * table.shape[1]..(b + 1) * table.shape[1]];
                x.attend(&q, sinks.as_deref(), s, |operand, head| x.paged(operand, row, len, head), &mut y)?;
            }
            (None, None) => unreachable!("keys are packed where there is no block table"),
        }
        start = end;
    }
    Ok(x.finish(y))
}

/// `attention_decode`.
///
/// # Errors
/// Data that breaks the operator's meaning.
pub(super) fn decode(numerics: Numerics, node: NodeView<'_>, bytes: &[Option<&[u8]>]) -> Result<Vec<Output>> {
    let Op::AttentionDecode(attrs) = *node.op() else { unreachable!("the table pairs decode with its kernel") };
    if !is_own(&node) {
        return truth(numerics, node, bytes);
    }
    let args = Args::new(node, bytes);
    let x = Sources::new(numerics, node, attrs, bytes, [6, 7], false);
    let (lens, table) = (lengths(&args, 3)?, args.value(4)?);
    let q = floats(numerics, node.required(0), required(bytes, 0))?;
    let sinks = x.sinks(5)?;
    let mut y = vec![0f32; node.output(0).elements()];
    for (b, &len) in lens.iter().enumerate() {
        let row = &table.data[b * table.shape[1]..(b + 1) * table.shape[1]];
        let s = Sequence { first: b, queries: 1, len };
        x.attend(&q, sinks.as_deref(), s, |operand, head| x.paged(operand, row, len, head), &mut y)?;
    }
    Ok(x.finish(y))
}
