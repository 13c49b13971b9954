//! The work of a step: operations and bytes, from the model's own graph at that depth.

use std::ops::Add;

use qiao_core::{KvLayout, NodeView, Op, OpKind};
use qiao_engine::model::{CacheShape, Step};
use serde::Serialize;

use crate::{Model, Result};

/// What running some tokens takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Operations of all operators, as the cost model of the op list counts them (a multiply-add is two), attention with
    /// the keys that each token sees: causal, within the window, at this depth.
    pub flops: u64,
    /// Bytes of weights that are read: each matrix once a step, of the embedding the rows that are looked up.
    pub weight_bytes: u64,
    /// Bytes of keys and values that are read and written.
    pub cache_bytes: u64,
    /// All bytes that operators read and write, activations included.
    pub bytes: u64,
}

impl Add for Work {
    type Output = Work;

    fn add(self, o: Work) -> Work {
        Work {
            flops: self.flops.saturating_add(o.flops),
            weight_bytes: self.weight_bytes.saturating_add(o.weight_bytes),
            cache_bytes: self.cache_bytes.saturating_add(o.cache_bytes),
            bytes: self.bytes.saturating_add(o.bytes),
        }
    }
}

impl Work {
    /// The work of a prompt of `tokens` tokens after `depth` others, in the chunks that it runs in.
    ///
    /// # Errors
    /// Sizes that no tensor can have.
    pub fn of_prompt(model: &Model, depth: usize, tokens: usize) -> Result<Work> {
        let mut work = Work::default();
        let most = model.loaded().prompt_chunk();
        for start in (0..tokens).step_by(most) {
            let chunk = most.min(tokens - start);
            let rows = usize::from(start + chunk == tokens);
            work = work + step(model, depth + start, chunk, rows)?;
        }
        Ok(work)
    }

    /// The work of a decode step after `depth` tokens.
    ///
    /// # Errors
    /// Sizes that no tensor can have.
    pub fn of_decode(model: &Model, depth: usize) -> Result<Work> {
        step(model, depth, 1, 1)
    }

    /// The mean of two: of a row of steps whose work grows evenly, the mean of all of them.
    pub(crate) fn mean(self, o: Work) -> Work {
        let mean = |a: u64, b: u64| a / 2 + b / 2 + (a & b & 1);
        Work {
            flops: mean(self.flops, o.flops),
            weight_bytes: mean(self.weight_bytes, o.weight_bytes),
            cache_bytes: mean(self.cache_bytes, o.cache_bytes),
            bytes: mean(self.bytes, o.bytes),
        }
    }
}

/// The work of a step of `tokens` tokens after `start` others, of which `rows` want logits: the graph is built for a cache
/// of exactly that length.
fn step(model: &Model, start: usize, tokens: usize, rows: usize) -> Result<Work> {
    let len = start + tokens;
    let dtype = model.kv_dtype();
    let cache = CacheShape { layout: KvLayout::BlockHeadToken, dtype, blocks: 1, block_size: len, table: 1 };
    let graph = model.graph(Step::of_one(tokens, rows), cache)?;
    Ok(graph.views().map(|node| of_node(&node, start, tokens)).fold(Work::default(), Add::add))
}

fn of_node(node: &NodeView<'_>, start: usize, tokens: usize) -> Work {
    let cost = node.cost();
    let bytes = cost.read.saturating_add(cost.written);
    let weight_bytes = weights_read(node);
    let plain = Work { flops: cost.flops, weight_bytes, cache_bytes: 0, bytes };
    match node.op() {
        Op::KvWrite(_) => Work { cache_bytes: cost.written, ..plain },
        Op::AttentionPrefill(attrs) | Op::AttentionDecode(attrs) => {
            let (len, window) = (start + tokens, if attrs.window == 0 { usize::MAX } else { attrs.window as usize });
            // The cost model lets every token see all keys of the cache, or a window of them.
            let counted = tokens as u128 * len.min(window) as u128;
            let seen: u128 = (start + 1..=len).map(|keys| keys.min(window) as u128).sum();
            let queries = node.required(0).bytes().unwrap_or(usize::MAX) as u64;
            let cached = cost.read.saturating_sub(queries);
            let touched = len.min(window.saturating_add(tokens - 1));
            let cache_bytes = share(cached, touched as u128, len as u128);
            let bytes = bytes - cached + cache_bytes;
            Work { flops: share(cost.flops, seen, counted), cache_bytes, bytes, ..plain }
        }
        Op::Rope(attrs) => {
            // Two products and a sum for each rotated element; of the tables the rows of the step's positions are read.
            let (x, out) = (node.required(0), node.output(0));
            let row =
                |i: usize| node.required(i).bytes().unwrap_or(usize::MAX) as u64 / node.required(i).shape[0] as u64;
            let tables = (row(2) + row(3)).saturating_mul(tokens as u64);
            let moved = [x, out, node.required(1)].map(|desc| desc.bytes().unwrap_or(usize::MAX) as u64);
            let rotated = if attrs.rotary_dim == 0 { x.shape.last_dim() } else { attrs.rotary_dim as usize };
            let flops = (3 * x.shape.rows()).saturating_mul(rotated) as u64;
            Work { flops, bytes: moved.iter().fold(tables, |sum, &bytes| sum.saturating_add(bytes)), ..plain }
        }
        _ => plain,
    }
}

/// `amount × part / whole`.
fn share(amount: u64, part: u128, whole: u128) -> u64 {
    let product = u128::from(amount).saturating_mul(part);
    u64::try_from(product / whole.max(1)).unwrap_or(u64::MAX)
}

fn weights_read(node: &NodeView<'_>) -> u64 {
    let inputs = (0..node.node.inputs.len()).filter_map(|i| node.input(i));
    let constants = inputs.filter(|desc| desc.constant);
    let all = constants.map(|desc| desc.bytes().unwrap_or(usize::MAX) as u64).fold(0, u64::saturating_add);
    match node.kind() {
        // A table gives the rows that are looked up; what is read beside them are ids.
        OpKind::GatherRows if all > 0 => {
            let ids = node.required(1).bytes().unwrap_or(usize::MAX) as u64;
            node.cost().read.saturating_sub(ids)
        }
        _ => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operations_of_the_demo_model_are_those_of_the_formula() {
        // 2·A for the matrices, 2·L·H·D·S·(S + 1) for causal attention; norms and the like are within 3 % of it.
        let model = Model::demo().unwrap();
        let c = model.config();
        let (h, d, heads) = (c.hidden_size, c.head_dim, c.num_heads);
        let layer = h * d * (2 * heads + 2 * c.num_kv_heads) + 3 * h * c.intermediate_size;
        let close = |found: u64, matrices: usize, pairs: usize| {
            let formula = (2 * matrices + 4 * c.num_layers * heads * d * pairs) as f64;
            assert!((1.0..1.03).contains(&(found as f64 / formula)), "{found} beside {formula}");
        };
        let head = h * c.vocab_size;
        for depth in [0, 1, 100, 300] {
            close(Work::of_decode(&model, depth).unwrap().flops, c.num_layers * layer + head, depth + 1);
        }
        // All but the last token leave the last layer after attention; with one layer in five the formula is too high.
        let (s, last) = (200, h * d * heads + 3 * h * c.intermediate_size);
        let work = Work::of_prompt(&model, 50, s).unwrap();
        close(work.flops, s * (c.num_layers * layer - last) + last + head, s * 50 + s * (s + 1) / 2);
    }

    #[test]
    fn a_decode_step_reads_all_weights_once_and_the_keys_and_values_of_its_depth() {
        let model = Model::demo().unwrap();
        let c = model.config();
        let row = (c.num_layers * c.num_kv_heads * c.head_dim * 2 * 2) as u64;
        let embedding = (c.vocab_size * c.hidden_size * 2) as u64;
        let at = |depth| Work::of_decode(&model, depth).unwrap();
        // Read with the new token in it, and the new token written.
        assert_eq!(at(0).cache_bytes, 2 * row);
        assert_eq!(at(101).cache_bytes - at(1).cache_bytes, 100 * row);
        assert_eq!(at(101).weight_bytes, at(0).weight_bytes);
        assert!(at(0).weight_bytes > embedding && at(0).weight_bytes < model.weight_bytes() + embedding);
        assert!(at(0).bytes > at(0).weight_bytes + at(0).cache_bytes);
        assert_eq!(at(10).mean(at(20)), at(15));
    }

    #[test]
    fn a_prompt_reads_the_weights_once_a_chunk() {
        let model = Model::demo().unwrap();
        let one = Work::of_prompt(&model, 0, 300).unwrap();
        let row = (model.config().num_layers * model.config().num_kv_heads * model.config().head_dim * 4) as u64;
        assert_eq!(one.cache_bytes, 2 * 300 * row);
        let decode = Work::of_decode(&model, 0).unwrap();
        assert!(one.weight_bytes.abs_diff(decode.weight_bytes) < 300 * 400, "{one:?} {decode:?}");
    }
}
