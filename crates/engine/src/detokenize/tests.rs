use super::*;
use crate::tokenizer::{Tokenizer, TokenizerConfig};
use proptest::prelude::*;
use serde_json::{Value, json};

fn vocabulary(decoder: Value, tokens: &[String], specials: &[&str]) -> Arc<Vocabulary> {
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, text)| (text.clone(), id.into())).collect();
    let added: Vec<Value> = specials
        .iter()
        .enumerate()
        .map(|(i, text)| json!({"id": tokens.len() + i, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}))
        .collect();
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": decoder, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": tokens[0]}});
    Tokenizer::from_json("tokenizer.json", file.to_string().as_bytes(), TokenizerConfig::default())
        .unwrap()
        .vocabulary()
        .unwrap()
}

/// Byte tokens 0 to 255, then pieces with ▁ for a space, then one special token.
fn spm() -> Arc<Vocabulary> {
    let mut tokens: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    tokens.extend(["▁Hello", "▁", "world", "中", "▁▁x"].map(str::to_string));
    let decoder = json!({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    vocabulary(decoder, &tokens, &["</s>"])
}

const HELLO: u32 = 256;
const SPACE: u32 = 257;
const WORLD: u32 = 258;
const MIDDLE: u32 = 259;
const EOS: u32 = 261;

fn stream(mut detokenizer: Detokenizer, ids: &[u32]) -> Vec<String> {
    let mut pieces: Vec<String> = ids.iter().map(|id| detokenizer.push(*id)).collect();
    pieces.push(detokenizer.flush());
    pieces
}

fn bytes_of(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn a_character_waits_for_its_last_byte() {
    let pieces = stream(Detokenizer::new(spm(), true), &bytes_of("中🙂"));
    assert_eq!(pieces, ["", "", "中", "", "", "", "🙂", ""]);
}

#[test]
fn a_genuine_replacement_character_does_not_stall() {
    let pieces = stream(Detokenizer::new(spm(), true), &[&bytes_of("\u{FFFD}")[..], &[WORLD]].concat());
    assert_eq!(pieces, ["", "", "\u{FFFD}", "world", ""]);
}

#[test]
fn invalid_bytes_are_replaced_as_soon_as_they_are_known() {
    let pieces = stream(Detokenizer::new(spm(), true), &[0xFF, 0xE4, 0xB8, WORLD, 0xE4]);
    assert_eq!(pieces, ["\u{FFFD}", "", "", "\u{FFFD}\u{FFFD}world", "", "\u{FFFD}"]);
}

#[test]
fn the_leading_space_goes_once_and_not_in_a_continuation() {
    assert_eq!(stream(Detokenizer::new(spm(), true), &[HELLO, HELLO]), ["Hello", " Hello", ""]);
    assert_eq!(stream(Detokenizer::continuing(spm(), true), &[HELLO, HELLO]), [" Hello", " Hello", ""]);
    assert_eq!(stream(Detokenizer::new(spm(), true), &[SPACE, HELLO]), ["", " Hello", ""]);
    assert_eq!(stream(Detokenizer::new(spm(), true), &[WORLD, HELLO]), ["world", " Hello", ""]);
    assert_eq!(stream(Detokenizer::new(spm(), true), &[u32::from(b' '), SPACE]), ["", " ", ""]);
    assert_eq!(stream(Detokenizer::new(spm(), true), &[260]), [" x", ""]);
}

#[test]
fn special_tokens_are_skipped_or_shown_and_keep_the_first_place_free() {
    assert_eq!(stream(Detokenizer::new(spm(), true), &[EOS, HELLO, EOS]), ["", "Hello", "", ""]);
    assert_eq!(stream(Detokenizer::new(spm(), false), &[EOS, HELLO, EOS]), ["</s>", " Hello", "</s>", ""]);
}

#[test]
fn ids_beyond_the_vocabulary_add_nothing() {
    assert_eq!(stream(Detokenizer::new(spm(), true), &[MIDDLE, 262, u32::MAX, WORLD]), ["中", "", "", "world", ""]);
}

#[test]
fn an_added_token_is_literal_text_in_a_byte_level_vocabulary() {
    let vocabulary = vocabulary(
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
        &["Ġa".to_string(), "é".to_string()],
        &["<é Ġ>"],
    );
    assert_eq!(decode(&vocabulary, &[0], false), " a");
    assert_eq!(decode(&vocabulary, &[1], false), "\u{FFFD}");
    assert_eq!(decode(&vocabulary, &[2], false), "<é Ġ>");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any ids, cut anywhere: pieces joined are the whole, each piece is text, at most three bytes wait.
    #[test]
    fn a_stream_joined_is_the_whole_decoding(ids in prop::collection::vec(prop_oneof![0u32..256, 200u32..264], 0..60), skip in any::<bool>()) {
        let vocabulary = spm();
        let mut detokenizer = Detokenizer::new(Arc::clone(&vocabulary), skip);
        let mut joined = String::new();
        for id in &ids {
            joined.push_str(&detokenizer.push(*id));
            prop_assert!(detokenizer.pending_bytes() <= 3);
        }
        joined.push_str(&detokenizer.flush());
        prop_assert_eq!(&joined, &decode(&vocabulary, &ids, skip));
        prop_assert!(!joined.contains("<0x"));
    }

    /// Text as bytes comes back as the text, and everything valid so far has been given out.
    #[test]
    fn text_in_bytes_comes_back(text in "\\PC{0,30}") {
        let mut detokenizer = Detokenizer::continuing(spm(), true);
        let mut joined = String::new();
        for (i, byte) in text.bytes().enumerate() {
            joined.push_str(&detokenizer.push(u32::from(byte)));
            let whole = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= i + 1).last().unwrap_or(0);
            prop_assert_eq!(&joined, &text[..whole]);
        }
        prop_assert_eq!(detokenizer.flush(), "");
    }

    /// A byte-level stream of arbitrary bytes is the standard lossy decoding of them, an independent oracle.
    #[test]
    fn arbitrary_bytes_decode_as_the_standard_library_says(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let alphabet: Vec<String> = (0..=255u8).map(byte_character).collect();
        let vocabulary = vocabulary(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}), &alphabet, &[]);
        let ids: Vec<u32> = bytes.iter().map(|byte| u32::from(*byte)).collect();
        prop_assert_eq!(decode(&vocabulary, &ids, true), String::from_utf8_lossy(&bytes));
    }
}

/// The GPT-2 alphabet, forwards.
fn byte_character(byte: u8) -> String {
    let others: Vec<u8> = (0..=255).filter(|b| !matches!(b, 33..=126 | 161..=172 | 174..=255)).collect();
    let code = match others.iter().position(|other| *other == byte) {
        Some(n) => 0x100 + n as u32,
        None => u32::from(byte),
    };
    char::from_u32(code).unwrap().to_string()
}
