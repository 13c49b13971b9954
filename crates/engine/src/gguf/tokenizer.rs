//! Metadata of a tokenizer → `tokenizer.json`, `tokenizer_config.json` and the ids that end a generation.

use std::sync::Arc;

use qiao_gguf::Strings;
use serde_json::{Map, Value, json};

use super::Keys;
use super::pieces::{LONGEST_PIECE, Piece, merges};
use super::pretokenize::{PRETOKENIZERS, Pretokenizer, pretokenizer};
use crate::chat::ChatTemplate;
use crate::error::{EngineError, Result, excerpt};
use crate::generation::GenerationConfig;
use crate::tokenizer::{Tokenizer, TokenizerConfig};
use crate::weights::GgufParts;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const EMBEDDED: &str = "tokenizer.huggingface.json";
const TEMPLATE: &str = "tokenizer.chat_template";

/// What a piece of a vocabulary is for: the values of `tokenizer.ggml.token_type`.
mod kind {
    pub(super) const NORMAL: i64 = 1;
    pub(super) const UNKNOWN: i64 = 2;
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
    pub(super) const UNUSED: i64 = 5;
    pub(super) const BYTE: i64 = 6;
}

/// Control tokens that end an answer, whether or not the file says so: many name only one of theirs.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<EOT>",
];

/// What files hold, as an id of 32 bits, for a token that they do not have.
const NO_TOKEN: i64 = u32::MAX as i64;

fn id_key(name: &str) -> String {
    format!("tokenizer.ggml.{name}_token_id")
}

/// Everything about text that a file holds.
pub(crate) struct Text {
    /// The tokenizer; `None` where the file has none.
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
    /// The chat template, where there is one.
    pub(crate) chat: Option<ChatTemplate>,
    /// The ids that begin and end texts.
    pub(crate) generation: GenerationConfig,
}

/// Reads what a file says about text.
///
/// # Errors
/// A tokenizer of a kind that is not known, or that its own metadata contradict; a template that does not compile.
pub(crate) fn read_text(parts: &GgufParts) -> Result<Text> {
    let keys = Keys { path: parts.path(), metadata: parts.metadata() };
    let generation = GenerationConfig {
        bos_token_ids: keys.token_id("bos")?.into_iter().collect(),
        eos_token_ids: end_ids(keys)?,
        pad_token_id: keys.token_id("padding")?,
        ..GenerationConfig::default()
    };
    let Some(json) = tokenizer_json(keys)? else { return Ok(Text { tokenizer: None, chat: None, generation }) };
    let config = TokenizerConfig::from_json(keys.path, keys.tokenizer_config()?.to_string().as_bytes())?;
    let chat = ChatTemplate::from_config(keys.path, &config)?;
    let tokenizer = Tokenizer::from_json(keys.path, json.as_bytes(), config)?;
    Ok(Text { tokenizer: Some(Arc::new(tokenizer)), chat, generation })
}

/// The ids that end a generation: those that the file names, and control tokens whose text says so. Each once.
///
/// # Errors
/// An end of text that is not in the vocabulary, where there is no other.
pub(super) fn end_ids(keys: Keys<'_>) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ids.extend(keys.token_id(name)?);
    }
    if let Some(tokens) = keys.of(keys.metadata.strings(TOKENS))? {
        let types = keys.of(keys.metadata.ints(TYPES))?.unwrap_or_default();
        let ends = |(i, text): (usize, &str)| {
            (types.get(i) == Some(&kind::CONTROL) && ENDS.contains(&text)).then_some(i as u32)
        };
        ids.extend(tokens.iter().enumerate().filter_map(ends));
    }
    if ids.is_empty() {
        keys.require_known("eos")?;
    }
    let mut seen = std::collections::HashSet::new();
    ids.retain(|id| seen.insert(*id));
    Ok(ids)
}

/// The text of a `tokenizer.json`: the one that is embedded, or one made of the vocabulary. `None` without either.
fn tokenizer_json(keys: Keys<'_>) -> Result<Option<String>> {
    if let Some(text) = keys.of(keys.metadata.str(EMBEDDED))? {
        return Ok(Some(text.to_string()));
    }
    let model = match keys.of(keys.metadata.str(MODEL))? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some(model) => model,
    };
    let vocabulary = Vocabulary::read(keys)?;
    let json = match model {
        "gpt2" => vocabulary.byte_level()?,
        "llama" => vocabulary.sentencepiece()?,
        "t5" => vocabulary.unigram()?,
        _ => return Err(keys.refuse(MODEL, "gpt2, llama or t5, or the file hold a tokenizer.huggingface.json")),
    };
    Ok(Some(json.to_string()))
}

impl Keys<'_> {
    /// How many tokens the vocabulary has; as many as can be where the file does not list them.
    fn tokens(&self) -> Result<i64> {
        Ok(self.of(self.metadata.strings(TOKENS))?.map_or(NO_TOKEN, |tokens| tokens.len() as i64))
    }

    /// The id of a special token, where the file names it and it is in the vocabulary. Converters name ids beyond it for tokens
    /// that they know and the file has not.
    pub(super) fn token_id(&self, name: &str) -> Result<Option<u32>> {
        let id = self.of(self.metadata.int(&id_key(name)))?;
        let count = self.tokens()?;
        Ok(id.filter(|id| *id < count).and_then(|id| u32::try_from(id).ok()))
    }

    /// Refuses an id outside the vocabulary, unless it is what files without such a token hold.
    fn require_known(&self, name: &str) -> Result<()> {
        let (key, count) = (id_key(name), self.tokens()?);
        match self.of(self.metadata.int(&key))? {
            Some(id) if id >= count && id != NO_TOKEN => {
                Err(self.refuse(&key, format!("the id of one of {count} tokens: no other ends a text")))
            }
            _ => Ok(()),
        }
    }

    fn flag(&self, name: &str, otherwise: bool) -> Result<bool> {
        Ok(self.of(self.metadata.bool(&format!("tokenizer.ggml.{name}")))?.unwrap_or(otherwise))
    }

    /// What `tokenizer_config.json` would say: special tokens by name, and the chat templates.
    fn tokenizer_config(&self) -> Result<Value> {
        let mut out = Map::new();
        if let Some(tokens) = self.of(self.metadata.strings(TOKENS))? {
            for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
                if let Some(text) = self.token_id(key)?.and_then(|id| tokens.get(id as usize)) {
                    out.insert(format!("{name}_token"), text.into());
                }
            }
        }
        let mut templates = Vec::new();
        for (key, value) in self.metadata.iter() {
            let Some(rest) = key.strip_prefix(TEMPLATE) else { continue };
            let name = if rest.is_empty() { Some("default") } else { rest.strip_prefix('.') };
            if let (Some(name), qiao_gguf::Value::Str(text)) = (name, value) {
                templates.push(json!({ "name": name, "template": text }));
            }
        }
        if !templates.is_empty() {
            out.insert("chat_template".to_string(), templates.into());
        }
        Ok(Value::Object(out))
    }
}

/// A vocabulary as its metadata have it.
struct Vocabulary<'a> {
    keys: Keys<'a>,
    tokens: &'a Strings,
    types: Vec<i64>,
}

impl<'a> Vocabulary<'a> {
    fn read(keys: Keys<'a>) -> Result<Vocabulary<'a>> {
        let tokens = keys.metadata.strings(TOKENS);
        let tokens = keys.of(tokens)?.ok_or_else(|| keys.refuse(TOKENS, "an array of texts"))?;
        let types = keys.of(keys.metadata.ints(TYPES))?.unwrap_or_else(|| vec![kind::NORMAL; tokens.len()]);
        if types.len() != tokens.len() {
            return Err(keys.refuse(TYPES, format!("an array of {}, one for each token", tokens.len())));
        }
        Ok(Vocabulary { keys, tokens, types })
    }

    /// Ids and texts, without what no text becomes.
    fn used(&self) -> impl Iterator<Item = (usize, &'a str)> + '_ {
        self.tokens.iter().enumerate().filter(|(id, _)| self.types[*id] != kind::UNUSED)
    }

    /// `vocab` of a BPE: ids by text. Of a text that stands twice the first counts.
    fn ids(&self) -> Value {
        let mut ids = Map::new();
        for (id, text) in self.used() {
            ids.entry(text).or_insert(id.into());
        }
        Value::Object(ids)
    }

    /// Tokens that are found in text before anything else: control tokens, and those that users have defined.
    fn added(&self) -> Result<Value> {
        let mut special = vec![self.keys.token_id("bos")?, self.keys.token_id("eos")?, self.keys.token_id("unknown")?];
        special.retain(Option::is_some);
        let entry = |(id, text): (usize, &str)| {
            let of_type = matches!(self.types[id], kind::CONTROL | kind::UNKNOWN);
            let is_special = of_type || special.contains(&Some(id as u32)) && self.types[id] != kind::BYTE;
            let listed = (is_special || self.types[id] == kind::USER_DEFINED) && !text.is_empty();
            listed.then(|| {
                json!({ "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": is_special })
            })
        };
        Ok(self.used().filter_map(entry).collect())
    }

    /// The special tokens around a text, by the file's flags or else these.
    fn around(&self, add_bos: bool, add_eos: bool) -> Result<Value> {
        let wanted = |name: &str, add: bool| match add {
            true => {
                Ok::<_, EngineError>(self.keys.token_id(name)?.and_then(|id| Some((id, self.tokens.get(id as usize)?))))
            }
            false => Ok(None),
        };
        let bos = wanted("bos", self.keys.flag("add_bos_token", add_bos)?)?;
        let eos = wanted("eos", self.keys.flag("add_eos_token", add_eos)?)?;
        if bos.is_none() && eos.is_none() {
            return Ok(Value::Null);
        }
        let special =
            |token: Option<(u32, &str)>| token.map(|(_, text)| json!({ "SpecialToken": { "id": text, "type_id": 0 } }));
        let around = |part: &str| -> Vec<Value> {
            let text = json!({ "Sequence": { "id": part, "type_id": 0 } });
            special(bos).into_iter().chain([text]).chain(special(eos)).collect()
        };
        let entry = |(id, text): (u32, &str)| (text.to_string(), json!({ "id": text, "ids": [id], "tokens": [text] }));
        let specials: Map<String, Value> = bos.into_iter().chain(eos).map(entry).collect();
        let pair: Vec<Value> = around("A").into_iter().chain(around("B")).collect();
        Ok(json!({ "type": "TemplateProcessing", "single": around("A"), "pair": pair, "special_tokens": specials }))
    }

    fn scores(&self) -> Result<Vec<f64>> {
        let scores = self.keys.metadata.floats(SCORES);
        let scores = self.keys.of(scores)?.filter(|s| s.len() == self.tokens.len() && s.iter().all(|s| s.is_finite()));
        scores.ok_or_else(|| {
            self.keys.refuse(SCORES, format!("an array of {} finite numbers, one for each token", self.tokens.len()))
        })
    }

    fn has_bytes(&self) -> bool {
        self.types.contains(&kind::BYTE)
    }

    fn pretokenizer(&self) -> Result<&'static Pretokenizer> {
        let name = self.keys.of(self.keys.metadata.str(PRE))?.unwrap_or("default");
        pretokenizer(name).ok_or_else(|| {
            let known: Vec<_> = PRETOKENIZERS.iter().flat_map(|p| p.names).copied().collect();
            self.keys.refuse(PRE, format!("one of {}, or the file hold a {EMBEDDED}", known.join(", ")))
        })
    }

    /// GPT-2's kind: bytes in an alphabet of characters, merged in a stated order.
    fn byte_level(&self) -> Result<Value> {
        let way = self.pretokenizer()?;
        let given = self.keys.metadata.strings(MERGES);
        let given = self.keys.of(given)?.ok_or_else(|| self.keys.refuse(MERGES, "an array of texts"))?;
        let mut merges = Vec::with_capacity(given.len());
        for merge in given.iter() {
            // A half may begin with a space of its own: the space after its first byte parts them.
            let at = merge.bytes().skip(1).position(|byte| byte == b' ').map(|at| at + 1);
            let Some(at) = at else {
                return Err(self
                    .keys
                    .refuse(MERGES, format!("pairs parted by a space ({:?} is none)", excerpt(merge))));
            };
            merges.push(Value::from(vec![&merge[..at], &merge[at + 1..]]));
        }
        let cut = |cut: &&str| json!({ "type": "Split", "pattern": { "Regex": cut }, "behavior": "Isolated", "invert": false });
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
        let steps: Vec<Value> = way.cuts.iter().map(cut).chain([bytes.clone()]).collect();
        let mut model = bpe(self.ids(), merges);
        model["ignore_merges"] = way.ignore_merges.into();
        self.assemble(
            if way.compose { json!({ "type": "NFC" }) } else { Value::Null },
            json!({ "type": "Sequence", "pretokenizers": steps }),
            self.around(way.add_bos, false)?,
            bytes,
            model,
        )
    }

    /// SentencePiece's BPE: pieces of text with scores, ▁ for space, bytes for what has no piece.
    fn sentencepiece(&self) -> Result<Value> {
        let scores = self.scores()?;
        let mut pieces = Vec::new();
        for (id, text) in self.used() {
            if self.types[id] > kind::NORMAL {
                continue;
            }
            if text.len() > LONGEST_PIECE {
                return Err(self
                    .keys
                    .refuse(TOKENS, format!("pieces of at most {LONGEST_PIECE} bytes (piece {id} is longer)")));
            }
            pieces.push(Piece { text, score: scores[id] });
        }
        let merges = merges(&pieces).ok_or_else(|| {
            self.keys.refuse(TOKENS, "pieces that are made of others in few ways (these would have too many merges)")
        })?;
        let mut model = bpe(self.ids(), merges);
        model["fuse_unk"] = true.into();
        model["byte_fallback"] = self.has_bytes().into();
        model["unk_token"] = self.unknown()?.map_or(Value::Null, |(_, text)| text.into());
        let prefix = self.keys.flag("add_space_prefix", true)?;
        let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
        let mut normalizers = vec![replace(" ", "▁")];
        let mut decoders = vec![replace("▁", " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
        if prefix {
            normalizers.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        self.assemble(
            json!({ "type": "Sequence", "normalizers": normalizers }),
            Value::Null,
            self.around(true, false)?,
            json!({ "type": "Sequence", "decoders": decoders }),
            model,
        )
    }

    /// SentencePiece's unigram model: the likeliest cut of each word.
    fn unigram(&self) -> Result<Value> {
        let scores = self.scores()?;
        let vocabulary: Vec<Value> = self.tokens.iter().zip(scores).map(|(text, score)| json!([text, score])).collect();
        let mut normalizers = Vec::new();
        if let Some(map) = self.charsmap()? {
            normalizers.push(json!({ "type": "Precompiled", "precompiled_charsmap": base64(&map) }));
        }
        if self.keys.flag("remove_extra_whitespaces", true)? {
            normalizers.push(json!({ "type": "Strip", "strip_left": true, "strip_right": true }));
            normalizers.push(json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }));
        }
        let scheme = if self.keys.flag("add_space_prefix", true)? { "always" } else { "never" };
        let spaces = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true });
        let unknown = self.unknown()?.map(|(id, _)| id);
        let model =
            json!({ "type": "Unigram", "unk_id": unknown, "vocab": vocabulary, "byte_fallback": self.has_bytes() });
        self.assemble(
            json!({ "type": "Sequence", "normalizers": normalizers }),
            spaces.clone(),
            self.around(false, true)?,
            spaces,
            model,
        )
    }

    fn charsmap(&self) -> Result<Option<Vec<u8>>> {
        let Some(numbers) = self.keys.of(self.keys.metadata.ints(CHARSMAP))? else { return Ok(None) };
        // Converters write bytes with or without sign.
        let byte = |n: &i64| u8::try_from(*n).ok().or_else(|| i8::try_from(*n).ok().map(|n| n as u8));
        let bytes: Option<Vec<u8>> = numbers.iter().map(byte).collect();
        bytes.map(|b| Some(b).filter(|b| !b.is_empty())).ok_or_else(|| self.keys.refuse(CHARSMAP, "an array of bytes"))
    }

    /// The token for what no other stands for: as named, else the first of that type.
    fn unknown(&self) -> Result<Option<(u32, &'a str)>> {
        let first = || self.types.iter().position(|t| *t == kind::UNKNOWN).map(|id| id as u32);
        let id = self.keys.token_id("unknown")?.or_else(first);
        Ok(id.and_then(|id| Some((id, self.tokens.get(id as usize)?))))
    }

    fn assemble(
        &self,
        normalizer: Value,
        pre_tokenizer: Value,
        post_processor: Value,
        decoder: Value,
        model: Value,
    ) -> Result<Value> {
        Ok(json!({
            "version": "1.0",
            "added_tokens": self.added()?,
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor,
            "decoder": decoder,
            "model": model,
        }))
    }
}

fn bpe(vocabulary: Value, merges: Vec<Value>) -> Value {
    json!({ "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": vocabulary, "merges": merges })
}

/// Base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (i, &byte)| word | u32::from(byte) << (16 - 8 * i));
        for place in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { digit as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe]), "//4=");
    }
}
