//! One sequence: its tokens, its table, and its place in the chain of hashes.

use std::fmt;

use crate::hash::Hash;
use crate::pool::NULL;

/// The name of a sequence in its cache; never given twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SequenceId(pub(crate) u64);

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sequence {}", self.0)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<u32>,
    /// Blocks in order; the first `released` are [`NULL`]. At least as many as the tokens need.
    pub(crate) table: Vec<i32>,
    /// Blocks at the start that left the window.
    pub(crate) released: usize,
    /// Where its chain of hashes begins.
    pub(crate) root: Hash,
    /// Hashes of its full blocks; none where nothing is shared.
    pub(crate) chain: Vec<Hash>,
}

impl Sequence {
    pub(crate) fn new(root: Hash) -> Sequence {
        Sequence { tokens: Vec::new(), table: Vec::new(), released: 0, root, chain: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The block at this place of the table, [`NULL`] where it is released.
    pub(crate) fn block(&self, index: usize) -> u32 {
        self.table[index] as u32
    }

    /// The block into which the next token goes, where it holds tokens already.
    pub(crate) fn partial(&self, block_size: usize) -> Option<u32> {
        (!self.len().is_multiple_of(block_size)).then(|| self.block(self.len() / block_size))
    }

    /// The last link of its chain.
    pub(crate) fn link(&self) -> Hash {
        self.chain.last().copied().unwrap_or(self.root)
    }

    /// The blocks that it holds from this place on, in order.
    pub(crate) fn held(&self, from: usize) -> impl DoubleEndedIterator<Item = u32> {
        self.table[from.min(self.table.len())..].iter().map(|&block| block as u32).filter(|&block| block != NULL)
    }
}
