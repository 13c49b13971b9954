//! C prototypes as headers write them, as far as a plain interface needs: types of names, pointers and `const`.

use std::collections::HashMap;
use std::fmt;

/// A type: what it is in the end, how many pointers lead there, and whether what they lead to is constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Type {
    pub(crate) base: String,
    pub(crate) pointers: usize,
    pub(crate) constant: bool,
}

/// A function: its result and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) result: Type,
    pub(crate) arguments: Vec<Type>,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let constant = if self.constant && self.pointers > 0 { "const " } else { "" };
        write!(f, "{constant}{}{}", self.base, "*".repeat(self.pointers))
    }
}

/// The text of headers, with the names that they give to types.
pub(crate) struct Headers {
    text: String,
    /// What a name stands for: another name, and how many pointers.
    names: HashMap<String, (String, usize)>,
}

/// Numbers by the names of C, and the names that Rust has for them.
const NUMBERS: &[(&str, &str)] = &[
    ("void", "void"),
    ("char", "char"),
    ("bool", "bool"),
    ("float", "f32"),
    ("double", "f64"),
    ("int", "i32"),
    ("int8_t", "i8"),
    ("int32_t", "i32"),
    ("uint32_t", "u32"),
    ("int64_t", "i64"),
    ("uint64_t", "u64"),
    ("size_t", "usize"),
];

/// Words that say nothing about a type.
const NOISE: &[&str] = &["struct", "enum", "extern", "static", "inline", "ACL_FUNC_VISIBILITY", "const"];

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// A text without comments, and without lines for the preprocessor.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("/*").into_iter().chain(rest.find("//")).min() {
        out.push_str(&rest[..at]);
        let end =
            if rest[at..].starts_with("/*") { rest[at..].find("*/").map(|e| e + 2) } else { rest[at..].find('\n') };
        rest = end.map_or("", |e| &rest[at + e..]);
    }
    out.push_str(rest);
    out.lines().filter(|l| !l.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
}

impl Headers {
    /// Reads headers.
    pub(crate) fn read(texts: &[String]) -> Headers {
        let text = texts.iter().map(|t| plain(t)).collect::<Vec<_>>().join(";\n");
        let mut names = HashMap::new();
        for (at, _) in text.match_indices("typedef") {
            let rest = &text[at + 7..];
            let Some(end) = closing(rest, ';') else { continue };
            let line = &rest[..end];
            if line.contains('(') {
                continue;
            }
            let line = line.trim();
            let (head, name) = line.split_at(line.rfind(|c| !is_word(c)).map_or(0, |i| i + 1));
            let target = match head.split_whitespace().next() {
                Some("enum") => ("int".into(), 0),
                Some("struct" | "union") => ("void".into(), 0),
                _ => {
                    let base = head.split(|c: char| !is_word(c)).find(|w| !w.is_empty() && !NOISE.contains(w));
                    (base.unwrap_or("void").to_string(), head.matches('*').count())
                }
            };
            names.insert(name.to_string(), target);
        }
        Headers { text, names }
    }

    /// The signature of a function, or of the type of a pointer to it.
    pub(crate) fn signature(&self, name: &str) -> Option<Signature> {
        self.prototype(name).or_else(|| self.pointer(name))
    }

    /// `result name(arguments);`
    fn prototype(&self, name: &str) -> Option<Signature> {
        self.text.match_indices(name).find_map(|(at, _)| {
            let (before, after) = (&self.text[..at], self.text[at + name.len()..].trim_start());
            if before.ends_with(|c: char| is_word(c) || c == ':') || !after.starts_with('(') {
                return None;
            }
            let end = after.find(')')?;
            if !after[end + 1..].trim_start().starts_with(';') {
                return None;
            }
            let start = before.rfind([';', '}', '{', '"']).map_or(0, |s| s + 1);
            self.signature_of(&before[start..], &after[1..end])
        })
    }

    /// `typedef result (*_name)(arguments);`
    fn pointer(&self, name: &str) -> Option<Signature> {
        let mark = format!("(*_{name})");
        let at = self.text.find(&mark)?;
        let start = self.text[..at].rfind("typedef")? + 7;
        let after = self.text[at + mark.len()..].trim_start().strip_prefix('(')?;
        self.signature_of(&self.text[start..at], &after[..after.find(')')?])
    }

    fn signature_of(&self, result: &str, arguments: &str) -> Option<Signature> {
        let arguments = arguments.split(',').filter(|a| !a.trim().is_empty() && a.trim() != "void");
        Some(Signature {
            result: self.type_of(result)?,
            arguments: arguments.map(|a| self.type_of(a)).collect::<Option<_>>()?,
        })
    }

    /// The type of a declaration, whose name may be left out.
    fn type_of(&self, text: &str) -> Option<Type> {
        let text = text.split('=').next()?;
        let mut words = text.split(|c: char| !is_word(c)).filter(|w| !w.is_empty() && !NOISE.contains(w));
        let mut base = words.next()?.to_string();
        let mut pointers = text.matches('*').count();
        let pointee = text.split('*').next()?;
        let constant = pointee.split(|c: char| !is_word(c)).any(|w| w == "const");
        while let Some((of, more)) = self.names.get(&base) {
            (base, pointers) = (of.clone(), pointers + more);
        }
        let base = NUMBERS.iter().find(|(c, _)| *c == base).map(|(_, rust)| rust.to_string()).unwrap_or(base);
        // A constant handle says nothing about what it leads to.
        let constant = constant && text.contains('*');
        Some(Type { base, pointers, constant })
    }

    /// The number that a name is defined as, in texts with their preprocessor's lines.
    pub(crate) fn number(texts: &[String], name: &str) -> Option<i64> {
        texts.iter().flat_map(|t| t.lines()).find_map(|line| {
            let mut words = line.split(|c: char| !is_word(c) && c != '-').filter(|w| !w.is_empty());
            words.find(|w| *w == name)?;
            words.next()?.parse().ok()
        })
    }
}

/// Where a declaration ends, braces skipped.
fn closing(text: &str, end: char) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(i, c)| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        (c == end && depth == 0).then_some(i)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        /* aclrtMalloc(wrong); */ typedef int aclError; typedef void *aclrtStream;
        typedef enum aclKind { A = 1, // one; two
            B } aclKind;
        typedef struct aclTensor aclTensor;
        #define NOT 5
        #define ACL_ERROR_X              107002 // none
        extern "C" {
        ACL_FUNC_VISIBILITY aclError aclrtMalloc(void **devPtr,
                                                 size_t size,
                                                 aclKind policy);
        ACL_FUNC_VISIBILITY const char *aclWords();
        }
        static inline aclError twice(void **p) { return ::aclrtMalloc(p, 1, A); }
        typedef aclTensor* (*_aclCreateTensor)(const int64_t* dims, uint64_t n, aclrtStream s, const aclTensor* const* all);
    "#;

    fn headers() -> Headers {
        Headers::read(&[TEXT.to_string()])
    }

    fn shown(name: &str) -> String {
        let s = headers().signature(name).unwrap();
        let arguments: Vec<String> = s.arguments.iter().map(Type::to_string).collect();
        format!("{}({})", s.result, arguments.join(", "))
    }

    #[test]
    fn prototypes_are_read_through_comments_macros_and_names_of_types() {
        assert_eq!(shown("aclrtMalloc"), "i32(void**, usize, i32)");
        assert_eq!(shown("aclWords"), "const char*()");
        assert_eq!(shown("aclCreateTensor"), "void*(const i64*, u64, void*, const void**)");
        assert_eq!(headers().signature("aclrtFree"), None);
    }

    #[test]
    fn numbers_are_found_by_their_names() {
        let texts = [TEXT.to_string(), "static const int ACL_NONE = 0;".to_string()];
        assert_eq!(Headers::number(&texts, "ACL_ERROR_X"), Some(107_002));
        assert_eq!(Headers::number(&texts, "ACL_NONE"), Some(0));
        assert_eq!(Headers::number(&texts, "ACL_ERROR"), None);
    }
}
