//! Which blocks hold the tokens of a hash.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::hash::Hash;

/// Hash to blocks and back. Several blocks may hold the same tokens: those of sequences that computed them side by side.
#[derive(Debug, Default)]
pub(crate) struct Prefix {
    blocks: HashMap<Hash, Vec<u32>>,
    /// The hash of a block, and where it stands among the blocks of that hash.
    hashes: HashMap<u32, (Hash, usize)>,
}

impl Prefix {
    /// A block that holds the tokens of a hash.
    pub(crate) fn find(&self, hash: &Hash) -> Option<u32> {
        self.blocks.get(hash).and_then(|blocks| blocks.first().copied())
    }

    /// The hash by which a block is found.
    pub(crate) fn hash_of(&self, block: u32) -> Option<Hash> {
        self.hashes.get(&block).map(|&(hash, _)| hash)
    }

    /// Whether a block can be found.
    pub(crate) fn contains(&self, block: u32) -> bool {
        self.hashes.contains_key(&block)
    }

    /// Whether another block holds the same tokens.
    pub(crate) fn has_twin(&self, block: u32) -> bool {
        let twins = self.hashes.get(&block).and_then(|(hash, _)| self.blocks.get(hash));
        twins.is_some_and(|blocks| blocks.len() > 1)
    }

    /// Makes a block findable that is not.
    pub(crate) fn insert(&mut self, hash: Hash, block: u32) {
        let blocks = self.blocks.entry(hash).or_default();
        self.hashes.insert(block, (hash, blocks.len()));
        blocks.push(block);
    }

    /// Makes a block unfindable.
    pub(crate) fn remove(&mut self, block: u32) {
        let Some((hash, place)) = self.hashes.remove(&block) else { return };
        let Entry::Occupied(mut entry) = self.blocks.entry(hash) else { return };
        let blocks = entry.get_mut();
        blocks.swap_remove(place);
        if let Some(&moved) = blocks.get(place) {
            self.hashes.insert(moved, (hash, place));
        }
        if blocks.is_empty() {
            entry.remove();
        }
    }

    /// All findable blocks with their hashes.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Hash, &[u32])> {
        self.blocks.iter().map(|(&hash, blocks)| (hash, &blocks[..]))
    }

    /// Findable blocks.
    pub(crate) fn len(&self) -> usize {
        self.hashes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_are_found_until_the_last_is_gone() {
        let (a, b) = (Hash::of_salt(b"a"), Hash::of_salt(b"b"));
        let mut prefix = Prefix::default();
        for (hash, block) in [(a, 1), (a, 2), (b, 3), (a, 4)] {
            prefix.insert(hash, block);
        }
        assert!(prefix.has_twin(1) && !prefix.has_twin(3));
        prefix.remove(1);
        prefix.remove(4);
        prefix.remove(4);
        assert_eq!((prefix.find(&a), prefix.hash_of(2), prefix.has_twin(2)), (Some(2), Some(a), false));
        prefix.remove(2);
        assert_eq!((prefix.find(&a), prefix.find(&b), prefix.len()), (None, Some(3), 1));
    }
}
