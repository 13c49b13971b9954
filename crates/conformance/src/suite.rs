//! The whole suite as cargo tests, in one line of a backend's crate.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use qiao_core::{Device, Error, OpKind, Result};

use crate::case::Case;
use crate::expect::Expectations;
use crate::family::Depth;
use crate::profile::{Held, Profile, held, required};
use crate::select::Selection;
use crate::shrink::shrink;
use crate::subject::Subject;
use crate::verdict::{Record, Status};

/// Makes every part of the suite a cargo test: one for each operator of the list, one for the device contract, one for
/// graphs that must be refused, one for the profile.
///
/// ```ignore
/// // tests/conformance.rs of the crate acme_npu, which has `pub fn open() -> qiao_core::Result<Arc<dyn Device>>`
/// qiao_conformance::suite!(acme_npu::open);
/// qiao_conformance::suite!(acme_npu::open, profile = LlmCore);
/// qiao_conformance::suite!(acme_npu::open, profile = LlmCore, expectations = include_str!("expectations.txt"));
/// qiao_conformance::suite!(acme_npu::open, profile = Device, required = [Add, Matmul]);
/// ```
///
/// The profile is `LlmServing` unless another is named; `Device` demands no operator, for a backend that has only begun. Where `open` answers [`Error::NotPresent`] the tests pass and say so;
/// `QIAO_REQUIRE=acme_npu` makes that a failure. `QIAO_SEED` changes the data, and `QIAO_CASE` names a case that the
/// test `the_case_of_the_environment_passes` runs alone.
#[macro_export]
macro_rules! suite {
    ($open:path) => {
        $crate::suite!($open, profile = LlmServing);
    };
    ($open:path, profile = $profile:ident) => {
        $crate::suite!($open, profile = $profile, expectations = "");
    };
    ($open:path, profile = $profile:ident, required = [$($required:ident),* $(,)?]) => {
        $crate::suite!(@ $open, $profile, [$($crate::core::OpKind::$required),*], "");
    };
    ($open:path, profile = $profile:ident, expectations = $expectations:expr) => {
        $crate::suite!(@ $open, $profile, [], $expectations);
    };
    (@ $open:path, $profile:ident, $required:expr, $expectations:expr) => {
        fn suite() -> &'static $crate::suite::Suite {
            static SUITE: std::sync::OnceLock<$crate::suite::Suite> = std::sync::OnceLock::new();
            SUITE.get_or_init(|| {
                let profile = $crate::Profile::$profile;
                $crate::suite::Suite::new(stringify!($open), profile, $expectations, || $open()).requiring(&$required)
            })
        }

        #[test]
        fn the_device_contract_holds() {
            suite().contract();
        }

        #[test]
        fn the_profile_is_held() {
            suite().profile();
        }

        #[test]
        fn the_case_of_the_environment_passes() {
            suite().case_of_the_environment();
        }

        $crate::suite_of_operators!($);
    };
}

/// One test for each operator of the list.
#[doc(hidden)]
#[macro_export]
macro_rules! suite_of_operators {
    ($d:tt) => {
        macro_rules! operator_tests {
            ($d($d(#[doc = $d doc:literal])* $d variant:ident($d attrs:ident) = $d code:literal, $d name:literal,
               $d tier:ident, [$d($d input:literal),*] => [$d($d output:literal),*],
               $d rule:ident, $d cost:ident, $d decompose:ident;)*) => {
                #[allow(non_snake_case, reason = "operators are named as in the list")]
                mod every_case_passes {
                    $d(#[test]
                    fn $d variant() {
                        super::suite().operator($crate::core::OpKind::$d variant);
                    })*
                }
            };
        }
        $crate::core::for_each_op!(operator_tests);
    };
}

/// Held by every case that runs: alone by those that watch the process, shared by the others.
static ALONE: RwLock<()> = RwLock::new(());

/// The suite on one device.
pub struct Suite {
    name: &'static str,
    profile: Profile,
    required: Vec<OpKind>,
    seed: u64,
    expectations: Expectations,
    subject: Result<Subject>,
}

/// How long a test makes each of its first failures smaller.
const SHRINK_TIME: Duration = Duration::from_secs(5);

/// Failures that a test prints.
const SHOWN: usize = 10;

impl Suite {
    /// The suite on the device that `open` opens. `name` is the path of that function.
    ///
    /// # Panics
    /// Expectations that can't be read, or a `QIAO_SEED` that is no number.
    pub fn new(
        name: &'static str,
        profile: Profile,
        expectations: &str,
        open: impl Fn() -> Result<Arc<dyn Device>> + Send + Sync + 'static,
    ) -> Suite {
        let seed = std::env::var("QIAO_SEED").map_or(1, |s| s.parse().expect("QIAO_SEED is a number"));
        let expectations = Expectations::parse(expectations).unwrap_or_else(|e| panic!("{e}"));
        Suite { name, profile, required: Vec::new(), seed, expectations, subject: Subject::open(open) }
    }

    /// The same with operators that are asked for beyond those of the profile.
    #[must_use]
    pub fn requiring(mut self, required: &[OpKind]) -> Suite {
        self.required = required.to_vec();
        self
    }

    /// The device, or nothing where it is not on this machine and not required.
    fn subject(&self) -> Option<&Subject> {
        match &self.subject {
            Ok(subject) => Some(subject),
            Err(error @ Error::NotPresent { .. }) => {
                let required = std::env::var("QIAO_REQUIRE").unwrap_or_default();
                let named = |r: &str| !r.trim().is_empty() && self.name.contains(r.trim());
                assert!(!required.split(',').any(named), "QIAO_REQUIRE asks for {}: {error}", self.name);
                eprintln!("skipped: {error}");
                None
            }
            Err(error) => panic!("{} fails: {error}", self.name),
        }
    }

    fn run(&self, case: &Case, subject: &Subject) -> Record {
        // The clauses on leaks watch the memory of the process, in which cargo runs the other tests at the same time.
        let record = match case.id().starts_with("device/leaks/") {
            true => {
                let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
                case.run(subject, self.seed)
            }
            false => {
                let _among_others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
                case.run(subject, self.seed)
            }
        };
        self.expectations.judge(record)
    }

    fn hold(&self, cases: impl Iterator<Item = Case>) {
        let Some(subject) = self.subject() else { return };
        let mut failures = Vec::new();
        let mut shrunk = HashSet::new();
        for case in cases {
            let record = self.run(&case, subject);
            if record.status != Status::Failed {
                continue;
            }
            let kind = record.failure.as_ref().map(|f| f.check);
            let record = match shrunk.insert(kind) {
                true => shrink(&case, &record, SHRINK_TIME, |c| c.run(subject, self.seed)).1,
                false => record,
            };
            failures.push(record);
        }
        let line = |r: &Record| {
            let why = r.failure.as_ref().map_or(String::new(), |f| format!("{}: {}", f.check, f.why));
            format!("QIAO_CASE='{}' QIAO_SEED={}\n    {why}", r.id, self.seed)
        };
        let shown: Vec<_> = failures.iter().take(SHOWN).map(line).collect();
        assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), shown.join("\n"));
    }

    /// Holds the device to every case of an operator, where the profile asks for it.
    ///
    /// # Panics
    /// A case fails.
    pub fn operator(&self, kind: OpKind) {
        let of = |c: &Case| matches!(c, Case::Op { family, .. } if family.op == kind);
        self.hold(self.profile.cases().into_iter().filter(of));
    }

    /// Holds the device to everything that is no operator's case.
    ///
    /// # Panics
    /// A clause fails.
    pub fn contract(&self) {
        self.hold(self.profile.cases().into_iter().filter(|c| !matches!(c, Case::Op { .. })));
    }

    /// Holds the device to its profile, and the expectations to the cases there are.
    ///
    /// # Panics
    /// The profile, or an operator that is required, is held in no dtype; a row of the expectations names no case.
    pub fn profile(&self) {
        let all: Vec<String> = Case::all(Depth::Full).iter().map(Case::id).collect();
        let stale = self.expectations.stale(all.iter().map(String::as_str));
        assert!(stale.is_empty(), "rows of the expectations that name no case: {stale:?}");
        let Some(subject) = self.subject() else { return };
        let selection = Selection { required: self.required.clone(), ..Selection::new(self.profile) };
        let plain = selection.cases().into_iter().filter(|c| c.depth() == Depth::Smoke);
        let records: Vec<Record> = plain.map(|c| self.run(&c, subject)).collect();
        let held = held(self.profile, &records);
        let gaps =
            |h: &Held| h.gaps.iter().map(|g| format!("\n    {} {}: {}", g.what, g.dtype, g.why)).collect::<String>();
        let place = |h: &Held| if h.dtype.is_empty() { String::new() } else { format!("in {} ", h.dtype) };
        let lacks: String = held.iter().map(|h| format!("\n  {}it lacks{}", place(h), gaps(h))).collect();
        assert!(held.iter().any(|h| h.gaps.is_empty()), "profile {} is not held:{lacks}", self.profile);
        let lacking: Vec<_> = required(&self.required, &records).into_iter().filter(|r| r.held.is_empty()).collect();
        assert!(lacking.is_empty(), "operators that are required and held in no dtype: {lacking:#?}");
    }

    /// Runs the case that `QIAO_CASE` names, if it names one.
    ///
    /// # Panics
    /// There is no such case, or it fails.
    pub fn case_of_the_environment(&self) {
        let Ok(id) = std::env::var("QIAO_CASE") else { return };
        let case = Case::parse(&id).unwrap_or_else(|e| panic!("{e}"));
        let Some(subject) = self.subject() else { return };
        let record = self.run(&case, subject);
        assert_eq!(record.status, Status::Passed, "{record:#?}");
    }
}
