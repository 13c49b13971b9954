//! An executor for tests: what a slot holds stands for a token and for all that was read when it was written, so that whoever reads
//! a wrong slot says something else ever after. It refuses, by a panic, whatever no scheduler may ask for.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use qiao_core::Error;
use qiao_engine::Result;
use qiao_engine::sampler::Sampler;
use qiao_engine::serve::{Entry, Executor, HostBlocks, Limits, Request};

/// Tokens that the model knows.
pub const VOCAB: usize = 36;
/// The token after which logits are not numbers; it is in prompts only.
pub const CURSED: u32 = 35;
/// Bytes of a slot on the host.
const SLOT_BYTES: usize = 16;
/// The position of a slot that holds nothing of worth.
const POISON: u64 = u64::MAX;

/// SplitMix64: small random numbers, the same everywhere.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed(self.0)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.roll() % n as u64) as usize
    }

    pub fn within(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What a token leaves in its slot, after the contents that it sees.
fn content(seen: impl Iterator<Item = u64>, token: u32) -> u64 {
    let all = seen.fold(7, |sum: u64, content| mixed(sum.rotate_left(9) ^ content));
    mixed(all ^ (u64::from(token) << 20))
}

fn logits(content: u64, token: u32) -> impl Iterator<Item = f32> {
    (0..VOCAB as u64).map(move |id| match (token, id as u32) {
        (CURSED, _) => f32::NAN,
        (_, CURSED) => f32::NEG_INFINITY,
        _ => (mixed(content ^ (id + 1)) >> 40) as f32 / (1u32 << 21) as f32 - 4.0,
    })
}

/// The model without any cache.
pub struct Plain {
    window: usize,
    contents: Vec<u64>,
}

impl Plain {
    pub fn new(window: Option<usize>) -> Plain {
        Plain { window: window.unwrap_or(usize::MAX), contents: Vec::new() }
    }

    pub fn push(&mut self, token: u32) -> Vec<f32> {
        let from = (self.contents.len() + 1).saturating_sub(self.window);
        let new = content(self.contents[from..].iter().copied(), token);
        self.contents.push(new);
        logits(new, token).collect()
    }
}

/// What each sample of a request says when the model is its own, by token ids; stop strings have no part in it.
pub fn alone(limits: &Limits, eos: &[u32], request: &Request) -> Vec<Vec<u32>> {
    let one = |sample: usize| {
        let mut params = request.params.clone();
        params.seed = params.seed.wrapping_add(sample as u64);
        let stops: Vec<u32> = match params.ignore_eos {
            true => params.stop_token_ids.clone(),
            false => params.stop_token_ids.iter().chain(eos).copied().collect(),
        };
        let (most, least) = (params.max_tokens, params.min_tokens);
        let mut sampler = Sampler::new(params, &request.prompt).unwrap();
        let mut plain = Plain::new(limits.window);
        let mut row = request.prompt.iter().map(|token| plain.push(*token)).last().unwrap();
        let mut said = Vec::new();
        while said.len() < most && request.prompt.len() + said.len() <= limits.context {
            let Ok(id) = sampler.next(&row, if said.len() < least { &stops } else { &[] }) else { break };
            if stops.contains(&id) {
                break;
            }
            said.push(id);
            row = plain.push(id);
        }
        said
    };
    (0..request.samples).map(one).collect()
}

/// One sequence's part of a batch that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    pub start: usize,
    pub tokens: usize,
    pub rows: usize,
    /// The first token.
    pub first: u32,
}

/// What was asked of the executor.
#[derive(Default)]
pub struct Log {
    pub batches: Vec<Vec<Ran>>,
    pub copied: usize,
    pub saved: usize,
    pub restored: usize,
    pub recovered: usize,
    pub calls: usize,
}

/// The error of a call, by its name and its number; none where it goes well.
pub type Faults = Box<dyn FnMut(&'static str, usize) -> Option<Error> + Send>;

#[derive(Clone, Copy)]
struct Slot {
    position: u64,
    content: u64,
}

pub struct Slots {
    limits: Limits,
    slots: Vec<Slot>,
    log: Arc<Mutex<Log>>,
    faults: Faults,
    broken: bool,
    logits: Vec<f32>,
}

/// Limits for tests; the blocks' bytes are the true ones.
pub fn limits(block_size: usize, blocks: usize, batch_tokens: usize, batch_sequences: usize) -> Limits {
    let block_bytes = (block_size * SLOT_BYTES) as u64;
    let (context, window) = (96, None);
    Limits { vocab: VOCAB, block_size, blocks, block_bytes, context, window, batch_tokens, batch_sequences }
}

impl Slots {
    pub fn new(limits: Limits) -> Slots {
        Slots::failing(limits, Box::new(|_, _| None))
    }

    pub fn failing(limits: Limits, faults: Faults) -> Slots {
        let slots = vec![Slot { position: POISON, content: 0 }; limits.blocks * limits.block_size];
        Slots { limits, slots, log: Arc::default(), faults, broken: false, logits: Vec::new() }
    }

    pub fn log(&self) -> Arc<Mutex<Log>> {
        self.log.clone()
    }

    fn called(&mut self, name: &'static str) -> Option<Error> {
        assert!(!self.broken, "{name} before recover");
        let mut log = self.log.lock().unwrap();
        log.calls += 1;
        let error = (self.faults)(name, log.calls);
        self.broken = error.is_some();
        error
    }

    fn block(&mut self, block: u32) -> &mut [Slot] {
        assert!(block != 0 && (block as usize) < self.limits.blocks, "block {block}");
        let size = self.limits.block_size;
        &mut self.slots[block as usize * size..][..size]
    }

    fn poison(&mut self, blocks: impl IntoIterator<Item = u32>) {
        for block in blocks {
            self.block(block).fill(Slot { position: POISON, content: 13 });
        }
    }

    /// The slots of an entry's new tokens.
    fn written(&self, entry: &Entry<'_>) -> Vec<usize> {
        let at = |position: usize| {
            let block = entry.table[position / self.limits.block_size];
            assert!(block > 0 && (block as usize) < self.limits.blocks, "position {position} lies in block {block}");
            block as usize * self.limits.block_size + position % self.limits.block_size
        };
        (entry.start..entry.start + entry.ids.len()).map(at).collect()
    }

    fn check(&self, entries: &[Entry<'_>]) {
        assert!(!entries.is_empty() && entries.len() <= self.limits.batch_sequences);
        let tokens: usize = entries.iter().map(|entry| entry.ids.len()).sum();
        assert!(tokens <= self.limits.batch_tokens, "{tokens} tokens");
        let mut written = HashSet::new();
        for entry in entries {
            assert!(!entry.ids.is_empty() && entry.rows <= entry.ids.len());
            assert!(entry.start + entry.ids.len() <= self.limits.context);
            assert!(entry.ids.iter().all(|id| (*id as usize) < VOCAB));
            for slot in self.written(entry) {
                assert!(written.insert(slot), "slot {slot} is written twice");
            }
        }
        for entry in entries {
            for slot in self.seen(entry, entry.start) {
                assert!(!written.contains(&slot), "slot {slot} is read by one and written by another");
            }
        }
    }

    /// The slots that the token at `position` sees, itself apart.
    fn seen(&self, entry: &Entry<'_>, position: usize) -> Vec<usize> {
        let from = self.limits.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let size = self.limits.block_size;
        let at = |p: usize| {
            assert_ne!(entry.table[p / size], 0, "position {p} was given back, and {position} sees it");
            entry.table[p / size] as usize * size + p % size
        };
        (from..position).map(at).collect()
    }

    fn write(&mut self, entry: &Entry<'_>) {
        let written = self.written(entry);
        for (i, (token, slot)) in entry.ids.iter().zip(written).enumerate() {
            let position = entry.start + i;
            let seen = self.seen(entry, position);
            let first = position - seen.len();
            for (at, slot) in seen.iter().enumerate() {
                let found = self.slots[*slot].position;
                assert_eq!(found, (first + at) as u64, "a token at {position} reads slot {slot}");
            }
            let new = content(seen.iter().map(|slot| self.slots[*slot].content), *token);
            self.slots[slot] = Slot { position: position as u64, content: new };
            if i + entry.rows >= entry.ids.len() {
                self.logits.extend(logits(new, *token));
            }
        }
    }
}

impl Executor for Slots {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn run(&mut self, entries: &[Entry<'_>]) -> Result<&[f32]> {
        self.check(entries);
        let error = self.called("run");
        self.logits.clear();
        for entry in entries {
            match error {
                Some(_) => {
                    self.written(entry).into_iter().for_each(|slot| self.slots[slot].position = POISON);
                }
                None => self.write(entry),
            }
        }
        if let Some(error) = error {
            return Err(error.into());
        }
        let ran = |entry: &Entry<'_>| Ran {
            start: entry.start,
            tokens: entry.ids.len(),
            rows: entry.rows,
            first: entry.ids[0],
        };
        self.log.lock().unwrap().batches.push(entries.iter().map(ran).collect());
        Ok(&self.logits)
    }

    fn copy(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        if let Some(error) = self.called("copy") {
            self.poison(pairs.iter().map(|(_, to)| *to));
            return Err(error.into());
        }
        for (from, to) in pairs {
            let contents = self.block(*from).to_vec();
            self.block(*to).copy_from_slice(&contents);
        }
        self.log.lock().unwrap().copied += pairs.len();
        Ok(())
    }

    fn save(&mut self, blocks: &[u32]) -> Result<HostBlocks> {
        if let Some(error) = self.called("save") {
            return Err(error.into());
        }
        let mut bytes = Vec::new();
        for block in blocks {
            for slot in self.block(*block) {
                bytes.extend(slot.position.to_le_bytes());
                bytes.extend(slot.content.to_le_bytes());
            }
        }
        self.log.lock().unwrap().saved += blocks.len();
        Ok(HostBlocks { bytes })
    }

    fn restore(&mut self, saved: &HostBlocks, first: usize, blocks: &[u32]) -> Result<()> {
        if let Some(error) = self.called("restore") {
            self.poison(blocks.iter().copied());
            return Err(error.into());
        }
        let block_bytes = self.limits.block_bytes as usize;
        for (block, bytes) in blocks.iter().zip(saved.bytes[first * block_bytes..].chunks_exact(block_bytes)) {
            let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
            for (slot, bytes) in self.block(*block).iter_mut().zip(bytes.chunks_exact(SLOT_BYTES)) {
                *slot = Slot { position: number(&bytes[..8]), content: number(&bytes[8..]) };
            }
        }
        assert!(saved.bytes.len() / block_bytes >= first + blocks.len(), "more blocks than were saved");
        self.log.lock().unwrap().restored += blocks.len();
        Ok(())
    }

    fn recover(&mut self) -> Result<()> {
        assert!(self.broken, "nothing to recover from");
        self.broken = false;
        let mut log = self.log.lock().unwrap();
        log.recovered += 1;
        let error = (self.faults)("recover", log.calls);
        error.map_or(Ok(()), |error| Err(error.into()))
    }
}
