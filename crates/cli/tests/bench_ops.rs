//! `qiao bench ops` as its users meet it. No test looks at how long anything takes.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn qiao(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qiao")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn the_table_the_figures_and_the_limits_are_of_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (figures, peaks) = (file("ops.json"), file("peaks.json"));
    let filter = ["--filter", "op/rms_norm/*", "--filter", "op/matmul/*m=1,n=128,*"];
    let args = [&["bench", "ops", "--quick", "--json", &figures, "--peaks-out", &peaks], &filter[..]].concat();
    let output = qiao(&args);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    for words in ["matmul/bf16", "rms_norm/bf16", "m=1,n=128,k=896", "GB/s", "% measured", "not declared", "✓"] {
        assert!(out.contains(words), "{words}: {out}");
    }
    assert_eq!(err.contains("debug build"), cfg!(debug_assertions), "{err}");
    let found = json(&std::fs::read_to_string(&figures).unwrap());
    assert_eq!((&found["schema"], &found["device"]["opened_as"]), (&"qiao.bench.ops/1".into(), &"cpu".into()));
    let list = found["figures"].as_array().unwrap();
    assert!(list.len() >= 2 && list.iter().all(|f| f["verified"] == true && f["failure"].is_null()), "{found}");
    assert!(list.iter().all(|f| f["cold"].as_f64().unwrap() >= 0.0), "{found}");
    // 'qiao plan' reads the limits.
    let limits = json(&std::fs::read_to_string(&peaks).unwrap());
    assert_eq!(limits["bytes_per_s"], found["measured"]["bytes_per_s"]);
    assert!(limits["ops_per_s"]["bf16"].as_f64().unwrap() > 0.0 && limits["measured"] == true, "{limits}");
    let plan = qiao(&["plan", "--peaks", &peaks, "--json"]);
    assert_eq!(plan.status.code(), Some(0), "{}", text(&plan.stderr));
}

#[test]
fn the_table_is_printed_where_its_file_can_not_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("ops.json");
    let output = qiao(&["bench", "ops", "--quick", "--filter", "op/rope/*", "--json", below.to_str().unwrap()]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(out.contains("measured and right") && err.contains("ops.json can't be written"), "{out}{err}");
}

#[test]
fn figures_go_to_standard_output_alone_where_that_is_asked_for() {
    let output = qiao(&["bench", "ops", "--quick", "--json", "-", "--filter", "op/rope/*"]);
    let out = text(&output.stdout);
    assert_eq!((output.status.code(), out.lines().count()), (Some(0), 1), "{out}");
    assert!(!json(&out)["figures"].as_array().unwrap().is_empty());
}

#[test]
fn paths_are_listed_with_their_origin_and_nothing_runs() {
    let output = qiao(&["bench", "ops", "--list", "--quick", "--model", "llama-3-8b", "--dtype", "q4_k"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(out.contains("op/matmul_quant/bf16/m=1,n=4096,blocks=56,format=q4_k  Llama-3-8B down, 1 token"), "{out}");
}

#[test]
fn wrong_selections_end_with_2_and_absent_devices_with_3() {
    for (args, code, words) in [
        (&["--filter", "op/no_such/*"][..], 2, "op/no_such/*"),
        (&["--model", "Llama-9"], 2, "Qwen2.5-0.5B"),
        (&["--dtype", "f31"], 2, "f31"),
        (&["--quick", "--full"], 2, "--full"),
        (&["--device", "npu"], 3, "npu"),
    ] {
        let output = qiao(&[&["bench", "ops"], args].concat());
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        assert!(output.stdout.is_empty() && err.contains(words), "{args:?}: {err}");
    }
}

#[test]
fn a_file_that_can_not_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("x.json");
    std::fs::create_dir(&taken).unwrap();
    let args = ["bench", "ops", "--quick", "--filter", "op/kv_write/*", "--json", taken.to_str().unwrap()];
    let output = qiao(&args);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("x.json") && err.contains("can't be written"), "{err}");
}
