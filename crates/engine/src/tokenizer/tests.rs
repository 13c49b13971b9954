use super::*;
use crate::detokenize::decode;
use proptest::prelude::*;
use serde_json::json;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name).join("golden.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

const FIXTURES: [&str; 2] = ["tokenizer-bytelevel", "tokenizer-spm"];

#[test]
fn encodings_are_those_of_transformers() {
    for name in FIXTURES {
        let tokenizer = Tokenizer::from_dir(fixture(name)).unwrap();
        let golden = golden(name);
        let cases = golden["encode"].as_array().unwrap();
        assert!(cases.len() > 5);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["ids"]), "{name}: {text:?}");
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case["ids_without_special"]), "{name}: {text:?}");
        }
    }
}

#[test]
fn decodings_are_those_of_transformers() {
    for name in FIXTURES {
        let vocabulary = Tokenizer::from_dir(fixture(name)).unwrap().vocabulary().unwrap();
        let golden = golden(name);
        for case in golden["decode"].as_array().unwrap() {
            // With byte fallback the reference spoils a whole run of bytes for one bad byte, which a stream cannot.
            if case["broken"] == true && vocabulary.rules().invalid == InvalidBytes::OnePerByte {
                continue;
            }
            let ids = ids(&case["ids"]);
            assert_eq!(decode(&vocabulary, &ids, false), case["text"].as_str().unwrap(), "{name}: {ids:?}");
            assert_eq!(
                decode(&vocabulary, &ids, true),
                case["text_without_special"].as_str().unwrap(),
                "{name}: {ids:?}"
            );
        }
    }
}

#[test]
fn special_tokens_are_known_by_name() {
    let tokenizer = Tokenizer::from_dir(fixture("tokenizer-spm")).unwrap();
    assert_eq!(tokenizer.config().special_token("bos_token"), Some("<s>"));
    assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(1), Some(2)));
    assert!(tokenizer.is_special(2) && !tokenizer.is_special(100) && !tokenizer.is_special(u32::MAX));
    assert_eq!(tokenizer.id_to_token(1).as_deref(), Some("<s>"));
}

#[test]
fn special_tokens_may_be_objects_lists_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null, "additional_special_tokens": ["<a>", {"content": "<b>"}],
        "extra_special_tokens": {"image_token": "<img>"}, "add_bos_token": true});
    std::fs::write(dir.path().join(TOKENIZER_CONFIG_FILE), config.to_string()).unwrap();
    let config = TokenizerConfig::from_dir(dir.path()).unwrap();
    let expected = json!({"eos_token": "</s>", "additional_special_tokens": ["<a>", "<b>"], "image_token": "<img>"});
    assert_eq!(Value::Object(config.special_tokens().clone()), expected);
    assert_eq!(config.special_token("additional_special_tokens"), None);
}

#[test]
fn padding_of_the_vocabulary_is_undecodable_and_harmless() {
    let tokenizer = Tokenizer::from_dir(fixture("tokenizer-bytelevel")).unwrap();
    let size = tokenizer.size();
    let beyond: Vec<u32> = (size as u32..size as u32 + 3).collect();
    assert_eq!(tokenizer.undecodable(size + 3), beyond);
    assert_eq!(tokenizer.undecodable(size), Vec::<u32>::new());
    assert_eq!(tokenizer.id_to_token(size as u32), None);
    assert_eq!(decode(&tokenizer.vocabulary().unwrap(), &[beyond[0], u32::MAX], false), "");
    let message = Tokenizer::require_ids(&[0, 7, 512], 512).unwrap_err().to_string();
    assert!(message.contains("512") && message.contains("511"), "{message}");
    assert!(Tokenizer::require_ids(&[511], 512).is_ok());
}

#[test]
fn missing_and_corrupt_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = || Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(refusal().contains(TOKENIZER_FILE));
    for text in ["", "{", "[]", "{}", r#"{"model": {"type": "Nonsense"}}"#] {
        std::fs::write(dir.path().join(TOKENIZER_FILE), text).unwrap();
        assert!(refusal().contains(TOKENIZER_FILE), "{text:?}");
    }
    std::fs::copy(fixture("tokenizer-spm").join(TOKENIZER_FILE), dir.path().join(TOKENIZER_FILE)).unwrap();
    std::fs::write(dir.path().join(TOKENIZER_CONFIG_FILE), "[1]").unwrap();
    assert!(refusal().contains(TOKENIZER_CONFIG_FILE));
}

#[test]
fn a_length_limit_in_the_file_does_not_cut_a_prompt() {
    let mut file: Value =
        serde_json::from_slice(&std::fs::read(fixture("tokenizer-spm").join(TOKENIZER_FILE)).unwrap()).unwrap();
    file["truncation"] = json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    let tokenizer =
        Tokenizer::from_json("tokenizer.json", file.to_string().as_bytes(), TokenizerConfig::default()).unwrap();
    assert!(tokenizer.encode("The bridge carries the model to the chip", true).unwrap().len() > 3);
}

#[test]
fn a_metaspace_decoder_drops_the_first_space_only() {
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "model": {"type": "WordLevel", "vocab": {"▁a": 0, "▁b": 1, "c": 2}, "unk_token": "c"}
    });
    let tokenizer =
        Tokenizer::from_json("tokenizer.json", file.to_string().as_bytes(), TokenizerConfig::default()).unwrap();
    for ids in [vec![0, 1, 2], vec![2, 0], vec![1, 0], vec![]] {
        assert_eq!(decode(&tokenizer.vocabulary().unwrap(), &ids, true), tokenizer.inner.decode(&ids, true).unwrap());
    }
}

#[test]
fn without_a_decoder_tokens_are_joined_by_spaces() {
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": null, "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
    });
    let tokenizer =
        Tokenizer::from_json("tokenizer.json", file.to_string().as_bytes(), TokenizerConfig::default()).unwrap();
    assert_eq!(decode(&tokenizer.vocabulary().unwrap(), &[0, 1, 1], true), "a b b");
}

#[test]
fn a_decoder_that_cannot_stream_still_encodes() {
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}, "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    });
    let tokenizer =
        Tokenizer::from_json("tokenizer.json", file.to_string().as_bytes(), TokenizerConfig::default()).unwrap();
    assert_eq!(tokenizer.encode("a", false).unwrap(), [0]);
    let message = tokenizer.vocabulary().unwrap_err().to_string();
    assert!(message.contains("WordPiece"), "{message}");
    assert_eq!(tokenizer.undecodable(2), [1]);
    assert!(!tokenizer.is_special(0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// The library's own decoder is the oracle: byte-level decoding agrees on any ids, valid or not.
    #[test]
    fn byte_level_decoding_agrees_with_the_library(ids in prop::collection::vec(0u32..500, 0..40)) {
        let tokenizer = Tokenizer::from_dir(fixture("tokenizer-bytelevel")).unwrap();
        for skip in [false, true] {
            prop_assert_eq!(decode(&tokenizer.vocabulary().unwrap(), &ids, skip), tokenizer.inner.decode(&ids, skip).unwrap());
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_itself(text in "[a-zA-Z 中文床前明月光🙂.,\n]{0,40}") {
        let tokenizer = Tokenizer::from_dir(fixture("tokenizer-bytelevel")).unwrap();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(decode(&tokenizer.vocabulary().unwrap(), &ids, true), text);
    }

    #[test]
    fn a_mutated_tokenizer_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), prop::sample::select(b"0123456789\"{}[],:-".to_vec())]), 1..6),
        spm in any::<bool>()
    ) {
        let name = if spm { "tokenizer-spm" } else { "tokenizer-bytelevel" };
        let mut bytes = std::fs::read(fixture(name).join(TOKENIZER_FILE)).unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(tokenizer) = Tokenizer::from_json("tokenizer.json", &bytes, TokenizerConfig::default()) {
            let _ = tokenizer.encode("The bridge 桥 <|im_end|> carries", true);
            if let Ok(vocabulary) = tokenizer.vocabulary() {
                decode(&vocabulary, &[0, 1, 2, 300, 400, 500, u32::MAX], true);
            }
        }
    }
}
