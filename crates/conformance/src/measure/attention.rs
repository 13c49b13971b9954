//! Attention over pages, as it is measured.

use qiao_core::{AttentionAttrs, Cost, DType, KvLayout, Op, Result};
use qiao_reference::data::Rng;

use super::products::{list, rows};
use super::source::{Kind, Operand, Pools};
use super::work::{Pick, Sample, Work};

/// Queries of one sequence that are compared with the truth.
const QUERIES: usize = 3;

/// Key heads of one sequence that are compared with the truth, each with all query heads of its group.
const KEY_HEADS: usize = 2;

/// The heads of an attention and how its cache lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) d: usize,
    pub(crate) layout: KvLayout,
    /// Tokens a block.
    pub(crate) block: usize,
}

/// A cache of `batch` sequences of `blocks` blocks each, scattered over the pool.
struct Cache {
    k: Operand,
    v: Operand,
    /// The block of the pool that each sequence's blocks are, sequence by sequence.
    table: Vec<usize>,
    blocks: usize,
}

impl Heads {
    fn cache(&self, pools: &mut Pools, rng: &mut Rng, dtype: DType, batch: usize, context: usize) -> Result<Cache> {
        let blocks = context.div_ceil(self.block).max(1);
        let dims = match self.layout {
            KvLayout::BlockTokenHead => [batch * blocks, self.block, self.kv_heads, self.d],
            KvLayout::BlockHeadToken => [batch * blocks, self.kv_heads, self.block, self.d],
        };
        let (k, v) = (pools.random(Kind::Normal, dtype, &dims)?, pools.random(Kind::Normal, dtype, &dims)?);
        Ok(Cache { k, v, table: rng.permutation(batch * blocks), blocks })
    }

    fn attrs(&self) -> AttentionAttrs {
        AttentionAttrs { causal: true, kv_layout: self.layout, ..Default::default() }
    }

    /// What `queries` that meet `pairs` keys in all cost, over caches of `context` tokens.
    fn cost(&self, dtype: DType, queries: usize, pairs: usize, [batch, context]: [usize; 2]) -> Cost {
        let size = dtype.block_bytes();
        let q = queries * self.heads * self.d * size;
        let cache = batch * context * self.kv_heads * 2 * self.d * size;
        Cost { flops: (4 * pairs * self.heads * self.d) as u64, read: (q + cache) as u64, written: q as u64 }
    }

    /// Some key heads, and the query heads that read them.
    fn some(&self, rng: &mut Rng) -> (Vec<usize>, Vec<usize>) {
        let keys = if self.kv_heads <= KEY_HEADS {
            (0..self.kv_heads).collect()
        } else {
            vec![rng.below(self.kv_heads - 1), self.kv_heads - 1]
        };
        let group = self.heads / self.kv_heads;
        let queries = keys.iter().flat_map(|h| h * group..(h + 1) * group).collect();
        (keys, queries)
    }

    /// The part of a cache that holds one sequence and some heads.
    fn part(&self, cache: &Cache, sequence: usize, heads: &[usize]) -> Pick {
        let blocks = cache.table[sequence * cache.blocks..(sequence + 1) * cache.blocks].to_vec();
        let axis = if self.layout == KvLayout::BlockTokenHead { 2 } else { 1 };
        Pick::Take(vec![(0, blocks), (axis, heads.to_vec())])
    }
}

fn numbers(list: &[usize]) -> Vec<f64> {
    list.iter().map(|&i| i as f64).collect()
}

fn ints(shape: &[usize], values: &[usize]) -> Result<Operand> {
    list(DType::I32, shape, &numbers(values)).map(Operand::given)
}

fn give(shape: &[usize], values: &[usize]) -> Result<Pick> {
    list(DType::I32, shape, &numbers(values)).map(Pick::Give)
}

/// One query for each of `batch` sequences of `context` tokens.
pub(crate) fn decode(
    pools: &mut Pools,
    rng: &mut Rng,
    dtype: DType,
    heads: Heads,
    [batch, context]: [usize; 2],
) -> Result<Work> {
    let cache = heads.cache(pools, rng, dtype, batch, context)?;
    let q = pools.random(Kind::Normal, dtype, &[batch, heads.heads, heads.d])?;
    let mut samples = Vec::new();
    let last = batch - 1;
    for sequence in if batch > 1 { vec![rng.below(last), last] } else { vec![0] } {
        let (keys, queries) = heads.some(rng);
        let axes = vec![(0, vec![sequence]), (1, queries)];
        let own: Vec<usize> = (0..cache.blocks).collect();
        samples.push(Sample {
            operands: vec![
                Pick::Take(axes.clone()),
                heads.part(&cache, sequence, &keys),
                heads.part(&cache, sequence, &keys),
                rows(&[sequence]),
                give(&[1, cache.blocks], &own)?,
            ],
            outputs: vec![axes],
        });
    }
    let lengths = ints(&[batch], &vec![context; batch])?;
    let table = ints(&[batch, cache.blocks], &cache.table)?;
    let cost = heads.cost(dtype, batch, batch * context, [batch, context]);
    let operands = [q, cache.k, cache.v, lengths, table].map(Some).into();
    Ok(Work { op: Op::AttentionDecode(heads.attrs()), operands, out: None, cost: Some(cost), samples })
}

/// A prompt of `tokens` behind `past` tokens that are in the cache, of one sequence; causal.
pub(crate) fn prefill(
    pools: &mut Pools,
    rng: &mut Rng,
    dtype: DType,
    heads: Heads,
    [tokens, past]: [usize; 2],
) -> Result<Work> {
    let context = past + tokens;
    let cache = heads.cache(pools, rng, dtype, 1, context)?;
    let q = pools.random(Kind::Normal, dtype, &[tokens, heads.heads, heads.d])?;
    let own: Vec<usize> = (0..cache.blocks).collect();
    let few = tokens.min(QUERIES);
    let mut starts = vec![0, rng.below(tokens - few + 1), tokens - few];
    starts.sort_unstable();
    starts.dedup();
    let mut samples = Vec::new();
    for start in starts {
        // Queries in a row are a prompt of their own, behind all tokens before them.
        let (keys, queries) = heads.some(rng);
        let axes = vec![(0, (start..start + few).collect()), (1, queries)];
        samples.push(Sample {
            operands: vec![
                Pick::Take(axes.clone()),
                heads.part(&cache, 0, &keys),
                heads.part(&cache, 0, &keys),
                give(&[2], &[0, few])?,
                give(&[1], &[past + start + few])?,
                give(&[1, cache.blocks], &own)?,
            ],
            outputs: vec![axes],
        });
    }
    let table = ints(&[1, cache.blocks], &cache.table)?;
    // Query i meets past + i + 1 keys.
    let pairs = tokens * past + tokens * (tokens + 1) / 2;
    let cost = heads.cost(dtype, tokens, pairs, [1, context]);
    let operands = [q, cache.k, cache.v, ints(&[2], &[0, tokens])?, ints(&[1], &[context])?, table].map(Some).into();
    Ok(Work { op: Op::AttentionPrefill(heads.attrs()), operands, out: None, cost: Some(cost), samples })
}
