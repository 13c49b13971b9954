//! SentencePiece vocabularies with scores, as the merges of a BPE.

use std::collections::HashSet;

use serde_json::Value;

/// Longest piece that merges are derived for, in bytes; real ones stay far below.
pub(super) const LONGEST_PIECE: usize = 1024;

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
pub(super) fn merges(pieces: &[Piece<'_>]) -> Vec<Value> {
    let known: HashSet<&str> = pieces.iter().map(|piece| piece.text).collect();
    let mut order: Vec<&Piece<'_>> = pieces.iter().filter(|piece| piece.text.chars().nth(1).is_some()).collect();
    order.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut out = Vec::new();
    for piece in order {
        for (at, _) in piece.text.char_indices().skip(1).collect::<Vec<_>>().into_iter().rev() {
            let (left, right) = piece.text.split_at(at);
            if known.contains(left) && known.contains(right) {
                out.push(Value::from(vec![left, right]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_follow_the_scores() {
        let piece = |text, score| Piece { text, score };
        let pieces = [piece("a", 0.0), piece("b", 0.0), piece("ab", -2.0), piece("bb", -1.0), piece("abb", -3.0)];
        let found: Vec<String> = merges(&pieces).iter().map(Value::to_string).collect();
        assert_eq!(found, [r#"["b","b"]"#, r#"["a","b"]"#, r#"["ab","b"]"#, r#"["a","bb"]"#]);
    }
}
