//! The verdict follows from the facts: less evidence never raises a level.

use qiao_conformance::report::{Level, MissingKind, Report, Standing, Step, Verdict};
use qiao_conformance::{Check, Failure, Outcome, Profile, Record, Required, Status, profile};

use crate::sample;

fn reached(report: &Report) -> Option<Level> {
    Verdict::of(report).reached().map(|l| l.level)
}

fn records(report: &mut Report) -> &mut Vec<Record> {
    &mut report.check.as_mut().unwrap().records
}

/// The level and, at each level, the dtypes in which it is reached.
fn evidence(report: &Report) -> (Option<Level>, Vec<usize>) {
    let verdict = Verdict::of(report);
    let dtypes = verdict.levels.iter().map(|l| l.dtypes.iter().filter(|d| d.standing == Standing::Reached).count());
    (verdict.reached().map(|l| l.level), dtypes.collect())
}

#[test]
fn a_clean_walk_reaches_its_profile_and_no_more() {
    let pairs = [
        // What it walks shows all that a device supports; this one supports everything.
        (Profile::Device, Level::LlmServing),
        (Profile::Smoke, Level::Smoke),
        (Profile::LlmCore, Level::LlmCore),
        (Profile::LlmServing, Level::LlmServing),
        (Profile::Full, Level::Full),
    ];
    for (profile, level) in pairs {
        let report = sample::clean(profile);
        let verdict = Verdict::of(&report);
        assert_eq!(verdict.reached().unwrap().level, level, "{profile}");
        assert_eq!(verdict.reached().unwrap().reached_in(), ["f32", "f16", "bf16"]);
        if let Some(next) = verdict.next() {
            assert_eq!(next.standing, Standing::NotAsked, "{profile}");
            assert!(next.closest().missing.iter().all(|m| m.kind == MissingKind::NotAsked));
        }
    }
}

#[test]
fn taking_a_record_away_never_raises_a_level() {
    for whole in [sample::clean(Profile::Smoke), sample::clean(Profile::LlmCore), sample::report()] {
        let before = evidence(&whole);
        for i in 0..whole.check.as_ref().unwrap().records.len() {
            let mut less = whole.clone();
            let taken = records(&mut less).remove(i);
            // A failure that is taken away leaves a case that was not asked: no level is reached by that either.
            let after = evidence(&less);
            assert!(after.0 <= before.0, "{}", taken.id);
            assert!(after.1.iter().zip(&before.1).all(|(a, b)| a <= b), "{}", taken.id);
        }
    }
}

#[test]
fn a_failure_never_raises_a_level_and_takes_its_dtype() {
    let whole = sample::clean(Profile::LlmCore);
    let before = evidence(&whole);
    for i in 0..whole.check.as_ref().unwrap().records.len() {
        let mut worse = whole.clone();
        let record = &mut records(&mut worse)[i];
        *record = Record::of(record.id.clone(), Outcome::Failed(Failure::new(Check::Limit, "far off")));
        let id = record.id.clone();
        let after = evidence(&worse);
        assert!(after.1.iter().zip(&before.1).all(|(a, b)| a <= b), "{id}");
        let core = Verdict::of(&worse).at(Level::LlmCore).clone();
        let dtype = id.strip_prefix("op/").and_then(|p| p.split('/').nth(1)).unwrap_or("");
        assert!(!core.reached_in().contains(&dtype), "{id}");
        assert_eq!(core.reached_in().len(), if dtype.is_empty() { 0 } else { 2 }, "{id}");
    }
}

#[test]
fn a_plain_case_that_is_refused_is_missing_in_its_dtype_and_a_deeper_one_is_not() {
    let refuse = |id: &str| {
        let mut report = sample::clean(Profile::LlmCore);
        let record = records(&mut report).iter_mut().find(|r| r.id == id).unwrap();
        *record = Record::of(id, Outcome::Unsupported("no f16".into()));
        Verdict::of(&report)
    };
    let verdict = refuse("op/rope/f16/rows=7,cols=4096");
    assert_eq!(verdict.at(Level::LlmCore).reached_in(), ["f32", "bf16"]);
    let f16 = verdict.at(Level::Smoke).dtypes.iter().find(|d| d.dtype == "f16").unwrap().clone();
    assert_eq!(f16.missing.len(), 1);
    assert_eq!((f16.missing[0].kind, f16.missing[0].what.as_str()), (MissingKind::Unsupported, "op/rope/f16"));
    assert_eq!(f16.missing[0].why, "no f16");
    assert_eq!(refuse("op/rope/f16/rows=3,cols=129").at(Level::LlmCore).reached_in().len(), 3);
}

#[test]
fn one_block_format_is_enough_and_a_wrong_one_is_not() {
    let quant = |status: &dyn Fn(&str) -> Outcome| {
        let mut report = sample::clean(Profile::LlmServing);
        for record in records(&mut report).iter_mut().filter(|r| r.id.starts_with("op/matmul_quant/")) {
            let dtype = record.id.split('/').nth(2).unwrap().to_string();
            *record = Record::of(record.id.clone(), status(&dtype));
        }
        Verdict::of(&report).at(Level::LlmServing).standing
    };
    let only = |dtype: &str, other: Outcome| if dtype == "q4_0" { Outcome::Passed } else { other };
    assert_eq!(quant(&|_: &str| Outcome::Unsupported("none".into())), Standing::Missed);
    assert_eq!(quant(&|d: &str| only(d, Outcome::Unsupported("none".into()))), Standing::Reached);
    assert_eq!(quant(&|d: &str| only(d, Outcome::Failed(Failure::new(Check::Limit, "far off")))), Standing::Missed);
}

#[test]
fn a_level_is_held_as_profiles_are_judged() {
    // With the suite of this version, whatever is reached is held; what is not held is not reached.
    let run = |spoil: Option<usize>| {
        let mut report = Report::new(qiao_conformance::report::Mode::Check, sample::platform(), sample::device());
        let cases = Profile::Smoke.cases();
        let records = cases.iter().enumerate().map(|(i, case)| match spoil == Some(i) {
            true => Record::of(case.id(), Outcome::Unsupported("no".into())),
            false => Record::of(case.id(), Outcome::Passed),
        });
        report.check = Some(sample::run(Profile::Smoke, records.collect()));
        report
    };
    let cases = Profile::Smoke.cases().len();
    for spoil in std::iter::once(None).chain((0..cases).step_by(cases.div_ceil(40)).map(Some)) {
        let report = run(spoil);
        let verdict = Verdict::of(&report);
        let held = profile::held(Profile::Smoke, &report.check.as_ref().unwrap().records);
        for (level, held) in verdict.at(Level::Smoke).dtypes.iter().zip(&held) {
            assert_eq!(level.dtype, held.dtype);
            let gaps = level.missing.iter().filter(|m| m.kind != MissingKind::NoCases).count();
            assert_eq!(gaps == 0, held.gaps.is_empty(), "{spoil:?} {level:?} {held:?}");
        }
    }
}

#[test]
fn expected_failures_of_plain_cases_are_missing_too() {
    let mut report = sample::clean(Profile::LlmCore);
    let record = records(&mut report).iter_mut().find(|r| r.id == "op/add/f32/rows=1,cols=64").unwrap();
    record.status = Status::ExpectedFailure;
    record.reason = Some("the driver rounds down".into());
    let verdict = Verdict::of(&report);
    assert_eq!(verdict.at(Level::LlmCore).reached_in(), ["f16", "bf16"]);
}

#[test]
fn a_device_that_is_not_there_reaches_nothing() {
    let run = qiao_conformance::run::not_present("npu", Profile::Smoke, "no driver");
    let mut report = Report::of_run(run);
    assert_eq!(reached(&report), None);
    let next = Verdict::of(&report).next().unwrap().clone();
    assert_eq!((next.level, next.closest().missing[0].why.as_str()), (Level::Present, "no driver"));
    report.check = None;
    report.steps = vec![Step::broken(Step::OPEN, "no driver", 0.0)];
    assert_eq!(reached(&report), None);
    report.steps = vec![Step::done(Step::OPEN, 0.1)];
    assert_eq!(reached(&report), Some(Level::Present));
}

#[test]
fn an_operator_without_cases_is_not_claimed() {
    let mut report = sample::clean(Profile::LlmCore);
    report.suite.groups.retain(|g| g.op != "rope");
    let verdict = Verdict::of(&report);
    assert_eq!(verdict.reached().unwrap().level, Level::DeviceContract);
    assert_eq!(verdict.at(Level::LlmCore).standing, Standing::NotAsked);
}

#[test]
fn pages_that_a_device_does_not_declare_are_missed_only_where_it_has_no_others() {
    let elective = |which: &dyn Fn(&str) -> bool| {
        let mut report = sample::clean(Profile::LlmServing);
        let decode = |id: &str| id.starts_with("op/attention_decode/f16/");
        for record in records(&mut report).iter_mut().filter(|r| decode(&r.id) && which(&r.id)) {
            *record = Record { elective: true, ..Record::of(record.id.clone(), Outcome::Unsupported("pages".into())) };
        }
        Verdict::of(&report).at(Level::LlmServing).reached_in().contains(&"f16")
    };
    assert!(elective(&|id| id.ends_with("cols=64")));
    assert!(!elective(&|_| true));
    // A record that contradicts itself is no panic.
    let mut report = sample::clean(Profile::LlmServing);
    records(&mut report).iter_mut().for_each(|r| r.elective = true);
    assert_eq!(reached(&report), Some(Level::LlmServing));
}

#[test]
fn what_was_demanded_stands_beside_the_outcome_of_a_run() {
    let line = |report: &Report| qiao_conformance::report::words::outcome_line(report);
    let mut report = sample::clean(Profile::Device);
    let said = line(&report);
    assert!(said.en.ends_with("The device contract only; no operator was demanded."), "{}", said.en);
    assert!(said.zh.ends_with("仅检验设备契约；未要求任何算子。"), "{}", said.zh);
    assert!(!line(&sample::clean(Profile::Smoke)).en.contains("no operator"));
    let gap = profile::Gap { what: "matmul".into(), dtype: "f32".into(), why: "op/matmul/f32/m=1 unsupported".into() };
    report.check.as_mut().unwrap().required = vec![
        Required { op: "add".into(), held: vec!["f32".into()], gaps: Vec::new() },
        Required { op: "matmul".into(), held: Vec::new(), gaps: vec![gap] },
    ];
    let said = line(&report);
    assert!(said.en.contains("profile device with add and matmul required: passed"), "{}", said.en);
    assert!(said.zh.contains("（要求算子：add、matmul）") && !said.zh.contains("未要求"), "{}", said.zh);
    let fault = qiao_conformance::report::words::fault;
    let told = fault("operator matmul is required and held in no dtype: op/matmul/f32/m=1 unsupported");
    assert_eq!(told.zh, "要求的算子 matmul 在任何数据类型下均未满足：op/matmul/f32/m=1 unsupported");
    assert_eq!(
        fault("profile device is not held and lacks device/memory/x").zh,
        "配置档 device 未满足，尚缺 device/memory/x"
    );
}
