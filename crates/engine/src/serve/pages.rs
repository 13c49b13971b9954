//! Batches over one pool of pages on a device.

use std::collections::HashMap;
use std::sync::Arc;

use qiao_core::{Binding, DType, Device, Error, KvInfo, KvLayout, Plan, Stream};
use qiao_layers::Home;

use super::executor::{Executor, HostBlocks, Limits};
use crate::cache::LayerBuffers;
use crate::entry::Entry;
use crate::error::{EngineError, Result};
use crate::model::{CacheShape, Step};
use crate::prepared::{Prepared, SessionBuffers};
use crate::rotary::Rotary;
use crate::runner::LoadedModel;
use crate::sides::alloc_padded;

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

/// A plan, and what is bound to it.
struct Bound {
    plan: Arc<Prepared>,
    bindings: Vec<Binding>,
}

/// Buffers that grow with the steps.
struct Scratch {
    input: Binding,
    logits: Binding,
    workspace: Binding,
}

/// A model that runs batches over a pool of pages of its own.
///
/// Batches are padded to sizes of which few are, so that plans are reused; padding belongs to no sequence.
pub struct PagedExecutor {
    model: Arc<LoadedModel>,
    limits: Limits,
    shape: CacheShape,
    layers: Vec<LayerBuffers>,
    rotary: Arc<Rotary>,
    stream: Box<dyn Stream>,
    /// Of the host, where pages live there.
    host: Option<Box<dyn Stream>>,
    scratch: Scratch,
    bound: HashMap<Step, Bound>,
    staging: Vec<u8>,
    rows: Vec<f32>,
    logits: Vec<f32>,
}

impl PagedExecutor {
    /// Allocates a pool for a model.
    ///
    /// # Errors
    /// A batch of nothing; a block size that the device does not take; a pool too small for a block; a model whose rotary
    /// frequencies depend on the length of a sequence; no room on the device.
    pub fn new(model: Arc<LoadedModel>, options: CacheOptions) -> Result<PagedExecutor> {
        if model.rope().depends_on_length() {
            return Err(EngineError::Parameter {
                name: "rope_scaling of config.json",
                expected: "one that gives sequences of every length the same frequencies, where sequences share batches",
                found: "one that depends on the length; generate from this model one sequence at a time".to_string(),
            });
        }
        let shape = pool_shape(&model, &options)?;
        let spec = model.spec();
        let homes = &model.homes().caches;
        let sides = model.sides();
        let devices = homes.iter().map(|pair| pair.map(|home| &**sides.of(home) as &dyn Device));
        let layers = LayerBuffers::spread(shape, devices, spec.kv_heads, spec.head_dim)?;
        let on_host = homes.iter().flatten().any(|home| *home == Home::Host);
        let empty = alloc_padded(&**model.device(), 0)?;
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
        Ok(PagedExecutor {
            rotary: model.shared_rotary(shape.capacity(), sides.patience())?,
            stream: sides.stream(Home::Device)?,
            host: if on_host { Some(sides.stream(Home::Host)?) } else { None },
            scratch: Scratch { input: empty.clone(), logits: empty.clone(), workspace: empty },
            bound: HashMap::new(),
            staging: Vec::new(),
            rows: Vec::new(),
            logits: Vec::new(),
            model,
            limits,
            shape,
            layers,
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
            if e.end() > l.context || e.table.len() * l.block_size < e.end() || e.table.len() > self.shape.table {
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

    /// The plan of a step with everything bound to it.
    fn bind(&mut self, step: Step) -> Result<()> {
        let plan = match self.bound.get(&step) {
            Some(bound) => bound.plan.clone(),
            None => self.model.prepared((step, self.shape))?,
        };
        let needs = [
            (&mut self.scratch.input, plan.input_bytes()),
            (&mut self.scratch.logits, step.rows * self.limits.vocab * size_of::<f32>()),
            (&mut self.scratch.workspace, plan.workspace_bytes()),
        ];
        for (binding, bytes) in needs {
            if binding.bytes < bytes {
                // Older bindings name the buffer that goes.
                self.bound.clear();
                *binding = alloc_padded(&**self.model.device(), bytes)?;
            }
        }
        if !self.bound.contains_key(&step) {
            let own = SessionBuffers {
                input: &self.scratch.input,
                layers: &self.layers,
                cos: &self.rotary.cos,
                sin: &self.rotary.sin,
                logits: &self.scratch.logits,
                hidden: &[],
            };
            let bindings = self.model.bindings(&plan, &own)?;
            self.bound.insert(step, Bound { plan, bindings });
        }
        Ok(())
    }

    /// One block in every buffer of the pool, and the stream of the side where the buffer lives.
    fn parts(&self, block: u32) -> impl Iterator<Item = (Home, Binding)> + '_ {
        let homes = &self.model.homes().caches;
        let blocks = self.shape.blocks;
        let part = move |whole: &Binding| {
            let bytes = whole.bytes / blocks;
            Binding::part(&whole.buffer, whole.offset + block as usize * bytes, bytes)
        };
        self.layers.iter().zip(homes).flat_map(move |(layer, &[k, v])| {
            let scales = layer.scales.iter().flat_map(move |[ks, vs]| [(k, ks), (v, vs)]);
            [(k, &layer.k), (v, &layer.v)].into_iter().chain(scales).map(move |(home, whole)| (home, part(whole)))
        })
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

    /// Runs commands on the streams that parts of blocks live on, and waits for them.
    fn on_streams(&mut self, mut each: impl FnMut(&mut PagedStreams<'_>) -> Result<()>) -> Result<()> {
        let mut streams = PagedStreams { device: &mut *self.stream, host: self.host.as_deref_mut() };
        each(&mut streams)?;
        let patience = self.model.sides().patience();
        streams.device.sync(patience)?;
        match streams.host {
            Some(host) => Ok(host.sync(patience)?),
            None => Ok(()),
        }
    }
}

struct PagedStreams<'a> {
    device: &'a mut dyn Stream,
    host: Option<&'a mut (dyn Stream + 'static)>,
}

impl PagedStreams<'_> {
    fn of(&mut self, home: Home) -> &mut dyn Stream {
        match (home, &mut self.host) {
            (Home::Host, Some(host)) => &mut **host,
            _ => self.device,
        }
    }
}

impl Executor for PagedExecutor {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn run(&mut self, entries: &[Entry<'_>]) -> Result<&[f32]> {
        self.check(entries)?;
        let step = padded(entries, &self.limits);
        self.bind(step)?;
        let bound = &self.bound[&step];
        let at = bound.plan.write_inputs(entries, &mut self.staging);
        self.stream.upload(&self.scratch.input, &self.staging)?;
        bound.plan.plan().execute(&mut *self.stream, &bound.bindings, &self.scratch.workspace)?;
        let vocab = self.limits.vocab;
        if at.is_empty() {
            self.stream.sync(self.model.sides().patience())?;
            return Ok(&[]);
        }
        let last = at.iter().max().map_or(0, |row| row + 1);
        self.rows.resize(last * vocab, 0.0);
        self.stream.download(bytemuck::cast_slice_mut(&mut self.rows), &self.scratch.logits)?;
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
            .map(|((home, src), (_, dst))| (home, src, dst))
            .collect();
        self.on_streams(|streams| moves.iter().try_for_each(|(home, src, dst)| Ok(streams.of(*home).copy(dst, src)?)))
    }

    fn save(&mut self, blocks: &[u32]) -> Result<HostBlocks> {
        self.check_blocks(blocks.iter().copied())?;
        let parts: Vec<_> = blocks.iter().flat_map(|&b| self.parts(b)).collect();
        let total = parts.iter().map(|(_, part)| part.bytes).sum();
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(total).is_err() {
            return Err(Error::OutOfMemory { device: "the host".into(), asked: total as u64, free: 0 }.into());
        }
        bytes.resize(total, 0);
        let mut rest = &mut bytes[..];
        self.on_streams(|streams| {
            for (home, part) in &parts {
                let (own, behind) = std::mem::take(&mut rest).split_at_mut(part.bytes);
                streams.of(*home).download(own, part)?;
                rest = behind;
            }
            Ok(())
        })?;
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
        self.on_streams(|streams| {
            for (home, part) in &parts {
                let (own, behind) = rest.split_at(part.bytes);
                streams.of(*home).upload(part, own)?;
                rest = behind;
            }
            Ok(())
        })
    }

    fn recover(&mut self) -> Result<()> {
        let sides = self.model.sides();
        // What a step that timed out left in flight writes to the pages as long as it lives.
        let waited = self.stream.sync(sides.patience());
        if let Err(error @ (Error::Timeout { .. } | Error::DeviceLost { .. })) = waited {
            return Err(error.into());
        }
        self.stream = sides.stream(Home::Device)?;
        if self.host.is_some() {
            self.host = Some(sides.stream(Home::Host)?);
        }
        Ok(())
    }
}

fn one_block(shape: CacheShape) -> CacheShape {
    CacheShape { blocks: 1, table: 1, ..shape }
}

/// The pool: blocks of the device's preferred layout, as many as the options say.
fn pool_shape(model: &LoadedModel, options: &CacheOptions) -> Result<CacheShape> {
    let refuse = |name, expected, found: String| Err(EngineError::Parameter { name, expected, found });
    if options.batch_tokens == 0 || options.batch_sequences == 0 {
        let found = format!("{} tokens of {} sequences", options.batch_tokens, options.batch_sequences);
        return refuse("batch", "at least one token of one sequence", found);
    }
    let info = model.device().info();
    let any = KvInfo { layout: KvLayout::BlockHeadToken, block_size: 0 };
    let kv = info.kv.first().copied().unwrap_or(any);
    let block_size = match (kv.block_size, options.block_size) {
        (0, asked) => asked.unwrap_or(BLOCK_SIZE),
        (own, asked) if asked.is_none_or(|asked| asked == own) => own,
        (own, asked) => {
            let found = asked.unwrap_or(0);
            return refuse("block size", "that of the device's pages", format!("{found}; its pages have {own} tokens"));
        }
    };
    if block_size == 0 || i32::try_from(block_size).is_err() {
        return refuse("block size", "from 1 on", block_size.to_string());
    }
    let spec = model.spec();
    let table = model.context().div_ceil(block_size);
    let dtype: DType = model.kv_dtype();
    let shape = CacheShape { layout: kv.layout, dtype, blocks: 1, block_size, table };
    let each = shape.layer_bytes(spec.kv_heads, spec.head_dim)?.saturating_mul(spec.layers as u64).max(1);
    // Block 0 is in no sequence.
    let full = (table as u64).saturating_mul(options.batch_sequences as u64).saturating_add(1);
    let free = info.memories.first().map_or(0, |m| m.free_bytes);
    let blocks = match options.bytes {
        Some(bytes) => bytes / each,
        None if free > 0 => full.min(free / SHARE / each),
        None => full,
    };
    let most = i32::MAX as u64 / block_size as u64;
    if blocks < 2 {
        let asked = options.bytes.unwrap_or(free / SHARE);
        return refuse("bytes of the cache", "room for two blocks", format!("{asked}; a block takes {each}"));
    }
    Ok(CacheShape { blocks: blocks.min(most) as usize, ..shape })
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
    fn few_sizes_stand_for_all_and_none_wastes_half() {
        let sizes: std::collections::BTreeSet<usize> = (1..=512).map(rounded).collect();
        assert_eq!(sizes.iter().copied().take(8).collect::<Vec<_>>(), [1, 2, 3, 4, 6, 8, 12, 16]);
        assert_eq!(sizes.len(), 18);
        assert!((1..=512).all(|n| rounded(n) >= n && rounded(n) <= n + n / 2));
    }
}
