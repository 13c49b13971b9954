//! Values as Python writes them: `json.dumps` and `str`, which the templates were written against.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

const MAX_DEPTH: usize = 100;
const MAX_INDENT: usize = 16;
/// Bytes of one value written: a list that holds another twice, and so on, is short to make and endless to write.
const MAX_TEXT: usize = 16 << 20;

/// How `json.dumps` was asked to write.
pub(super) struct JsonStyle {
    indent: Option<usize>,
    item_separator: String,
    key_separator: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonStyle {
    /// Reads the keyword arguments of the `tojson` filter; the defaults are those of the reference's filter.
    pub(super) fn from_kwargs(kwargs: &Kwargs) -> Result<JsonStyle, Error> {
        let indent = kwargs.get::<Option<usize>>("indent")?;
        if indent.is_some_and(|indent| indent > MAX_INDENT) {
            return Err(refusal(format!("tojson: indent must be at most {MAX_INDENT}")));
        }
        let mut style = JsonStyle {
            indent,
            item_separator: if indent.is_some() { ",".into() } else { ", ".into() },
            key_separator: ": ".into(),
            ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
            sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        };
        if let Some(separators) = kwargs.get::<Option<Value>>("separators")?.filter(|value| !value.is_none()) {
            let parts: Vec<Value> = separators.try_iter()?.collect();
            let [item, key] = parts.as_slice() else {
                return Err(refusal("tojson: separators must be two strings".to_string()));
            };
            style.item_separator = item.to_string();
            style.key_separator = key.to_string();
        }
        kwargs.assert_all_used()?;
        Ok(style)
    }

    /// `json.dumps(value)`: non-ASCII kept, nothing escaped for HTML, insertion order kept.
    pub(super) fn dumps(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.write(value, 0, &mut out)?;
        Ok(out)
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(refusal(format!("tojson: more than {MAX_DEPTH} levels")));
        }
        bounded(out)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => write_number(value, out),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_items(('[', ']'), items.len(), depth, out, |i, out| self.write(&items[i], depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.write_items(('{', '}'), keys.len(), depth, out, |i, out| {
                    self.write_string(&key_text(&keys[i]), out);
                    out.push_str(&self.key_separator);
                    self.write(&value.get_item(&keys[i])?, depth + 1, out)
                })?;
            }
            kind => return Err(refusal(format!("tojson: a value of kind {kind} is not JSON"))),
        }
        Ok(())
    }

    fn write_items(
        &self,
        (open, close): (char, char),
        count: usize,
        depth: usize,
        out: &mut String,
        mut item: impl FnMut(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        out.push(open);
        for i in 0..count {
            if i > 0 {
                out.push_str(&self.item_separator);
            }
            line(depth + 1, out);
            item(i, out)?;
        }
        if count > 0 {
            line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn write_string(&self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn bounded(out: &str) -> Result<(), Error> {
    match out.len() > MAX_TEXT {
        true => Err(refusal(format!("a value of more than {MAX_TEXT} bytes of text cannot be written"))),
        false => Ok(()),
    }
}

fn refusal(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// `json.dumps` writes keys that are not strings as their JSON.
fn key_text(key: &Value) -> String {
    match key.kind() {
        ValueKind::None => "null".to_string(),
        _ => key.to_string(),
    }
}

fn write_number(value: &Value, out: &mut String) {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => out.push_str(&float(number)),
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

/// `repr` of a float: shortest digits that read back, positional from 1e-4 to 1e16, `1e+16` beyond.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_string();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number == 0.0 || (-4..16).contains(&exponent) {
        return format!("{number:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

/// `str(value)`: what `{{ value }}` prints. A string is itself, everything else is as `repr`.
pub(super) fn str_of(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.as_str() {
        Some(text) => out.push_str(text),
        None if value.is_undefined() => {}
        None => write_repr(value, 0, &mut out)?,
    }
    Ok(out)
}

fn write_repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(refusal(format!("a value of more than {MAX_DEPTH} levels cannot be printed")));
    }
    bounded(out)?;
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(number) if number.is_infinite() => out.push_str(if number > 0.0 { "inf" } else { "-inf" }),
            Ok(number) if number.is_nan() => out.push_str("nan"),
            _ => write_number(value, out),
        },
        ValueKind::String => write_quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(&item, depth + 1, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(&key, depth + 1, out)?;
                out.push_str(": ");
                write_repr(&value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

/// `repr` of a string: single quotes, unless it has some and no double ones.
fn write_quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c < ' ' || ('\u{7f}'..='\u{a0}').contains(&c) || c == '\u{ad}' => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (number, text) in [
            (1.0, "1.0"),
            (21.5, "21.5"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (f64::INFINITY, "Infinity"),
        ] {
            assert_eq!(float(number), text);
        }
    }

    #[test]
    fn a_float_written_reads_back() {
        let mut bits = 1u64;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = f64::from_bits(bits);
            if number.is_finite() {
                assert_eq!(float(number).parse::<f64>().unwrap(), number);
            }
        }
    }

    #[test]
    fn strings_are_quoted_as_python_quotes_them() {
        let repr = |text: &str| {
            let mut out = String::new();
            write_quoted(text, &mut out);
            out
        };
        assert_eq!(repr("it's 中\n"), "\"it's 中\\n\"");
        assert_eq!(repr("a'b\"c"), "'a\\'b\"c'");
        assert_eq!(repr("\u{1}\u{7f}"), "'\\x01\\x7f'");
    }
}
