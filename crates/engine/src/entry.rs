//! One sequence's part of a step.

/// Tokens that a step appends to a sequence, and where the sequence's pages are.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// New tokens, at least one.
    pub ids: &'a [u32],
    /// The position of the first; so many tokens of the sequence are in the cache before.
    pub start: usize,
    /// The sequence's blocks in order, with room for `start + ids.len()` tokens.
    pub table: &'a [i32],
    /// How many of the last tokens want logits; at most all.
    pub rows: usize,
}

impl Entry<'_> {
    /// Tokens that the sequence has after the step.
    pub fn end(&self) -> usize {
        self.start.saturating_add(self.ids.len())
    }

    /// The slot of a position in blocks of `size` tokens.
    pub(crate) fn slot(&self, position: usize, size: usize) -> i32 {
        self.table[position / size] * size as i32 + (position % size) as i32
    }
}
