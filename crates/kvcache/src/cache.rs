//! The cache: sequences over one pool of blocks.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::pool::NULL;
use crate::sequence::{Sequence, SequenceId};
use crate::store::Store;
use crate::usage::{Counters, Usage};

/// The longest sequence: positions are `i32` on a device.
const LONGEST: usize = i32::MAX as usize;

/// What a cache has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Blocks of the pool, the null block included; at least 2.
    pub blocks: usize,
    /// Tokens of a block.
    pub block_size: usize,
    /// Bytes of a block on the device, in all layers; for accounting only.
    pub block_bytes: u64,
    /// Keys that a token sees, itself included, where every layer slides. Blocks that no later token sees are given back.
    pub window: Option<usize>,
    /// Whether full blocks are found by sequences that begin with the same tokens.
    pub sharing: bool,
}

/// Contents to be copied on the device, all layers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// The block that others use too.
    pub from: u32,
    /// The block that is written instead.
    pub to: u32,
}

/// The books of a pool of blocks; see the [crate](crate) for the life of a sequence.
///
/// It has one owner: no method waits, and none takes longer than the blocks that it touches.
#[derive(Debug)]
pub struct Cache {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) sequences: HashMap<SequenceId, Sequence>,
    next: u64,
}

impl Cache {
    /// A cache with all blocks free. Takes next to no memory before blocks are used.
    ///
    /// # Errors
    /// Fewer than two blocks, blocks or a window of no tokens, more slots than `i32` can number.
    pub fn new(config: Config) -> Result<Cache> {
        let refuse = |what: String, mend| Err(Error::Config { what, mend });
        if config.blocks < 2 {
            return refuse(format!("{} blocks", config.blocks), "at least 2, of which block 0 stays empty");
        }
        if config.block_size == 0 {
            return refuse("blocks of 0 tokens".into(), "at least 1 token");
        }
        if config.window == Some(0) {
            return refuse(
                "a window of 0 tokens".into(),
                "at least 1, as a token sees itself; None where all are seen",
            );
        }
        let slots = config.blocks.checked_mul(config.block_size);
        if slots.is_none_or(|slots| slots > LONGEST) {
            let what = format!("{} blocks of {} tokens", config.blocks, config.block_size);
            return refuse(what, "at most 2147483647 tokens in all, as slots are 32-bit numbers");
        }
        Ok(Cache { store: Store::new(config.blocks), config, sequences: HashMap::new(), next: 0 })
    }

    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Opens a sequence, with what is known of its prompt under this salt: whole blocks, and never the last token, whose logits
    /// somebody has to compute. The tokens found are held; [`Cache::len`] tells how many.
    ///
    /// Sequences of different salts share nothing.
    pub fn open(&mut self, salt: &[u8], prompt: &[u32]) -> SequenceId {
        let mut sequence = Sequence::new(Hash::of_salt(salt));
        if self.config.sharing {
            self.store.counters.looked_up += prompt.len() as u64;
            for (hash, block) in self.known(sequence.root, prompt) {
                sequence.chain.push(hash);
                sequence.table.push(block as i32);
            }
            for block in sequence.held(0) {
                self.store.pool.share(block);
            }
            sequence.tokens.extend(&prompt[..sequence.table.len() * self.config.block_size]);
            self.store.counters.found += sequence.len() as u64;
            slide(&mut self.store, &self.config, &mut sequence);
        }
        self.insert(sequence)
    }

    /// How many tokens [`Cache::open`] would find; changes nothing.
    pub fn peek(&self, salt: &[u8], prompt: &[u32]) -> usize {
        if !self.config.sharing {
            return 0;
        }
        self.known(Hash::of_salt(salt), prompt).count() * self.config.block_size
    }

    /// Hashes and blocks of the prompt's blocks, up to the first that is unknown.
    fn known<'a>(&'a self, root: Hash, prompt: &'a [u32]) -> impl Iterator<Item = (Hash, u32)> + 'a {
        let most = prompt.len().saturating_sub(1);
        let link = |last: &mut Hash, tokens: &[u32]| {
            *last = last.then(tokens);
            self.store.prefix.find(last).map(|block| (*last, block))
        };
        prompt[..most].chunks_exact(self.config.block_size).scan(root, link)
    }

    fn insert(&mut self, sequence: Sequence) -> SequenceId {
        let id = SequenceId(self.next);
        self.next += 1;
        self.sequences.insert(id, sequence);
        id
    }

    fn get(&self, s: SequenceId) -> Result<&Sequence> {
        self.sequences.get(&s).ok_or(Error::Unknown(s))
    }

    /// Tokens held, which are written; 0 for an unknown sequence.
    pub fn len(&self, s: SequenceId) -> usize {
        self.tokens(s).len()
    }

    /// Whether a sequence holds no token, or is unknown.
    pub fn is_empty(&self, s: SequenceId) -> bool {
        self.len(s) == 0
    }

    /// The tokens held; none for an unknown sequence.
    pub fn tokens(&self, s: SequenceId) -> &[u32] {
        self.sequences.get(&s).map_or(&[], |sequence| &sequence.tokens)
    }

    /// How long the sequence may become without another [`Cache::reserve`]; 0 for an unknown one.
    ///
    /// This is [`Cache::len`] where the next token would go into a block that others use or find.
    pub fn capacity(&self, s: SequenceId) -> usize {
        self.sequences.get(&s).map_or(0, |sequence| self.room(sequence))
    }

    /// Positions that are held or may be written.
    fn room(&self, sequence: &Sequence) -> usize {
        match sequence.partial(self.config.block_size) {
            Some(block) if !self.store.is_private(block) => sequence.len(),
            _ => sequence.table.len() * self.config.block_size,
        }
    }

    /// Blocks that `reserve(s, total)` would take, copies included; 0 for an unknown sequence.
    pub fn needed(&self, s: SequenceId, total: usize) -> usize {
        let Some(sequence) = self.sequences.get(&s) else { return 0 };
        let longer = total.div_ceil(self.config.block_size).saturating_sub(sequence.table.len());
        longer + usize::from(total > sequence.len() && self.copies(sequence).is_some())
    }

    /// The block that must be copied before the sequence's next token is written.
    fn copies(&self, sequence: &Sequence) -> Option<u32> {
        sequence.partial(self.config.block_size).filter(|&block| self.store.pool.users(block) > 1)
    }

    /// Blocks that can be had now: free ones, and those that nobody uses.
    pub fn available(&self) -> usize {
        self.store.available()
    }

    /// Makes room to write the sequence's tokens up to `total`; all or nothing. The copies are to be made on the device in the
    /// order in which they were given, before anything else is written.
    ///
    /// Room is for writing at once: after a fork or a cut, reserve again.
    ///
    /// # Errors
    /// [`Error::NoRoom`], [`Error::TooLong`], [`Error::Unknown`].
    pub fn reserve(&mut self, s: SequenceId, total: usize) -> Result<Vec<BlockCopy>> {
        let sequence = self.get(s)?;
        if total > LONGEST {
            return Err(Error::TooLong { asked: total, limit: LONGEST });
        }
        let (needed, available) = (self.needed(s, total), self.available());
        if needed > available {
            return Err(Error::NoRoom { needed, available });
        }
        let copies = self.copies(sequence);
        let Some(sequence) = self.sequences.get_mut(&s) else { return Err(Error::Unknown(s)) };
        let mut made = Vec::new();
        if total > sequence.len()
            && let Some(block) = sequence.partial(self.config.block_size)
        {
            match copies.and_then(|from| Some(BlockCopy { from, to: self.store.take()? })) {
                Some(copy) => {
                    self.store.release(copy.from);
                    sequence.table[sequence.tokens.len() / self.config.block_size] = copy.to as i32;
                    self.store.counters.copied += 1;
                    made.push(copy);
                }
                // It is about to change, so nobody may find it any more.
                None => self.store.prefix.remove(block),
            }
        }
        let more = total.div_ceil(self.config.block_size).saturating_sub(sequence.table.len());
        sequence.table.extend((0..more).map_while(|_| self.store.take()).map(|block| block as i32));
        Ok(made)
    }

    /// Says that these tokens, after those held, are written on the device. Blocks that are full now can be found; those that no
    /// later token sees are given back.
    ///
    /// # Errors
    /// [`Error::NotReserved`] where there is no room for them, [`Error::Unknown`].
    pub fn commit(&mut self, s: SequenceId, ids: &[u32]) -> Result<()> {
        let asked = self.get(s)?.len().saturating_add(ids.len());
        let capacity = self.capacity(s);
        if !ids.is_empty() && asked > capacity {
            return Err(Error::NotReserved { asked, capacity });
        }
        let Some(sequence) = self.sequences.get_mut(&s) else { return Err(Error::Unknown(s)) };
        let full = sequence.len() / self.config.block_size;
        sequence.tokens.extend(ids);
        if self.config.sharing {
            for i in full..sequence.len() / self.config.block_size {
                let start = i * self.config.block_size;
                let hash = sequence.link().then(&sequence.tokens[start..start + self.config.block_size]);
                sequence.chain.push(hash);
                self.store.publish(hash, sequence.block(i));
            }
        }
        slide(&mut self.store, &self.config, sequence);
        Ok(())
    }

    /// Forgets the tokens from `len` on; whole blocks behind go back, reserved ones too. Does nothing where no more are held.
    ///
    /// # Errors
    /// [`Error::Released`] where the window before `len` is gone, [`Error::Unknown`].
    pub fn truncate(&mut self, s: SequenceId, len: usize) -> Result<()> {
        let Some(sequence) = self.sequences.get_mut(&s) else { return Err(Error::Unknown(s)) };
        if len >= sequence.len() {
            return Ok(());
        }
        let size = self.config.block_size;
        let gone = sequence.released.min(len.div_ceil(size));
        if let Some(window) = self.config.window
            && gone > left_behind(len, window, size)
        {
            return Err(Error::Released { asked: len, held_from: sequence.released * size, window });
        }
        sequence.tokens.truncate(len);
        sequence.chain.truncate(len / size);
        sequence.released = gone;
        shorten(&mut self.store, &self.config, sequence);
        Ok(())
    }

    /// Gives back the blocks that were reserved and hold no token. Does nothing for an unknown sequence.
    pub fn trim(&mut self, s: SequenceId) {
        if let Some(sequence) = self.sequences.get_mut(&s) {
            shorten(&mut self.store, &self.config, sequence);
        }
    }

    /// A second sequence with the same tokens in the same blocks. Whoever writes first into the last, partial block copies it,
    /// in [`Cache::reserve`]; room reserved before stays with `s`.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn fork(&mut self, s: SequenceId) -> Result<SequenceId> {
        let mut twin = self.get(s)?.clone();
        twin.table.truncate(twin.len().div_ceil(self.config.block_size));
        for block in twin.held(0) {
            self.store.pool.share(block);
        }
        Ok(self.insert(twin))
    }

    /// Ends a sequence. Its blocks go back, the last one first; what can be found stays so until its room is needed. Does nothing
    /// for an unknown sequence.
    pub fn close(&mut self, s: SequenceId) {
        if let Some(sequence) = self.sequences.remove(&s) {
            for block in sequence.held(0).rev() {
                self.store.release(block);
            }
        }
    }

    /// The sequence's blocks in order, for all of [`Cache::capacity`]; [`NULL`] where none is needed any more. Empty for an
    /// unknown sequence.
    pub fn table(&self, s: SequenceId) -> &[i32] {
        self.sequences.get(&s).map_or(&[], |sequence| &sequence.table)
    }

    /// The slot of a token that is held or for which there is room, up to [`Cache::capacity`]; −1, where nothing may be written,
    /// for any other.
    pub fn slot(&self, s: SequenceId, position: usize) -> i32 {
        let size = self.config.block_size;
        let Some(sequence) = self.sequences.get(&s).filter(|sequence| position < self.room(sequence)) else {
            return -1;
        };
        match sequence.table[position / size] {
            block if block != NULL as i32 => block * size as i32 + (position % size) as i32,
            _ => -1,
        }
    }

    /// Frees everything that nobody uses.
    pub fn forget(&mut self) {
        self.store.forget();
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        let pool = &self.store.pool;
        let (total, cached, free, used) = (pool.total(), pool.kept(), pool.free(), pool.used());
        let bytes = |blocks: usize| self.config.block_bytes.saturating_mul(blocks as u64);
        Usage {
            total,
            used,
            cached,
            free,
            sequences: self.sequences.len(),
            total_bytes: bytes(total),
            used_bytes: bytes(used),
            cached_bytes: bytes(cached),
            free_bytes: bytes(free),
        }
    }

    /// The most blocks that were used at once since this was asked last.
    pub fn take_peak(&mut self) -> usize {
        self.store.pool.take_peak()
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.store.counters
    }
}

/// Blocks at the start of which no token at position `next` or later sees anything: those whose last token, at `e`, has
/// `e ≤ next − window`.
pub(crate) fn left_behind(next: usize, window: usize, block_size: usize) -> usize {
    (next + 1).saturating_sub(window) / block_size
}

/// Gives back what left the window of the sequence's next token, the last one first.
fn slide(store: &mut Store, config: &Config, sequence: &mut Sequence) {
    let Some(window) = config.window else { return };
    let gone = left_behind(sequence.len(), window, config.block_size);
    for i in (sequence.released..gone).rev() {
        store.release(sequence.block(i));
        sequence.table[i] = NULL as i32;
        store.counters.released += 1;
    }
    sequence.released = sequence.released.max(gone);
}

/// Gives back the blocks behind the tokens, the last one first.
fn shorten(store: &mut Store, config: &Config, sequence: &mut Sequence) {
    let keep = sequence.len().div_ceil(config.block_size);
    for block in sequence.held(keep).rev() {
        store.release(block);
    }
    sequence.table.truncate(keep);
}
