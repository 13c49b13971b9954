//! The books gone over from the start.

use std::collections::HashMap;

use crate::cache::{Cache, left_behind};
use crate::pool::NULL;
use crate::sequence::Sequence;

impl Cache {
    /// Counts everything anew and compares with the books: users against tables, free, kept and used blocks against the total,
    /// names against tokens. Takes time with the size of the cache; for tests and for doubts.
    ///
    /// # Errors
    /// The first thing that is not as it must be, in words.
    pub fn audit(&self) -> Result<(), String> {
        self.audit_users()?;
        self.audit_pool()?;
        self.audit_names()?;
        self.sequences
            .iter()
            .try_for_each(|(id, sequence)| self.audit_sequence(sequence).map_err(|what| format!("{id}: {what}")))
    }

    fn audit_users(&self) -> Result<(), String> {
        let mut users: HashMap<u32, u32> = HashMap::new();
        for block in self.sequences.values().flat_map(|sequence| sequence.held(0)) {
            *users.entry(block).or_default() += 1;
        }
        for block in 0..self.store.pool.touched() as u32 {
            let (found, counted) = (self.store.pool.users(block), users.remove(&block).unwrap_or(0));
            check(found == counted, || format!("block {block} is in {counted} tables, the pool says {found}"))?;
        }
        check(users.is_empty(), || format!("tables name blocks that were never given: {users:?}"))
    }

    fn audit_pool(&self) -> Result<(), String> {
        let pool = &self.store.pool;
        let mut seen = vec![false; pool.touched()];
        let mut unused = |block: u32, kept: bool| {
            let fresh = seen.get_mut(block as usize).is_some_and(|seen| !std::mem::replace(seen, true));
            check(fresh && block != NULL, || format!("block {block} is free or kept twice, or was never given"))?;
            check(pool.users(block) == 0, || format!("block {block} is free or kept, and used"))?;
            check(self.store.prefix.contains(block) == kept, || {
                format!("block {block}: kept is {kept}, findable is not")
            })
        };
        pool.free_list().iter().try_for_each(|&block| unused(block, false))?;
        pool.queue().try_for_each(|block| unused(block, true))?;
        let kept = pool.queue().count();
        check(kept == pool.kept(), || format!("{kept} blocks are in the queue, the pool says {}", pool.kept()))?;
        let used = (1..pool.touched() as u32).filter(|&block| pool.users(block) > 0).count();
        let sum = used + pool.kept() + pool.free();
        check(sum == pool.total(), || {
            format!("{used} used, kept and free blocks are {sum}, the pool has {}", pool.total())
        })
    }

    fn audit_names(&self) -> Result<(), String> {
        let (pool, prefix) = (&self.store.pool, &self.store.prefix);
        let mut findable = 0;
        for (hash, blocks) in prefix.all() {
            findable += blocks.len();
            let unused = blocks.iter().filter(|&&block| pool.users(block) == 0).count();
            check(unused == 0 || blocks.len() == 1, || {
                format!("blocks {blocks:?} hold the same, {unused} are unused")
            })?;
            let named = blocks.iter().all(|&block| prefix.hash_of(block) == Some(hash));
            check(named, || format!("blocks {blocks:?} are found by a hash that is not theirs"))?;
        }
        check(findable == prefix.len(), || format!("{findable} blocks are found, {} have a hash", prefix.len()))
    }

    fn audit_sequence(&self, sequence: &Sequence) -> Result<(), String> {
        let (size, len) = (self.config.block_size, sequence.len());
        let (entries, needed) = (sequence.table.len(), len.div_ceil(size));
        check(entries >= needed, || format!("{len} tokens in {entries} blocks"))?;
        for i in 0..entries {
            let (block, released) = (sequence.block(i), i < sequence.released);
            check((block == NULL) == released, || format!("entry {i} is {block}, {} are released", sequence.released))?;
            let reserved = i >= needed;
            check(!reserved || self.store.is_private(block), || format!("entry {i} is reserved, others have it"))?;
        }
        let gone = self.config.window.map_or(0, |window| left_behind(len, window, size));
        check(sequence.released >= gone, || {
            format!("{gone} blocks left the window, {} are released", sequence.released)
        })?;
        let full = if self.config.sharing { len / size } else { 0 };
        check(sequence.chain.len() == full, || format!("{full} full blocks, {} hashes", sequence.chain.len()))?;
        let mut last = sequence.root;
        for (i, tokens) in sequence.tokens.chunks_exact(size).take(full).enumerate() {
            last = last.then(tokens);
            check(sequence.chain[i] == last, || format!("hash {i} is not that of the tokens"))?;
            let found = i < sequence.released || self.store.prefix.hash_of(sequence.block(i)) == Some(last);
            check(found, || format!("block {} is full and not findable by its tokens", sequence.block(i)))?;
        }
        Ok(())
    }
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
