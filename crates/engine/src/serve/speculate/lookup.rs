//! What followed the last time that the text said the same.

use crate::error::Result;
use crate::serve::propose::{Proposer, Want};

/// Guesses that a text repeats itself: what followed the latest earlier place where its last few tokens stand (prompt lookup,
/// Saxena 2023). Good for summaries, code and answers that quote; costs next to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptLookup {
    /// The most tokens at the end of a text that are looked for; fewer where so many stand nowhere.
    pub longest: usize,
    /// The fewest.
    pub shortest: usize,
}

impl Default for PromptLookup {
    fn default() -> PromptLookup {
        PromptLookup { longest: 4, shortest: 2 }
    }
}

impl PromptLookup {
    /// What followed the latest earlier place, at most `most` tokens.
    fn guess<'a>(&self, tokens: &'a [u32], most: usize) -> &'a [u32] {
        for n in (self.shortest.max(1)..=self.longest.min(tokens.len())).rev() {
            let last = &tokens[tokens.len() - n..];
            // Up to the token before the last, so that something follows.
            let earlier = &tokens[..tokens.len() - 1];
            if let Some(at) = earlier.windows(n).rposition(|window| window == last) {
                let next = at + n;
                return &tokens[next..tokens.len().min(next.saturating_add(most))];
            }
        }
        &[]
    }
}

impl Proposer for PromptLookup {
    fn propose(&mut self, wants: &[Want<'_>]) -> Result<Vec<Vec<u32>>> {
        Ok(wants.iter().map(|want| self.guess(want.tokens, want.most).to_vec()).collect())
    }

    fn forget(&mut self, _: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(tokens: &[u32], most: usize) -> &[u32] {
        PromptLookup::default().guess(tokens, most)
    }

    #[test]
    fn the_latest_of_the_longest_matches_is_followed() {
        assert_eq!(guess(&[1, 2, 3, 4, 9, 1, 2, 3, 4], 2), [9, 1]);
        assert_eq!(guess(&[7, 1, 2, 5, 1, 2, 6, 1, 2], 1), [6]);
        // Three tokens say more than two that stand later.
        assert_eq!(guess(&[7, 1, 2, 5, 8, 1, 2, 6, 7, 1, 2], 1), [5]);
    }

    #[test]
    fn a_text_that_repeats_its_end_goes_on_so() {
        assert_eq!(guess(&[5, 5, 5], 4), [5]);
        assert_eq!(guess(&[1, 2, 1, 2, 1, 2], 9), [1, 2]);
    }

    #[test]
    fn nothing_is_guessed_where_nothing_was_said_before() {
        for tokens in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4], &[1, 2, 3, 1]] {
            assert_eq!(guess(tokens, 4), [0; 0], "{tokens:?}");
        }
        assert_eq!(guess(&[1, 2, 1, 2], 0), [0; 0]);
    }

    #[test]
    fn no_more_is_looked_for_than_there_is() {
        let all = PromptLookup { longest: usize::MAX, shortest: 0 };
        assert_eq!(all.guess(&[5, 1, 2, 7, 1, 2], 2), [7, 1]);
        assert_eq!(all.guess(&[], 2), [0; 0]);
        let none = PromptLookup { longest: 4, shortest: usize::MAX };
        assert_eq!(none.guess(&[1, 1, 1], 2), [0; 0]);
    }
}
