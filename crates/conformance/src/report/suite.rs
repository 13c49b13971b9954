//! The cases that there were to ask, as a report keeps them, so that it can be judged without the version that made it.

use std::collections::BTreeMap;

use qiao_core::{DType, OpKind, Tier};
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::family::Depth;
use crate::profile::Profile;

/// An operator of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Its name.
    pub name: String,
    /// The smallest profile that holds it, `llm-core` or larger.
    pub tier: Profile,
}

/// Cases that share operator and points: those of a family in all its dtypes, or those of one kind that have no dtype.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The operator; empty for cases that have no dtype, which every dtype needs: the device contract, refusals.
    pub op: String,
    /// The smallest profile that holds it.
    pub tier: Profile,
    /// What stands before the last part of the cases' paths: `op/rms_norm/f16`, `device/memory`.
    pub paths: Vec<String>,
    /// The last parts of the plain cases, which every profile walks.
    pub plain: Vec<String>,
    /// Those that `device`, `llm-core` and `llm-serving` walk as well.
    pub standard: Vec<String>,
    /// Those that only `full` walks.
    pub deep: Vec<String>,
}

/// Every case that there was to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suite {
    /// The version of Qiao whose suite it is.
    pub qiao: String,
    /// The operators, in the order of the list.
    pub operators: Vec<Operator>,
    /// The cases.
    pub groups: Vec<Group>,
}

/// The tier as a profile.
fn profile_of(tier: Tier) -> Profile {
    match tier {
        Tier::LlmCore => Profile::LlmCore,
        Tier::LlmServing => Profile::LlmServing,
        Tier::Full => Profile::Full,
    }
}

/// The dtype in a path such as `op/rms_norm/f16`; empty for the device contract.
pub fn dtype_of(path: &str) -> &str {
    match path.split('/').collect::<Vec<_>>()[..] {
        ["op", _, dtype] => dtype,
        _ => "",
    }
}

/// The dtype's place in the table of dtypes, behind all of them for one that is not in it.
pub fn dtype_rank(name: &str) -> usize {
    const FIRST: [&str; 3] = ["f32", "f16", "bf16"];
    let first = FIRST.iter().position(|d| *d == name);
    let listed = || DType::ALL.iter().position(|d| d.name() == name);
    first.or_else(|| listed().map(|i| i + FIRST.len())).unwrap_or(usize::MAX)
}

impl Suite {
    /// The suite of this version.
    pub fn here() -> Suite {
        let operators = OpKind::ALL.iter().map(|k| Operator { name: k.name().into(), tier: profile_of(k.tier()) });
        let mut groups: Vec<Group> = Vec::new();
        for case in Case::all(Depth::Full) {
            let id = case.id();
            let (path, tail) = id.rsplit_once('/').unwrap_or((&id, ""));
            let op = if let Case::Op { family, .. } = &case { family.op.name() } else { "" };
            if groups.last().is_none_or(|g| g.paths[0] != path) {
                let (plain, standard, deep) = (Vec::new(), Vec::new(), Vec::new());
                let (op, tier, paths) = (op.into(), profile_of(case.tier()), vec![path.to_string()]);
                groups.push(Group { op, tier, paths, plain, standard, deep });
            }
            let group = groups.last_mut().expect("one was pushed");
            match case.depth() {
                Depth::Smoke => group.plain.push(tail.into()),
                Depth::Standard => group.standard.push(tail.into()),
                Depth::Full => group.deep.push(tail.into()),
            }
        }
        Suite { qiao: env!("CARGO_PKG_VERSION").into(), operators: operators.collect(), groups: merged(groups) }
    }

    /// The groups that a profile asks for, each with the last parts of the paths that it walks.
    pub fn of(&self, profile: Profile) -> impl Iterator<Item = (&Group, Vec<&str>)> {
        let walked = move |g: &Group| g.tier.tier() <= profile.tier();
        self.groups.iter().filter(move |g| walked(g)).map(move |g| {
            let standard = (profile.depth() >= Depth::Standard).then_some(&g.standard).into_iter().flatten();
            let deep = (profile.depth() >= Depth::Full).then_some(&g.deep).into_iter().flatten();
            (g, g.plain.iter().chain(standard).chain(deep).map(String::as_str).collect())
        })
    }

    /// How many cases a profile has.
    pub fn count(&self, profile: Profile) -> usize {
        self.of(profile).map(|(group, tails)| group.paths.len() * tails.len()).sum()
    }
}

/// Joins groups that differ in their paths alone, and adds up those of one path.
fn merged(groups: Vec<Group>) -> Vec<Group> {
    let mut by_path: BTreeMap<String, usize> = BTreeMap::new();
    let mut whole: Vec<Group> = Vec::new();
    for group in groups {
        match by_path.get(&group.paths[0]) {
            Some(&at) => {
                whole[at].plain.extend(group.plain);
                whole[at].standard.extend(group.standard);
                whole[at].deep.extend(group.deep);
            }
            None => {
                by_path.insert(group.paths[0].clone(), whole.len());
                whole.push(group);
            }
        }
    }
    let mut merged: Vec<Group> = Vec::new();
    for group in whole {
        let alike = |g: &&mut Group| {
            (&g.op, g.tier, &g.plain, &g.standard, &g.deep)
                == (&group.op, group.tier, &group.plain, &group.standard, &group.deep)
        };
        match merged.iter_mut().find(alike).filter(|_| !group.op.is_empty()) {
            Some(same) => same.paths.extend(group.paths),
            None => merged.push(group),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_suite_names_exactly_the_cases_of_each_profile() {
        let suite = Suite::here();
        for profile in Profile::ALL {
            let want: BTreeSet<String> = profile.cases().iter().map(Case::id).collect();
            let ids = suite.of(profile).flat_map(|(g, tails)| {
                let paths = g.paths.iter();
                paths.flat_map(|p| tails.iter().map(move |t| format!("{p}/{t}"))).collect::<Vec<_>>()
            });
            let found: BTreeSet<String> = ids.collect();
            assert_eq!(found, want, "{profile}");
            assert_eq!(suite.count(profile), want.len(), "{profile}");
        }
    }

    #[test]
    fn dtypes_of_activations_come_first() {
        let mut names = vec!["q4_0", "bf16", "strange", "f16", "i8", "f32"];
        names.sort_by_key(|n| dtype_rank(n));
        assert_eq!(names, ["f32", "f16", "bf16", "i8", "q4_0", "strange"]);
    }
}
