//! Metadata values: their types, and how they lie in a file.

use crate::cursor::{Cursor, Place};
use crate::error::Result;

/// How deep arrays may lie within arrays.
const MAX_DEPTH: usize = 4;
/// A nested array is at least its type and its count.
const LEAST_ARRAY: usize = 12;
/// A text is at least its length.
const LEAST_TEXT: usize = 8;

macro_rules! values {
    ($($number:ident $ty:ident $id:literal $as:ident $doc:literal;)*) => {
        /// The type of a metadata value, as files number them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum ValueType {
            $(#[doc = $doc] $number = $id,)*
            /// A byte that is 0 or 1.
            Bool = 7,
            /// A text.
            Str = 8,
            /// Values of one type.
            Array = 9,
        }

        impl ValueType {
            fn from_id(id: u32) -> Option<ValueType> {
                match id {
                    $($id => Some(ValueType::$number),)*
                    7 => Some(ValueType::Bool),
                    8 => Some(ValueType::Str),
                    9 => Some(ValueType::Array),
                    _ => None,
                }
            }
        }

        /// A metadata value.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Value {
            $(#[doc = $doc] $number($ty),)*
            /// Yes or no.
            Bool(bool),
            /// A text.
            Str(String),
            /// Values of one type.
            Array(Array),
        }

        /// Values of one type.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Array {
            $(#[doc = $doc] $number(Vec<$ty>),)*
            /// Yes or no, each.
            Bool(Vec<bool>),
            /// Texts.
            Str(Strings),
            /// Arrays, whose own types may differ.
            Array(Vec<Array>),
        }

        impl Value {
            /// The value's type.
            pub fn value_type(&self) -> ValueType {
                match self {
                    $(Value::$number(_) => ValueType::$number,)*
                    Value::Bool(_) => ValueType::Bool,
                    Value::Str(_) => ValueType::Str,
                    Value::Array(_) => ValueType::Array,
                }
            }

            /// The number, exactly, where the value is a whole one.
            pub fn as_int(&self) -> Option<i128> {
                match self {
                    $(Value::$number(v) => whole!($as v),)*
                    _ => None,
                }
            }

            /// The number, rounded to f64 where it is an integer beyond 2⁵³.
            pub fn as_float(&self) -> Option<f64> {
                match self {
                    $(Value::$number(v) => Some(*v as f64),)*
                    _ => None,
                }
            }

            pub(crate) fn read(cursor: &mut Cursor<'_>, place: Place<'_>) -> Result<Value> {
                Ok(match value_type(cursor, place)? {
                    $(ValueType::$number => Value::$number(numbers::<{ size_of::<$ty>() }, $ty>(cursor, 1, place, $ty::from_le_bytes)?[0]),)*
                    ValueType::Bool => Value::Bool(bools(cursor, 1, place)?[0]),
                    ValueType::Str => Value::Str(cursor.string(place)?.to_string()),
                    ValueType::Array => Value::Array(Array::read(cursor, 1, place)?),
                })
            }

            /// Appends type and value as they lie in a file.
            pub(crate) fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&(self.value_type() as u32).to_le_bytes());
                match self {
                    $(Value::$number(v) => out.extend_from_slice(&v.to_le_bytes()),)*
                    Value::Bool(v) => out.push(u8::from(*v)),
                    Value::Str(v) => write_text(v, out),
                    Value::Array(v) => v.write(out),
                }
            }
        }

        impl Array {
            /// The type of the elements.
            pub fn element_type(&self) -> ValueType {
                match self {
                    $(Array::$number(_) => ValueType::$number,)*
                    Array::Bool(_) => ValueType::Bool,
                    Array::Str(_) => ValueType::Str,
                    Array::Array(_) => ValueType::Array,
                }
            }

            /// Number of elements.
            pub fn len(&self) -> usize {
                match self {
                    $(Array::$number(v) => v.len(),)*
                    Array::Bool(v) => v.len(),
                    Array::Str(v) => v.len(),
                    Array::Array(v) => v.len(),
                }
            }

            /// The elements where all are whole numbers.
            pub fn as_ints(&self) -> Option<Vec<i128>> {
                match self {
                    $(Array::$number(v) => v.iter().map(|v| whole!($as v)).collect(),)*
                    _ => None,
                }
            }

            /// The elements where they are numbers.
            pub fn as_floats(&self) -> Option<Vec<f64>> {
                match self {
                    $(Array::$number(v) => Some(v.iter().map(|v| *v as f64).collect()),)*
                    _ => None,
                }
            }

            fn read(cursor: &mut Cursor<'_>, depth: usize, place: Place<'_>) -> Result<Array> {
                if depth > MAX_DEPTH {
                    let found = format!("arrays more than {MAX_DEPTH} deep");
                    return Err(Cursor::bad(cursor.offset(), place, found, "write the values in a flat array"));
                }
                Ok(match value_type(cursor, place)? {
                    $(ValueType::$number => {
                        let count = cursor.count(size_of::<$ty>(), "numbers", place)?;
                        Array::$number(numbers::<{ size_of::<$ty>() }, $ty>(cursor, count, place, $ty::from_le_bytes)?)
                    })*
                    ValueType::Bool => {
                        let count = cursor.count(1, "booleans", place)?;
                        Array::Bool(bools(cursor, count, place)?)
                    }
                    ValueType::Str => Array::Str(texts(cursor, place)?),
                    ValueType::Array => {
                        let count = cursor.count(LEAST_ARRAY, "arrays", place)?;
                        let mut inner = Vec::new();
                        for _ in 0..count {
                            inner.push(Array::read(cursor, depth + 1, place)?);
                        }
                        Array::Array(inner)
                    }
                })
            }

            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&(self.element_type() as u32).to_le_bytes());
                out.extend_from_slice(&(self.len() as u64).to_le_bytes());
                match self {
                    $(Array::$number(v) => v.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),)*
                    Array::Bool(v) => out.extend(v.iter().map(|&v| u8::from(v))),
                    Array::Str(v) => v.iter().for_each(|text| write_text(text, out)),
                    Array::Array(v) => v.iter().for_each(|inner| inner.write(out)),
                }
            }
        }

        $(impl From<$ty> for Value {
            fn from(value: $ty) -> Value {
                Value::$number(value)
            }
        }

        impl From<Vec<$ty>> for Value {
            fn from(values: Vec<$ty>) -> Value {
                Value::Array(Array::$number(values))
            }
        })*
    };
}

macro_rules! whole {
    (int $v:ident) => {
        Some(i128::from(*$v))
    };
    (float $v:ident) => {{
        let _ = $v;
        None
    }};
}

values! {
    U8 u8 0 int "8 bits, unsigned.";
    I8 i8 1 int "8 bits, signed.";
    U16 u16 2 int "16 bits, unsigned.";
    I16 i16 3 int "16 bits, signed.";
    U32 u32 4 int "32 bits, unsigned.";
    I32 i32 5 int "32 bits, signed.";
    F32 f32 6 float "IEEE binary32.";
    U64 u64 10 int "64 bits, unsigned.";
    I64 i64 11 int "64 bits, signed.";
    F64 f64 12 float "IEEE binary64.";
}

impl Value {
    /// A few words about the value, for an error.
    pub(crate) fn describe(&self) -> String {
        match self {
            Value::Array(array) => format!("an array of {} {:?}", array.len(), array.element_type()),
            Value::Str(text) => format!("the text {:?}", crate::error::excerpt(text)),
            Value::Bool(value) => value.to_string(),
            number => match number.as_int() {
                Some(whole) => whole.to_string(),
                None => number.as_float().unwrap_or(f64::NAN).to_string(),
            },
        }
    }
}

impl Array {
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Str(text.to_string())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Str(text)
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Value {
        Value::Array(array)
    }
}

impl From<Strings> for Value {
    fn from(texts: Strings) -> Value {
        Value::Array(Array::Str(texts))
    }
}

fn value_type(cursor: &mut Cursor<'_>, place: Place<'_>) -> Result<ValueType> {
    let at = cursor.offset();
    let id = cursor.u32(place)?;
    ValueType::from_id(id).ok_or_else(|| {
        let found = format!("value type {id}, where 0 to 12 are defined");
        Cursor::bad(at, place, found, "the file is damaged, or of a later version: make or download it again")
    })
}

/// `count` numbers of `N` bytes; the caller has checked that the file holds them, or asks for one.
fn numbers<const N: usize, T>(
    cursor: &mut Cursor<'_>,
    count: usize,
    place: Place<'_>,
    from: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    let bytes = cursor.take(count * N, place)?;
    Ok(bytes.as_chunks::<N>().0.iter().map(|&b| from(b)).collect())
}

fn bools(cursor: &mut Cursor<'_>, count: usize, place: Place<'_>) -> Result<Vec<bool>> {
    let at = cursor.offset();
    let bytes = cursor.take(count, place)?;
    if let Some(i) = bytes.iter().position(|&b| b > 1) {
        let found = format!("a boolean of {}", bytes[i]);
        return Err(Cursor::bad(at + i, place, found, "the file is damaged: download or make it again"));
    }
    Ok(bytes.iter().map(|&b| b == 1).collect())
}

fn texts(cursor: &mut Cursor<'_>, place: Place<'_>) -> Result<Strings> {
    let count = cursor.count(LEAST_TEXT, "texts", place)?;
    let mut out = Strings { text: String::new(), ends: Vec::with_capacity(count) };
    for _ in 0..count {
        out.push(cursor.string(place)?);
    }
    Ok(out)
}

pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Many texts, one behind the other: a vocabulary takes no more memory than it takes in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    ends: Vec<usize>,
}

impl Strings {
    /// Appends a text.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The text at an index.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.text[start..end])
    }

    /// The texts, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(texts: I) -> Strings {
        let mut out = Strings::default();
        texts.into_iter().for_each(|text| out.push(text.as_ref()));
        out
    }
}
