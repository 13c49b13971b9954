//! Stop strings: text held back until it is certain not to be the beginning of one.

/// What came of a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Text that may be shown.
    pub text: String,
    /// The stop string that ended the stream, as its index in the list.
    pub stopped_by: Option<usize>,
}

/// Finds stop strings in a stream of text pieces, however they are cut.
///
/// The stop string that is complete first ends the stream; of two complete at the same character, the one that began first. The
/// outcome depends on the text alone, not on the pieces it came in. Text is cut where the stop string begins. Held back is the
/// longest end of the text that begins some stop string: never more than its length less one.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// Watches for these strings. Empty ones are ignored.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> StopMatcher {
        StopMatcher { stops: stops.into_iter().map(Into::into).collect(), held: String::new(), stopped: false }
    }

    /// Takes a piece of text. After a stop string was found everything further is dropped.
    pub fn push(&mut self, piece: &str) -> Released {
        if self.stopped {
            return Released::default();
        }
        let searched = self.held.len();
        self.held.push_str(piece);
        if let Some((index, start)) = self.first_match(searched) {
            self.stopped = true;
            self.held.truncate(start);
            return Released { text: std::mem::take(&mut self.held), stopped_by: Some(index) };
        }
        let keep = self.longest_beginning();
        let rest = self.held.split_off(self.held.len() - keep);
        Released { text: std::mem::replace(&mut self.held, rest), stopped_by: None }
    }

    /// Ends the stream and returns what was held back.
    pub fn finish(&mut self) -> String {
        self.stopped = true;
        std::mem::take(&mut self.held)
    }

    /// The stop string that ends first at or beyond `from`, and where it begins. What lies before `from` was searched already.
    fn first_match(&self, from: usize) -> Option<(usize, usize)> {
        let candidates = self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        candidates
            .filter_map(|(index, stop)| {
                let mut begin = from.saturating_sub(stop.len() - 1);
                while !self.held.is_char_boundary(begin) {
                    begin -= 1;
                }
                let start = begin + self.held[begin..].find(stop.as_str())?;
                Some((start + stop.len(), start, index))
            })
            .min()
            .map(|(_, start, index)| (index, start))
    }

    /// Bytes at the end of the held text that begin some stop string.
    fn longest_beginning(&self) -> usize {
        let held = self.held.as_bytes();
        let of_one = |stop: &String| {
            let longest = stop.len().saturating_sub(1).min(held.len());
            (1..=longest).rev().find(|n| held.ends_with(&stop.as_bytes()[..*n])).unwrap_or(0)
        };
        self.stops.iter().map(of_one).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything that is shown, and what stopped it.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops.iter().copied());
        let mut shown = String::new();
        for piece in pieces {
            let released = matcher.push(piece);
            shown.push_str(&released.text);
            if released.stopped_by.is_some() {
                assert_eq!(matcher.finish(), "");
                return (shown, released.stopped_by);
            }
        }
        shown.push_str(&matcher.finish());
        (shown, None)
    }

    #[test]
    fn a_stop_string_spans_pieces_and_starts_inside_one() {
        assert_eq!(run(&["\n\nUser:"], &["Hello", " there\n", "\nUs", "er: hi"]), ("Hello there".into(), Some(0)));
    }

    #[test]
    fn nothing_of_a_possible_stop_string_leaks() {
        let mut matcher = StopMatcher::new(["</s>"]);
        assert_eq!(matcher.push("a<").text, "a");
        assert_eq!(matcher.push("/").text, "");
        assert_eq!(matcher.push("p").text, "</p");
        assert_eq!(matcher.push("<<").text, "<");
        assert_eq!(matcher.finish(), "<");
    }

    #[test]
    fn text_without_any_beginning_is_not_held() {
        let mut matcher = StopMatcher::new(["END"]);
        assert_eq!(matcher.push("plain text").text, "plain text");
        assert_eq!(matcher.push("…E").text, "…");
        assert_eq!(matcher.push("NE").text, "EN");
    }

    #[test]
    fn the_earliest_of_several_wins() {
        assert_eq!(run(&["world", "lo wor"], &["hello world"]), ("hel".into(), Some(1)));
        assert_eq!(run(&["bc", "abc"], &["xabc"]), ("x".into(), Some(1)));
        assert_eq!(run(&["b", "a"], &["cab"]), ("c".into(), Some(1)));
    }

    #[test]
    fn chinese_stops_are_cut_at_characters() {
        assert_eq!(run(&["。疑是"], &["床前明月光", "。", "疑", "是地上霜"]), ("床前明月光".into(), Some(0)));
        assert_eq!(run(&["疑似"], &["光，疑", "是"]), ("光，疑是".into(), None));
    }

    #[test]
    fn empty_stop_strings_never_match() {
        assert_eq!(run(&["", ""], &["abc"]), ("abc".into(), None));
        assert_eq!(run(&[], &["abc"]), ("abc".into(), None));
    }

    #[test]
    fn after_a_stop_everything_is_dropped() {
        let mut matcher = StopMatcher::new(["x"]);
        assert_eq!(matcher.push("axb"), Released { text: "a".into(), stopped_by: Some(0) });
        assert_eq!(matcher.push("more"), Released::default());
        assert_eq!(matcher.finish(), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// The definition, character by character, is the oracle; pieces may be cut anywhere.
        #[test]
        fn the_outcome_does_not_depend_on_the_pieces(
            pieces in prop::collection::vec("[ab中é]{0,4}", 0..8), stops in prop::collection::vec("[ab中é]{0,4}", 0..4)
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let text = pieces.concat();
            let mut expected = (text.clone(), None);
            for (at, character) in text.char_indices() {
                let so_far = &text[..at + character.len_utf8()];
                let hit = stops.iter().enumerate().filter(|(_, s)| !s.is_empty() && so_far.ends_with(**s)).max_by_key(|(i, s)| (s.len(), usize::MAX - i));
                if let Some((index, stop)) = hit {
                    expected = (so_far[..so_far.len() - stop.len()].to_string(), Some(index));
                    break;
                }
            }
            prop_assert_eq!(run(&stops, &pieces), expected);
        }
    }
}
