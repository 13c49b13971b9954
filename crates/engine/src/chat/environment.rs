//! The template engine, set up as the templates expect: the reference's Jinja environment, as far as minijinja goes.
//!
//! Known differences: `strftime_now` tells UTC; `~`, `join` and `format` write `true` and `none` where Python writes `True` and `None`
//! (printing does not); `"%s" % x` is not supported. Limits keep an untrusted template from running on: instructions, nesting, size of the
//! output and of a value written, elements of a range, indentation. What it builds in memory with `~`, `+` and the engine's own filters is
//! not bounded.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::clock;
use super::python::{self, JsonStyle};

/// Instructions one rendering may take: a thousand messages take less than a tenth of it.
const FUEL: u64 = 10_000_000;
const NESTING: usize = 120;
const MAX_RANGE: i64 = 100_000;
const MAX_OUTPUT: usize = 64 << 20;

/// An environment whose clock stands at `now`, in seconds since 1970.
pub(super) fn environment(now: i64) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_keep_trailing_newline(false);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(NESTING);
    env.set_unknown_method_callback(unknown_method_callback);
    env.set_formatter(print);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", move |pattern: &str| clock::format(now, pattern));
    env.add_function("range", range);
    env.add_filter("tojson", to_json);
    env.add_filter("string", |value: Value| python::str_of(&value));
    env.add_test("sequence", |value: Value| is_iterable(&value));
    env.add_test("iterable", |value: Value| is_iterable(&value));
    env
}

/// Renders a template's source.
pub(super) fn render<'a>(env: &Environment<'a>, source: &'a str, variables: &Value) -> Result<String, Error> {
    let template = env.template_from_named_str("chat_template", source)?;
    let mut out = Bounded { bytes: Vec::new() };
    template.render_captured_to(variables, &mut out)?;
    String::from_utf8(out.bytes).map_err(|_| Error::new(ErrorKind::BadSerialization, "the output is not text"))
}

/// Turns `{% generation %}` and `{% endgeneration %}`, which mark the assistant's part for training, into a block that does nothing but
/// trim the whitespace around it in the same way.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open);
        out.push_str(before);
        let Some((inside, after)) = tag[2..].split_once("%}") else {
            rest = tag;
            break;
        };
        let name = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replaced = match name {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replaced {
            Some(block) => {
                out.push_str("{%");
                out.push_str(&inside.replacen(name, &format!(" {block} "), 1));
                out.push_str("%}");
                rest = after;
            }
            None => {
                out.push_str("{%");
                rest = &tag[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("the template refuses: {message}")))
}

fn to_json(value: Value, kwargs: Kwargs) -> Result<String, Error> {
    JsonStyle::from_kwargs(&kwargs)?.dumps(&value)
}

/// Python's `range`, of bounded length.
fn range(first: i64, second: Option<i64>, step: Option<i64>) -> Result<Vec<i64>, Error> {
    let (start, end) = second.map_or((0, first), |second| (first, second));
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Error::new(ErrorKind::InvalidOperation, "range: the step must not be 0"));
    }
    let distance = (i128::from(end) - i128::from(start)) * i128::from(step.signum());
    let count = (distance + i128::from(step.unsigned_abs()) - 1).max(0) / i128::from(step.unsigned_abs());
    if count > i128::from(MAX_RANGE) {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("range: more than {MAX_RANGE} elements")));
    }
    // Every element lies between start and end.
    Ok((0..count).map(|i| (i128::from(start) + i * i128::from(step)) as i64).collect())
}

/// Strings and mappings are iterable and sequences in Jinja.
fn is_iterable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Iterable)
}

fn print(out: &mut Output<'_>, _state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => out.write_str(&python::str_of(value)?).map_err(Error::from),
    }
}

/// A buffer that refuses to grow beyond its limit.
struct Bounded {
    bytes: Vec<u8>,
}

impl Write for Bounded {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + part.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("more than {MAX_OUTPUT} bytes of output")));
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
