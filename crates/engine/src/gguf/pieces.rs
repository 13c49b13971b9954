//! SentencePiece vocabularies with scores, as the merges of a BPE.

use std::collections::HashSet;

use serde_json::Value;

/// Longest piece that merges are derived for, in bytes; real ones stay far below.
pub(super) const LONGEST_PIECE: usize = 1024;

/// Most bytes of merges to a byte of pieces. Real vocabularies have two or three; runs of one letter have as many as they are long.
const MOST_TO_ONE: usize = 8;

/// Bytes of pieces that the smallest vocabulary counts as: a few runs are none too many.
const SMALLEST: usize = 1 << 15;

/// A piece that text may become: its text and its score.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    pub(super) score: f64,
}

/// Merges in the order in which they apply, each a pair of texts.
///
/// SentencePiece joins the adjacent pair whose concatenation has the highest score, leftmost first among equals, as long
/// as there is one. So every way to cut a piece in two known ones is a merge, and its rank is that of the piece's score.
/// Ranks of a BPE are all different where scores may be equal: then the cut with the longer left half comes first, as it
/// does in runs of one character, and of two pieces the one that stands first in the vocabulary.
///
/// `None` where they would be many times as long as the vocabulary.
pub(super) fn merges(pieces: &[Piece<'_>]) -> Option<Vec<Value>> {
    let bytes: usize = pieces.iter().map(|piece| piece.text.len()).sum();
    let mut left_over = bytes.max(SMALLEST).saturating_mul(MOST_TO_ONE);
    let known: HashSet<&str> = pieces.iter().map(|piece| piece.text).collect();
    let mut order: Vec<&Piece<'_>> = pieces.iter().filter(|piece| piece.text.chars().nth(1).is_some()).collect();
    order.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut out = Vec::new();
    for piece in order {
        for (at, _) in piece.text.char_indices().skip(1).collect::<Vec<_>>().into_iter().rev() {
            let (left, right) = piece.text.split_at(at);
            if known.contains(left) && known.contains(right) {
                left_over = left_over.checked_sub(piece.text.len())?;
                out.push(Value::from(vec![left, right]));
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_follow_the_scores() {
        let piece = |text, score| Piece { text, score };
        let pieces = [piece("a", 0.0), piece("b", 0.0), piece("ab", -2.0), piece("bb", -1.0), piece("abb", -3.0)];
        let found: Vec<String> = merges(&pieces).unwrap().iter().map(Value::to_string).collect();
        assert_eq!(found, [r#"["b","b"]"#, r#"["a","b"]"#, r#"["ab","b"]"#, r#"["a","bb"]"#]);
    }

    fn runs(letters: &str, longest: usize) -> Vec<String> {
        letters.chars().flat_map(|c| (1..=longest).map(move |count| c.to_string().repeat(count))).collect()
    }

    fn count(texts: &[String]) -> Option<usize> {
        let pieces: Vec<_> = texts.iter().map(|text| Piece { text, score: -(text.len() as f64) }).collect();
        merges(&pieces).map(|merges| merges.len())
    }

    #[test]
    fn runs_are_merged_as_far_as_a_vocabulary_bears_them() {
        // As many as of 31 spaces in some real ones.
        assert_eq!(count(&runs("\u{2581}", 31)), Some(31 * 30 / 2));
        // Words of which each is one of others and a letter, and long runs among them.
        let mut words: Vec<String> = (1..40_000).map(|i: u32| format!("{i}")).collect();
        words.push("0".to_string());
        words.extend(runs("\u{2581}\n\t=-", 64));
        assert!(count(&words).is_some_and(|merges| merges > 2 * words.len()));
    }

    #[test]
    fn merges_of_many_times_the_vocabulary_are_not_made() {
        assert_eq!(count(&runs("a", 900)), None);
        assert_eq!(count(&runs("abcdefghijklmnopqrstuvwxyz", 100)), None);
    }
}
