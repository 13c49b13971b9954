//! A golden report is rendered: its Markdown stands beside this file, and every form of it lies in the build's folder for tests.

use std::path::Path;
use std::sync::Arc;

use qiao_conformance::report::{Form, Level, Report, Verdict, save};
use qiao_conformance::run::{Executor, run};
use qiao_conformance::{Profile, Selection, Subject};
use qiao_core::Device;
use qiao_cpu::{CpuDevice, CpuOptions};

use crate::sample;

#[test]
fn the_golden_report_is_as_it_stands_here() {
    let mut report = sample::report();
    // The version of Qiao stands in it, and the golden files stay as they are when that moves on.
    report.platform.qiao = "0.1.0".into();
    save(&report, &Path::new(env!("CARGO_TARGET_TMPDIR")).join("sample-report")).unwrap();
    for (form, golden) in [
        (Form::Markdown, include_str!("golden.md")),
        (Form::MarkdownChinese, include_str!("golden.zh.md")),
        (Form::Csv, include_str!("golden.csv")),
    ] {
        let text = form.write(&report);
        let parted = text.lines().zip(golden.lines()).enumerate().find(|(_, (a, b))| a != b);
        assert_eq!(parted, None, "{form:?} differs; compare with sample-report in the build's tmp folder");
        assert_eq!(text.lines().count(), golden.lines().count(), "{form:?}");
    }
}

#[test]
fn a_real_run_of_the_cpu_is_rendered() {
    let open = || {
        let options = CpuOptions { threads: Some(2), ..Default::default() };
        Ok(Arc::new(CpuDevice::with(&options)?) as Arc<dyn Device>)
    };
    let subject = Subject::open(open).unwrap();
    let mut executor = Executor::Here("cpu:0".into(), Box::new(subject));
    let run = run(&Selection::new(Profile::Smoke), &mut executor, |_| true).unwrap();
    assert!(run.counts.passed > 0, "{:?}", run.counts);
    let report = Report::of_run(run);
    let verdict = Verdict::of(&report);
    assert!(verdict.reached().unwrap().level >= Level::DeviceContract, "{:?}", verdict.next());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cpu-report");
    let files = save(&report, &folder).unwrap();
    assert!(files.iter().all(|f| f.metadata().unwrap().len() > 500));
}
