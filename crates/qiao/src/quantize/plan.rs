//! Rules for single tensors: a pattern over names, and the format of what it matches.

use std::path::Path;

use serde_json::Value;

use super::fault;
use super::format::{Encoding, Format};
use crate::{Error, Result};

/// Rules in order; the first whose pattern matches a tensor's name holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    rules: Vec<(String, Encoding)>,
}

impl Rules {
    /// Reads a JSON object: `{"*.mlp.down_proj.weight": "q6_k", "blk.0.*": "keep"}`. `*` stands for any characters, `?` for one.
    /// Patterns match the checkpoint's names and those that the tensors will have.
    ///
    /// # Errors
    /// A file that can't be read, or holds something else; formats that do not exist, or are mixtures.
    pub fn open(path: impl AsRef<Path>) -> Result<Rules> {
        let path = path.as_ref();
        let text = std::fs::read(path).map_err(|e| fault(format!("plan {}: {e}", path.display()), "check the path"))?;
        Rules::parse(&text).map_err(|e| match e {
            Error::Quantize { found, mend } => fault(format!("{}: {found}", path.display()), mend),
            other => other,
        })
    }

    /// As [`Rules::open`], from the text.
    ///
    /// # Errors
    /// As [`Rules::open`].
    pub fn parse(text: &[u8]) -> Result<Rules> {
        const MEND: &str = "write an object such as {\"*.down_proj.weight\": \"q6_k\"}";
        let value: Value =
            serde_json::from_slice(text).map_err(|e| fault(format!("the plan is no JSON: {e}"), MEND))?;
        let Value::Object(entries) = value else { return Err(fault("the plan is no JSON object", MEND)) };
        let mut rules = Vec::new();
        for (pattern, format) in entries {
            let Value::String(name) = &format else {
                return Err(fault(format!("the plan's rule {pattern:?} names {format}, which is no format"), MEND));
            };
            let encoding = match name.as_str() {
                "keep" => Encoding::Keep,
                name => match name.parse()? {
                    Format::One(encoding) => encoding,
                    mixture => {
                        let found = format!("the plan's rule {pattern:?} names the mixture {mixture}");
                        return Err(fault(found, "name one format a rule"));
                    }
                },
            };
            rules.push((pattern, encoding));
        }
        Ok(Rules { rules })
    }

    /// The number and encoding of the first rule that matches any of the names.
    pub(super) fn find(&self, names: &[&str]) -> Option<(usize, Encoding)> {
        let matches = |pattern: &str| names.iter().any(|name| glob(pattern.as_bytes(), name.as_bytes()));
        let at = self.rules.iter().position(|(pattern, _)| matches(pattern))?;
        Some((at, self.rules[at].1))
    }

    /// Refuses rules that no tensor met: a pattern with a slip would go unseen.
    pub(super) fn check_used(&self, used: impl Fn(usize) -> bool) -> Result<()> {
        match (0..self.rules.len()).find(|&at| !used(at)) {
            None => Ok(()),
            Some(at) => {
                let found = format!("the plan's rule {:?} is the first to match no weight matrix", self.rules[at].0);
                Err(fault(found, "check its pattern; earlier rules win"))
            }
        }
    }

    /// The encodings that rules name.
    pub(super) fn encodings(&self) -> impl Iterator<Item = Encoding> + '_ {
        self.rules.iter().map(|(_, encoding)| *encoding)
    }
}

/// Whether a pattern with `*` and `?` matches all of a text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and what it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == b'?' || pattern[p] == text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, t) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, matches) in [
            ("*.down_proj.weight", "model.layers.3.mlp.down_proj.weight", true),
            ("blk.?.*", "blk.3.ffn_up.weight", true),
            ("blk.?.*", "blk.13.ffn_up.weight", false),
            ("*", "", true),
            ("a*b*c", "aXbYbc", true),
            ("a*b", "abc", false),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), matches, "{pattern} on {text}");
        }
    }

    #[test]
    fn the_first_rule_wins() {
        let rules = Rules::parse(br#"{"*.0.*": "q8_0", "*v_proj*": "Q6_K", "*": "keep"}"#).unwrap();
        assert_eq!(rules.find(&["l.0.v_proj"]).unwrap().1.to_string(), "q8_0");
        assert_eq!(rules.find(&["l.1.v_proj"]).unwrap().1.to_string(), "q6_k");
        assert_eq!(rules.find(&["l.1.k_proj", "other"]), Some((2, Encoding::Keep)));
        let error = rules.check_used(|at| at != 1).unwrap_err().to_string();
        assert!(error.contains("*v_proj*"), "{error}");
    }

    #[test]
    fn what_is_no_plan_is_named() {
        for (text, words) in [
            ("[1]", "no JSON object"),
            ("{", "no JSON"),
            (r#"{"*": 4}"#, "names 4"),
            (r#"{"*": "q5_9"}"#, "q5_9"),
            (r#"{"*": "q4_k_m"}"#, "mixture"),
        ] {
            let error = Rules::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
