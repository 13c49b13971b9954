//! A selection of cases, and how they are judged.

use std::path::PathBuf;

use qiao_core::OpKind;

use crate::case::Case;
use crate::expect::Expectations;
use crate::family::Depth;
use crate::glob::Glob;
use crate::profile::Profile;

/// What is run, and how it is judged.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The profile.
    pub profile: Profile,
    /// Operators that the device must have, whatever the profile asks for: their plain cases are walked as well. Those
    /// that a filter leaves out count as missing.
    pub required: Vec<OpKind>,
    /// Only cases whose path matches one of these; all where there is none.
    pub filter: Vec<Glob>,
    /// Data follow from this and a case's path.
    pub seed: u64,
    /// Expected failures.
    pub expectations: Expectations,
    /// Where replay files of failures go; nowhere without it.
    pub replays: Option<PathBuf>,
    /// Where records are kept as they come, so that a run that was cut off goes on; nowhere without it.
    pub journal: Option<PathBuf>,
    /// What is tested, beyond what the device says of itself: plugins with their options, and the program. A journal goes on
    /// only where this is the same.
    pub setup: Vec<String>,
    /// Hears in a line whether a journal goes on or begins anew.
    pub tell: fn(&str),
}

impl Selection {
    /// A profile with nothing else asked for.
    pub fn new(profile: Profile) -> Selection {
        Selection {
            profile,
            required: Vec::new(),
            filter: Vec::new(),
            seed: 1,
            expectations: Expectations::default(),
            replays: None,
            journal: None,
            setup: Vec::new(),
            tell: |_| {},
        }
    }

    /// The cases, in order.
    pub fn cases(&self) -> Vec<Case> {
        let wanted = |c: &Case| self.filter.is_empty() || self.filter.iter().any(|g| g.matches(&c.id()));
        let profile = self.profile;
        let of_profile = |c: &Case| c.tier() <= profile.tier() && c.depth() <= profile.depth();
        let required = |c: &Case| match c {
            Case::Op { family, depth, .. } => *depth == Depth::Smoke && self.required.contains(&family.op),
            _ => false,
        };
        Case::all(profile.depth()).into_iter().filter(|c| of_profile(c) || required(c)).filter(wanted).collect()
    }
}
