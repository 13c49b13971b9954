//! Profiles: what a device is asked, and what it must support to hold one.
//!
//! A profile is held *in a dtype*: a model runs from its first operator to its last in one activation dtype. Every operator
//! of the profile must pass its plain cases (those of [`Depth::Smoke`]) in that dtype; families whose cases are not named
//! by an activation dtype (block formats, int8) must pass in at least one of theirs.
//!
//! [`Profile::Device`] asks for no operator: what the device says it has must be right, and the contract must hold. Operators
//! may be required on top of any profile; a port requires those that it claims.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use qiao_core::{DType, Error, OpKind, Tier};
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::family::Depth;
use crate::verdict::{Record, Status};

/// What a device is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The device contract; and of the operators' cases those that the device runs.
    Device,
    /// The plain cases of what a language model needs, and the plain clauses of the device contract.
    Smoke,
    /// What a language model needs to produce a token.
    LlmCore,
    /// What serving needs on top.
    LlmServing,
    /// Everything, large shapes included.
    Full,
}

impl Profile {
    /// Every profile that asks for operators, smallest first.
    pub const ALL: [Profile; 4] = [Profile::Smoke, Profile::LlmCore, Profile::LlmServing, Profile::Full];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Device => "device",
            Profile::Smoke => "smoke",
            Profile::LlmCore => "llm-core",
            Profile::LlmServing => "llm-serving",
            Profile::Full => "full",
        }
    }

    /// The operators whose cases it walks.
    pub const fn tier(self) -> Tier {
        match self {
            Profile::Smoke | Profile::LlmCore => Tier::LlmCore,
            Profile::Device | Profile::LlmServing => Tier::LlmServing,
            Profile::Full => Tier::Full,
        }
    }

    /// How deep it walks.
    pub const fn depth(self) -> Depth {
        match self {
            Profile::Smoke => Depth::Smoke,
            Profile::Device | Profile::LlmCore | Profile::LlmServing => Depth::Standard,
            Profile::Full => Depth::Full,
        }
    }

    /// Whether it asks for an operator.
    pub fn asks(self, kind: OpKind) -> bool {
        self != Profile::Device && kind.tier() <= self.tier()
    }

    /// Its cases, in order.
    pub fn cases(self) -> Vec<Case> {
        Case::all(self.depth()).into_iter().filter(|c| c.tier() <= self.tier()).collect()
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let all = || std::iter::once(Profile::Device).chain(Profile::ALL);
        let names = || all().map(Profile::name).collect::<Vec<_>>().join(", ");
        all()
            .find(|p| p.name() == s)
            .ok_or_else(|| Error::invalid("profile", format!("'{s}'"), format!("use one of {}", names())))
    }
}

/// One thing that a profile asks for and a device does not give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The operator, or the kind of clause of the device contract.
    pub what: String,
    /// The dtype that stands in the paths.
    pub dtype: String,
    /// What its plain cases came to.
    pub why: String,
}

/// Whether a profile is held in one dtype, and what is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The profile.
    pub profile: Profile,
    /// The activation dtype.
    pub dtype: String,
    /// Operators asked for.
    pub asked: usize,
    /// What is missing; empty where the profile is held.
    pub gaps: Vec<Gap>,
}

/// For each activation dtype that a run's cases name, whether a profile is held in it.
///
/// Judged from records alone: a case that the run's filter left out is a gap, so that a narrow run holds nothing. `required`
/// are operators that are asked for beyond those of the profile.
pub fn held(profile: Profile, required: &[OpKind], records: &[Record]) -> Vec<Held> {
    let by_id: BTreeMap<&str, &Record> = records.iter().map(|r| (r.id.as_str(), r)).collect();
    let plain: Vec<(Case, String)> = profile
        .cases()
        .into_iter()
        .filter(|c| c.depth() == Depth::Smoke)
        .map(|c| {
            let id = c.id();
            (c, id)
        })
        .collect();
    let kinds = OpKind::ALL.iter().filter(|k| profile.asks(**k) || required.contains(k));
    let in_dtype = |activation: DType| {
        let mut gaps = Vec::new();
        let mut asked = 0;
        for &kind in kinds.clone() {
            asked += 1;
            // What each dtype of the operator's paths came to: no text where all is well.
            let mut found: BTreeMap<DType, Vec<String>> = BTreeMap::new();
            let mut elective: BTreeMap<DType, Vec<String>> = BTreeMap::new();
            let mut passed: BTreeMap<DType, usize> = BTreeMap::new();
            for (case, id) in &plain {
                let Case::Op { family, dtype, .. } = case else { continue };
                if family.op == kind {
                    let record = by_id.get(id.as_str()).copied();
                    *passed.entry(*dtype).or_default() +=
                        usize::from(record.is_some_and(|r| r.status == Status::Passed));
                    let to = if record.is_some_and(|r| r.elective) { &mut elective } else { &mut found };
                    to.entry(*dtype).or_default().extend(trouble(record, id));
                }
            }
            // A device that has no use for any of them does not have the operator.
            for (dtype, troubles) in elective {
                let found = found.entry(dtype).or_default();
                if passed.get(&dtype) == Some(&0) {
                    found.extend(troubles);
                }
            }
            let gap = |dtype: &DType, found: &[String]| Gap {
                what: kind.name().into(),
                dtype: dtype.name().into(),
                why: found.first().cloned().unwrap_or_default(),
            };
            match found.get(&activation) {
                Some(troubles) if troubles.is_empty() => {}
                Some(troubles) => gaps.push(gap(&activation, troubles)),
                None if found.values().any(Vec::is_empty) => {}
                None => gaps.push(match found.iter().next() {
                    Some((dtype, troubles)) => gap(dtype, troubles),
                    None => gap(&activation, &["the suite has no plain case for it".into()]),
                }),
            }
        }
        for (case, id) in &plain {
            if let (Case::Device(_), Some(why)) = (case, device_trouble(by_id.get(id.as_str()).copied(), id)) {
                gaps.push(Gap { what: id.clone(), dtype: String::new(), why });
            }
        }
        Held { profile, dtype: activation.name().into(), asked, gaps }
    };
    [DType::F32, DType::F16, DType::BF16].map(in_dtype).into()
}

/// Why a required case does not count; nothing where it passed.
fn trouble(record: Option<&Record>, id: &str) -> Option<String> {
    match record {
        None => Some(format!("{id} did not run")),
        Some(r) if r.status == Status::Passed => None,
        Some(r) => {
            let why = r.failure.as_ref().map(|f| format!("{}: {}", f.check, f.why)).or_else(|| r.reason.clone());
            Some(format!("{id} {}: {}", r.status, why.unwrap_or_default()))
        }
    }
}

/// The same for a clause: one that a device says it has no use for is no gap.
fn device_trouble(record: Option<&Record>, id: &str) -> Option<String> {
    if record.is_some_and(|r| r.status == Status::Unsupported) { None } else { trouble(record, id) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Outcome;

    fn passed(profile: Profile) -> Vec<Record> {
        let plain = profile.cases().into_iter().filter(|c| c.depth() == Depth::Smoke);
        plain.map(|c| Record::of(c.id(), Outcome::Passed)).collect()
    }

    fn all_passed() -> Vec<Record> {
        passed(Profile::Smoke)
    }

    #[test]
    fn profiles_contain_each_other() {
        let mut smaller = 0;
        for profile in Profile::ALL {
            let cases = profile.cases().len();
            assert!(cases >= smaller, "{profile}");
            smaller = cases;
            assert_eq!(profile.name().parse::<Profile>().unwrap(), profile);
        }
        assert_eq!("device".parse::<Profile>().unwrap(), Profile::Device);
        assert_eq!(Profile::Device.cases().len(), Profile::LlmServing.cases().len());
        assert!("everything".parse::<Profile>().is_err());
    }

    #[test]
    fn one_refused_plain_case_is_a_gap_in_its_dtype_alone() {
        let mut records = all_passed();
        let id = records.iter_mut().find(|r| r.id.starts_with("op/rms_norm/f16/")).unwrap();
        *id = Record::of(id.id.clone(), Outcome::Unsupported("no f16".into()));
        let held = held(Profile::Smoke, &[], &records);
        let gaps = |dtype: &str| {
            let held = held.iter().find(|h| h.dtype == dtype).unwrap();
            held.gaps.iter().filter(|g| g.what == "rms_norm").count()
        };
        assert_eq!((gaps("f32"), gaps("f16"), gaps("bf16")), (0, 1, 0));
    }

    #[test]
    fn pages_that_a_device_does_not_declare_are_no_gap_unless_it_has_no_others() {
        let decode = |r: &Record| r.id.starts_with("op/attention_decode/f16/");
        let elective = |which: &dyn Fn(&Record) -> bool| {
            let mut records = passed(Profile::LlmServing);
            for record in records.iter_mut().filter(|r| decode(r) && which(r)) {
                *record =
                    Record { elective: true, ..Record::of(record.id.clone(), Outcome::Unsupported("pages".into())) };
            }
            let held = held(Profile::LlmServing, &[], &records);
            let f16 = held.iter().find(|h| h.dtype == "f16").unwrap();
            f16.gaps.iter().filter(|g| g.what == "attention_decode").count()
        };
        assert_eq!(elective(&|r| r.id.contains("pages=head_token")), 0);
        assert_eq!(elective(&|_| true), 1);
    }

    #[test]
    fn a_run_of_nothing_holds_nothing() {
        assert!(held(Profile::Smoke, &[], &[]).iter().all(|h| !h.gaps.is_empty()));
    }

    #[test]
    fn an_operator_that_is_required_is_asked_for_whatever_the_profile() {
        let plain = Profile::Device.cases().into_iter().filter(|c| c.depth() == Depth::Smoke);
        let mut records: Vec<Record> = plain
            .map(|c| match c {
                Case::Op { .. } => Record::of(c.id(), Outcome::Unsupported("no kernel".into())),
                _ => Record::of(c.id(), Outcome::Passed),
            })
            .collect();
        let gaps = |records: &[Record], required: &[OpKind]| {
            let held = held(Profile::Device, required, records);
            (held[0].asked, held[0].gaps.len())
        };
        assert_eq!(gaps(&records, &[]), (0, 0));
        assert_eq!(gaps(&records, &[OpKind::Add]), (1, 1));
        for record in records.iter_mut().filter(|r| r.id.starts_with("op/add/f32/")) {
            *record = Record::of(record.id.clone(), Outcome::Passed);
        }
        assert_eq!(gaps(&records, &[OpKind::Add]), (1, 0));
        assert_eq!(gaps(&records, &[OpKind::Add, OpKind::Mul]), (2, 1));
    }
}
