//! Descriptions that are wrong in one thing, each of which must be refused before any device is asked.
//!
//! A valid node of every operator is taken from its family (`draft`), and one thing about it is changed (`mutation`): the
//! rank, a size, the dtype or the strides of an operand, an attribute, an output, what shares storage with what. Which
//! changes an operator must refuse follows from its operands and from a short list of those that are legal
//! (`legal`). Paths are `refuse/<operator>/<change>`.

mod draft;
mod legal;
mod mutation;

use std::collections::HashSet;
use std::sync::OnceLock;

use qiao_core::{Error, OpKind};

use crate::family::{Depth, Family};
use crate::verdict::{Check, Failure, Outcome};
use draft::{Built, Draft};
use mutation::Mutation;

/// One description that is wrong in one thing.
pub struct Refusal {
    /// Its stable path.
    pub id: String,
    /// The operator.
    pub op: OpKind,
    draft: Draft,
}

impl Refusal {
    /// How deep all of them lie.
    pub const DEPTH: Depth = Depth::Standard;

    /// Every one, in the order of the op list.
    pub fn all() -> &'static [Refusal] {
        static ALL: OnceLock<Vec<Refusal>> = OnceLock::new();
        ALL.get_or_init(|| OpKind::ALL.iter().flat_map(|&kind| of(kind)).collect())
    }

    /// Whether it is refused, with an error that says what was asked, what was found and how to mend it.
    pub fn outcome(&self) -> Outcome {
        let failed = |why: String| Outcome::Failed(Failure::new(Check::Refusal, why));
        match self.draft.build() {
            Built::NoAttributes => Outcome::Passed,
            Built::Refused(Error::Invalid { what, found, mend }) => {
                match [what, found, mend].iter().any(|text| text.trim().is_empty()) {
                    true => {
                        failed("it is refused without saying what was asked, what was found and how to mend it".into())
                    }
                    false => Outcome::Passed,
                }
            }
            Built::Refused(error) => failed(format!("a description that is wrong is invalid, not: {error}")),
            Built::Taken(graph) => failed(format!("it is taken:\n{graph}")),
        }
    }
}

/// The changes of one operator: all that apply to its first plain case, and of further cases what is new about them.
fn of(kind: OpKind) -> Vec<Refusal> {
    let mut all = Vec::new();
    let mut seen = HashSet::new();
    for base in bases(kind) {
        for mutation in Mutation::all(&base) {
            if legal::reason(&mutation, &base).is_some() {
                continue;
            }
            let name = mutation.name(&base);
            let Some(draft) = mutation.apply(&base) else { continue };
            if seen.insert(name.clone()) {
                all.push(Refusal { id: format!("refuse/{kind}/{name}"), op: kind, draft });
            }
        }
    }
    all
}

/// Plain cases of an operator, one for each set of operands and attributes that may be given together.
fn bases(kind: OpKind) -> Vec<Draft> {
    let mut bases: Vec<Draft> = Vec::new();
    for family in Family::of(kind) {
        for (_, point) in family.points(Depth::Smoke) {
            let built = family.trial(family.dtypes[0], &point, 1).and_then(|trial| trial.build());
            let Some(draft) = built.ok().map(|built| Draft::of(&built)) else { continue };
            if bases.iter().all(|b| b.given() != draft.given() || b.words != draft.words) {
                bases.push(draft);
            }
        }
    }
    bases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_base_is_valid() {
        for &kind in OpKind::ALL {
            for base in bases(kind) {
                match base.build() {
                    Built::Taken(_) => {}
                    Built::NoAttributes => panic!("{kind}: its attributes stand for nothing"),
                    Built::Refused(e) => panic!("{kind}: {e}"),
                }
            }
        }
    }

    #[test]
    fn every_operator_with_a_family_is_mutated() {
        for &kind in OpKind::ALL {
            let count = Refusal::all().iter().filter(|r| r.op == kind).count();
            assert!(Family::of(kind).next().is_none() || count >= 8, "{kind} has {count}");
        }
    }

    #[test]
    fn every_wrong_description_is_refused() {
        let wrong = Refusal::all().iter().filter_map(|r| match r.outcome() {
            Outcome::Failed(failure) => Some(format!("{}: {}", r.id, failure.why)),
            _ => None,
        });
        let wrong: Vec<String> = wrong.collect();
        assert!(wrong.is_empty(), "{} are taken:\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn a_description_that_is_taken_fails() {
        let draft = bases(OpKind::Add).swap_remove(0);
        let taken = Refusal { id: "refuse/add/nothing".into(), op: OpKind::Add, draft };
        assert!(matches!(taken.outcome(), Outcome::Failed(f) if f.check == Check::Refusal && f.why.contains("add(")));
    }

    #[test]
    fn no_two_have_one_path() {
        let mut seen = HashSet::new();
        assert!(Refusal::all().iter().all(|r| seen.insert(&r.id)));
        assert!(seen.iter().all(|id| !id.contains(char::is_whitespace)));
    }

    #[test]
    fn what_is_legal_is_taken() {
        // The list of exceptions holds nothing that must be refused after all.
        let mut taken = 0;
        for base in OpKind::ALL.iter().flat_map(|&kind| bases(kind)) {
            for mutation in Mutation::all(&base) {
                let (Some(reason), Some(draft)) = (legal::reason(&mutation, &base), mutation.apply(&base)) else {
                    continue;
                };
                match draft.build() {
                    Built::Taken(_) => taken += 1,
                    Built::NoAttributes => {
                        panic!("{} {}: '{reason}', yet no attributes", base.kind, mutation.name(&base))
                    }
                    Built::Refused(e) => panic!("{} {}: '{reason}', yet {e}", base.kind, mutation.name(&base)),
                }
            }
        }
        assert!(taken > 0);
    }
}
