//! How query tokens are cut into tiles, and which keys each of them sees.

use std::ops::Range;

use super::{Attention, Exec, PART};

/// Neighbouring query tokens of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Queries {
    pub(super) sequence: usize,
    /// The first query token, among all.
    pub(super) first: usize,
    pub(super) count: usize,
    /// The position of the first query token in its sequence; may be negative when there are more queries than keys.
    pub(super) position: i64,
    pub(super) keys: usize,
    /// Where the sequence's keys start, without a block table.
    pub(super) start: usize,
}

impl Attention {
    /// Cuts the query tokens into tiles, a sequence to a tile, and gives their number. Tokens that belong to no sequence
    /// become zeros; one that two sequences claim is the first one's.
    pub(super) fn cut(&self, exec: &Exec<'_>, tiles: &mut [Queries]) -> usize {
        let total = self.q.shape[0];
        let cu = |b: usize| -> usize {
            match &self.cu_q {
                // SAFETY: `cu_q` has batch + 1 entries.
                Some(cu) => unsafe { cu.index(exec.address(cu.tensor), b * cu.step()) }.clamp(0, total as i64) as usize,
                None => b,
            }
        };
        let (mut start, mut done, mut count) = (0usize, 0, 0);
        for sequence in 0..self.batch {
            // SAFETY: `kv_len` has one entry per sequence.
            let keys = unsafe { self.kv_len.index(exec.address(self.kv_len.tensor), sequence * self.kv_len.step()) };
            let keys = usize::try_from(keys).unwrap_or(0);
            let (from, to) = (cu(sequence), cu(sequence + 1));
            let first = from.max(done);
            if first < to {
                self.fill(exec, done..first, 0.0);
                done = first;
            }
            while first < to && done < to {
                let position = keys as i64 - (to - from) as i64 + (done - from) as i64;
                let mut queries =
                    Queries { sequence, first: done, count: (to - done).min(self.tile), position, keys, start };
                done += queries.count;
                // Later queries see later keys.
                while queries.count > 0 && !self.is_inside(&queries) {
                    queries.count -= 1;
                }
                if queries.count > 0 {
                    tiles[count] = queries;
                    count += 1;
                }
                self.fill(exec, queries.first + queries.count..done, f32::NAN);
            }
            start = start.saturating_add(keys);
        }
        self.fill(exec, done..total, 0.0);
        count
    }

    /// Whether the cache, or the block table, has room for the keys that these tokens see.
    fn is_inside(&self, q: &Queries) -> bool {
        let (lo, hi) = self.visible(q);
        let start = if self.table.is_some() { 0 } else { q.start };
        lo == hi || start.checked_add(hi).is_some_and(|end| end <= self.capacity())
    }

    /// One value in every element of these tokens.
    fn fill(&self, exec: &Exec<'_>, tokens: Range<usize>, value: f32) {
        let (first, count) = (tokens.start * self.heads, tokens.len() * self.heads);
        // SAFETY: the rows are in the result, which no task writes yet.
        unsafe { self.y.repeat(exec.address(self.y.tensor), first, count, value) };
    }

    /// The keys that some query of the tile sees.
    pub(super) fn visible(&self, q: &Queries) -> (usize, usize) {
        let (lo, _) = self.seen(q, 0);
        let (_, hi) = self.seen(q, q.count - 1);
        (lo, hi)
    }

    /// The keys that a query of the tile sees: a window ends at the query, causal or not.
    pub(super) fn seen(&self, q: &Queries, token: usize) -> (usize, usize) {
        let position = q.position + token as i64;
        let cut = self.attrs.causal || self.attrs.window > 0;
        let end = if cut { (position + 1).clamp(0, q.keys as i64) as usize } else { q.keys };
        let start = match self.attrs.window {
            0 => 0,
            w => (position + 1 - i64::from(w)).clamp(0, end as i64) as usize,
        };
        (start, end)
    }

    /// The parts that hold the keys that some query of the tile sees.
    pub(super) fn parts(&self, q: &Queries) -> Range<usize> {
        let (lo, hi) = self.visible(q);
        if lo < hi { lo / PART..hi.div_ceil(PART) } else { 0..0 }
    }
}
