//! `qiao bench model` as its users meet it: tables and JSON, exit codes, and what Ctrl-C leaves.

use std::process::{Command, Output, Stdio};

fn qiao(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qiao"));
    command.args(["bench", "model"]).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The one JSON object that a run with `--json` must print.
fn json(args: &[&str]) -> serde_json::Value {
    let output = qiao(&[args, &["--json"]].concat());
    let out = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(&out).unwrap()
}

/// The command fails with this code and an error that holds these words; nothing is on standard output.
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = qiao(args);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
    assert!(output.stdout.is_empty(), "{args:?} printed {}", text(&output.stdout));
    assert!(err.starts_with("error: ") && words.iter().all(|w| err.contains(w)), "{args:?}: {err}");
    assert!(code == 2 || err.lines().count() == 1, "{args:?}: {err}");
}

const QUICK: [&str; 6] = ["--prompt", "8", "--tokens", "4", "--repeat", "2"];

#[test]
fn the_demo_model_is_measured_without_an_argument_that_names_one() {
    let output = qiao(&QUICK);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    for words in ["demo: Qwen3ForCausalLM", "TTFT ms", "TPOT ms", "ITL ms", "decode tok/s", "passed", "energy: "] {
        assert!(out.contains(words), "{words} of\n{out}");
    }
    assert!(err.is_empty(), "{err}");
}

#[test]
fn a_sweep_has_a_row_for_every_point_and_number_of_threads() {
    let sweep = ["--prompt", "8,12", "--depth", "0,20", "--batch", "1,2", "--threads", "1,2", "--tokens", "3"];
    let json = json(&[&sweep[..], &["--repeat", "1", "--seed", "9"]].concat());
    assert_eq!(json["schema"], "qiao.bench.model/1");
    let points = json["points"].as_array().unwrap();
    assert_eq!((points.len(), json["devices"].as_array().unwrap().len()), (16, 2));
    for point in points {
        let requests = point["batch"].as_u64().unwrap();
        assert_eq!(point["ttft_s"]["count"].as_u64().unwrap(), requests, "{point}");
        assert!(point["decode_tokens_per_s"]["p50"].as_f64().unwrap() > 0.0, "{point}");
        assert_eq!(point["verified"]["status"], "passed", "{point}");
    }
    assert_eq!(json["method"]["seed"], 9);
    assert!(json["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains("take turns")));
}

#[test]
fn limits_are_judged_by_name_or_by_number() {
    let json = json(&[&QUICK[..], &["--slo", "llama3.1-8b-server,60000/60000"]].concat());
    let slos = json["points"][0]["slos"].as_array().unwrap();
    assert_eq!((slos[0]["slo"]["ttft_s"].as_f64(), slos[0]["slo"]["tpot_s"].as_f64()), (Some(2.0), Some(0.1)));
    assert!(slos[0]["slo"]["source"].as_str().unwrap().contains("MLPerf"));
    assert_eq!((slos[1]["met"].as_u64(), slos[1]["share"].as_f64()), (Some(2), Some(1.0)));
    fails(&["--slo", "fast"], 2, &["llama3.1-8b-interactive", "500/30"]);
}

#[test]
fn peaks_from_a_file_give_utilisation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peaks.json");
    std::fs::write(&path, r#"{"bytes_per_s": 2.0e10, "ops_per_s": {"bf16": 1.0e11}, "source": "a data sheet"}"#)
        .unwrap();
    let path = path.to_str().unwrap();
    let given = json(&[&QUICK[..], &["--peaks", path]].concat());
    let u = &given["points"][0]["utilisation"];
    assert!(u["mfu_prompt"].as_f64().unwrap() > 0.0 && u["mbu_decode"].as_f64().unwrap() > 0.0, "{u}");
    assert_eq!(given["devices"][0]["peaks"]["source"], "a data sheet");
    assert!(json(&QUICK)["points"][0]["utilisation"]["mfu_prompt"].is_null());
    fails(&["--peaks", "no/such/file.json"], 1, &["no/such/file.json"]);
}

#[test]
fn a_soak_says_what_changed() {
    let output = qiao(&["--prompt", "8", "--tokens", "3", "--soak", "300ms"]);
    let out = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for words in ["soak: prompt 8", "decode rate: ", "resident memory: ", "results: passed"] {
        assert!(out.contains(words), "{words} of\n{out}");
    }
    fails(&["--soak", "1m", "--prompt", "8,9"], 1, &["soak", "2 points"]);
    fails(&["--soak", "1m", "--threads", "1,2"], 1, &["soak", "2 numbers of threads"]);
    fails(&["--soak", "10"], 2, &["10m"]);
}

#[test]
fn what_makes_no_sense_is_one_clear_error() {
    fails(&["--prompt", "0"], 2, &["--prompt", "'0'"]);
    fails(&["--tokens", "0"], 2, &["--tokens"]);
    fails(&["--repeat", "0"], 2, &["--repeat"]);
    fails(&["--batch", "1,0"], 2, &["--batch"]);
    fails(&["--threads", "x"], 2, &["--threads"]);
    fails(&["--prompt", "99999999999"], 2, &["--prompt"]);
    fails(&["--prompt", "500", "--tokens", "20"], 1, &["prompt 500 + 20 tokens", "context is 512"]);
    fails(&["--depth", "4000000000"], 1, &["depth: 4000000000"]);
    fails(&["--batch", "5000"], 1, &["batch: 5000"]);
    fails(&["--threads", "5000"], 1, &["5000", "1024"]);
    fails(&["--threads", "2", "--device", "reference"], 1, &["only 'cpu' takes"]);
    fails(&["--device", "npu"], 3, &["npu"]);
    fails(&["no/such/model"], 1, &["no/such/model"]);
}

#[test]
fn the_reference_device_is_measured_too() {
    let json = json(&["--device", "reference", "--prompt", "4", "--tokens", "2", "--repeat", "1", "--warm-up", "0"]);
    assert_eq!(json["devices"][0]["asked"], "reference");
    assert_eq!(json["points"][0]["verified"]["status"], "not repeated");
}

/// Runs with arguments, presses Ctrl-C after a while, and gives what came. A machine that has not measured anything by then
/// is given longer.
#[cfg(unix)]
fn interrupted(args: &[&str], found: &str) -> serde_json::Value {
    for seconds in [1, 4, 16, 64] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qiao"));
        command.args(["bench", "model", "--json", "--prompt", "8", "--tokens", "3"]).args(args).stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(seconds));
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
        if let Ok(json) = serde_json::from_slice::<serde_json::Value>(&output.stdout)
            && json.pointer(found).is_some()
        {
            return json;
        }
    }
    panic!("nothing was measured within a minute");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_sweep_and_a_soak_with_what_was_measured() {
    let json = interrupted(&["--repeat", "1000000"], "/points/0");
    assert_eq!(json["interrupted"], true);
    let rounds = json["points"][0]["rounds"].as_u64().unwrap();
    assert!(rounds > 0 && rounds < 1_000_000, "{json}");
    let json = interrupted(&["--soak", "2h"], "/soak/rounds");
    assert_eq!(json["interrupted"], true);
    assert!(
        json["soak"]["rounds"].as_u64().unwrap() > 0 && json["soak"]["lasted_s"].as_f64().unwrap() < 3600.0,
        "{json}"
    );
}
