//! GGUF files as checkpoints: metadata become what `config.json`, `tokenizer.json` and their companions say, and go the
//! same way from there, so that every check stands once.
//!
//! Weights are used where and as they lie in the file. Converters permute the rows of q and k for some architectures;
//! nothing is permuted back: the model rotates neighbours instead of halves, which is the same attention.

mod config;
mod pieces;
mod pretokenize;
mod tokenizer;

use std::path::Path;

use qiao_gguf::{Metadata, Value};

use crate::error::{EngineError, Result, excerpt};

pub(crate) use config::model_config;
pub(crate) use tokenizer::{Text, read_text};

/// The metadata of a file, and which file it is, so that every refusal can name it.
#[derive(Clone, Copy)]
struct Keys<'a> {
    path: &'a Path,
    metadata: &'a Metadata,
}

impl Keys<'_> {
    /// A getter's answer, with the file in its error.
    fn of<T>(&self, answer: qiao_gguf::Result<T>) -> Result<T> {
        answer.map_err(|source| EngineError::Gguf { path: self.path.to_path_buf(), source })
    }

    /// The error for a key whose value can not be used.
    fn refuse(&self, key: &str, expected: impl Into<String>) -> EngineError {
        let found = match self.metadata.get(key) {
            None => "nothing".to_string(),
            Some(Value::Str(text)) => format!("{:?}", excerpt(text)),
            Some(Value::Array(array)) => format!("an array of {}", array.len()),
            Some(other) => format!("{other:?}"),
        };
        EngineError::Config { path: self.path.to_path_buf(), key: key.to_string(), expected: expected.into(), found }
    }

    /// A finite number as it was meant: of an f32 the shortest decimal that reads back as the same one.
    fn number(&self, key: &str) -> Result<Option<f64>> {
        let number = self.of(self.metadata.float(key))?;
        if number.is_some_and(|number| !number.is_finite()) {
            return Err(self.refuse(key, "a finite number"));
        }
        Ok(match self.metadata.get(key) {
            Some(Value::F32(short)) => short.to_string().parse().ok().or(number),
            _ => number,
        })
    }
}

#[cfg(test)]
mod tests;
