//! `qiao report` as its users meet it: forms of one report, comparisons, exit codes, and files that are none.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn qiao(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qiao")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A conformance run of a few cases on the CPU, as a file.
fn run(folder: &Path) -> String {
    let file = folder.join("run.json").display().to_string();
    let output = qiao(&["check", "--profile", "smoke", "--filter", "op/relu/*", "--json", &file]);
    assert!(Path::new(&file).exists(), "{}", text(&output.stderr));
    file
}

#[test]
fn one_report_is_written_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let file = run(dir.path());
    let folder = dir.path().join("forms");
    let output = qiao(&["report", &file, "--out", folder.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for name in ["report.json", "report.html", "report.md", "report.zh.md", "junit.xml", "support.csv"] {
        assert!(folder.join(name).metadata().unwrap().len() > 200, "{name}");
    }
    let output = qiao(&["report", &file]);
    assert!(text(&output.stdout).contains("| `relu` |"), "{}", text(&output.stdout));
}

#[test]
fn a_regression_has_an_exit_code_of_its_own_accord() {
    let dir = tempfile::tempdir().unwrap();
    let file = run(dir.path());
    let same = qiao(&["report", &file, &file]);
    assert!(same.status.success() && text(&same.stdout).starts_with("Nothing changed"), "{}", text(&same.stdout));
    let mut worse: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    worse["records"][0]["status"] = "failed".into();
    worse["records"][0]["failure"] = serde_json::json!({ "check": "limit", "why": "far off" });
    let other = dir.path().join("worse.json");
    std::fs::write(&other, worse.to_string()).unwrap();
    let page = dir.path().join("page.html");
    let output = qiao(&["report", &file, other.to_str().unwrap(), "--html", page.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("fails now: op/relu/"), "{}", text(&output.stdout));
    assert!(std::fs::read_to_string(page).unwrap().contains("far off"));
}

#[test]
fn files_that_are_no_reports_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let file = run(dir.path());
    let whole = std::fs::read_to_string(&file).unwrap();
    let fails = |content: &str, words: &str| {
        let path = dir.path().join("bad.json");
        std::fs::write(&path, content).unwrap();
        let output = qiao(&["report", path.to_str().unwrap()]);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.starts_with("error: ") && err.contains(words) && err.contains("bad.json"), "{err}");
    };
    fails(&whole[..whole.len() / 2], "cut off");
    fails("{\"schema\":\"qiao.replay/1\"}", "'qiao.replay/1'");
    let output = qiao(&["report", &file, &file, "--out", "somewhere"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}
