//! Two runs of one chip: what became worse is found, and nothing else is called so. Chips stand side by side.

use qiao_conformance::report::diff::{html, json, markdown, text};
use qiao_conformance::report::{ChangeKind, Comparison, Level, Report, diff};
use qiao_conformance::{Check, Failure, Outcome, Profile, Record, Status};

use crate::markup::elements;
use crate::sample;

fn whole() -> Report {
    let mut report = sample::clean(Profile::LlmCore);
    let sample = sample::report();
    (report.bench, report.model, report.account) = (sample.bench, sample.model, sample.account);
    report
}

fn after(change: impl FnOnce(&mut Report)) -> Comparison {
    let mut after = whole();
    change(&mut after);
    diff(&[whole(), after])
}

fn record<'a>(report: &'a mut Report, id: &str) -> &'a mut Record {
    report.check.as_mut().unwrap().records.iter_mut().find(|r| r.id == id).unwrap()
}

fn kinds(c: &Comparison) -> Vec<ChangeKind> {
    let mut kinds: Vec<ChangeKind> = c.changes.iter().map(|c| c.kind).collect();
    kinds.dedup();
    kinds
}

const ID: &str = "op/rope/f16/rows=3,cols=129";

#[test]
fn the_same_run_twice_is_no_change() {
    let c = after(|_| {});
    assert!(c.same_chip && c.changes.is_empty() && !c.regressed(), "{:?}", c.changes);
}

#[test]
fn a_case_that_fails_now_takes_its_level_with_it() {
    let fail = |r: &mut Report| *record(r, ID) = Record::of(ID, Outcome::Failed(Failure::new(Check::Limit, "far off")));
    let c = after(fail);
    assert_eq!(kinds(&c), [ChangeKind::LevelLost, ChangeKind::Fails]);
    assert!(c.regressed());
    assert_eq!((c.changes[0].what.as_str(), c.changes[1].what.as_str()), ("llm-core f16", ID));
    // The other way round it is an improvement.
    let mut failed = whole();
    fail(&mut failed);
    let back = diff(&[failed, whole()]);
    assert_eq!(kinds(&back), [ChangeKind::LevelGained, ChangeKind::Mended]);
    assert!(!back.regressed());
}

#[test]
fn support_that_is_lost_and_records_that_are_gone_are_regressions() {
    let c = after(|r| *record(r, ID) = Record::of(ID, Outcome::Unsupported("no more".into())));
    assert_eq!(kinds(&c), [ChangeKind::SupportLost]);
    let c = after(|r| r.check.as_mut().unwrap().records.retain(|r| r.id != ID));
    assert_eq!((kinds(&c), c.regressed()), (vec![ChangeKind::Gone], true));
    // A run that was asked for less shows no loss, and says so.
    let c = after(|r| {
        let run = r.check.as_mut().unwrap();
        run.filter = vec!["op/add/*".into()];
        run.records.retain(|r| r.id.starts_with("op/add/"));
    });
    assert!(!c.regressed() && c.notes.iter().any(|n| n.contains("different cases")), "{:?}", c.changes);
    let c = after(|r| record(r, "op/add/f32/rows=3,cols=1").way = "decomposed: copy + add".into());
    assert_eq!(kinds(&c), [ChangeKind::NowDecomposed]);
}

#[test]
fn a_margin_that_doubles_is_told_where_it_matters() {
    let scaled = |margin: f64| {
        let mut before = whole();
        record(&mut before, ID).measured[0].margin = Some(margin);
        let mut after = before.clone();
        record(&mut after, ID).measured[0].margin = Some(margin * 2.5);
        kinds(&diff(&[before, after]))
    };
    assert_eq!(scaled(0.2), [ChangeKind::MarginGrown]);
    assert!(scaled(0.001).is_empty());
}

#[test]
fn speeds_count_beyond_noise_and_only_where_they_are_figures() {
    let slower = |r: &mut Report, by: f64, debug: bool| {
        r.platform.debug_build = debug;
        let figure = &mut r.bench.as_mut().unwrap().figures[0];
        figure.device.as_mut().unwrap().p50 *= by;
    };
    assert_eq!(kinds(&after(|r| slower(r, 3.0, false))), [ChangeKind::Slower]);
    assert_eq!(kinds(&after(|r| slower(r, 0.3, false))), [ChangeKind::Faster]);
    assert!(after(|r| slower(r, 1.01, false)).changes.is_empty());
    assert!(after(|r| slower(r, 3.0, true)).changes.is_empty());
    let c = after(|r| r.model.as_mut().unwrap().points[0].decode_tokens_per_s.as_mut().unwrap().p50 *= 0.5);
    assert_eq!(kinds(&c), [ChangeKind::ModelSlower]);
    let c = after(|r| r.model.as_mut().unwrap().greedy.as_mut().unwrap().equal = Some(false));
    assert_eq!(kinds(&c), [ChangeKind::ModelWrong]);
}

#[test]
fn a_device_that_is_gone_has_lost_its_levels() {
    let run = qiao_conformance::run::not_present("acme:0", Profile::LlmCore, "no driver");
    let mut gone = Report::of_run(run);
    gone.device = sample::device();
    let c = diff(&[sample::clean(Profile::LlmCore), gone]);
    assert!(c.regressed());
    assert!(kinds(&c).contains(&ChangeKind::LevelLost));
}

#[test]
fn other_chips_stand_side_by_side() {
    let mut other = sample::report();
    other.device.name = "Other <b>chip</b>".into();
    let c = diff(&[whole(), other, sample::clean(Profile::Full)]);
    assert!(!c.same_chip && c.changes.is_empty() && !c.regressed());
    assert_eq!(
        c.sides.iter().map(|s| s.reached.unwrap()).collect::<Vec<_>>(),
        [Level::LlmCore, Level::LlmServing, Level::Full]
    );
    assert!(c.support.iter().any(|r| r.marks.len() == 3) && !c.speeds.is_empty());
    let page = html(&c);
    elements(&page, true).unwrap();
    assert!(!page.contains("<b>chip") && page.contains("&lt;b&gt;chip"));
    assert!(text(&c).contains("llm-serving"));
}

#[test]
fn every_form_of_a_comparison_tells_its_changes() {
    let c = after(|r| {
        let record = record(r, ID);
        record.status = Status::Failed;
        record.failure = Some(Failure::new(Check::Limit, "far <off> | by much\u{1b}[2J"));
    });
    let page = html(&c);
    elements(&page, true).unwrap();
    for form in [page, markdown(&c), text(&c), json(&c)] {
        assert!(form.contains(ID) && !form.contains("<off>\n") && !form.contains('\u{1b}'), "{form}");
    }
    assert!(markdown(&c).contains("far &lt;off&gt; \\| by much"));
    let back: Comparison = serde_json::from_str(&json(&c)).unwrap();
    assert_eq!(back.changes, c.changes);
}
