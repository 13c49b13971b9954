//! Reading a JSON configuration: typed values by key, with errors that name file and key.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{EngineError, Result, excerpt};

/// Largest JSON file read, in bytes: far above any real configuration or tokenizer.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Reads a JSON file whose top level is an object.
pub(crate) fn read_object(path: &Path) -> Result<Object> {
    let bytes = read_bytes(path)?;
    Object::parse(path, &bytes)
}

/// As [`read_object`], with `None` when the file does not exist.
pub(crate) fn read_object_if_present(path: &Path) -> Result<Option<Object>> {
    if !path.is_file() {
        return Ok(None);
    }
    read_object(path).map(Some)
}

/// Reads a whole text-like file of bounded size.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let meta = std::fs::metadata(path).map_err(|e| EngineError::io("read", path, e))?;
    if meta.len() > MAX_FILE_BYTES {
        let found = std::io::Error::other(format!("{} bytes are too many", meta.len()));
        return Err(EngineError::io("read", path, found));
    }
    std::fs::read(path).map_err(|e| EngineError::io("read", path, e))
}

/// A JSON object together with where it stands, so that every refusal can name file and key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object {
    path: PathBuf,
    prefix: String,
    map: Map<String, Value>,
}

impl Object {
    /// Parses a JSON object.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Object> {
        const MEND: &str = "write plain JSON with an object at the top (NaN and Infinity are not JSON)";
        let bad = |found: String| EngineError::malformed(path, "JSON", found, MEND);
        let value: Value = serde_json::from_slice(bytes).map_err(|e| bad(excerpt(&e.to_string())))?;
        match value {
            Value::Object(map) => Ok(Object { path: path.to_path_buf(), prefix: String::new(), map }),
            other => Err(bad(format!("{} at the top", kind(&other)))),
        }
    }

    /// The value under a key; a JSON null counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The file that the object stands in.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// The error for a key whose value is not what it must be.
    pub(crate) fn refuse(&self, key: &str, expected: impl Into<String>) -> EngineError {
        let found = match self.map.get(key) {
            None => "nothing".to_string(),
            Some(value) => excerpt(&value.to_string()),
        };
        EngineError::Config {
            path: self.path.clone(),
            key: format!("{}{key}", self.prefix),
            expected: expected.into(),
            found,
        }
    }

    /// An object under a key.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Object>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Object { path: self.path.clone(), prefix: format!("{}{key}.", self.prefix), map: map.clone() }))
            }
            Some(_) => Err(self.refuse(key, "an object")),
        }
    }

    /// A whole number from `low` to `high`; `32.0` counts as whole.
    pub(crate) fn whole(&self, key: &str, low: u64, high: u64) -> Result<Option<u64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_u64().or_else(|| {
            let float = value.as_f64()?;
            (float.fract() == 0.0 && (0.0..9e15).contains(&float)).then_some(float as u64)
        });
        match number {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ => Err(self.refuse(key, format!("a whole number from {low} to {high}"))),
        }
    }

    /// A whole number as `usize`.
    pub(crate) fn size(&self, key: &str, low: usize, high: usize) -> Result<Option<usize>> {
        Ok(self.whole(key, low as u64, high as u64)?.map(|number| number as usize))
    }

    /// A whole number that must be there.
    pub(crate) fn required_size(&self, key: &str, low: usize, high: usize) -> Result<usize> {
        self.size(key, low, high)?.ok_or_else(|| self.refuse(key, format!("a whole number from {low} to {high}")))
    }

    /// A finite number for which `accept` holds; `expected` says in words what that is.
    pub(crate) fn number(&self, key: &str, expected: &str, accept: impl Fn(f64) -> bool) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number.is_finite() && accept(number) => Ok(Some(number)),
            _ => Err(self.refuse(key, expected)),
        }
    }

    /// A finite number above zero.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.number(key, "a number above 0", |number| number > 0.0)
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.refuse(key, "true or false")),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(_) => Err(self.refuse(key, "a string")),
        }
    }

    /// A list of strings.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list = value
            .as_array()
            .and_then(|items| items.iter().map(|item| item.as_str().map(str::to_string)).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.refuse(key, "a list of strings"))
    }

    /// A list of finite numbers above zero.
    pub(crate) fn positives(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list = value.as_array().and_then(|items| {
            items.iter().map(|item| item.as_f64().filter(|n| n.is_finite() && *n > 0.0)).collect::<Option<Vec<_>>>()
        });
        list.map(Some).ok_or_else(|| self.refuse(key, "a list of numbers above 0"))
    }

    /// A list of whole numbers.
    pub(crate) fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let size = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
        let list = value.as_array().and_then(|items| items.iter().map(size).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.refuse(key, "a list of whole numbers"))
    }

    /// Token ids: one whole number or a list of them. Absent is an empty list.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(id).collect::<Option<Vec<u32>>>(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.refuse(key, "a token id or a list of token ids"))
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
