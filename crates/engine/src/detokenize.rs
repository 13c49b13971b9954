//! Token ids to text, as they come: a byte-level state machine.
//!
//! Each token is bytes; what is whole UTF-8 is given out at once, an unfinished character (three bytes at most) waits for the next
//! token. A genuine U+FFFD is three valid bytes and does not wait. The pieces of a stream, joined, are the decoding of the whole.

use std::sync::Arc;

use crate::tokenizer::{InvalidBytes, StreamRules, Token, Vocabulary};

const REPLACEMENT: char = '\u{FFFD}';

/// Decodes a stream of token ids.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    vocabulary: Arc<Vocabulary>,
    skip_special: bool,
    /// Bytes of a character that is not finished.
    pending: Vec<u8>,
    /// How often the leading character may still be dropped.
    strip_left: usize,
    /// Whether no token was taken yet, where that matters.
    at_first_token: bool,
}

impl Detokenizer {
    /// A stream that begins a text: the decoder's rules about a leading space apply, once.
    ///
    /// `skip_special` leaves control tokens out of the text.
    pub fn new(vocabulary: Arc<Vocabulary>, skip_special: bool) -> Detokenizer {
        let strip_left = vocabulary.rules().strip.map_or(0, |(_, times)| times);
        Detokenizer { vocabulary, skip_special, pending: Vec::new(), strip_left, at_first_token: true }
    }

    /// A stream that continues a text, as generation continues a prompt: a leading space is kept.
    pub fn continuing(vocabulary: Arc<Vocabulary>, skip_special: bool) -> Detokenizer {
        Detokenizer { strip_left: 0, at_first_token: false, ..Detokenizer::new(vocabulary, skip_special) }
    }

    /// Takes a token and appends the text that became whole. Ids beyond the vocabulary add nothing.
    pub fn push_into(&mut self, id: u32, out: &mut String) {
        let vocabulary = Arc::clone(&self.vocabulary);
        let Some(token) = vocabulary.token(id) else { return };
        if token.special && self.skip_special {
            return;
        }
        self.take(token, vocabulary.rules());
        let from = out.len();
        self.drain_into(out);
        self.strip(out, from);
    }

    /// Takes a token and returns the text that became whole; often empty in the middle of a character.
    pub fn push(&mut self, id: u32) -> String {
        let mut out = String::new();
        self.push_into(id, &mut out);
        out
    }

    /// Ends the stream: an unfinished character becomes U+FFFD.
    pub fn flush(&mut self) -> String {
        let count = match (self.vocabulary.rules().invalid, self.pending.len()) {
            (InvalidBytes::OnePerSequence, waiting) => waiting.min(1),
            (InvalidBytes::OnePerByte, waiting) => waiting,
        };
        self.pending.clear();
        std::iter::repeat_n(REPLACEMENT, count).collect()
    }

    /// Number of bytes waiting for the rest of their character: three at most.
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    fn take(&mut self, token: Token<'_>, rules: &StreamRules) {
        let first = std::mem::replace(&mut self.at_first_token, false);
        if rules.joined_by_space && !first {
            self.pending.push(b' ');
        }
        if rules.first_token_loses_spaces && first && !token.added {
            self.pending.extend(token.bytes.iter().filter(|byte| **byte != b' '));
        } else {
            self.pending.extend_from_slice(token.bytes);
        }
    }

    fn drain_into(&mut self, out: &mut String) {
        let mut bytes = self.pending.as_slice();
        loop {
            let error = match std::str::from_utf8(bytes) {
                Ok(text) => {
                    out.push_str(text);
                    self.pending.clear();
                    return;
                }
                Err(error) => error,
            };
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            out.push_str(&String::from_utf8_lossy(valid));
            let Some(invalid) = error.error_len() else {
                let done = self.pending.len() - rest.len();
                self.pending.drain(..done);
                return;
            };
            let count = match self.vocabulary.rules().invalid {
                InvalidBytes::OnePerSequence => 1,
                InvalidBytes::OnePerByte => invalid,
            };
            out.extend(std::iter::repeat_n(REPLACEMENT, count));
            bytes = &rest[invalid..];
        }
    }

    /// Drops leading characters of the text's start, as long as the decoder's rule has some left.
    fn strip(&mut self, out: &mut String, from: usize) {
        let Some((content, _)) = self.vocabulary.rules().strip else { return };
        while self.strip_left > 0 && out.len() > from {
            if !out[from..].starts_with(content) {
                self.strip_left = 0;
                return;
            }
            out.remove(from);
            self.strip_left -= 1;
        }
    }
}

/// Decodes a whole text at once.
pub fn decode(vocabulary: &Arc<Vocabulary>, ids: &[u32], skip_special: bool) -> String {
    let mut stream = Detokenizer::new(Arc::clone(vocabulary), skip_special);
    let mut out = String::new();
    for id in ids {
        stream.push_into(*id, &mut out);
    }
    out.push_str(&stream.flush());
    out
}

#[cfg(test)]
mod tests;
