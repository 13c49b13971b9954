//! `tokenizer.json`, and what stands beside it, as metadata of a GGUF file.

use std::collections::HashMap;

use qiao_engine::chat::{ChatTemplate, DEFAULT};
use qiao_engine::generation::eos_token_ids;
use qiao_gguf::{GgufHeader, Strings};
use serde_json::{Map, Value};

use super::fault;
use super::source::Source;
use crate::Result;

/// Kinds of tokens, as `tokenizer.ggml.token_type` numbers them.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The score of a token that no merge makes.
const NEVER_MERGED: f32 = -1e6;

/// How byte-level tokenizers cut text, and llama.cpp's names for it.
const CUTS: [(&str, &str); 3] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", "gpt-2"),
];

/// Sets the keys of the tokenizer. `tokenizer.json` itself is a part of the file, so that readers which know it cut text in exactly
/// the same way.
pub(super) fn set(source: &Source, header: &mut GgufHeader, notes: &mut Vec<String>) -> Result<()> {
    let Some(json) = source.json("tokenizer.json")? else {
        header.set("tokenizer.ggml.model", "none");
        notes.push("the checkpoint has no tokenizer, and so has the file none".into());
        return Ok(());
    };
    let kind = json.get("model").and_then(|m| m["type"].as_str()).unwrap_or("BPE");
    match kind {
        "BPE" => bpe(source, &json, header, notes)?,
        other => {
            header.set("tokenizer.ggml.model", "none");
            notes.push(format!(
                "a tokenizer of the kind {other} is kept as tokenizer.json; llama.cpp does not read that"
            ));
        }
    }
    specials(source, header, notes)?;
    if let Some(chat) = &source.checkpoint.chat {
        templates(chat, header);
    }
    header.set("tokenizer.huggingface.json", Value::Object(json).to_string());
    Ok(())
}

/// A vocabulary in the order of its ids.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<i32>,
}

impl Tokens {
    /// Tokens of the vocabulary and added ones; ids that the embedding has and the tokenizer has not are unused.
    fn read(json: &Map<String, Value>, size: usize) -> Result<Tokens> {
        let mut tokens =
            Tokens { texts: (0..size).map(|id| format!("[PAD{id}]")).collect(), kinds: vec![UNUSED; size] };
        let model = &json["model"];
        let unknown = model["unk_token"].as_str();
        for (text, id) in model["vocab"].as_object().into_iter().flatten() {
            let byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            let kind = if Some(text.as_str()) == unknown { UNKNOWN } else { NORMAL };
            let kind = if byte && model["byte_fallback"] == true { BYTE } else { kind };
            tokens.put(id, text, kind)?;
        }
        for token in json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let text = token["content"].as_str().unwrap_or_default();
            let kind = match token["special"] == true {
                true if Some(text) == unknown => UNKNOWN,
                true => CONTROL,
                false => USER_DEFINED,
            };
            tokens.put(&token["id"], text, kind)?;
        }
        Ok(tokens)
    }

    fn put(&mut self, id: &Value, text: &str, kind: i32) -> Result<()> {
        let at = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|&id| id < self.texts.len());
        let Some(at) = at else {
            let found = format!("token {text:?} has id {id}, and the embedding {} rows", self.texts.len());
            return Err(fault(found, "tokenizer.json and weights do not belong together"));
        };
        (self.texts[at], self.kinds[at]) = (text.to_string(), kind);
        Ok(())
    }
}

fn bpe(source: &Source, json: &Map<String, Value>, header: &mut GgufHeader, notes: &mut Vec<String>) -> Result<()> {
    let tokens = Tokens::read(json, source.checkpoint.config.vocab_size)?;
    let merges = merges(&json["model"]);
    match has_type(json.get("decoder").unwrap_or(&Value::Null), "ByteLevel") {
        true => {
            header.set("tokenizer.ggml.model", "gpt2");
            let cut = cut(json.get("pre_tokenizer").unwrap_or(&Value::Null));
            if cut.is_none() {
                notes.push("llama.cpp has no name for how this tokenizer cuts text, and may cut otherwise".into());
            }
            header.set("tokenizer.ggml.pre", cut.unwrap_or("default"));
            let joined = merges.iter().map(|(left, right)| format!("{left} {right}"));
            header.set("tokenizer.ggml.merges", joined.collect::<Strings>());
        }
        false => {
            header.set("tokenizer.ggml.model", "llama");
            let mut ranks: HashMap<String, usize> = HashMap::new();
            for (rank, (left, right)) in merges.iter().enumerate() {
                ranks.entry(format!("{left}{right}")).or_insert(rank);
            }
            let score = |text: &String| ranks.get(text).map_or(NEVER_MERGED, |&rank| -(rank as f32));
            header.set("tokenizer.ggml.scores", tokens.texts.iter().map(score).collect::<Vec<f32>>());
            header.set("tokenizer.ggml.add_space_prefix", adds_space(json));
        }
    }
    header.set("tokenizer.ggml.tokens", tokens.texts.iter().collect::<Strings>());
    header.set("tokenizer.ggml.token_type", tokens.kinds);
    Ok(())
}

/// The pairs of a BPE model, each written as a text or as two.
fn merges(model: &Value) -> Vec<(String, String)> {
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(left, right)| (left.to_string(), right.to_string())),
        Value::Array(two) => Some((two.first()?.as_str()?.to_string(), two.get(1)?.as_str()?.to_string())),
        _ => None,
    };
    model["merges"].as_array().into_iter().flatten().filter_map(pair).collect()
}

/// Parts of a tokenizer: a sequence's, or the one.
fn parts(value: &Value) -> Vec<&Value> {
    let inner = ["pretokenizers", "decoders", "normalizers"].iter().find_map(|key| value.get(key)?.as_array());
    inner.map_or_else(|| vec![value], |inner| inner.iter().flat_map(parts).collect())
}

fn has_type(value: &Value, name: &str) -> bool {
    parts(value).iter().any(|part| part["type"] == name)
}

/// llama.cpp's name for how text is cut.
fn cut(pre: &Value) -> Option<&'static str> {
    let parts = parts(pre);
    let splits: Vec<&str> =
        parts.iter().filter(|p| p["type"] == "Split").map(|p| p["pattern"]["Regex"].as_str().unwrap_or("")).collect();
    let own = parts.iter().any(|p| p["type"] == "ByteLevel" && p["use_regex"] != false);
    let pattern = match (&splits[..], own) {
        ([], true) => return Some("gpt-2"),
        ([one], false) => *one,
        _ => return None,
    };
    CUTS.iter().find(|(known, _)| *known == pattern).map(|(_, name)| *name)
}

/// Whether a SentencePiece tokenizer puts a space before the text.
fn adds_space(json: &Map<String, Value>) -> bool {
    let of = |key: &str| json.get(key).map(parts).unwrap_or_default();
    of("normalizer").iter().any(|p| p["type"] == "Prepend")
        || of("pre_tokenizer").iter().any(|p| p["type"] == "Metaspace" && p["prepend_scheme"] != "never")
}

/// Ids with a meaning, and whether a BOS is added.
fn specials(source: &Source, header: &mut GgufHeader, notes: &mut Vec<String>) -> Result<()> {
    let config = &source.checkpoint.config;
    let Some(tokenizer) = &source.checkpoint.tokenizer else { return Ok(()) };
    let named = |name: &str| tokenizer.config().special_token(name).and_then(|text| tokenizer.token_to_id(text));
    let leading = tokenizer.leading_token()?;
    let bos = tokenizer.bos_token_id().or(leading).or(config.bos_token_ids.first().copied());
    let ends = eos_token_ids(&source.checkpoint.generation, &config.eos_token_ids, tokenizer.eos_token_id());
    let eos = tokenizer.eos_token_id().or(ends.first().copied());
    let mut others = ends.iter().copied().filter(|id| Some(*id) != eos);
    let (eot, eom) = (others.next(), others.next());
    let more: Vec<u32> = others.collect();
    if !more.is_empty() {
        notes.push(format!("GGUF has no keys for more than three ids that end a text, and so not for {more:?}"));
    }
    let ids = [
        ("bos", bos),
        ("eos", eos),
        ("eot", eot),
        ("eom", eom),
        ("unknown", named("unk_token")),
        ("padding", named("pad_token")),
    ];
    for (name, id) in ids {
        if let Some(id) = id.filter(|&id| (id as usize) < config.vocab_size) {
            header.set(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
    }
    header.set("tokenizer.ggml.add_bos_token", leading.is_some() && leading == bos);
    Ok(())
}

/// The chat templates: the usual one, and others under their names and in a list of these.
fn templates(chat: &ChatTemplate, header: &mut GgufHeader) {
    let mut others = Vec::new();
    for (name, text) in chat.texts() {
        if name == DEFAULT {
            header.set("tokenizer.chat_template", text);
            continue;
        }
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        header.set(&format!("tokenizer.chat_template.{name}"), text);
        others.push(name);
    }
    if !others.is_empty() {
        header.set("tokenizer.chat_templates", others.iter().collect::<Strings>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cuts_have_names_where_llama_cpp_knows_them() {
        let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex } });
        let level = |own: bool| json!({ "type": "ByteLevel", "use_regex": own });
        let both = |a: Value, b: Value| json!({ "type": "Sequence", "pretokenizers": [a, b] });
        assert_eq!(cut(&both(split(CUTS[1].0), level(false))), Some("qwen2"));
        assert_eq!(cut(&both(split(CUTS[0].0), level(false))), Some("llama-bpe"));
        assert_eq!(cut(&level(true)), Some("gpt-2"));
        assert_eq!(cut(&both(split("x"), level(false))), None);
        assert_eq!(cut(&both(split(CUTS[0].0), level(true))), None);
    }

    #[test]
    fn merges_are_read_in_both_spellings() {
        let expected = [("a".to_string(), "b".to_string()), ("ab".to_string(), "c".to_string())];
        assert_eq!(merges(&json!({ "merges": ["a b", "ab c"] })), expected);
        assert_eq!(merges(&json!({ "merges": [["a", "b"], ["ab", "c"]] })), expected);
    }

    #[test]
    fn kinds_follow_from_what_tokens_are() {
        let json = json!({
            "model": { "vocab": { "<unk>": 0, "<0x41>": 1, "a": 2 }, "unk_token": "<unk>", "byte_fallback": true },
            "added_tokens": [{ "id": 3, "content": "<s>", "special": true }, { "id": 4, "content": "<x>", "special": false }],
        });
        let Value::Object(json) = json else { panic!("{json} is an object") };
        let tokens = Tokens::read(&json, 6).unwrap();
        assert_eq!(tokens.kinds, [UNKNOWN, BYTE, NORMAL, CONTROL, USER_DEFINED, UNUSED]);
        assert_eq!(tokens.texts[5], "[PAD5]");
        assert!(Tokens::read(&json, 4).is_err());
    }
}
