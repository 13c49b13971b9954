use std::path::{Path, PathBuf};

use proptest::prelude::*;
use qiao_gguf::{Gguf, GgufHeader, Metadata, Strings};
use serde_json::Value;

use super::*;
use crate::chat::{ChatRequest, Message};
use crate::detokenize::decode;
use crate::tokenizer::{InvalidBytes, Tokenizer};
use crate::weights::GgufParts;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join(path)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

const TOKENIZERS: [&str; 2] = ["tokenizer-bytelevel", "tokenizer-spm"];

fn fixture(name: &str) -> Text {
    read_text(&GgufParts::open(&fixtures().join("gguf").join(format!("{name}.gguf"))).unwrap()).unwrap()
}

/// What a file with these metadata and no tensors says about text.
fn text_of(metadata: &Metadata) -> Result<Text> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("words.gguf");
    let header = GgufHeader::with_metadata(metadata.clone());
    std::fs::write(&path, header.begin(Vec::new()).unwrap().finish().unwrap()).unwrap();
    read_text(&GgufParts::open(&path).unwrap())
}

/// The metadata of a tokenizer fixture.
fn metadata_of(name: &str) -> Metadata {
    let bytes = std::fs::read(fixtures().join("gguf").join(format!("{name}.gguf"))).unwrap();
    Gguf::parse(&bytes).unwrap().metadata().clone()
}

#[test]
fn ids_are_those_of_the_original_tokenizers() {
    for name in TOKENIZERS {
        let tokenizer = fixture(name).tokenizer.unwrap();
        let golden = json(&format!("{name}/golden.json"));
        for case in golden["encode"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["ids"]), "{name}: {text:?}");
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case["ids_without_special"]), "{name}: {text:?}");
        }
    }
}

#[test]
fn ids_are_those_of_llama_cpp_apart_from_composed_characters() {
    for name in TOKENIZERS {
        let tokenizer = fixture(name).tokenizer.unwrap();
        for case in json("gguf/tokenizers.json")[name].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            // Qwen2's own tokenizer composes characters first; llama.cpp does not.
            if name == "tokenizer-bytelevel" && text.contains('\u{301}') {
                continue;
            }
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case["ids"]), "{name}: {text:?}");
        }
    }
}

#[test]
fn text_is_cut_as_llama_cpp_cuts_it() {
    let golden = json("gguf/tokenizers.json");
    let mut metadata = metadata_of("tokenizer-bytelevel");
    for (name, cases) in golden["cuts"].as_object().unwrap() {
        metadata.set("tokenizer.ggml.pre", name.as_str());
        let tokenizer = text_of(&metadata).unwrap().tokenizer.unwrap();
        for case in cases.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case["ids"]), "{name}: {text:?}");
        }
    }
}

#[test]
fn every_way_of_cutting_loses_nothing() {
    let mut metadata = metadata_of("tokenizer-bytelevel");
    let text = "It's 1234 DON'Ts,\n\n  +x^2 中文，ａｂ 3½ \u{1F680}\t";
    for way in pretokenize::PRETOKENIZERS {
        metadata.set("tokenizer.ggml.pre", way.names[0]);
        let tokenizer = text_of(&metadata).unwrap().tokenizer.unwrap();
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(decode(&tokenizer.vocabulary().unwrap(), &ids, true), text, "{}", way.names[0]);
    }
}

#[test]
fn decodings_are_those_of_the_original_tokenizers() {
    for name in TOKENIZERS {
        let vocabulary = fixture(name).tokenizer.unwrap().vocabulary().unwrap();
        for case in json(&format!("{name}/golden.json"))["decode"].as_array().unwrap() {
            if case["broken"] == true && vocabulary.rules().invalid == InvalidBytes::OnePerByte {
                continue;
            }
            let ids = ids(&case["ids"]);
            assert_eq!(decode(&vocabulary, &ids, false), case["text"].as_str().unwrap(), "{name}: {ids:?}");
            let plain = case["text_without_special"].as_str().unwrap();
            assert_eq!(decode(&vocabulary, &ids, true), plain, "{name}: {ids:?}");
        }
    }
}

#[test]
fn chats_are_rendered_by_the_template_of_the_file() {
    for name in TOKENIZERS {
        let chat = fixture(name).chat.unwrap();
        let messages = [Message::new("user", "Hello!")];
        let request = ChatRequest { messages: &messages, add_generation_prompt: true, ..Default::default() };
        let golden = json(&format!("{name}/golden.json"));
        let case = &golden["chat"][0];
        assert_eq!(case["messages"][0]["content"], "Hello!");
        assert_eq!(chat.render(&request).unwrap(), case["text"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn ids_that_end_a_generation_are_gathered() {
    let text = fixture("tokenizer-bytelevel");
    let tokenizer = text.tokenizer.unwrap();
    let id = |token: &str| tokenizer.token_to_id(token).unwrap();
    // One of them is named by the file, the other known by its text.
    let mut found = text.generation.eos_token_ids.clone();
    found.sort_unstable();
    assert_eq!(found, [id("<|endoftext|>"), id("<|im_end|>")]);
    assert!(tokenizer.is_special(id("<|im_end|>")) && !tokenizer.is_special(id("<think>")));
    let text = fixture("tokenizer-spm");
    assert_eq!(text.generation.eos_token_ids, [2]);
    assert_eq!(text.generation.bos_token_ids, [1]);
    assert_eq!(text.tokenizer.unwrap().eos_token_id(), Some(2));
}

#[test]
fn a_vocabulary_of_runs_of_a_letter_is_refused() {
    let runs: Vec<String> = (1..=1000).map(|count| "a".repeat(count)).collect();
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", "llama");
    metadata.set("tokenizer.ggml.tokens", runs.iter().collect::<Strings>());
    metadata.set("tokenizer.ggml.scores", (0..runs.len()).map(|i| -(i as f32)).collect::<Vec<f32>>());
    let message = text_of(&metadata).map(drop).unwrap_err().to_string();
    assert!(message.contains("tokenizer.ggml.tokens") && message.contains("too many merges"), "{message}");
}

#[test]
fn flags_decide_what_stands_around_a_text() {
    let mut metadata = metadata_of("tokenizer-spm");
    let encode = |metadata: &Metadata| text_of(metadata).unwrap().tokenizer.unwrap().encode("a", true).unwrap();
    let plain = encode(&metadata);
    assert_eq!(plain[0], 1);
    metadata.set("tokenizer.ggml.add_eos_token", true);
    assert_eq!(encode(&metadata), [&plain[..], &[2]].concat());
    metadata.set("tokenizer.ggml.add_bos_token", false);
    assert_eq!(encode(&metadata), [&plain[1..], &[2]].concat());
    let with_space = encode(&metadata);
    metadata.set("tokenizer.ggml.add_space_prefix", false);
    assert_ne!(encode(&metadata), with_space);
}

#[test]
fn an_embedded_tokenizer_wins() {
    let mut metadata = metadata_of("tokenizer-bytelevel");
    let embedded = std::fs::read_to_string(fixtures().join("tokenizer-spm/tokenizer.json")).unwrap();
    metadata.set("tokenizer.huggingface.json", embedded);
    let tokenizer = text_of(&metadata).unwrap().tokenizer.unwrap();
    assert_eq!(tokenizer.encode("The bridge", true).unwrap(), [1, 561, 283]);
}

#[test]
fn what_can_not_be_used_is_named() {
    let refusal = |name: &str, key: &str, value: qiao_gguf::Value| {
        let mut metadata = metadata_of(name);
        metadata.set(key, value);
        text_of(&metadata).err().expect("refused").to_string()
    };
    let message = refusal("tokenizer-bytelevel", "tokenizer.ggml.pre", "martian".into());
    assert!(message.contains("\"martian\"") && message.contains("llama-bpe"), "{message}");
    let message = refusal("tokenizer-bytelevel", "tokenizer.ggml.model", "rwkv".into());
    assert!(message.contains("\"rwkv\"") && message.contains("gpt2, llama or t5"), "{message}");
    let merges = Strings::from_iter(["a b", "ab"]);
    assert!(refusal("tokenizer-bytelevel", "tokenizer.ggml.merges", merges.into()).contains("\"ab\" is none"));
    let merges = Strings::from_iter(["qq zz"]);
    assert!(refusal("tokenizer-bytelevel", "tokenizer.ggml.merges", merges.into()).contains("words.gguf"));
    let message = refusal("tokenizer-spm", "tokenizer.ggml.scores", vec![0.0f32].into());
    assert!(message.contains("scores") && message.contains("one for each token"), "{message}");
    let message = refusal("tokenizer-spm", "tokenizer.ggml.token_type", vec![1i32].into());
    assert!(message.contains("token_type"), "{message}");
    let message = refusal("tokenizer-spm", "tokenizer.chat_template", "{% if".into());
    assert!(message.contains("template"), "{message}");
}

#[test]
fn special_tokens_outside_the_vocabulary_are_not_there() {
    let count = metadata_of("tokenizer-spm").strings("tokenizer.ggml.tokens").unwrap().unwrap().len() as u32;
    for id in [qiao_gguf::Value::U32(count), 5_000_000_000u64.into(), u32::MAX.into(), (-1i32).into(), (-7i32).into()] {
        let mut metadata = metadata_of("tokenizer-spm");
        for name in ["padding", "eot", "eom", "unknown", "bos"] {
            metadata.set(&format!("tokenizer.ggml.{name}_token_id"), id.clone());
        }
        let text = text_of(&metadata).unwrap();
        let tokenizer = text.tokenizer.unwrap();
        assert_eq!((text.generation.pad_token_id, &text.generation.bos_token_ids[..]), (None, &[][..]), "{id:?}");
        assert_eq!(text.generation.eos_token_ids, [2]);
        assert_eq!(
            tokenizer.encode("a", true).unwrap(),
            tokenizer.encode("a", false).unwrap(),
            "no text begins with it"
        );
    }
}

#[test]
fn an_end_of_text_outside_the_vocabulary_is_refused_where_no_other_ends_it() {
    let eos = "tokenizer.ggml.eos_token_id";
    let mut metadata = metadata_of("tokenizer-spm");
    metadata.set(eos, 5000u32);
    let message = text_of(&metadata).map(drop).unwrap_err().to_string();
    assert!(message.contains(eos) && message.contains("5000") && message.contains("no other ends"), "{message}");
    metadata.set("tokenizer.ggml.eot_token_id", 1u32);
    assert_eq!(text_of(&metadata).unwrap().generation.eos_token_ids, [1]);
    // This one has another that is known by its text.
    let mut metadata = metadata_of("tokenizer-bytelevel");
    let im_end = fixture("tokenizer-bytelevel").tokenizer.unwrap().token_to_id("<|im_end|>").unwrap();
    let before = text_of(&metadata).unwrap().generation.eos_token_ids;
    metadata.set(eos, 5000u32);
    let after = text_of(&metadata).unwrap().generation.eos_token_ids;
    assert!(after.contains(&im_end) && after.len() <= before.len(), "{after:?}");
    metadata = metadata_of("tokenizer-spm");
    for none in [qiao_gguf::Value::U32(u32::MAX), (-1i32).into()] {
        metadata.set(eos, none);
        assert!(text_of(&metadata).unwrap().generation.eos_token_ids.is_empty());
    }
}

#[test]
fn a_file_without_a_tokenizer_has_none() {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    assert!(text_of(&metadata).unwrap().tokenizer.is_none());
    metadata.set("tokenizer.ggml.model", "no_vocab");
    assert!(text_of(&metadata).unwrap().tokenizer.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damaged_files_are_refused_or_read_and_never_more(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        spm in any::<bool>(),
    ) {
        let name = if spm { "tokenizer-spm.gguf" } else { "tokenizer-bytelevel.gguf" };
        let mut bytes = std::fs::read(fixtures().join("gguf").join(name)).unwrap();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged.gguf");
        std::fs::write(&path, bytes).unwrap();
        let Ok(parts) = GgufParts::open(&path) else { return Ok(()) };
        if let Ok(Text { tokenizer: Some(tokenizer), .. }) = read_text(&parts) {
            let _ = tokenizer.encode("The bridge, 桥", true);
        }
        // There are no tensors, so there is no model, whatever else is damaged.
        prop_assert!(model_config(&parts).unwrap_err().to_string().contains("damaged.gguf"));
    }
}

/// A vocabulary of SentencePiece's kind: three control tokens, then pieces with scores.
fn scored(model: &str, pieces: &[(&str, f32)]) -> Metadata {
    let mut out = Metadata::new();
    let tokens = ["<unk>", "<s>", "</s>"].into_iter().chain(pieces.iter().map(|p| p.0));
    let types: Vec<i32> = [2, 3, 3].into_iter().chain(pieces.iter().map(|_| 1)).collect();
    let scores: Vec<f32> = [0.0; 3].into_iter().chain(pieces.iter().map(|p| p.1)).collect();
    out.set("tokenizer.ggml.model", model);
    out.set("tokenizer.ggml.tokens", Strings::from_iter(tokens));
    out.set("tokenizer.ggml.token_type", types);
    out.set("tokenizer.ggml.scores", scores);
    out.set("tokenizer.ggml.bos_token_id", 1u32);
    out.set("tokenizer.ggml.eos_token_id", 2u32);
    out.set("tokenizer.ggml.unknown_token_id", 0u32);
    out
}

#[test]
fn a_unigram_vocabulary_cuts_words_the_likeliest_way() {
    let pieces = [("▁", -4.0), ("▁ab", -3.0), ("a", -5.0), ("b", -5.0), ("bc", -2.0), ("c", -6.0), ("▁a", -2.5)];
    let text = text_of(&scored("t5", &pieces)).unwrap();
    let tokenizer = text.tokenizer.unwrap();
    // ▁a + bc (−4.5) beats ▁ab + c (−9); EOS follows.
    assert_eq!(tokenizer.encode("abc", true).unwrap(), [9, 7, 2]);
    assert_eq!(tokenizer.encode("  abc  ab ", false).unwrap(), [9, 7, 4]);
    assert_eq!(decode(&tokenizer.vocabulary().unwrap(), &[9, 7, 4], true), "abc ab");
}

/// SentencePiece's algorithm as its description has it; `None` where two overlapping pairs tie, so that the order of equal
/// ranks would show.
fn greedy(pieces: &[(String, f32)], text: &str) -> Option<Vec<u32>> {
    let find = |text: &str| pieces.iter().position(|(piece, _)| piece == text);
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let joined = |i: usize| find(&format!("{}{}", symbols[i], symbols[i + 1])).map(|at| (i, at));
        let candidates: Vec<(usize, usize)> = (0..symbols.len().saturating_sub(1)).filter_map(joined).collect();
        let best = candidates.iter().map(|c| pieces[c.1].1).max_by(f32::total_cmp);
        let Some(best) = best else { break };
        let ties: Vec<usize> = candidates.iter().filter(|c| pieces[c.1].1 == best).map(|c| c.0).collect();
        let differ = |w: &[usize]| w[1] == w[0] + 1 && symbols[w[0]] != symbols[w[1]];
        if ties.windows(2).any(differ) {
            return None;
        }
        let right = symbols.remove(ties[0] + 1);
        symbols[ties[0]].push_str(&right);
    }
    symbols.iter().map(|s| find(s).map(|at| at as u32 + 3)).collect()
}

/// Characters, and pieces each joined of two earlier ones, with scores that all differ.
fn vocabulary() -> impl Strategy<Value = Vec<(String, f32)>> {
    let joins = prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..16);
    (joins, any::<u64>()).prop_map(|(joins, seed)| {
        let mut texts: Vec<String> = ["▁", "a", "b", "c"].map(String::from).to_vec();
        for (left, right) in joins {
            let text = format!("{}{}", left.get(&texts), right.get(&texts));
            if text.chars().count() <= 6 && !texts.contains(&text) {
                texts.push(text);
            }
        }
        let score = |i: usize| -(((i as u64 + 1).wrapping_mul(seed | 1) % 10_007) as f32) - i as f32 / 64.0;
        texts.into_iter().enumerate().map(|(i, text)| (text, score(i))).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn merges_of_scores_do_what_the_greedy_algorithm_does(pieces in vocabulary(), text in "[abc ]{1,20}") {
        let Some(expected) = greedy(&pieces, &format!("▁{}", text.replace(' ', "▁"))) else { return Ok(()) };
        let borrowed: Vec<(&str, f32)> = pieces.iter().map(|(text, score)| (text.as_str(), *score)).collect();
        let tokenizer: std::sync::Arc<Tokenizer> = text_of(&scored("llama", &borrowed)).unwrap().tokenizer.unwrap();
        prop_assert_eq!(tokenizer.encode(&text, false).unwrap(), expected);
    }
}
