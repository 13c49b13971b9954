//! Keys and values, in the order of the file, with getters that forgive what real files do.

use crate::error::{GgufError, Result, excerpt};
use crate::value::{Array, Strings, Value};

/// The metadata of a file: each key once, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// No entries.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// Entries whose keys the caller knows to be different.
    pub(crate) fn from_entries(entries: Vec<(String, Value)>) -> Metadata {
        Metadata { entries }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// Sets a value: in its place where the key is there, else at the end.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.entries.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key.to_string(), value)),
        }
    }

    /// Removes a key; what stood there.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.entries.iter().position(|(k, _)| k == key)?;
        Some(self.entries.remove(at).1)
    }

    /// A whole number of 0 or more, in whichever integer type.
    ///
    /// # Errors
    /// [`GgufError::Key`] for a value that is none.
    pub fn uint(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, "a whole number of 0 or more", |value| u64::try_from(value.as_int()?).ok())
    }

    /// A whole number, in whichever integer type.
    ///
    /// # Errors
    /// As [`Metadata::uint`].
    pub fn int(&self, key: &str) -> Result<Option<i64>> {
        self.read(key, "a whole number of 64 bits", |value| i64::try_from(value.as_int()?).ok())
    }

    /// A number, in whichever type.
    ///
    /// # Errors
    /// As [`Metadata::uint`].
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", Value::as_float)
    }

    /// True or false; 0 and 1 of an integer type as well.
    ///
    /// # Errors
    /// As [`Metadata::uint`].
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", |value| match value {
            Value::Bool(value) => Some(*value),
            other => match other.as_int()? {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            },
        })
    }

    /// A text.
    ///
    /// # Errors
    /// As [`Metadata::uint`].
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.read(key, "a text", |value| match value {
            Value::Str(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of texts.
    ///
    /// # Errors
    /// As [`Metadata::uint`].
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>> {
        self.read(key, "an array of texts", |value| match value {
            Value::Array(Array::Str(texts)) => Some(texts),
            _ => None,
        })
    }

    /// Whole numbers of 0 or more: an array, or a scalar as an array of one.
    ///
    /// # Errors
    /// As [`Metadata::uint`].
    pub fn uints(&self, key: &str) -> Result<Option<Vec<u64>>> {
        let unsigned = |numbers: Vec<i128>| numbers.into_iter().map(|n| u64::try_from(n).ok()).collect();
        self.read(key, "whole numbers of 0 or more", |value| ints_of(value).and_then(unsigned))
    }

    /// Whole numbers: an array, or a scalar as an array of one.
    ///
    /// # Errors
    /// As [`Metadata::uint`].
    pub fn ints(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let signed = |numbers: Vec<i128>| numbers.into_iter().map(|n| i64::try_from(n).ok()).collect();
        self.read(key, "whole numbers of 64 bits", |value| ints_of(value).and_then(signed))
    }

    /// Numbers: an array, or a scalar as an array of one.
    ///
    /// # Errors
    /// As [`Metadata::uint`].
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.read(key, "numbers", |value| match value {
            Value::Array(array) => array.as_floats(),
            scalar => scalar.as_float().map(|v| vec![v]),
        })
    }

    /// Booleans: an array, or a scalar as an array of one.
    ///
    /// # Errors
    /// As [`Metadata::uint`].
    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.read(key, "booleans", |value| match value {
            Value::Array(Array::Bool(values)) => Some(values.clone()),
            Value::Bool(value) => Some(vec![*value]),
            _ => None,
        })
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || GgufError::Key { key: excerpt(key), expected, found: value.describe() };
        convert(value).map(Some).ok_or_else(wrong)
    }
}

fn ints_of(value: &Value) -> Option<Vec<i128>> {
    match value {
        Value::Array(array) => array.as_ints(),
        scalar => scalar.as_int().map(|v| vec![v]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn getters_take_any_integer_type_and_scalars_for_arrays() {
        let mut data = Metadata::new();
        data.set("heads", 8i32);
        data.set("layers", vec![4u16, 2]);
        data.set("theta", 1e6f32);
        data.set("flag", 1u8);
        data.set("less", -1i64);
        data.set("name", "x");
        assert_eq!(data.uint("heads").unwrap(), Some(8));
        assert_eq!(data.uints("heads").unwrap(), Some(vec![8]));
        assert_eq!(data.uints("layers").unwrap(), Some(vec![4, 2]));
        assert_eq!(data.float("theta").unwrap(), Some(1e6));
        assert_eq!(data.float("heads").unwrap(), Some(8.0));
        assert_eq!(data.bool("flag").unwrap(), Some(true));
        assert_eq!(data.int("less").unwrap(), Some(-1));
        assert_eq!(data.uint("absent").unwrap(), None);
        let message = data.uint("less").unwrap_err().to_string();
        assert!(message.contains("\"less\"") && message.contains("-1"), "{message}");
        let message = data.uint("layers").unwrap_err().to_string();
        assert!(message.contains("an array of 2 U16"), "{message}");
        assert!(data.strings("name").is_err());
        data.set("heads", 9u64);
        assert_eq!((data.uint("heads").unwrap(), data.len()), (Some(9), 6), "set in its place");
        assert_eq!(data.remove("heads"), Some(Value::U64(9)));
    }
}
