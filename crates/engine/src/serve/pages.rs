//! Batches over one pool of pages, on a device or spread over several.

use std::sync::Arc;

use qiao_core::{Binding, Error, KvInfo, KvLayout, MemoryInfo};
use qiao_layers::Home;

use super::executor::{Executor, HostBlocks, Limits};
use super::stage::PagedStage;
use crate::border::Crossing;
use crate::entry::Entry;
use crate::error::{EngineError, Result};
use crate::model::{CacheShape, Step};
use crate::runner::LoadedModel;
use crate::sides::Deadline;

/// Tokens of a block where the device takes any.
pub const BLOCK_SIZE: usize = 32;

/// Of the memory that a device has free, the share that a pool takes at most unless its size is said: one in so many.
const SHARE: u64 = 2;

/// How large a pool is, and a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// Bytes of the pool; `None` = enough for the batch's sequences at full length, or half of what the device has free, whichever is
    /// less.
    pub bytes: Option<u64>,
    /// Tokens of a block; `None` = the device's own, or [`BLOCK_SIZE`] where it takes any.
    pub block_size: Option<usize>,
    /// Most tokens in a batch.
    pub batch_tokens: usize,
    /// Most sequences in a batch.
    pub batch_sequences: usize,
}

impl Default for CacheOptions {
    fn default() -> CacheOptions {
        CacheOptions { bytes: None, block_size: None, batch_tokens: 256, batch_sequences: 32 }
    }
}

/// A model that runs batches over a pool of pages of its own.
///
/// Batches are padded to sizes of which few are, so that plans are reused; padding belongs to no sequence.
pub struct PagedExecutor {
    model: Arc<LoadedModel>,
    limits: Limits,
    /// Blocks that a table may have.
    table: usize,
    stages: Vec<PagedStage>,
    crossing: Crossing,
    rows: Vec<f32>,
    logits: Vec<f32>,
}

impl PagedExecutor {
    /// Allocates a pool for a model, on every device that has a part of it.
    ///
    /// # Errors
    /// A batch of nothing; a block size that a device does not take, or devices with different ones; a pool too small for a block; a
    /// model whose rotary frequencies depend on the length of a sequence; no room on a device.
    pub fn new(model: Arc<LoadedModel>, options: CacheOptions) -> Result<PagedExecutor> {
        if model.rope().depends_on_length() {
            return Err(EngineError::Parameter {
                name: "rope_scaling of config.json",
                expected: "one that gives sequences of every length the same frequencies, where sequences share batches",
                found: "one that depends on the length; generate from this model one sequence at a time".to_string(),
            });
        }
        let stages = model.stages();
        let shapes = pool_shapes(&stages, &options)?;
        let (spec, shape) = (model.spec(), shapes[0]);
        let windows = spec.windows.iter().copied();
        let limits = Limits {
            vocab: spec.vocab,
            block_size: shape.block_size,
            blocks: shape.blocks,
            block_bytes: one_block(shape).layer_bytes(spec.kv_heads, spec.head_dim)? * spec.layers as u64,
            context: model.context(),
            window: windows.clone().all(|w| w > 0).then(|| windows.max().unwrap_or(0) as usize),
            batch_tokens: options.batch_tokens,
            batch_sequences: options.batch_sequences.min(options.batch_tokens),
        };
        let stages = stages.into_iter().zip(shapes).map(|(stage, shape)| PagedStage::new(stage, shape));
        Ok(PagedExecutor {
            stages: stages.collect::<Result<_>>()?,
            table: shape.table,
            crossing: Crossing::default(),
            rows: Vec::new(),
            logits: Vec::new(),
            model,
            limits,
        })
    }

    /// The model that runs.
    pub fn model(&self) -> &Arc<LoadedModel> {
        &self.model
    }

    fn check(&self, entries: &[Entry<'_>]) -> Result<()> {
        let l = &self.limits;
        let tokens: usize = entries.iter().map(|e| e.ids.len()).sum();
        let refuse = |what: &str, found: String, mend: String| Err(Error::invalid(what, found, mend).into());
        if entries.is_empty() || entries.len() > l.batch_sequences || tokens > l.batch_tokens {
            let found = format!("{} sequences with {tokens} tokens", entries.len());
            return refuse(
                "batch",
                found,
                format!("give 1 to {} sequences and at most {} tokens", l.batch_sequences, l.batch_tokens),
            );
        }
        for (i, e) in entries.iter().enumerate() {
            let what = format!("entry {i} of the batch");
            if e.ids.is_empty() || e.rows > e.ids.len() {
                let found = format!("{} rows of {} tokens", e.rows, e.ids.len());
                return refuse(&what, found, "give tokens, and want at most a row of each".into());
            }
            if e.end() > l.context || e.table.len() * l.block_size < e.end() || e.table.len() > self.table {
                let found = format!("{} blocks for positions up to {}", e.table.len(), e.end());
                let mend = format!("give blocks of {} tokens for all positions, below {}", l.block_size, l.context);
                return refuse(&what, found, mend);
            }
            if let Some(block) = e.table.iter().find(|&&b| usize::try_from(b).is_ok_and(|b| b >= l.blocks) || b < 0) {
                return refuse(&what, format!("block {block}"), format!("the pool has blocks 0 to {}", l.blocks - 1));
            }
            if let Some(&id) = e.ids.iter().find(|&&id| id as usize >= l.vocab) {
                return Err(EngineError::TokenOutOfRange { id, vocab_size: l.vocab });
            }
        }
        Ok(())
    }

    /// One block in every buffer of the pool: the stage and the side where it lives, and the part of the buffer.
    fn parts(&self, block: u32) -> impl Iterator<Item = Part> + '_ {
        let each = self.stages.iter().enumerate();
        each.flat_map(move |(at, stage)| stage.parts(block).map(move |(home, part)| (at, home, part)))
    }

    fn check_blocks(&self, blocks: impl IntoIterator<Item = u32>) -> Result<()> {
        match blocks.into_iter().find(|&b| b as usize >= self.limits.blocks) {
            Some(block) => {
                let mend = format!("the pool has blocks 0 to {}", self.limits.blocks - 1);
                Err(Error::invalid("block of the pool", block.to_string(), mend).into())
            }
            None => Ok(()),
        }
    }

    fn sync(&mut self) -> Result<()> {
        self.stages.iter_mut().try_for_each(PagedStage::sync)
    }
}

/// A part of a block: its stage, its side, where it lies.
type Part = (usize, Home, Binding);

impl Executor for PagedExecutor {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn run(&mut self, entries: &[Entry<'_>]) -> Result<&[f32]> {
        self.check(entries)?;
        let step = padded(entries, &self.limits);
        let mut at = Vec::new();
        for stage in &mut self.stages {
            at = stage.run(step, entries, &mut self.crossing)?;
        }
        let vocab = self.limits.vocab;
        let last = at.iter().max().map_or(0, |row| row + 1);
        self.rows.resize(last * vocab, 0.0);
        if let Some(stage) = self.stages.last_mut() {
            stage.logits(&mut self.rows)?;
        }
        if at.iter().copied().eq(0..at.len()) {
            return Ok(&self.rows[..at.len() * vocab]);
        }
        self.logits.clear();
        for row in at {
            self.logits.extend_from_slice(&self.rows[row * vocab..][..vocab]);
        }
        Ok(&self.logits)
    }

    fn copy(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        self.check_blocks(pairs.iter().flat_map(|&(from, to)| [from, to]))?;
        let moves: Vec<_> = pairs
            .iter()
            .flat_map(|&(from, to)| self.parts(from).zip(self.parts(to)))
            .map(|((at, home, src), (.., dst))| (at, home, src, dst))
            .collect();
        for (at, home, src, dst) in &moves {
            self.stages[*at].stream(*home).copy(dst, src)?;
        }
        self.sync()
    }

    fn save(&mut self, blocks: &[u32]) -> Result<HostBlocks> {
        self.check_blocks(blocks.iter().copied())?;
        let parts: Vec<_> = blocks.iter().flat_map(|&b| self.parts(b)).collect();
        let total = parts.iter().map(|(.., part)| part.bytes).sum();
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(total).is_err() {
            return Err(Error::OutOfMemory { device: "the host".into(), asked: total as u64, free: 0 }.into());
        }
        bytes.resize(total, 0);
        let mut rest = &mut bytes[..];
        for (at, home, part) in &parts {
            let (own, behind) = std::mem::take(&mut rest).split_at_mut(part.bytes);
            self.stages[*at].stream(*home).download(own, part)?;
            rest = behind;
        }
        self.sync()?;
        Ok(HostBlocks { bytes })
    }

    fn restore(&mut self, saved: &HostBlocks, first: usize, blocks: &[u32]) -> Result<()> {
        self.check_blocks(blocks.iter().copied())?;
        let size = usize::try_from(self.limits.block_bytes).unwrap_or(usize::MAX);
        let parts: Vec<_> = blocks.iter().flat_map(|&b| self.parts(b)).collect();
        let (start, end) = (first.saturating_mul(size), first.saturating_add(blocks.len()).saturating_mul(size));
        let Some(mut rest) = saved.bytes.get(start..end) else {
            let found = format!("{} bytes of {} blocks of {size}", saved.bytes.len(), saved.bytes.len() / size.max(1));
            let mend = format!("give contents of blocks {first} to {}", first.saturating_add(blocks.len()));
            return Err(Error::invalid("saved blocks", found, mend).into());
        };
        for (at, home, part) in &parts {
            let (own, behind) = rest.split_at(part.bytes);
            self.stages[*at].stream(*home).upload(part, own)?;
            rest = behind;
        }
        self.sync()
    }

    fn recover(&mut self) -> Result<()> {
        self.stages.iter_mut().try_for_each(PagedStage::recover)
    }

    fn set_deadline(&mut self, deadline: Deadline) {
        self.stages.iter_mut().for_each(|stage| stage.set_deadline(deadline));
    }
}

fn one_block(shape: CacheShape) -> CacheShape {
    CacheShape { blocks: 1, table: 1, ..shape }
}

/// The pool on each stage's device: blocks of the layout that it prefers, of one size and as many everywhere, as the options say.
fn pool_shapes(stages: &[Arc<LoadedModel>], options: &CacheOptions) -> Result<Vec<CacheShape>> {
    let refuse = |name, expected, found: String| Err(EngineError::Parameter { name, expected, found });
    if options.batch_tokens == 0 || options.batch_sequences == 0 {
        let found = format!("{} tokens of {} sequences", options.batch_tokens, options.batch_sequences);
        return refuse("batch", "at least one token of one sequence", found);
    }
    let block_size = block_size(stages, options.block_size)?;
    let any = KvInfo { layout: KvLayout::BlockHeadToken, block_size: 0 };
    let shape = |stage: &Arc<LoadedModel>| {
        let kv = stage.device().info().kv.first().copied().unwrap_or(any);
        let table = stage.context().div_ceil(block_size);
        CacheShape { layout: kv.layout, dtype: stage.kv_dtype(), blocks: 1, block_size, table }
    };
    let mut shapes: Vec<CacheShape> = stages.iter().map(shape).collect();
    let bytes = |(stage, shape): (&Arc<LoadedModel>, &CacheShape)| {
        let spec = stage.spec();
        Ok(shape.layer_bytes(spec.kv_heads, spec.head_dim)?.saturating_mul(stage.layers().len() as u64).max(1))
    };
    let each = stages.iter().zip(&shapes).map(bytes).collect::<Result<Vec<u64>>>()?;
    let all: u64 = each.iter().sum();
    // Block 0 is in no sequence.
    let full = (shapes[0].table as u64).saturating_mul(options.batch_sequences as u64).saturating_add(1);
    let room = stages.iter().zip(&each).filter_map(|(stage, each)| Some(free_for_pages(stage, stages)? / each)).min();
    let blocks = match options.bytes {
        Some(bytes) => bytes / all,
        None => room.map_or(full, |room| full.min(room)),
    };
    let most = i32::MAX as u64 / block_size as u64;
    if blocks < 2 {
        let asked = options.bytes.unwrap_or_else(|| room.unwrap_or(0).saturating_mul(all));
        return refuse("bytes of the cache", "room for two blocks", format!("{asked}; a block takes {all}"));
    }
    shapes.iter_mut().for_each(|shape| shape.blocks = blocks.min(most) as usize);
    Ok(shapes)
}

/// Tokens of a block on all devices: as asked, where they take any; else that of those that have one of their own.
fn block_size(stages: &[Arc<LoadedModel>], asked: Option<usize>) -> Result<usize> {
    let own = stages.iter().filter_map(|stage| Some(stage.device().info().kv.first()?.block_size)).find(|&own| own > 0);
    let size = own.or(asked).unwrap_or(BLOCK_SIZE);
    let refuse = |expected, found| Err(EngineError::Parameter { name: "block size", expected, found });
    if let Some(asked) = asked.filter(|&asked| asked != size) {
        return refuse("that of the device's pages", format!("{asked}; its pages have {size} tokens"));
    }
    let other = |stage: &&Arc<LoadedModel>| {
        let kv = stage.device().info().kv.first();
        kv.is_some_and(|kv| kv.block_size != 0 && kv.block_size != size)
    };
    if let Some(other) = stages.iter().find(other) {
        let info = other.device().info();
        let found = format!("{size} and {} on {}", info.kv[0].block_size, info.name);
        return refuse("the same on all devices of a model, where requests share batches", found);
    }
    if size == 0 || i32::try_from(size).is_err() {
        return refuse("from 1 on", size.to_string());
    }
    Ok(size)
}

/// Bytes of a stage's device that its part of a pool takes at most; none where the device does not say what it has free. Stages whose
/// memory is the host's have it together.
fn free_for_pages(stage: &LoadedModel, stages: &[Arc<LoadedModel>]) -> Option<u64> {
    let memory = |stage: &LoadedModel| stage.device().info().memories.first().cloned();
    let own = memory(stage).filter(|memory| memory.free_bytes > 0)?;
    let sharing = stages.iter().filter_map(|stage| memory(stage)).filter(|m| m.kind.host_visible).count();
    Some(share_for_pages(&own, stage.own_weight_bytes(), sharing as u64))
}

/// A share of what a memory had free before weights came: that of the host among all stages that have it; on a card no more than
/// nine tenths of what its weights leave, since workspaces and what a driver loads when it is first needed come later.
fn share_for_pages(memory: &MemoryInfo, weights: u64, sharing: u64) -> u64 {
    let share = memory.free_bytes / SHARE;
    if memory.kind.host_visible {
        return share / sharing.max(1);
    }
    share.min(memory.free_bytes.saturating_sub(weights) / 10 * 9)
}

/// The step that a batch runs as: its own numbers rounded up to few different ones.
fn padded(entries: &[Entry<'_>], limits: &Limits) -> Step {
    let tokens: usize = entries.iter().map(|e| e.ids.len()).sum();
    let rows: usize = entries.iter().map(|e| e.rows).sum();
    if tokens == entries.len() {
        let tokens = rounded(tokens).min(limits.batch_sequences);
        return Step { sequences: tokens, ..Step::of_one(tokens, tokens) };
    }
    // More tokens than sequences, also where no sequence is idle: attention tells its steps apart by that.
    let tokens = rounded(tokens).min(limits.batch_tokens);
    let sequences = limits.batch_sequences.min(tokens - 1);
    let rows = if rows == 0 { 0 } else { rounded(rows).min(tokens) };
    Step { sequences, ..Step::of_one(tokens, rows) }
}

/// The next number that is a power of two, or one and a half of one.
fn rounded(n: usize) -> usize {
    let power = n.next_power_of_two();
    if n <= power / 4 * 3 { power / 4 * 3 } else { power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_take_no_more_of_a_card_than_its_weights_leave() {
        let mut card = MemoryInfo { free_bytes: 24 << 30, ..Default::default() };
        assert_eq!(share_for_pages(&card, 1 << 30, 0), 12 << 30);
        assert!(share_for_pages(&card, 16 << 30, 0) < 8 << 30);
        assert_eq!(share_for_pages(&card, 25 << 30, 0), 0);
        card.kind.host_visible = true;
        assert_eq!(share_for_pages(&card, 25 << 30, 2), 6 << 30);
    }

    #[test]
    fn few_sizes_stand_for_all_and_none_wastes_half() {
        let sizes: std::collections::BTreeSet<usize> = (1..=512).map(rounded).collect();
        assert_eq!(sizes.iter().copied().take(8).collect::<Vec<_>>(), [1, 2, 3, 4, 6, 8, 12, 16]);
        assert_eq!(sizes.len(), 18);
        assert!((1..=512).all(|n| rounded(n) >= n && rounded(n) <= n + n / 2));
    }
}
