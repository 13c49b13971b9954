//! Tokens as bytes: the decoder of a `tokenizer.json`, turned into a table from id to bytes and a few rules about a stream's start.
//!
//! The `tokenizers` library decodes lists of ids to strings and replaces what is not yet whole by U+FFFD; a stream needs the bytes.

use std::collections::HashMap;

use serde_json::Value;

/// What a byte sequence that is not UTF-8 becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidBytes {
    /// One U+FFFD for each maximal invalid part, as byte-level decoders do.
    OnePerSequence,
    /// One U+FFFD for each byte, as byte-fallback decoders do.
    OnePerByte,
}

/// What a decoder does at the start of a stream and between its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRules {
    /// Treatment of invalid bytes.
    pub invalid: InvalidBytes,
    /// This character is dropped up to so many times at the start of the text.
    pub strip: Option<(char, usize)>,
    /// Spaces of the first token are dropped.
    pub first_token_loses_spaces: bool,
    /// Tokens are joined by a space.
    pub joined_by_space: bool,
}

/// One token.
#[derive(Clone, Debug)]
struct Piece {
    /// Bytes within the arena.
    start: u32,
    len: u32,
    special: bool,
    added: bool,
}

/// Bytes of every token, and the rules of the stream.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    arena: Vec<u8>,
    pieces: HashMap<u32, Piece>,
    rules: StreamRules,
}

/// A token of the vocabulary, as a detokeniser sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// The bytes it stands for; need not be whole UTF-8 characters.
    pub bytes: &'a [u8],
    /// Whether it is a control token (`<|im_end|>`), left out of text unless asked for.
    pub special: bool,
    /// Whether it is an added token, whose text stands for itself.
    pub added: bool,
}

/// A token as the vocabulary file has it.
pub(super) struct RawToken<'a> {
    pub(super) id: u32,
    pub(super) text: &'a str,
    pub(super) special: bool,
    pub(super) added: bool,
}

impl Vocabulary {
    /// Builds the table from the `decoder` entry of a `tokenizer.json` (null when there is none) and the tokens.
    ///
    /// Fails with the name of a decoder that has no byte-wise meaning (WordPiece, CTC).
    pub(super) fn new<'a>(
        decoder: &Value,
        tokens: impl IntoIterator<Item = RawToken<'a>>,
    ) -> Result<Vocabulary, String> {
        let recipe = Recipe::read(decoder)?;
        let mut vocabulary = Vocabulary { arena: Vec::new(), pieces: HashMap::new(), rules: recipe.rules };
        for token in tokens {
            let start = vocabulary.arena.len();
            match token.added {
                true => vocabulary.arena.extend_from_slice(token.text.as_bytes()),
                false => recipe.steps.append(token.text, &mut vocabulary.arena),
            }
            let len = vocabulary.arena.len() - start;
            let (Ok(start), Ok(len)) = (u32::try_from(start), u32::try_from(len)) else {
                return Err("more than 4 GiB of token text".to_string());
            };
            let piece = Piece { start, len, special: token.special, added: token.added };
            vocabulary.pieces.insert(token.id, piece);
        }
        Ok(vocabulary)
    }

    /// A token; `None` for an id that the tokenizer does not have.
    pub fn token(&self, id: u32) -> Option<Token<'_>> {
        let piece = self.pieces.get(&id)?;
        let start = piece.start as usize;
        let bytes = &self.arena[start..start + piece.len as usize];
        Some(Token { bytes, special: piece.special, added: piece.added })
    }

    /// The rules of a stream.
    pub fn rules(&self) -> &StreamRules {
        &self.rules
    }
}

/// Steps from a token's text to its bytes.
#[derive(Default)]
struct Steps {
    /// Replacements, in order.
    replace: Vec<(String, String)>,
    /// Whether `<0xE4>` stands for a byte.
    byte_fallback: bool,
    /// Whether characters stand for bytes in the GPT-2 alphabet.
    byte_level: bool,
}

impl Steps {
    fn append(&self, text: &str, out: &mut Vec<u8>) {
        if self.byte_fallback
            && let Some(byte) = fallback_byte(text)
        {
            out.push(byte);
            return;
        }
        if self.byte_level {
            let start = out.len();
            for character in text.chars() {
                let Some(byte) = alphabet_byte(character) else {
                    // One foreign character makes the whole token literal, as in the tokenizers library.
                    out.truncate(start);
                    out.extend_from_slice(text.as_bytes());
                    return;
                };
                out.push(byte);
            }
            return;
        }
        let mut text = std::borrow::Cow::Borrowed(text);
        for (from, to) in &self.replace {
            if text.contains(from.as_str()) {
                text = text.replace(from.as_str(), to).into();
            }
        }
        out.extend_from_slice(text.as_bytes());
    }
}

struct Recipe {
    steps: Steps,
    rules: StreamRules,
}

impl Recipe {
    fn read(decoder: &Value) -> Result<Recipe, String> {
        let mut recipe = Recipe {
            steps: Steps::default(),
            rules: StreamRules {
                invalid: InvalidBytes::OnePerSequence,
                strip: None,
                first_token_loses_spaces: false,
                joined_by_space: decoder.is_null(),
            },
        };
        if !decoder.is_null() {
            recipe.add(decoder)?;
        }
        if recipe.steps.byte_fallback {
            recipe.rules.invalid = InvalidBytes::OnePerByte;
        }
        Ok(recipe)
    }

    fn add(&mut self, decoder: &Value) -> Result<(), String> {
        let kind = decoder["type"].as_str().unwrap_or("without a type");
        match kind {
            "Sequence" => {
                for part in decoder["decoders"].as_array().into_iter().flatten() {
                    self.add(part)?;
                }
            }
            "ByteLevel" => self.steps.byte_level = true,
            "ByteFallback" => self.steps.byte_fallback = true,
            "Fuse" => {}
            "Replace" => {
                let (Some(from), Some(to)) = (decoder["pattern"]["String"].as_str(), decoder["content"].as_str())
                else {
                    return Err("Replace with a regular expression".to_string());
                };
                if from.is_empty() {
                    return Err("Replace of nothing".to_string());
                }
                self.steps.replace.push((from.to_string(), to.to_string()));
            }
            "Metaspace" => {
                let from = decoder["replacement"].as_str().unwrap_or("▁");
                self.steps.replace.push((from.to_string(), " ".to_string()));
                self.rules.first_token_loses_spaces = decoder["prepend_scheme"].as_str() != Some("never");
            }
            "Strip" => {
                let mut content = decoder["content"].as_str().unwrap_or(" ").chars();
                let (Some(character), None) = (content.next(), content.next()) else {
                    return Err("Strip of other than one character".to_string());
                };
                if decoder["stop"].as_u64().unwrap_or(0) != 0 {
                    return Err("Strip at the end of the text".to_string());
                }
                let start = decoder["start"].as_u64().unwrap_or(0).min(1 << 16) as usize;
                self.rules.strip = Some((character, start)).filter(|_| start > 0);
            }
            other => return Err(other.to_string()),
        }
        Ok(())
    }
}

/// `<0xE4>` → 0xE4.
fn fallback_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    hexadecimal.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Whether a byte stands for itself in the GPT-2 alphabet.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

/// The byte that a character of the GPT-2 alphabet stands for: printable Latin-1 for itself, U+0100 + n for the n-th of the others.
fn alphabet_byte(character: char) -> Option<u8> {
    const OTHERS: [u8; 68] = {
        let mut others = [0; 68];
        let (mut byte, mut n) = (0u8, 0);
        while n < 68 {
            if !is_printable(byte) {
                others[n] = byte;
                n += 1;
            }
            byte = byte.wrapping_add(1);
        }
        others
    };
    let code = character as u32;
    match u8::try_from(code) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => OTHERS.get(code.checked_sub(0x100)? as usize).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        let mut seen = [false; 256];
        for code in 0..0x400 {
            if let Some(byte) = char::from_u32(code).and_then(alphabet_byte) {
                assert!(!std::mem::replace(&mut seen[byte as usize], true), "byte {byte} twice");
            }
        }
        assert!(seen.iter().all(|seen| *seen));
        assert_eq!(alphabet_byte('Ġ'), Some(b' '));
        assert_eq!(alphabet_byte('Ċ'), Some(b'\n'));
        assert_eq!(alphabet_byte('中'), None);
    }

    #[test]
    fn only_two_hexadecimal_digits_are_a_byte() {
        assert_eq!(fallback_byte("<0xE4>"), Some(0xE4));
        for text in ["<0x+1>", "<0xE>", "<0x0E4>", "<0xé>", "0xE4", "<0xGG>"] {
            assert_eq!(fallback_byte(text), None, "{text}");
        }
    }

    #[test]
    fn decoders_without_a_byte_wise_meaning_are_named() {
        for (decoder, name) in [
            (json!({"type": "WordPiece", "prefix": "##"}), "WordPiece"),
            (json!({"type": "Sequence", "decoders": [{"type": "CTC"}]}), "CTC"),
            (json!({"type": "Strip", "content": " ", "start": 0, "stop": 1}), "end of the text"),
            (json!({"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}), "regular expression"),
            (json!({}), "without a type"),
        ] {
            let refusal = Vocabulary::new(&decoder, []).unwrap_err();
            assert!(refusal.contains(name), "{refusal}");
        }
    }
}
