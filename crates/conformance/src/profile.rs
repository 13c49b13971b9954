//! Profiles: what a device is asked, and what it must support to hold one.
//!
//! A profile is held *in a dtype*: a model runs from its first operator to its last in one activation dtype. Every operator
//! of the profile must pass its plain cases (those of [`Depth::Smoke`]) in that dtype; families whose cases are not named
//! by an activation dtype (block formats, int8) must pass in at least one of theirs.
//!
//! [`Profile::Device`] demands no operator: what the device says that it supports must be right. Operators may be required
//! on top of any profile, by [`crate::Selection::required`]; a port requires those that it claims.

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
    /// The device contract, and every case of what the device says that it supports. No operator is demanded.
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
    /// Every profile, smallest first.
    pub const ALL: [Profile; 5] =
        [Profile::Device, Profile::Smoke, Profile::LlmCore, Profile::LlmServing, Profile::Full];

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

    /// The operators whose cases it walks: with [`Profile::Device`] as far as there are any, with the others those that it
    /// demands.
    pub const fn tier(self) -> Tier {
        match self {
            Profile::Smoke | Profile::LlmCore => Tier::LlmCore,
            Profile::LlmServing => Tier::LlmServing,
            Profile::Device | Profile::Full => Tier::Full,
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

    /// Whether it asks for an operator: then a device without it does not hold the profile.
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
        let names = || Profile::ALL.map(Profile::name).join(", ");
        Profile::ALL
            .into_iter()
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
    /// The activation dtype; empty for a profile that demands no operator.
    pub dtype: String,
    /// Operators asked for.
    pub asked: usize,
    /// What is missing; empty where the profile is held.
    pub gaps: Vec<Gap>,
}

/// Whether an operator that was demanded by name is held, and what is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Required {
    /// The operator.
    pub op: String,
    /// The activation dtypes in which all its plain cases pass; its own dtypes where its cases are not named by an activation
    /// dtype. One is enough.
    pub held: Vec<String>,
    /// What is missing in the others.
    pub gaps: Vec<Gap>,
}

/// The dtypes in which a model runs from its first operator to its last.
const ACTIVATIONS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Plain cases, each with its path.
fn plain(cases: Vec<Case>) -> Vec<(Case, String)> {
    let with_path = |c: Case| {
        let id = c.id();
        (c, id)
    };
    cases.into_iter().filter(|c| c.depth() == Depth::Smoke).map(with_path).collect()
}

/// Records by the paths of their cases.
type ById<'a> = BTreeMap<&'a str, &'a Record>;

fn by_id(records: &[Record]) -> ById<'_> {
    records.iter().map(|r| (r.id.as_str(), r)).collect()
}

/// What the plain cases of an operator came to in each dtype of their paths: nothing where all is well.
fn troubles(kind: OpKind, plain: &[(Case, String)], by_id: &ById<'_>) -> BTreeMap<DType, Vec<String>> {
    let mut found: BTreeMap<DType, Vec<String>> = BTreeMap::new();
    let mut elective: BTreeMap<DType, Vec<String>> = BTreeMap::new();
    let mut passed: BTreeMap<DType, usize> = BTreeMap::new();
    for (case, id) in plain {
        let Case::Op { family, dtype, .. } = case else { continue };
        if family.op == kind {
            let record = by_id.get(id.as_str()).copied();
            *passed.entry(*dtype).or_default() += usize::from(record.is_some_and(|r| r.status == Status::Passed));
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
    found
}

fn gap(kind: OpKind, dtype: DType, troubles: &[String]) -> Gap {
    let why = troubles.first().cloned().unwrap_or_default();
    Gap { what: kind.name().into(), dtype: dtype.name().into(), why }
}

const NO_CASE: &str = "the suite has no plain case for it";

/// What is missing of an operator in an activation dtype.
fn gap_in(kind: OpKind, activation: DType, found: &BTreeMap<DType, Vec<String>>) -> Option<Gap> {
    match found.get(&activation) {
        Some(troubles) if troubles.is_empty() => None,
        Some(troubles) => Some(gap(kind, activation, troubles)),
        None if found.values().any(Vec::is_empty) => None,
        None => Some(match found.iter().next() {
            Some((dtype, troubles)) => gap(kind, *dtype, troubles),
            None => gap(kind, activation, &[NO_CASE.into()]),
        }),
    }
}

/// For each activation dtype that a run's cases name, whether a profile is held in it; once for a profile that demands no
/// operator.
///
/// Judged from records alone: a case that the run's filter left out is a gap, so that a narrow run holds nothing.
pub fn held(profile: Profile, records: &[Record]) -> Vec<Held> {
    let (by_id, plain) = (by_id(records), plain(profile.cases()));
    let clause = |(case, id): &(Case, String)| match case {
        Case::Device(_) => device_trouble(by_id.get(id.as_str()).copied(), id).map(|why| Gap {
            what: id.clone(),
            dtype: String::new(),
            why,
        }),
        _ => None,
    };
    let mut clauses: Vec<Gap> = plain.iter().filter_map(clause).collect();
    // What was asked beyond that and failed is no less a part of the contract.
    let asked = |record: &&Record| plain.iter().all(|(_, id)| *id != record.id);
    let further = records.iter().filter(|r| r.id.starts_with("device/")).filter(asked);
    clauses.extend(further.filter_map(|record| {
        let why = device_trouble(Some(record), &record.id)?;
        Some(Gap { what: record.id.clone(), dtype: String::new(), why })
    }));
    let kinds: Vec<OpKind> = OpKind::ALL.iter().copied().filter(|k| profile.asks(*k)).collect();
    if kinds.is_empty() {
        return vec![Held { profile, dtype: String::new(), asked: 0, gaps: clauses }];
    }
    let found: Vec<_> = kinds.iter().map(|&kind| (kind, troubles(kind, &plain, &by_id))).collect();
    let in_dtype = |activation: DType| {
        let operators = found.iter().filter_map(|(kind, found)| gap_in(*kind, activation, found));
        let gaps = operators.chain(clauses.clone()).collect();
        Held { profile, dtype: activation.name().into(), asked: kinds.len(), gaps }
    };
    ACTIVATIONS.map(in_dtype).into()
}

/// For each operator that was demanded by name, in which dtypes it is held. Judged as [`held`] judges.
pub fn required(kinds: &[OpKind], records: &[Record]) -> Vec<Required> {
    let (by_id, plain) = (by_id(records), plain(Case::all(Depth::Smoke)));
    let one = |&kind: &OpKind| {
        let mut found = troubles(kind, &plain, &by_id);
        if found.is_empty() {
            found.insert(DType::F32, vec![NO_CASE.into()]);
        }
        if ACTIVATIONS.iter().any(|a| found.contains_key(a)) {
            found.retain(|dtype, _| ACTIVATIONS.contains(dtype));
        }
        let (held, lacking): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, troubles)| troubles.is_empty());
        // The dtype that comes closest stands first.
        let mut lacking = lacking;
        lacking.sort_by_key(|(_, troubles)| troubles.len());
        Required {
            op: kind.name().into(),
            held: held.into_iter().map(|(dtype, _)| dtype.name().into()).collect(),
            gaps: lacking.iter().map(|(dtype, troubles)| gap(kind, *dtype, troubles)).collect(),
        }
    };
    kinds.iter().map(one).collect()
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
    fn a_clause_that_fails_is_a_gap_at_any_depth() {
        use crate::contract::Clause;
        let clause = Clause::all().find(|c| c.depth == Depth::Standard).unwrap();
        let mut records = passed(Profile::Device);
        assert!(held(Profile::Device, &records).iter().all(|held| held.gaps.is_empty()));
        records.push(Record::of(clause.id, Outcome::Unsupported("no memory to spare".into())));
        assert!(held(Profile::Device, &records).iter().all(|held| held.gaps.is_empty()));
        let failure = crate::verdict::Failure::new(crate::Check::Contract, "it hangs");
        *records.last_mut().unwrap() = Record::of(clause.id, Outcome::Failed(failure));
        for held in held(Profile::Device, &records).iter().chain(&held(Profile::Smoke, &records)) {
            assert!(held.gaps.iter().any(|gap| gap.what == clause.id && gap.why.contains("hangs")), "{held:?}");
        }
    }

    #[test]
    fn profiles_contain_each_other() {
        let (mut smaller, mut demanded) = (0, 0);
        for profile in Profile::ALL {
            let demands = OpKind::ALL.iter().filter(|k| profile.asks(**k)).count();
            assert!(demands >= demanded && (demands > 0) == (profile != Profile::Device), "{profile}");
            demanded = demands;
            assert_eq!(profile.name().parse::<Profile>().unwrap(), profile);
        }
        for profile in &Profile::ALL[1..] {
            let cases = profile.cases().len();
            assert!(cases >= smaller, "{profile}");
            smaller = cases;
        }
        assert!("everything".parse::<Profile>().is_err());
    }

    #[test]
    fn one_refused_plain_case_is_a_gap_in_its_dtype_alone() {
        let mut records = all_passed();
        let id = records.iter_mut().find(|r| r.id.starts_with("op/rms_norm/f16/")).unwrap();
        *id = Record::of(id.id.clone(), Outcome::Unsupported("no f16".into()));
        let held = held(Profile::Smoke, &records);
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
            let held = held(Profile::LlmServing, &records);
            let f16 = held.iter().find(|h| h.dtype == "f16").unwrap();
            f16.gaps.iter().filter(|g| g.what == "attention_decode").count()
        };
        assert_eq!(elective(&|r| r.id.contains("pages=head_token")), 0);
        assert_eq!(elective(&|_| true), 1);
    }

    #[test]
    fn a_run_of_nothing_holds_nothing() {
        assert!(held(Profile::Smoke, &[]).iter().all(|h| !h.gaps.is_empty()));
        assert!(held(Profile::Device, &[]).iter().all(|h| !h.gaps.is_empty()));
    }

    #[test]
    fn a_device_without_operators_holds_the_smallest_profile_alone() {
        let clauses = Profile::Device.cases().into_iter().map(|c| match c {
            Case::Op { .. } => Record::of(c.id(), Outcome::Unsupported("no kernel".into())),
            _ => Record::of(c.id(), Outcome::Passed),
        });
        let records: Vec<Record> = clauses.collect();
        assert!(matches!(&held(Profile::Device, &records)[..], [Held { asked: 0, gaps, .. }] if gaps.is_empty()));
        assert!(held(Profile::Smoke, &records).iter().all(|h| h.gaps.len() == h.asked));
        let [add] = &required(&[OpKind::Add], &records)[..] else { panic!("one operator was asked for") };
        assert!(add.held.is_empty() && add.gaps[0].why.contains("no kernel"), "{add:?}");
    }

    #[test]
    fn an_operator_that_is_demanded_is_held_in_one_dtype_or_lacks_something_in_all() {
        let mut records = passed(Profile::LlmServing);
        let refused = |r: &Record| r.id.starts_with("op/matmul/f16/") || r.id.starts_with("op/kv_write/");
        for record in records.iter_mut().filter(|r| refused(r)) {
            *record = Record::of(record.id.clone(), Outcome::Unsupported("too small".into()));
        }
        let found = required(&[OpKind::Matmul, OpKind::KvWrite], &records);
        assert_eq!((found[0].held.join(","), found[0].gaps.len()), ("f32,bf16".into(), 1));
        assert_eq!((found[1].held.len(), found[1].gaps.len()), (0, 3));
    }
}
