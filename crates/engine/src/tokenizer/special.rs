//! `tokenizer_config.json`: the special tokens by name, and the chat template that may stand there.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Result;
use crate::json;

/// The file name in a checkpoint directory.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";

/// What `tokenizer_config.json` says.
#[derive(Clone, Debug, Default)]
pub struct TokenizerConfig {
    special_tokens: Map<String, Value>,
    /// `chat_template` as it stands in the file: a string, or a list of named templates.
    pub chat_template: Option<Value>,
}

impl TokenizerConfig {
    /// Reads the file of a checkpoint directory; a missing file is an empty configuration.
    ///
    /// # Errors
    /// When the file cannot be read or is not a JSON object.
    pub fn from_dir(dir: &Path) -> Result<TokenizerConfig> {
        let path = dir.join(TOKENIZER_CONFIG_FILE);
        match json::read_object_if_present(&path)? {
            Some(object) => Ok(TokenizerConfig::from_object(&object)),
            None => Ok(TokenizerConfig::default()),
        }
    }

    /// Parses the text of a `tokenizer_config.json`; `path` is for error texts only.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn from_json(path: impl AsRef<Path>, text: &[u8]) -> Result<TokenizerConfig> {
        Ok(TokenizerConfig::from_object(&json::Object::parse(path.as_ref(), text)?))
    }

    fn from_object(object: &json::Object) -> TokenizerConfig {
        let mut special_tokens = Map::new();
        for key in object.keys() {
            let Some(value) = object.get(key) else { continue };
            if key.ends_with("_token") {
                if let Some(text) = token_text(value) {
                    special_tokens.insert(key.to_string(), text.into());
                }
            } else if key == "additional_special_tokens" || key == "extra_special_tokens" {
                special_tokens.extend(named_tokens(key, value));
            }
        }
        let chat_template = object.get("chat_template").cloned();
        TokenizerConfig { special_tokens, chat_template }
    }

    /// The text of a special token, e.g. of `eos_token`.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special_tokens.get(name)?.as_str()
    }

    /// All special tokens as a chat template sees them.
    pub fn special_tokens(&self) -> &Map<String, Value> {
        &self.special_tokens
    }
}

/// A token is written as its text, or as an object with `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A list of further tokens keeps its name; an object gives a name to each.
fn named_tokens(key: &str, value: &Value) -> Vec<(String, Value)> {
    match value {
        Value::Array(items) => {
            let texts: Vec<Value> = items.iter().filter_map(token_text).map(Value::from).collect();
            vec![(key.to_string(), texts.into())]
        }
        Value::Object(items) => {
            let named = |(name, item): (&String, &Value)| Some((name.clone(), token_text(item)?.into()));
            items.iter().filter_map(named).collect()
        }
        _ => Vec::new(),
    }
}
