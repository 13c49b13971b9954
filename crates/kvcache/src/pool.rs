//! Who uses which block: counts of users, free blocks, and the queue of those that are kept though nobody uses them.

/// The block that belongs to no sequence and is never written; released entries of a table name it.
pub const NULL: u32 = 0;

/// Neighbours in the queue. [`NULL`], which never queues, closes the ring.
#[derive(Clone, Copy, Debug, Default)]
struct Links {
    before: u32,
    after: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    users: u32,
    links: Links,
}

/// A block that was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) block: u32,
    /// It was kept until now: what it held is lost.
    pub(crate) evicted: bool,
}

/// The blocks of a pool. Memory grows with the blocks that were ever used.
#[derive(Debug)]
pub(crate) struct Pool {
    /// All blocks, the null block included.
    size: usize,
    /// Those touched so far, the null block included; the ones behind are free.
    blocks: Vec<Block>,
    /// Touched and free now; the last one freed is had first.
    free: Vec<u32>,
    /// Length of the queue.
    kept: usize,
    /// The most that were used at once since somebody asked.
    peak: usize,
}

impl Pool {
    pub(crate) fn new(size: usize) -> Pool {
        Pool { size, blocks: vec![Block::default()], free: Vec::new(), kept: 0, peak: 0 }
    }

    /// All blocks that sequences can have.
    pub(crate) fn total(&self) -> usize {
        self.size - 1
    }

    /// Blocks that hold nothing.
    pub(crate) fn free(&self) -> usize {
        self.free.len() + (self.size - self.blocks.len())
    }

    /// Blocks that nobody uses and that are kept.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// How many use a block.
    pub(crate) fn users(&self, block: u32) -> u32 {
        self.blocks[block as usize].users
    }

    /// Blocks touched so far: ids below this one, [`NULL`] included.
    pub(crate) fn touched(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn free_list(&self) -> &[u32] {
        &self.free
    }

    /// The kept blocks, the next to be evicted first.
    pub(crate) fn queue(&self) -> impl Iterator<Item = u32> {
        let next = |block: &u32| Some(self.blocks[*block as usize].links.after).filter(|&block| block != NULL);
        std::iter::successors(self.oldest(), next).take(self.blocks.len())
    }

    /// The kept block that is evicted next.
    pub(crate) fn oldest(&self) -> Option<u32> {
        Some(self.blocks[NULL as usize].links.after).filter(|&block| block != NULL)
    }

    /// A block for one user: a free one, else the one that has been kept unused longest.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        let taken = if let Some(block) = self.free.pop() {
            Taken { block, evicted: false }
        } else if self.blocks.len() < self.size {
            self.blocks.push(Block::default());
            Taken { block: (self.blocks.len() - 1) as u32, evicted: false }
        } else {
            let block = self.oldest()?;
            self.unqueue(block);
            Taken { block, evicted: true }
        };
        self.blocks[taken.block as usize].users = 1;
        self.peak = self.peak.max(self.used());
        Some(taken)
    }

    /// One more user of a block that is used or kept.
    pub(crate) fn share(&mut self, block: u32) {
        if self.users(block) == 0 {
            self.unqueue(block);
        }
        self.blocks[block as usize].users += 1;
        self.peak = self.peak.max(self.used());
    }

    /// Blocks that somebody uses.
    pub(crate) fn used(&self) -> usize {
        self.total() - self.kept() - self.free()
    }

    /// The most blocks that were used at once since this was asked last.
    pub(crate) fn take_peak(&mut self) -> usize {
        let used = self.used();
        std::mem::replace(&mut self.peak, used)
    }

    /// One user less. After the last one the block is kept, or free.
    pub(crate) fn release(&mut self, block: u32, keep: bool) {
        let users = &mut self.blocks[block as usize].users;
        *users -= 1;
        if *users > 0 {
            return;
        }
        match keep {
            true => self.enqueue(block),
            false => self.free.push(block),
        }
    }

    /// Frees a kept block.
    pub(crate) fn discard(&mut self, block: u32) {
        self.unqueue(block);
        self.free.push(block);
    }

    fn enqueue(&mut self, block: u32) {
        let last = self.blocks[NULL as usize].links.before;
        self.blocks[block as usize].links = Links { before: last, after: NULL };
        self.blocks[last as usize].links.after = block;
        self.blocks[NULL as usize].links.before = block;
        self.kept += 1;
    }

    fn unqueue(&mut self, block: u32) {
        let Links { before, after } = self.blocks[block as usize].links;
        self.blocks[before as usize].links.after = after;
        self.blocks[after as usize].links.before = before;
        self.kept -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pool: &mut Pool) -> u32 {
        pool.take().unwrap().block
    }

    #[test]
    fn the_null_block_is_never_given() {
        let mut pool = Pool::new(4);
        let taken: Vec<u32> = (0..3).map(|_| take(&mut pool)).collect();
        assert_eq!(taken, [1, 2, 3]);
        assert_eq!(pool.take(), None);
        assert_eq!((pool.total(), pool.free(), pool.kept()), (3, 0, 0));
    }

    #[test]
    fn freed_block_is_reused_first() {
        let mut pool = Pool::new(9);
        let (a, _) = (take(&mut pool), take(&mut pool));
        pool.release(a, false);
        assert_eq!(take(&mut pool), a);
    }

    #[test]
    fn kept_blocks_go_in_the_order_in_which_they_came_and_after_all_free_ones() {
        let mut pool = Pool::new(5);
        let [a, b, c] = [0; 3].map(|_| take(&mut pool));
        for block in [b, a, c] {
            pool.release(block, true);
        }
        assert_eq!(pool.queue().collect::<Vec<_>>(), [b, a, c]);
        assert_eq!(pool.take(), Some(Taken { block: 4, evicted: false }));
        pool.share(a);
        assert_eq!(pool.take(), Some(Taken { block: b, evicted: true }));
        assert_eq!(pool.take(), Some(Taken { block: c, evicted: true }));
        assert_eq!(pool.take(), None);
        assert_eq!(pool.users(a), 1);
    }

    #[test]
    fn a_block_stays_used_until_its_last_user_leaves() {
        let mut pool = Pool::new(2);
        let a = take(&mut pool);
        pool.share(a);
        pool.release(a, true);
        assert_eq!((pool.users(a), pool.kept(), pool.take()), (1, 0, None));
        pool.release(a, true);
        assert_eq!((pool.kept(), pool.queue().next()), (1, Some(a)));
        pool.discard(a);
        assert_eq!((pool.kept(), pool.free()), (0, 1));
    }

    #[test]
    fn a_huge_pool_takes_memory_only_for_what_is_used() {
        let mut pool = Pool::new(1 << 31);
        assert_eq!(take(&mut pool), 1);
        assert_eq!((pool.touched(), pool.free()), (2, (1 << 31) - 2));
    }
}
