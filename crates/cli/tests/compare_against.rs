//! `qiao compare --against`: two devices in lock step.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn qiao(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qiao")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name).to_str().unwrap().to_string()
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

#[test]
fn the_processor_agrees_with_the_truth() {
    let output = qiao(&["compare", "--against", "reference", "--tokens", "2"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}{}", text(&output.stderr));
    for words in ["against   reference", "all agree", "KL divergence", "7 of 7"] {
        assert!(out.contains(words), "{words} is not in\n{out}");
    }
    assert!(out.ends_with("The devices agree.\n"), "{out}");
}

#[test]
fn json_is_one_object_with_every_token() {
    let model = fixture("mistral-window");
    let args = ["compare", &model, "--against", "reference", "--token-ids", "1,2,3,4", "--tokens", "2", "--json"];
    let output = qiao(&args);
    let out = text(&output.stdout);
    assert!(output.status.success() && out.lines().count() == 1, "{out}{}", text(&output.stderr));
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&found["agrees"], &found["culprit"]), (&json!(true), &json!(null)), "{found}");
    assert_eq!((&found["device_name"], &found["against_name"]), (&json!("cpu"), &json!("reference")));
    let tokens = found["logits"]["tokens"].as_array().unwrap();
    let fed: Vec<_> = tokens.iter().map(|t| t["id"].as_u64().unwrap()).collect();
    assert_eq!((fed.len(), &fed[..4]), (6, &[1, 2, 3, 4][..]));
    assert_eq!(tokens[3]["next"], tokens[4]["id"], "the trusted device's choice is fed to both");
    assert!(found["local"]["compared"].as_u64() > Some(0) && found["accumulated"]["bound"].as_f64() > Some(0.0));
}

#[test]
fn every_family_and_dtype_agrees() {
    for (model, dtype) in [
        ("llama3-gqa", "f32"),
        ("llama3-gqa", "f16"),
        ("qwen2-sliding", "bf16"),
        ("llama-dynamic", "f32"),
        ("llama-partial", "f32"),
    ] {
        let model = fixture(model);
        let args = [
            "compare",
            &model,
            "--against",
            "reference",
            "--token-ids",
            "5,6,7,8,9",
            "--tokens",
            "3",
            "--dtype",
            dtype,
        ];
        let output = qiao(&args);
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{model} in {dtype}: {out}{}", text(&output.stderr));
    }
}

#[test]
fn one_thing_is_trusted_and_only_devices_are_fed() {
    fails(&["compare"], 2, &["--golden", "--against"]);
    fails(&["compare", "m", "--golden", "g", "--against", "cpu"], 2, &["cannot be used with"]);
    fails(&["compare", "m", "--golden", "g", "--prompt", "x"], 2, &["--prompt"]);
    fails(&["compare", "m", "--golden", "g", "--tokens", "3"], 2, &["--tokens"]);
    fails(&["compare", "m", "--against", "cpu", "--prompt", "x", "--token-ids", "1"], 2, &["--token-ids"]);
    let model = fixture("llama3-gqa");
    fails(&["compare", &model, "--against", "cpu"], 2, &["nothing to read", "--token-ids"]);
}

#[test]
fn what_can_not_run_is_named() {
    fails(&["compare", "--against", "npu"], 3, &["npu"]);
    fails(&["compare", "--device", "npu", "--against", "cpu"], 3, &["npu"]);
    fails(&["compare", "no-such-model", "--against", "cpu", "--token-ids", "1"], 1, &["no-such-model"]);
    fails(&["compare", "--against", "cpu", "--token-ids", "1,3382"], 1, &["3382", "vocabulary"]);
    fails(&["compare", "--against", "cpu", "--context", "513"], 1, &["513", "at most 512"]);
    fails(&["compare", "--against", "cpu", "--context", "6", "--tokens", "2"], 1, &["7 tokens", "context of 6"]);
    let model = fixture("llama3-gqa");
    fails(&["compare", &model, "--against", "cpu", "--prompt", "x"], 1, &["tokenizer.json"]);
}
