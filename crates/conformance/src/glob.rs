//! Patterns of case paths: `*` is any text, `?` any one character; everything else is itself.

/// A pattern of case paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// The pattern of a text.
    pub fn new(text: impl Into<String>) -> Glob {
        Glob(text.into())
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether a path matches, from its first character to its last.
    pub fn matches(&self, path: &str) -> bool {
        let (pattern, path): (Vec<char>, Vec<char>) = (self.0.chars().collect(), path.chars().collect());
        let (mut p, mut t) = (0, 0);
        // Where to go on if what follows the last star does not fit here.
        let mut retry: Option<(usize, usize)> = None;
        while t < path.len() {
            match pattern.get(p) {
                Some('*') => {
                    retry = Some((p, t));
                    p += 1;
                }
                Some(&c) if c == '?' || c == path[t] => {
                    p += 1;
                    t += 1;
                }
                _ => match retry {
                    Some((star, from)) => {
                        retry = Some((star, from + 1));
                        p = star + 1;
                        t = from + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        let path = "op/rms_norm/f16/rows=7,cols=4096";
        for good in ["*", path, "op/*", "op/rms_norm/*", "*cols=4096", "op/*/f16/*", "op/rms_norm/f1?/*", "**rows*"] {
            assert!(Glob::new(good).matches(path), "{good}");
        }
        for bad in ["", "op", "op/rms_norm", "*f32*", "op/rms_norm/f16/", "rms_norm*", "?"] {
            assert!(!Glob::new(bad).matches(path), "{bad}");
        }
        assert!(Glob::new("*").matches("") && Glob::new("").matches(""));
        assert!(Glob::new("*ab").matches("aab"));
    }
}
