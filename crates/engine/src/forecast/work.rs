//! The work of one node at a given context.
//!
//! [`qiao_core::cost`] knows shapes alone, so its cost of attention and of a rotation is that of a whole cache and a whole
//! table. Here the tokens held before a step are known, and what is counted is the least that the operator can do: a causal
//! query meets the keys up to its own position, and within its window; a rotation reads the rows of its own positions.

use std::iter::Sum;
use std::ops::Add;

use qiao_core::{AttentionAttrs, DType, NodeSupport, NodeView, Op, OpKind, Pages, RopeAttrs, TensorDesc};

/// Operations, and bytes by what they belong to. A multiplication and an addition are two operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating point or integer operations.
    pub flops: u64,
    /// Bytes of weights read.
    pub weights: u64,
    /// Bytes of keys and values read and written.
    pub cache: u64,
    /// Bytes of inputs, intermediates and results read and written.
    pub activations: u64,
}

impl Work {
    /// All bytes together.
    pub fn bytes(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.activations)
    }
}

impl Add for Work {
    type Output = Work;

    fn add(self, o: Work) -> Work {
        Work {
            flops: self.flops.saturating_add(o.flops),
            weights: self.weights.saturating_add(o.weights),
            cache: self.cache.saturating_add(o.cache),
            activations: self.activations.saturating_add(o.activations),
        }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Work>>(all: I) -> Work {
        all.fold(Work::default(), Add::add)
    }
}

/// The tokens of a step: `sequences` of them with as many new tokens each, after `past` tokens that each holds already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) sequences: usize,
    pub(super) past: usize,
}

/// The work of a node.
pub(super) fn work(node: &NodeView<'_>, tokens: Tokens) -> Work {
    match node.op() {
        Op::AttentionPrefill(attrs) | Op::AttentionDecode(attrs) => attention(node, attrs, tokens),
        Op::Rope(attrs) => rope(node, attrs),
        Op::KvWrite(_) => {
            let cost = node.cost();
            Work { flops: cost.flops, cache: cost.written, activations: cost.read, weights: 0 }
        }
        _ => plain(node),
    }
}

/// The dtype in which a node multiplies: that to which its kernel rounds activations, else the wider of its factors'. `None` for
/// what is no product.
pub(super) fn product_dtype(node: &NodeView<'_>, answer: &NodeSupport) -> Option<DType> {
    let second = match node.kind() {
        OpKind::Matmul | OpKind::MatmulQuant | OpKind::ScaledMatmul => 1,
        OpKind::AttentionPrefill | OpKind::AttentionDecode => 1,
        _ => return None,
    };
    let (a, b) = (node.required(0).dtype, node.required(second).dtype);
    let wider = if b.is_activation() && b.block_bytes() > a.block_bytes() { b } else { a };
    Some(answer.act_dtype.unwrap_or(wider))
}

fn bytes(desc: &TensorDesc) -> u64 {
    desc.bytes().map_or(u64::MAX, |bytes| bytes as u64)
}

/// Bytes of one row of the innermost axis, times a count.
fn rows(desc: &TensorDesc, count: usize) -> u64 {
    let row = desc.dtype.bytes_for(desc.shape.last_dim()).map_or(u64::MAX, |bytes| bytes as u64);
    row.saturating_mul(count as u64)
}

fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1u64, |n, &f| n.saturating_mul(f as u64))
}

/// What core counts, with the weights apart. Of a table only the rows that are asked for are read.
fn plain(node: &NodeView<'_>) -> Work {
    let cost = node.cost();
    let all = cost.read.saturating_add(cost.written);
    let weights = match node.kind() {
        OpKind::GatherRows if node.required(0).constant => rows(node.required(0), node.required(1).elements()),
        OpKind::GatherRows => 0,
        _ => {
            let inputs = node.node.inputs.iter().flatten().map(|&id| node.graph.desc(id));
            inputs.filter(|desc| desc.constant).map(bytes).fold(0, u64::saturating_add)
        }
    };
    let weights = weights.min(all);
    Work { flops: cost.flops, weights, cache: 0, activations: all - weights }
}

/// Two products and a sum for each rotated element.
fn rope(node: &NodeView<'_>, attrs: &RopeAttrs) -> Work {
    let (x, positions) = (node.required(0), node.required(1));
    let rotated = if attrs.rotary_dim == 0 { x.shape.last_dim() } else { attrs.rotary_dim as usize };
    let tables: u64 =
        [2, 3].map(|i| rows(node.required(i), positions.elements().min(node.required(i).shape[0]))).iter().sum();
    let moved = [bytes(x), bytes(node.output(0)), bytes(positions), tables];
    let flops = product(&[3, x.shape[0], x.shape[1], rotated]);
    Work { flops, activations: moved.iter().fold(0, |n, &b| n.saturating_add(b)), ..Work::default() }
}

/// `Σ min(j, window)` for j from 1 to n: the keys that the first n queries of a sequence meet.
fn met(n: usize, window: usize) -> u128 {
    let (n, window) = (n as u128, window as u128);
    if n <= window { n * (n + 1) / 2 } else { window * (window + 1) / 2 + (n - window) * window }
}

fn attention(node: &NodeView<'_>, attrs: &AttentionAttrs, tokens: Tokens) -> Work {
    let (q, k, v) = (node.required(0), node.required(1), node.required(2));
    let each = q.shape[0] / tokens.sequences.max(1);
    let window = if attrs.window == 0 { usize::MAX } else { attrs.window as usize };
    let end = tokens.past.saturating_add(each);
    let pairs = met(end, window) - met(tokens.past, window);
    let first = (tokens.past + 1).saturating_sub(window);
    let heads = Pages::of(k, attrs.kv_layout).map_or(1, |pages| pages.heads);
    let keys = product(&[tokens.sequences, end - first.min(end), heads]);
    let row = rows(k, 1).saturating_add(rows(v, 1));
    let inputs: u64 = node.node.inputs[3..].iter().flatten().map(|&id| bytes(node.graph.desc(id))).sum();
    let per_pair = product(&[2, q.shape.last_dim() + v.shape.last_dim(), q.shape[1], tokens.sequences]);
    Work {
        flops: u64::try_from(pairs.saturating_mul(per_pair as u128)).unwrap_or(u64::MAX),
        weights: 0,
        cache: keys.saturating_mul(row),
        activations: bytes(q).saturating_add(bytes(node.output(0))).saturating_add(inputs),
    }
}

#[cfg(test)]
mod tests {
    use qiao_core::{Graph, KvLayout, NoAttrs, TensorId};

    use super::*;

    const F32: DType = DType::F32;

    fn bind(g: &mut Graph, dtype: DType, shape: &[usize]) -> TensorId {
        g.bind("t", TensorDesc::new(dtype, shape).unwrap())
    }

    /// Attention of `t` tokens of one sequence of 4 heads of 8 over 2 heads of keys, in a cache of 100 tokens.
    fn attention_of(t: usize, past: usize, window: u32) -> Work {
        let mut g = Graph::new();
        let q = bind(&mut g, F32, &[t, 4, 8]);
        let cache = [1, 2, 100, 8];
        let (k, v) = (bind(&mut g, F32, &cache), bind(&mut g, F32, &cache));
        let cu_q = bind(&mut g, DType::I32, &[2]);
        let (len, table) = (bind(&mut g, DType::I32, &[1]), bind(&mut g, DType::I32, &[1, 1]));
        let attrs = AttentionAttrs { causal: true, window, kv_layout: KvLayout::BlockHeadToken, ..Default::default() };
        g.op1(Op::AttentionPrefill(attrs), &[q, k, v, cu_q, len, table]).unwrap();
        work(&g.node(0), Tokens { sequences: 1, past })
    }

    #[test]
    fn attention_meets_the_keys_of_its_context_and_no_more() {
        // Queries at positions 10, 11 and 12 meet 11, 12 and 13 keys; each pair is 2·(8 + 8) operations in 4 heads.
        let w = attention_of(3, 10, 0);
        assert_eq!(w.flops, (11 + 12 + 13) * 32 * 4);
        assert_eq!(w.cache, 13 * 2 * (8 + 8) * 4);
        assert_eq!(w.activations, 2 * 3 * 4 * 8 * 4 + 4 * 4);
        let w = attention_of(3, 10, 4);
        assert_eq!(w.flops, (4 + 4 + 4) * 32 * 4);
        assert_eq!(w.cache, 6 * 2 * (8 + 8) * 4, "positions 7 to 12");
        let w = attention_of(3, 0, 2);
        assert_eq!((w.flops, w.cache), ((1 + 2 + 2) * 32 * 4, 3 * 2 * 16 * 4));
    }

    #[test]
    fn a_rotation_reads_the_rows_of_its_positions() {
        let mut g = Graph::new();
        let (x, p) = (bind(&mut g, F32, &[2, 3, 8]), bind(&mut g, DType::I32, &[2]));
        let (cos, sin) = (bind(&mut g, F32, &[1000, 4]), bind(&mut g, F32, &[1000, 4]));
        let op = Op::Rope(RopeAttrs { rotary_dim: 8, ..Default::default() });
        g.op1(op, &[x, p, cos, sin]).unwrap();
        let w = work(&g.node(0), Tokens { sequences: 2, past: 900 });
        assert_eq!(w.flops, 3 * 2 * 3 * 8);
        assert_eq!(w.bytes(), 2 * 2 * 3 * 8 * 4 + 2 * 4 + 2 * 2 * 4 * 4);
    }

    #[test]
    fn weights_are_told_apart_from_what_flows() {
        let mut g = Graph::new();
        let ids = bind(&mut g, DType::I32, &[3]);
        let table = g.bind("w", TensorDesc::new(DType::BF16, &[50, 8]).unwrap().as_constant());
        let x = g.op1(Op::GatherRows(NoAttrs {}), &[table, ids]).unwrap();
        let op = Op::Matmul(qiao_core::MatmulAttrs { trans_b: true, ..Default::default() });
        g.op1(op, &[x, table]).unwrap();
        let tokens = Tokens { sequences: 3, past: 0 };
        let w = work(&g.node(0), tokens);
        assert_eq!((w.weights, w.activations), (3 * 8 * 2, 3 * 4 + 3 * 8 * 2));
        let w = work(&g.node(1), tokens);
        let y = bytes(g.node(1).output(0));
        assert_eq!((w.flops, w.weights, w.activations), (2 * 3 * 8 * 50, 50 * 8 * 2, 3 * 8 * 2 + y));
    }
}
