//! `qiao check` as its users meet it: what it prints, what it leaves, and how it ends.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn qiao_in(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qiao"));
    command.args(args).current_dir(folder).stdin(Stdio::null()).env_remove("QIAO_REQUIRE").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const FEW: &[&str] = &["check", "--profile", "smoke", "--filter", "op/rms_norm/f16/*"];

#[test]
fn a_filtered_run_passes_and_claims_no_profile() {
    let folder = tempfile::tempdir().unwrap();
    let output = qiao_in(folder.path(), FEW);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}{}", text(&output.stderr));
    assert!(out.contains("op/rms_norm/f16") && out.contains("smoke: not judged, only a part of it ran"), "{out}");
    assert!(out.ends_with("verdict: passed\n"), "{out}");
    assert!(!folder.path().join("qiao-replays").exists(), "nothing failed, so nothing is left");
}

#[test]
fn the_same_seed_gives_the_same_records() {
    let folder = tempfile::tempdir().unwrap();
    let run = |seed: &str| {
        let output = qiao_in(folder.path(), &[FEW, &["--seed", seed, "--json", "-"]].concat());
        let mut run: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(run["schema"], "qiao.check/1");
        run["records"].as_array_mut().unwrap().iter_mut().for_each(|r| r["millis"] = 0.into());
        run["records"].take()
    };
    let (first, again, other) = (run("7"), run("7"), run("8"));
    assert!(first.as_array().unwrap().len() > 3);
    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[test]
fn a_smoke_run_holds_its_profile_in_every_dtype() {
    let folder = tempfile::tempdir().unwrap();
    let demand = ["--require", "matmul,kv_write"];
    let output =
        qiao_in(folder.path(), &[&["check", "--profile", "smoke", "--json", "run.json"][..], &demand].concat());
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
    for dtype in ["f32", "f16", "bf16"] {
        assert!(out.contains(&format!("smoke in {dtype}: held")), "{out}");
    }
    assert!(out.contains("required kv_write: held in f32, f16, bf16"), "no operator of the profile: {out}");
    let run: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("run.json")).unwrap()).unwrap();
    assert_eq!(run["required"][0]["op"], "matmul");
    assert_eq!(run["counts"]["failed"], 0);
    assert_eq!(run["faults"].as_array().unwrap().len(), 0);
}

#[test]
fn nothing_selected_and_nothing_there_are_no_passes() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |args: &[&str], code: i32, word: &str| {
        let output = qiao_in(folder.path(), args);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        assert!(err.contains(word), "{args:?}: {err}");
    };
    fails(&["check", "--filter", "op/no_such_operator/*"], 2, "no case of profile");
    fails(&["check", "--device", "npu:0"], 3, "not present");
    fails(&["check", "--device", "cpu:7"], 3, "not present");
    fails(&["check", "--replay", "missing.json"], 1, "missing.json");
    fails(&["check", "--profile", "everything"], 2, "possible values");
    fails(&["check", "--require", "add,frobnicate"], 2, "'frobnicate' is not in the op list; use one of copy, cast");
    fails(&["check", "--timeout", "0"], 2, "above 0");
    std::fs::write(folder.path().join("rows"), "op/rms_norm/f16/*").unwrap();
    fails(&["check", "--expectations", "rows"], 2, "line 1");
}

#[test]
fn an_expected_failure_that_passes_and_a_row_that_names_nothing_fail_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "op/rms_norm/f16/* = it rounds twice\nop/rms_norm/f17/* = no such dtype\n";
    std::fs::write(folder.path().join("rows"), rows).unwrap();
    let output = qiao_in(folder.path(), &[FEW, &["--expectations", "rows"]].concat());
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}");
    assert!(out.contains("unexpected_pass") && out.contains("line 2 of the expectations"), "{out}");
}

#[test]
fn a_replay_file_runs_its_case_alone() {
    let folder = tempfile::tempdir().unwrap();
    let replay = serde_json::json!({
        "schema": "qiao.replay/1", "qiao": "0.1.0", "device": "cpu", "id": "op/rms_norm/f32/rows=3,cols=5", "seed": 9,
        "found_as": "op/rms_norm/f32/rows=7,cols=4096",
        "record": { "id": "op/rms_norm/f32/rows=3,cols=5", "status": "failed", "failure": null, "reason": null,
                    "way": "", "measured": [], "millis": 0.0, "replay": null },
    });
    std::fs::write(folder.path().join("r.json"), replay.to_string()).unwrap();
    let output = qiao_in(folder.path(), &["check", "--replay", "r.json"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}{}", text(&output.stderr));
    assert!(out.contains("op/rms_norm/f32/rows=3,cols=5  seed 9") && out.contains("error/limit"), "{out}");
    std::fs::write(folder.path().join("vendor.json"), replay.to_string().replace(r#""cpu""#, r#""tianshu""#)).unwrap();
    for (device, mend) in [(&[][..], true), (&["--device", "cpu:7"], false)] {
        let output = qiao_in(folder.path(), &[&["check", "--replay", "vendor.json"], device].concat());
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{err}");
        assert_eq!(err.contains("no backend has it") && err.contains("with --plugin FILE"), mend, "{err}");
    }
    std::fs::write(folder.path().join("old.json"), r#"{"schema":"qiao.replay/9"}"#).unwrap();
    let output = qiao_in(folder.path(), &["check", "--replay", "old.json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("qiao.replay/9"));
}

#[test]
fn a_file_that_is_no_journal_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    std::fs::write(&notes, "my notes\n").unwrap();
    let output = qiao_in(folder.path(), &[FEW, &["--journal", "notes"]].concat());
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("journal notes: it is no journal of qiao; give another path"), "{err}");
    assert_eq!(std::fs::read_to_string(&notes).unwrap(), "my notes\n");
}

#[test]
#[cfg(unix)]
fn a_result_goes_through_links_and_into_pipes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::os::unix::fs::symlink("real.json", at("link.json")).unwrap();
    let output = qiao_in(folder.path(), &[FEW, &["--json", "link.json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(at("link.json").is_symlink() && std::fs::metadata(at("real.json")).unwrap().is_file());

    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let pipe = at("pipe");
    let reader = std::thread::spawn(move || std::fs::read(pipe).unwrap());
    let output = qiao_in(folder.path(), &[FEW, &["--json", "pipe"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let run: serde_json::Value = serde_json::from_slice(&reader.join().unwrap()).unwrap();
    assert_eq!(run["schema"], "qiao.check/1");
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&std::fs::metadata(at("pipe")).unwrap().file_type()));
}

#[test]
fn the_table_is_printed_where_its_file_can_not_be_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let output = qiao_in(folder.path(), &[FEW, &["--json", "file/run.json"]].concat());
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(out.ends_with("verdict: passed\n") && err.contains("file/run.json can't be written"), "{out}{err}");
}

/// Whether a process runs; one that ended and that nobody asked how is none.
#[cfg(target_os = "linux")]
fn runs(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, after)| !after.starts_with(" Z"))
}

#[test]
#[cfg(target_os = "linux")]
fn a_worker_ends_when_its_run_is_killed() {
    use std::io::{BufRead, BufReader};
    use std::time::{Duration, Instant};

    // The worker's input stays open here, so that it ends by nothing else.
    let script = "exec 3<&0; \"$0\" check --worker --device cpu <&3 >/dev/null & echo $!; wait";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_qiao")]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut run = shell.spawn().unwrap();
    let _open = run.stdin.take();
    let mut worker = String::new();
    BufReader::new(run.stdout.take().unwrap()).read_line(&mut worker).unwrap();
    let worker = worker.trim();
    assert!(runs(worker));
    // Long enough for the worker to have seen who started it.
    std::thread::sleep(Duration::from_secs(2));
    assert!(runs(worker), "it ends while the run is there");
    run.kill().unwrap();
    run.wait().unwrap();
    let killed = Instant::now();
    while runs(worker) {
        assert!(killed.elapsed() < Duration::from_secs(60), "the worker is left");
        std::thread::sleep(Duration::from_millis(50));
    }
}
