//! The name of a block: a chain of hashes over all tokens from the start of its sequence.

use sha2::{Digest, Sha256};

/// SHA-256 of a salt and of every token up to the end of a block.
///
/// Collisions would serve one sequence another's keys and values, so this is a hash that nobody can find collisions of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Hash([u8; 32]);

/// First bytes of what is hashed: a salt can't be made to look like a chain.
const SALT: [u8; 1] = [0];
const BLOCK: [u8; 1] = [1];

impl Hash {
    /// Where the chains of a salt begin.
    pub(crate) fn of_salt(salt: &[u8]) -> Hash {
        Hash(Sha256::new().chain_update(SALT).chain_update(salt).finalize().into())
    }

    /// The next link: a block of tokens after all those that `self` stands for.
    pub(crate) fn then(&self, tokens: &[u32]) -> Hash {
        let mut hasher = Sha256::new().chain_update(BLOCK).chain_update(self.0);
        for token in tokens {
            hasher.update(token.to_le_bytes());
        }
        Hash(hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(salt: &[u8], tokens: &[u32], block: usize) -> Vec<Hash> {
        let mut last = Hash::of_salt(salt);
        let link = |tokens| {
            last = last.then(tokens);
            last
        };
        tokens.chunks_exact(block).map(link).collect()
    }

    #[test]
    fn a_salt_that_spells_a_chain_does_not_meet_it() {
        let parent = Hash::of_salt(b"a");
        let mut forged = parent.0.to_vec();
        forged.extend(7u32.to_le_bytes());
        assert_ne!(Hash::of_salt(&forged), parent.then(&[7]));
        let mut with_tag = BLOCK.to_vec();
        with_tag.extend(&forged);
        assert_ne!(Hash::of_salt(&with_tag), parent.then(&[7]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_changed_token_changes_every_later_hash_and_no_earlier_one(
            mut tokens in prop::collection::vec(any::<u32>(), 1..64),
            at in any::<prop::sample::Index>(),
            change in 1u32..,
            block in 1usize..9,
        ) {
            let before = chain(b"s", &tokens, block);
            let at = at.index(tokens.len());
            tokens[at] ^= change;
            let after = chain(b"s", &tokens, block);
            for (i, (a, b)) in before.iter().zip(&after).enumerate() {
                prop_assert_eq!(a == b, i < at / block, "block {}", i);
            }
        }

        #[test]
        fn salts_that_differ_share_no_hash(
            a in prop::collection::vec(any::<u8>(), 0..40),
            b in prop::collection::vec(any::<u8>(), 0..40),
            tokens in prop::collection::vec(any::<u32>(), 1..32),
        ) {
            prop_assume!(a != b);
            let (a, b) = (chain(&a, &tokens, 4), chain(&b, &tokens, 4));
            prop_assert!(a.iter().all(|hash| !b.contains(hash)));
        }
    }
}
