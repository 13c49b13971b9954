//! `qiao plan`: a forecast from a configuration alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn qiao(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qiao")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn forecast(args: &[&str]) -> Value {
    let output = qiao(&[&["plan", "--json"], args].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(&out).unwrap()
}

/// The command fails with this code and one line that holds these words.
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = qiao(args);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
    assert!(output.stdout.is_empty(), "{args:?} printed {}", text(&output.stdout));
    assert!(err.starts_with("error: ") && words.iter().all(|w| err.contains(w)), "{args:?}: {err}");
    assert!(code == 2 || err.lines().count() == 1, "{args:?}: {err}");
}

/// A file of limits, and a folder that holds nothing but a configuration.
fn files(peaks: &Value) -> (tempfile::TempDir, String, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("llama3-gqa/config.json"), folder.path().join("config.json")).unwrap();
    let file = folder.path().join("peaks.json");
    std::fs::write(&file, peaks.to_string()).unwrap();
    let (model, file) = (folder.path().to_str().unwrap().to_string(), file.to_str().unwrap().to_string());
    (folder, model, file)
}

#[test]
fn a_configuration_is_all_that_a_forecast_needs() {
    let (_folder, model, _) = files(&json!({}));
    let found = forecast(&[&model]);
    let of_file = forecast(&[&format!("{model}/config.json")]);
    let same = ["prefill", "decode", "limits"].iter().all(|key| found[key] == of_file[key]);
    assert!(same, "the file or its folder");
    assert_eq!((&found["supported"], &found["device_name"], &found["batch"]), (&json!(true), &json!("cpu"), &json!(1)));
    for phase in ["prefill", "decode"] {
        let operators = found[phase]["operators"].as_array().unwrap();
        assert!(operators.iter().any(|o| o["op"] == "matmul" && o["weight"] == "mlp.down_proj"), "{found}");
        assert!(operators.iter().all(|o| o["support"]["way"] == "native" && o["count"].as_u64() > Some(0)), "{found}");
        let flops: u64 = operators.iter().map(|o| o["work"]["flops"].as_u64().unwrap()).sum();
        assert_eq!(found[phase]["work"]["flops"].as_u64(), Some(flops));
    }
    assert!(found["memory"]["workspace"].as_u64() > Some(0), "{found}");
    let demo = forecast(&[]);
    assert_eq!((demo["model"].as_str(), demo["layers"].as_u64()), (Some("Qwen3ForCausalLM"), Some(5)));
}

#[test]
fn limits_come_with_their_provenance_or_not_at_all() {
    let peaks = json!({ "bytes_per_s": 1e9, "ops_per_s": { "f32": 1e12, "bf16": 1e12 }, "source": "a data sheet" });
    let (_folder, model, file) = files(&peaks);
    let args = ["plan", &model, "--peaks", &file, "--batch", "4", "--context", "64", "--prompt", "16"];
    let out = text(&qiao(&args).stdout);
    for words in
        ["1.00 GB/s", "declared: a data sheet", "prefill: 4 × 16 tokens, in 1 step(s)", "context of 64", "tokens/s"]
    {
        assert!(out.contains(words), "{words} is not in\n{out}");
    }
    let found = forecast(&args[1..]);
    assert_eq!(
        (&found["limits"]["provenance"], &found["limits"]["source"]),
        (&json!("declared"), &json!("a data sheet"))
    );
    let (tokens, seconds) = (4.0, found["decode"]["bound"]["seconds"].as_f64().unwrap());
    assert_eq!(found["decode"]["tokens_per_s_at_most"].as_f64(), Some(tokens / seconds));
    let work = &found["decode"]["work"];
    let moved = work["weight_bytes"].as_f64().unwrap() + work["cache_bytes"].as_f64().unwrap();
    assert_eq!(seconds, moved / 1e9, "a gigabyte per second is the narrower limit");

    let found = forecast(&[&model, "--device", "reference"]);
    assert!(found["limits"]["bytes_per_s"].is_null() && found["decode"]["tokens_per_s_at_most"].is_null(), "{found}");
    let out = text(&qiao(&["plan", &model, "--device", "reference"]).stdout);
    assert!(out.contains("limits  none: the device declares none") && out.contains("at most – tokens/s"), "{out}");
    assert!(out.contains("\n--peaks FILE gives limits"), "{out}");
    assert!(!text(&qiao(&args).stdout).contains("--peaks"));
}

#[test]
fn what_can_not_be_forecast_is_named() {
    let (folder, model, file) = files(&json!({ "bytes_per_s": -1, "source": "x" }));
    fails(&["plan", "no-such-model"], 1, &["no-such-model", "exists"]);
    fails(&["plan", folder.path().join("peaks.json").to_str().unwrap()], 1, &["peaks.json", "model_type"]);
    fails(&["plan", &model, "--device", "npu"], 3, &["npu", "qiao devices"]);
    fails(&["plan", &model, "--device", "cpu:9"], 3, &["cpu:9"]);
    fails(&["plan", &model, "--context", "999999"], 1, &["999999", "ask for at most"]);
    fails(&["plan", &model, "--prompt", "20", "--context", "10"], 1, &["20 tokens", "context of 10"]);
    fails(&["plan", &model, "--batch", "0"], 2, &["--batch"]);
    fails(&["plan", &model, "--batch", "x"], 2, &["--batch"]);
    fails(&["plan", &model, "--peaks", &file], 1, &["peaks.json", "bytes_per_s", "above 0"]);
    fails(&["plan", &model, "--peaks", "nowhere.json"], 1, &["nowhere.json"]);
    std::fs::write(folder.path().join("config.json"), r#"{"architectures": ["BertModel"]}"#).unwrap();
    fails(&["plan", &model], 1, &["config.json"]);
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    fails(&["plan", &model], 1, &["config.json", "JSON"]);
}

#[test]
fn help_says_what_the_limits_are() {
    let help = text(&qiao(&["plan", "--help"]).stdout);
    for words in ["never a measurement", "--peaks", "\"source\"", "--context", "Examples"] {
        assert!(help.contains(words), "{help}");
    }
    assert!(text(&qiao(&["--help"]).stdout).contains("plan"));
}
