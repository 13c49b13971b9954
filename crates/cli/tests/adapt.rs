//! `qiao adapt` as a tester meets it: one command, one folder, a report that reads back.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn qiao_in(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qiao"));
    command.args(args).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn one_command_leaves_a_report_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let output = qiao_in(folder.path(), &["adapt", "--profile", "smoke"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(out.ends_with("\nverdict: passed\n"), "{out}");
    assert!(out.contains("smoke") && out.contains("model: demo in bf16") && out.contains(", verified"), "{out}");
    let at = folder.path().join("qiao-report");
    let read = |name: &str| std::fs::read_to_string(at.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let report: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
    assert_eq!(report["schema"], "qiao.report/1");
    assert_eq!(report["model"]["greedy"]["equal"], true);
    assert!(report["bench"]["figures"].as_array().unwrap().iter().any(|f| f["verified"] == true));
    assert!(!report["account"].as_array().unwrap().is_empty());
    assert!(read("report.html").contains("<!doctype html>"));
    assert!(read("junit.xml").starts_with("<?xml"));
    assert!(read("support.csv").contains("rms_norm") && read("report.md").contains("smoke"));
    assert!(
        !at.join("steps.json").exists() && !at.join("check.journal").exists(),
        "a run that is over leaves no traces"
    );

    let output = qiao_in(folder.path(), &["report", "qiao-report/report.json", "qiao-report/report.json"]);
    assert_eq!(output.status.code(), Some(0), "a run beside itself has no regressions: {}", text(&output.stdout));
}

#[test]
fn a_device_that_is_not_there_has_a_report_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let output = qiao_in(folder.path(), &["adapt", "--device", "npu", "--report", "out"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let report = std::fs::read_to_string(folder.path().join("out/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["check"]["records"][0]["status"], "not_present");
}

#[test]
fn a_model_that_is_not_there_is_told_before_all_work() {
    let folder = tempfile::tempdir().unwrap();
    let output = qiao_in(folder.path(), &["adapt", "--model", "./nope"]);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.starts_with("error: ") && err.contains("./nope"), "{err}");
    assert!(!folder.path().join("qiao-report").exists(), "nothing was begun");
}

#[test]
#[cfg(unix)]
fn a_run_goes_on_only_with_what_it_began_with() {
    use std::time::{Duration, Instant};
    let folder = tempfile::tempdir().unwrap();
    let adapt = ["adapt", "--profile", "smoke"];
    let mut first = Command::new(env!("CARGO_BIN_EXE_qiao"));
    let mut first = first.args(adapt).current_dir(folder.path()).stdin(Stdio::null()).spawn().unwrap();
    let steps = folder.path().join("qiao-report/steps.json");
    let begun = Instant::now();
    while !steps.exists() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no step was done");
        std::thread::sleep(Duration::from_millis(2));
    }
    let kept = std::fs::read(&steps).unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    let again = |variable: &str| {
        std::fs::write(&steps, &kept).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_qiao"));
        let command = command.args(adapt).env(variable, "1").current_dir(folder.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let err = again("UNRELATED");
    assert!(err.contains("going on with the run of") && !err.contains("conformance:"), "{err}");
    let err = again("QIAO_THREADS");
    assert!(err.contains("begun anew: it is of a run with another") && err.contains("environment"), "{err}");
    assert!(err.contains("[1/3] conformance:"), "{err}");
}
