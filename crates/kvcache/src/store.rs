//! Blocks with their users and their names: what keeps the pool and the prefixes in step.

use crate::hash::Hash;
use crate::pool::Pool;
use crate::prefix::Prefix;
use crate::usage::Counters;

/// A findable block that nobody uses is the only one of its hash; all others of a hash are used.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) pool: Pool,
    pub(crate) prefix: Prefix,
    pub(crate) counters: Counters,
}

impl Store {
    pub(crate) fn new(blocks: usize) -> Store {
        Store { pool: Pool::new(blocks), prefix: Prefix::default(), counters: Counters::default() }
    }

    /// Blocks that can be had now.
    pub(crate) fn available(&self) -> usize {
        self.pool.free() + self.pool.kept()
    }

    /// A block that holds nothing, for one user.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let taken = self.pool.take()?;
        if taken.evicted {
            self.prefix.remove(taken.block);
            self.counters.evicted += 1;
        }
        Some(taken.block)
    }

    /// One user less. What is findable is kept, unless another block holds the same.
    pub(crate) fn release(&mut self, block: u32) {
        let last = self.pool.users(block) == 1;
        if last && self.prefix.has_twin(block) {
            self.prefix.remove(block);
        }
        self.pool.release(block, self.prefix.contains(block));
    }

    /// Makes a used block findable. A twin that nobody uses gives way.
    pub(crate) fn publish(&mut self, hash: Hash, block: u32) {
        if let Some(twin) = self.prefix.find(&hash)
            && self.pool.users(twin) == 0
        {
            self.prefix.remove(twin);
            self.pool.discard(twin);
        }
        self.prefix.insert(hash, block);
    }

    /// Whether the one user of a block may write into it.
    pub(crate) fn is_private(&self, block: u32) -> bool {
        self.pool.users(block) == 1 && !self.prefix.contains(block)
    }

    /// Frees all that nobody uses.
    pub(crate) fn forget(&mut self) {
        while let Some(block) = self.pool.oldest() {
            self.prefix.remove(block);
            self.pool.discard(block);
        }
    }
}
