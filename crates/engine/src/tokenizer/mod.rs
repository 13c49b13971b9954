//! Text to token ids, and token ids to bytes: `tokenizer.json` through the `tokenizers` library.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::error::{EngineError, Result, excerpt};
use crate::json;

mod special;
mod vocabulary;

pub use special::{TOKENIZER_CONFIG_FILE, TokenizerConfig};
pub use vocabulary::{InvalidBytes, StreamRules, Token, Vocabulary};

use vocabulary::RawToken;

/// The file name in a checkpoint directory.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

const MEND: &str = "download tokenizer.json again, or convert the tokenizer to the fast format";

/// A checkpoint's tokenizer. Cheap to share: put it in an `Arc`.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    config: TokenizerConfig,
    vocabulary: Result<Arc<Vocabulary>, String>,
    size: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where it exists, `tokenizer_config.json` of a checkpoint directory.
    ///
    /// # Errors
    /// A missing or malformed file.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Tokenizer> {
        let dir = dir.as_ref();
        let path = dir.join(TOKENIZER_FILE);
        if !path.is_file() {
            return Err(EngineError::MissingFile {
                dir: dir.to_path_buf(),
                expected: vec![TOKENIZER_FILE.to_string()],
                mend: "download the tokenizer, or convert it to the fast format",
            });
        }
        Tokenizer::from_json(&path, &json::read_bytes(&path)?, TokenizerConfig::from_dir(dir)?)
    }

    /// Parses the text of a `tokenizer.json`; `path` is for error texts only.
    ///
    /// # Errors
    /// When the library refuses the file.
    pub fn from_json(path: impl AsRef<Path>, text: &[u8], config: TokenizerConfig) -> Result<Tokenizer> {
        let path = path.as_ref();
        let bad = |found: String| EngineError::malformed(path, "tokenizer", excerpt(&found), MEND);
        serde_json::from_slice::<serde::de::IgnoredAny>(text).map_err(|e| bad(e.to_string()))?;
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(text)).map_err(bad)?;
        // A length to cut or pad to belongs to the file's training, not to generation.
        inner.with_truncation(None).map_err(|e| bad(e.to_string()))?;
        inner.with_padding(None);
        let decoder = match inner.get_decoder() {
            Some(decoder) => serde_json::to_value(decoder).map_err(|e| bad(e.to_string()))?,
            None => Value::Null,
        };
        let base = inner.get_vocab(false);
        let added = inner.get_added_tokens_decoder();
        let base_tokens =
            base.iter().map(|(text, id)| RawToken { id: *id, text: text.as_str(), special: false, added: false });
        let added_tokens = added.iter().map(|(id, token)| RawToken {
            id: *id,
            text: token.content.as_str(),
            special: token.special,
            added: true,
        });
        let vocabulary = Vocabulary::new(&decoder, base_tokens.chain(added_tokens)).map(Arc::new);
        let size = base.values().chain(added.keys()).max().map_or(0, |id| *id as usize + 1);
        Ok(Tokenizer { path: path.to_path_buf(), config, vocabulary, size, inner })
    }

    /// The ids of a text. `add_special_tokens` lets the tokenizer put its own around it (a BOS, usually); a rendered chat has them
    /// already. Special tokens spelled out in the text become their ids either way.
    ///
    /// # Errors
    /// When the library refuses the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encode = || self.inner.encode_fast(text, add_special_tokens);
        let encoding = guarded(encode).map_err(|found| EngineError::Tokenizer {
            path: self.path.clone(),
            found: format!("cannot encode {:?}: {}", excerpt(text), excerpt(&found)),
            mend: "check that the vocabulary covers the text or has an unknown token",
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Bytes of every token, for a [`Detokenizer`](crate::detokenize::Detokenizer).
    ///
    /// # Errors
    /// When the file's decoder has no byte-wise meaning (WordPiece, CTC).
    pub fn vocabulary(&self) -> Result<Arc<Vocabulary>> {
        self.vocabulary.clone().map_err(|decoder| EngineError::Tokenizer {
            path: self.path.clone(),
            found: format!("decoder {:?} cannot be streamed", excerpt(&decoder)),
            mend: "supported are ByteLevel, ByteFallback, Replace, Metaspace, Fuse and a leading Strip",
        })
    }

    /// One more than the largest id. A model's vocabulary may be larger (padded).
    pub fn size(&self) -> usize {
        self.size
    }

    /// The id of a token given by its text.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of a token as the vocabulary spells it; `None` beyond the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether an id stands for a control token.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.vocabulary {
            Ok(vocabulary) => vocabulary.token(id).is_some_and(|token| token.special),
            Err(_) => self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|t| t.special),
        }
    }

    /// The id of `eos_token` in `tokenizer_config.json`. Only the last resort: `generation_config.json` and `config.json` come first.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.token_to_id(self.config.special_token("eos_token")?)
    }

    /// The id of `bos_token` in `tokenizer_config.json`.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.token_to_id(self.config.special_token("bos_token")?)
    }

    /// The token that the tokenizer puts before every text, where it puts one: a BOS.
    ///
    /// # Errors
    /// When the library refuses to encode.
    pub fn leading_token(&self) -> Result<Option<u32>> {
        let (with, without) = (self.encode("a", true)?, self.encode("a", false)?);
        let added = with.len().saturating_sub(without.len());
        let at = (0..=added).find(|&at| with[at..].starts_with(&without)).unwrap_or(0);
        Ok(with[..at].first().copied())
    }

    /// What `tokenizer_config.json` says.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// Ids below `vocab_size` that the tokenizer cannot decode: the padding of a model's vocabulary, and holes. A sampler masks them.
    pub fn undecodable(&self, vocab_size: usize) -> Vec<u32> {
        let ids = 0..u32::try_from(vocab_size).unwrap_or(u32::MAX);
        match &self.vocabulary {
            Ok(vocabulary) => ids.filter(|id| vocabulary.token(*id).is_none()).collect(),
            Err(_) => ids.filter(|id| self.inner.id_to_token(*id).is_none()).collect(),
        }
    }

    /// Refuses ids outside a model's vocabulary.
    ///
    /// # Errors
    /// [`EngineError::TokenOutOfRange`] with the first such id.
    pub fn require_ids(ids: &[u32], vocab_size: usize) -> Result<()> {
        match ids.iter().find(|id| **id as usize >= vocab_size) {
            Some(&id) => Err(EngineError::TokenOutOfRange { id, vocab_size }),
            None => Ok(()),
        }
    }
}

/// Runs the library with its panics turned into errors: it unwraps on some files that are JSON but no tokenizer.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the tokenizers library gave up on it".to_string()),
    }
}

#[cfg(test)]
mod tests;
