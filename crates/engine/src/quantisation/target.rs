//! Which modules a rule is for.

use fancy_regex::Regex;

/// A module's name, its kind, or an expression over names.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// Every linear layer.
    Linear,
    /// The module of this name, or whose name ends so after a dot.
    Named(String),
    /// Modules at whose beginning the expression matches.
    Regex(Box<Regex>),
}

impl PartialEq for Target {
    fn eq(&self, other: &Target) -> bool {
        match (self, other) {
            (Target::Linear, Target::Linear) => true,
            (Target::Named(a), Target::Named(b)) => a == b,
            (Target::Regex(a), Target::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl Target {
    /// As compressed-tensors writes targets: `Linear`, a name, or `re:` and an expression.
    pub(crate) fn parse(text: &str) -> Result<Target, fancy_regex::Error> {
        match text.strip_prefix("re:") {
            Some(expression) => Target::regex(expression),
            None if text == "Linear" => Ok(Target::Linear),
            None => Ok(Target::Named(text.to_string())),
        }
    }

    /// An expression that must match from the beginning of a name, as Python's `re.match` has it.
    pub(crate) fn regex(expression: &str) -> Result<Target, fancy_regex::Error> {
        Ok(Target::Regex(Box::new(Regex::new(&format!("^(?:{expression})"))?)))
    }

    pub(crate) fn matches(&self, module: &str) -> bool {
        match self {
            Target::Linear => true,
            Target::Named(name) => module == name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
            // An expression that gives up on a name does not match it.
            Target::Regex(expression) => expression.is_match(module).unwrap_or(false),
        }
    }
}
