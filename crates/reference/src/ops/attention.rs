//! Attention over packed keys or pages.

use qiao_core::{AttentionAttrs, Pages, Result};

use super::kv::page_index;
use super::rows::larger;
use super::{Outputs, bad_data, one};
use crate::args::Args;

/// One sequence of a batch: which packed queries it has, and its keys and values `[len, Hkv, D]`, dequantised.
pub(crate) struct Sequence {
    /// The first query's row.
    pub(crate) first: usize,
    /// How many queries.
    pub(crate) queries: usize,
    /// How many keys.
    pub(crate) len: usize,
    /// The keys.
    pub(crate) k: Vec<f64>,
    /// The values.
    pub(crate) v: Vec<f64>,
}

impl Sequence {
    /// The keys that query i sees: j ≤ p for a causal one, p − window < j ≤ p with a window, where p is the query's
    /// position, the last query's being the last key's.
    pub(crate) fn visible(&self, attrs: &AttentionAttrs, causal: bool, i: usize) -> std::ops::Range<usize> {
        let after = (self.len + i + 1).saturating_sub(self.queries).min(self.len);
        match (attrs.window as usize, causal) {
            (0, false) => 0..self.len,
            (0, true) => 0..after,
            // p may lie before the first key, so the window is counted from p + queries.
            (window, _) => (self.len + i + 1).saturating_sub(self.queries + window).min(after)..after,
        }
    }
}

/// A batch of sequences with what they share.
pub(crate) struct Batch {
    /// Queries `[T, H, D]`.
    pub(crate) q: Vec<f64>,
    /// The sequences.
    pub(crate) sequences: Vec<Sequence>,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key heads.
    pub(crate) kv_heads: usize,
    /// Elements of a key.
    pub(crate) d: usize,
    /// Elements of a value.
    pub(crate) dv: usize,
    /// What multiplies a score.
    pub(crate) scale: f64,
    /// One logit a query head that joins the denominator.
    pub(crate) sinks: Option<Vec<f64>>,
}

fn lengths(x: &Args<'_>, index: usize) -> Result<Vec<usize>> {
    let values = x.value(index)?.data;
    let to_len = |&v: &f64| {
        let found = || bad_data("attention lengths", format!("{v}"), "give lengths of at least 0");
        if v >= 0.0 { Ok(v as usize) } else { Err(found()) }
    };
    values.iter().map(to_len).collect()
}

/// The first `len` rows of sequence b, `[len, Hkv, D]`, out of the pages that its row of the table names.
fn paged(
    x: &Args<'_>,
    attrs: &AttentionAttrs,
    cache: usize,
    scale: usize,
    table: &[f64],
    len: usize,
) -> Result<Vec<f64>> {
    let pages = Pages::of(x.desc(cache), attrs.kv_layout).expect("the rule asks for a cache of rank 4");
    let capacity = table.len() * pages.block_size;
    if len > capacity {
        let found = format!("{len} keys, a table for {capacity}");
        return Err(bad_data("attention kv_len", found, "name a block for every block_size keys"));
    }
    let scales = if x.has(scale) { Some(x.value(scale)?) } else { None };
    let mut rows = Vec::with_capacity(len * pages.heads * pages.head_dim);
    for token in 0..len {
        let block = table[token / pages.block_size];
        if !(0.0..pages.blocks as f64).contains(&block) {
            let found = format!("block {block} of {}", pages.blocks);
            return Err(bad_data("attention block_table", found, "name blocks of the cache for every key"));
        }
        for head in 0..pages.heads {
            let index = page_index(attrs.kv_layout, block as usize, token % pages.block_size, head);
            let factor =
                scales.as_ref().map_or(1.0, |s| s.data[(index[0] * s.shape[1] + index[1]) * s.shape[2] + index[2]]);
            rows.extend(x.row(cache, &index)?.iter().map(|code| code * factor));
        }
    }
    Ok(rows)
}

impl Batch {
    fn shared(attrs: &AttentionAttrs, x: &Args<'_>, sinks: usize, sequences: Vec<Sequence>) -> Result<Batch> {
        let q = x.value(0)?;
        let [_, heads, d] = q.shape[..] else { unreachable!("the rule asks for [T, H, D]") };
        let (k, v) = (x.desc(1), x.desc(2));
        let kv_heads = Pages::of(k, attrs.kv_layout).map_or_else(|| k.shape[1], |p| p.heads);
        let scale = if attrs.scale == 0.0 { 1.0 / (d as f64).sqrt() } else { attrs.scale as f64 };
        let sinks = x.opt(sinks)?.map(|s| s.data);
        Ok(Batch { q: q.data, sequences, heads, kv_heads, d, dv: v.shape.last_dim(), scale, sinks })
    }

    /// The operands of `attention_prefill`.
    pub(crate) fn prefill(attrs: &AttentionAttrs, x: &Args<'_>) -> Result<Batch> {
        let (cu, lens) = (lengths(x, 3)?, lengths(x, 4)?);
        let tokens = x.desc(0).shape[0];
        if cu[0] != 0 || cu.windows(2).any(|w| w[0] > w[1]) || cu[cu.len() - 1] > tokens {
            let mend = format!("start at 0, never fall, and end at most at the {tokens} queries");
            return Err(bad_data("attention cu_q", format!("{cu:?}"), &mend));
        }
        let packed = if x.has(5) { None } else { Some((x.value(1)?, x.value(2)?)) };
        let table = x.opt(5)?;
        let mut sequences = Vec::new();
        let mut start = 0usize;
        for (b, &len) in lens.iter().enumerate() {
            let (k, v) = match (&packed, &table) {
                (Some((k, v)), _) => {
                    let end = start.saturating_add(len);
                    if end > k.shape[0] {
                        let found = format!("{end} keys or more, of {}", k.shape[0]);
                        return Err(bad_data("attention kv_len", found, "let the lengths add up to the packed keys"));
                    }
                    let rows = |x: &crate::Value| {
                        let step = x.shape[1] * x.shape[2];
                        x.data[start * step..end * step].to_vec()
                    };
                    (rows(k), rows(v))
                }
                (None, Some(table)) => {
                    let row = &table.data[b * table.shape[1]..(b + 1) * table.shape[1]];
                    (paged(x, attrs, 1, 7, row, len)?, paged(x, attrs, 2, 8, row, len)?)
                }
                (None, None) => unreachable!("keys are packed where there is no block table"),
            };
            start = start.saturating_add(len);
            sequences.push(Sequence { first: cu[b], queries: cu[b + 1] - cu[b], len, k, v });
        }
        Batch::shared(attrs, x, 6, sequences)
    }

    /// The operands of `attention_decode`.
    pub(crate) fn decode(attrs: &AttentionAttrs, x: &Args<'_>) -> Result<Batch> {
        let table = x.value(4)?;
        let mut sequences = Vec::new();
        for (b, len) in lengths(x, 3)?.into_iter().enumerate() {
            let row = &table.data[b * table.shape[1]..(b + 1) * table.shape[1]];
            let (k, v) = (paged(x, attrs, 1, 6, row, len)?, paged(x, attrs, 2, 7, row, len)?);
            sequences.push(Sequence { first: b, queries: 1, len, k, v });
        }
        Batch::shared(attrs, x, 5, sequences)
    }

    /// Calls `f(row of the output, head, sequence, visible keys)` for every query and head.
    pub(crate) fn each(
        &self,
        attrs: &AttentionAttrs,
        causal: bool,
        mut f: impl FnMut(usize, usize, &Sequence, std::ops::Range<usize>),
    ) {
        for s in &self.sequences {
            for i in 0..s.queries {
                let keys = s.visible(attrs, causal, i);
                for head in 0..self.heads {
                    f((s.first + i) * self.heads + head, head, s, keys.clone());
                }
            }
        }
    }

    /// Key j for a query head.
    pub(crate) fn key<'a>(&self, s: &'a Sequence, j: usize, head: usize) -> &'a [f64] {
        let at = (j * self.kv_heads + head * self.kv_heads / self.heads) * self.d;
        &s.k[at..at + self.d]
    }

    /// Value j for a query head.
    pub(crate) fn val<'a>(&self, s: &'a Sequence, j: usize, head: usize) -> &'a [f64] {
        let at = (j * self.kv_heads + head * self.kv_heads / self.heads) * self.dv;
        &s.v[at..at + self.dv]
    }

    /// `scale·q·k_j`, soft-capped, for the query in this row.
    pub(crate) fn score(&self, attrs: &AttentionAttrs, row: usize, s: &Sequence, j: usize, head: usize) -> f64 {
        let q = &self.q[row * self.d..(row + 1) * self.d];
        let score = self.scale * q.iter().zip(self.key(s, j, head)).map(|(q, k)| q * k).sum::<f64>();
        let cap = attrs.softcap as f64;
        if cap == 0.0 { score } else { cap * (score / cap).tanh() }
    }

    /// The weight of each visible key: a softmax whose denominator a sink joins. Empty where nothing is seen.
    pub(crate) fn weights(&self, scores: &[f64], head: usize) -> Vec<f64> {
        let sink = self.sinks.as_ref().map_or(f64::NEG_INFINITY, |s| s[head]);
        let m = scores.iter().copied().fold(sink, larger);
        if m == f64::NEG_INFINITY {
            return vec![0.0; scores.len()];
        }
        let e: Vec<f64> = scores.iter().map(|s| (s - m).exp()).collect();
        let sum = e.iter().sum::<f64>() + (sink - m).exp();
        e.into_iter().map(|e| e / sum).collect()
    }

    /// `Σ_j weight_j·v_j` for every query and head, `[T, H, Dv]`. A query that sees no key, or that no sequence holds,
    /// gives zeros.
    fn attend(&self, attrs: &AttentionAttrs, causal: bool, elements: usize) -> Vec<f64> {
        let mut y = vec![0.0; elements];
        self.each(attrs, causal, |row, head, s, keys| {
            let scores: Vec<f64> = keys.clone().map(|j| self.score(attrs, row, s, j, head)).collect();
            let out = &mut y[row * self.dv..(row + 1) * self.dv];
            for (j, w) in keys.zip(self.weights(&scores, head)) {
                out.iter_mut().zip(self.val(s, j, head)).for_each(|(y, v)| *y += w * v);
            }
        });
        y
    }
}

pub(crate) fn attention_prefill(attrs: &AttentionAttrs, x: &Args<'_>) -> Outputs {
    one(Batch::prefill(attrs, x)?.attend(attrs, attrs.causal, x.out(0).elements()))
}

/// One query a sequence, at the last key, so that it sees all keys; a window still cuts.
pub(crate) fn attention_decode(attrs: &AttentionAttrs, x: &Args<'_>) -> Outputs {
    one(Batch::decode(attrs, x)?.attend(attrs, false, x.out(0).elements()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(queries: usize, len: usize) -> Sequence {
        Sequence { first: 0, queries, len, k: Vec::new(), v: Vec::new() }
    }

    #[test]
    fn the_last_query_stands_at_the_last_key() {
        let s = sequence(2, 5);
        let seen = |window, causal, i| s.visible(&AttentionAttrs { window, ..Default::default() }, causal, i);
        assert_eq!([seen(0, true, 0), seen(0, true, 1), seen(0, false, 0)], [0..4, 0..5, 0..5]);
        assert_eq!([seen(2, true, 0), seen(2, true, 1), seen(2, false, 0)], [2..4, 3..5, 2..4]);
        assert_eq!(seen(9, true, 0), 0..4);
    }

    #[test]
    fn queries_before_the_first_key_see_nothing() {
        let s = sequence(4, 2);
        let seen = |window, i| s.visible(&AttentionAttrs { window, ..Default::default() }, true, i);
        assert_eq!([seen(0, 0), seen(0, 1), seen(0, 2), seen(0, 3)], [0..0, 0..0, 0..1, 0..2]);
        assert_eq!([seen(1, 0), seen(1, 1), seen(1, 2), seen(1, 3)], [0..0, 0..0, 0..1, 1..2]);
    }
}
