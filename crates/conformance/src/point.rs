//! Points of a family's space: which sizes and words a case has, and the text that stands for them.
//!
//! A pattern is `name={a,b},other=@set`: the product of its lists. A point prints every size and every word that is not
//! the default, in the order of the family's parameters, so that the text of a case never changes unless its meaning does.

use std::fmt::Write;

use qiao_core::{Error, Result};

use crate::sets;

/// What a parameter ranges over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Range {
    /// A number, never below `least`. Always printed.
    Size {
        /// The smallest value.
        least: usize,
    },
    /// A number that is 0 unless said otherwise. Printed when it is not 0.
    Extra,
    /// One of these words, the first of which is the default. Printed when it is not the default.
    Word(&'static [&'static str]),
}

/// One parameter of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Param {
    /// Its name in case ids.
    pub name: &'static str,
    /// What it ranges over.
    pub range: Range,
}

/// A size, which may be 0.
pub const fn size(name: &'static str) -> Param {
    Param { name, range: Range::Size { least: 0 } }
}

/// A size of at least `least`.
pub const fn size_from(name: &'static str, least: usize) -> Param {
    Param { name, range: Range::Size { least } }
}

/// A number that is 0 unless said otherwise.
pub const fn extra(name: &'static str) -> Param {
    Param { name, range: Range::Extra }
}

/// One of some words; the first is the default.
pub const fn word(name: &'static str, words: &'static [&'static str]) -> Param {
    Param { name, range: Range::Word(words) }
}

/// A value for each parameter of a family: a number, or the position of a word.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    params: &'static [Param],
    values: Vec<usize>,
}

impl Point {
    /// The point with every parameter at its least.
    pub fn least(params: &'static [Param]) -> Point {
        let least = |p: &Param| if let Range::Size { least } = p.range { least } else { 0 };
        Point { params, values: params.iter().map(least).collect() }
    }

    /// The point that a text stands for; parameters that it leaves out are at their least.
    ///
    /// # Errors
    /// A name that the family has not, a value that its parameter does not take.
    pub fn parse(params: &'static [Param], text: &str) -> Result<Point> {
        let mut point = Point::least(params);
        for part in text.split(',').filter(|p| !p.is_empty() && *p != "plain") {
            let bad = |found: &str, mend: String| Error::invalid(format!("case parameter '{part}'"), found, mend);
            let (name, value) =
                part.split_once('=').ok_or_else(|| bad("it has no value", "write name=value".into()))?;
            let index = params.iter().position(|p| p.name == name).ok_or_else(|| {
                let names: Vec<_> = params.iter().map(|p| p.name).collect();
                bad("the family has no such parameter", format!("use one of {}", names.join(", ")))
            })?;
            point.values[index] = match params[index].range {
                Range::Word(words) => words
                    .iter()
                    .position(|w| *w == value)
                    .ok_or_else(|| bad("no such word", format!("use one of {}", words.join(", "))))?,
                range => {
                    let least = if let Range::Size { least } = range { least } else { 0 };
                    let number = value.parse().ok().filter(|v: &usize| *v >= least && *v <= MOST);
                    number.ok_or_else(|| bad("not a number in range", format!("use {least} to {MOST}")))?
                }
            };
        }
        Ok(point)
    }

    /// Every point of a pattern, the last parameter changing fastest.
    ///
    /// # Errors
    /// As [`Point::parse`]; a set that is not there.
    pub fn expand(params: &'static [Param], pattern: &str) -> Result<Vec<Point>> {
        let mut texts = vec![String::new()];
        for part in split(pattern) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let list = match (value.strip_prefix('@'), value.strip_prefix('{')) {
                (Some(set), _) => sets::named(set)
                    .ok_or_else(|| Error::invalid("pattern", format!("no set '@{set}'"), "see sets.rs"))?
                    .to_string(),
                (_, Some(list)) => list.trim_end_matches('}').to_string(),
                _ => value.to_string(),
            };
            let with = |text: &String| list.split(',').map(|v| format!("{text}{name}={v},")).collect::<Vec<_>>();
            texts = texts.iter().flat_map(with).collect();
        }
        texts.iter().map(|t| Point::parse(params, t)).collect()
    }

    fn index(&self, name: &str) -> usize {
        self.params
            .iter()
            .position(|p| p.name == name)
            .unwrap_or_else(|| panic!("the family has no parameter '{name}'"))
    }

    /// A number. Panics on a name that the family has not.
    pub fn size(&self, name: &str) -> usize {
        self.values[self.index(name)]
    }

    /// A word. Panics on a name that the family has not.
    pub fn word(&self, name: &str) -> &'static str {
        let index = self.index(name);
        match self.params[index].range {
            Range::Word(words) => words[self.values[index]],
            _ => panic!("parameter '{name}' is a number"),
        }
    }

    /// A word, where the family has such a parameter.
    pub fn word_if(&self, name: &str) -> Option<&'static str> {
        self.params.iter().any(|p| p.name == name).then(|| self.word(name))
    }

    /// Whether a word is `yes`.
    pub fn flag(&self, name: &str) -> bool {
        self.word(name) == "yes"
    }

    /// Smaller points next to this one, the boldest step first.
    pub fn smaller(&self) -> Vec<Point> {
        let least = Point::least(self.params);
        let mut out = Vec::new();
        for (i, param) in self.params.iter().enumerate() {
            let (now, floor) = (self.values[i], least.values[i]);
            if now == floor {
                continue;
            }
            let mut steps = match param.range {
                Range::Word(_) => vec![floor],
                _ => vec![floor, floor + 1, floor.midpoint(now), now - 1],
            };
            steps.dedup();
            for value in steps.into_iter().filter(|v| *v < now) {
                let mut point = self.clone();
                point.values[i] = value;
                out.push(point);
            }
        }
        out
    }

    /// The text that stands for the point; `plain` where nothing is to be said.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (param, &value) in self.params.iter().zip(&self.values) {
            let sep = if text.is_empty() { "" } else { "," };
            let written = match param.range {
                Range::Size { .. } => write!(text, "{sep}{}={value}", param.name),
                Range::Extra if value == 0 => Ok(()),
                Range::Extra => write!(text, "{sep}{}={value}", param.name),
                Range::Word(_) if value == 0 => Ok(()),
                Range::Word(words) => write!(text, "{sep}{}={}", param.name, words[value]),
            };
            written.expect("a string takes every text");
        }
        if text.is_empty() { "plain".into() } else { text }
    }
}

/// No parameter is larger: a replay file can't ask for more memory than the suite itself does.
const MOST: usize = 1 << 20;

/// The parts of a pattern: commas inside braces part nothing.
fn split(pattern: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in pattern.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&pattern[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&pattern[start..]);
    parts.retain(|p| !p.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: &[Param] = &[size_from("rows", 1), size("cols"), extra("window"), word("fill", &["normal", "zero"])];

    #[test]
    fn a_point_reads_back_from_its_text() {
        for point in Point::expand(PARAMS, "rows={1,7},cols={0,64},window={0,3},fill={normal,zero}").unwrap() {
            assert_eq!(Point::parse(PARAMS, &point.text()).unwrap(), point);
        }
        assert_eq!(Point::parse(PARAMS, "cols=4,rows=2").unwrap().text(), "rows=2,cols=4");
        assert_eq!(
            Point::parse(PARAMS, "rows=2,fill=zero,window=5").unwrap().text(),
            "rows=2,cols=0,window=5,fill=zero"
        );
    }

    #[test]
    fn a_pattern_is_the_product_of_its_lists() {
        let points = Point::expand(PARAMS, "rows={1,7},cols=3,fill={normal,zero}").unwrap();
        let texts: Vec<_> = points.iter().map(Point::text).collect();
        assert_eq!(texts, ["rows=1,cols=3", "rows=1,cols=3,fill=zero", "rows=7,cols=3", "rows=7,cols=3,fill=zero"]);
    }

    #[test]
    fn what_is_no_point_is_refused() {
        for text in ["rows", "rows=0", "depth=1", "fill=blue", "rows=99999999999999999999", "cols=1048577", "cols=-1"] {
            assert!(Point::parse(PARAMS, text).is_err(), "{text}");
        }
        assert!(Point::expand(PARAMS, "rows=@no_such_set").is_err());
    }

    #[test]
    fn smaller_points_end_at_the_least() {
        let mut point = Point::parse(PARAMS, "rows=100,cols=1000,window=7,fill=zero").unwrap();
        let mut steps = 0;
        while let Some(smaller) = point.smaller().pop() {
            point = smaller;
            steps += 1;
        }
        assert_eq!(point, Point::least(PARAMS));
        assert!(steps < 2000);
    }
}
