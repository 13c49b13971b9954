//! `qiao bench serve` as its users meet it: tables, JSON and the page, exit codes, and what Ctrl-C leaves.

use std::process::{Command, Output, Stdio};

fn qiao(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qiao"));
    command.args(["bench", "serve"]).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The one JSON object that a run with `--json -` must print.
fn json(args: &[&str]) -> serde_json::Value {
    let output = qiao(&[args, &["--json", "-"]].concat());
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

const QUICK: [&str; 6] = ["--prompt", "4..12", "--output", "4", "--requests", "6"];

#[test]
fn the_demo_model_is_served_and_the_curve_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let (page, file) = (dir.path().join("curve.html"), dir.path().join("report.json"));
    let files = ["--html", page.to_str().unwrap(), "--json", file.to_str().unwrap()];
    let output = qiao(&[&QUICK[..], &files, &["--concurrency", "1,3", "--slo", "ttft=60s,tpot=60s"]].concat());
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{err}");
    for words in ["demo: Qwen3ForCausalLM", "3 clients", "TTFT ms", "ITL ms", "output tok/s", "goodput", "6 of 6"] {
        assert!(out.contains(words), "{words} of\n{out}");
    }
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!((page.matches("<svg").count(), page.matches("<polyline").count()), (2, 4));
    assert!(!page.contains("http") && page.contains("3 clients"), "{page}");
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(json["points"].as_array().unwrap().len(), 2);
}

#[test]
fn every_way_of_arriving_has_its_point() {
    let loads = ["--concurrency", "2", "--rate", "100", "--together", "3", "--seed", "9", "--warm-up", "0"];
    let json = json(&[&QUICK[..], &loads].concat());
    assert_eq!(json["schema"], "qiao.bench.serve/1");
    let points = json["points"].as_array().unwrap();
    let loads: Vec<_> = points.iter().map(|point| point["load"].as_str().unwrap()).collect();
    assert_eq!(loads, ["closed", "open", "together"]);
    for point in points {
        assert_eq!(point["completed"], 6, "{point}");
        assert_eq!((&point["output_tokens"], &point["ttft_s"]["count"]), (&24.into(), &6.into()), "{point}");
        assert!(
            point["output_tokens_per_s"].as_f64().unwrap() > 0.0 && point["peak_blocks"].as_u64().unwrap() > 0,
            "{point}"
        );
        assert!(point["mean_batch_sequences"].as_f64().unwrap() >= 1.0, "{point}");
    }
    assert!(points[0]["offered_requests_per_s"].is_null() && points[0]["phases"].is_null());
    assert!(points[1]["offered_requests_per_s"].as_f64().unwrap() > 1.0);
    assert_eq!(points[2]["phases"]["rounds"], 2);
    assert_eq!((&json["method"]["seed"], &json["method"]["until"]["requests"]), (&9.into(), &6.into()));
    assert_eq!((&json["method"]["mix"]["prompt"], &json["interrupted"]), (&"4..12".into(), &false.into()));
}

#[test]
fn a_common_prefix_is_found_in_the_cache_unless_nothing_is_shared() {
    let mix = [
        "--prefix",
        "64",
        "--prompt",
        "8",
        "--output",
        "2",
        "--requests",
        "6",
        "--concurrency",
        "2",
        "--block-size",
        "16",
    ];
    let shared = json(&mix);
    // 64 of 72 tokens of every prompt, in blocks of 16.
    let rate = shared["points"][0]["cache_hit_rate"].as_f64().unwrap();
    assert!((rate - 64.0 / 72.0).abs() < 1e-9, "{rate}");
    let alone = json(&[&mix[..], &["--no-sharing"]].concat());
    assert_eq!(alone["points"][0]["cache_hit_rate"], 0.0);
    assert_eq!(alone["method"]["sharing"], false);
}

#[test]
fn parallel_samples_and_priorities_are_part_of_the_mix() {
    let mix = ["--prompt", "4..12", "--output", "4", "--samples", "2", "--priority", "-1,5"];
    let json = json(&[&mix[..], &["--concurrency", "2", "--duration", "200ms"]].concat());
    let point = &json["points"][0];
    let completed = point["completed"].as_u64().unwrap();
    assert!(completed > 0 && point["output_lengths"]["count"].as_u64().unwrap() == 2 * completed, "{point}");
}

#[test]
#[cfg(unix)]
fn a_result_is_written_through_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let (link, real) = (folder.path().join("link.json"), folder.path().join("real.json"));
    std::os::unix::fs::symlink("real.json", &link).unwrap();
    let few = ["--together", "1", "--requests", "1", "--warm-up", "0", "--prompt", "2", "--output", "2"];
    let args = [&["bench", "serve", "--json", link.to_str().unwrap()], &few[..]].concat();
    let output = Command::new(env!("CARGO_BIN_EXE_qiao")).args(args).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(link.is_symlink() && std::fs::read_to_string(real).unwrap().starts_with('{'));
}

#[test]
fn what_makes_no_sense_is_one_clear_error() {
    fails(&["--concurrency", "0"], 2, &["--concurrency", "'0'"]);
    fails(&["--concurrency", "5000"], 1, &["concurrency: 5000", "1024"]);
    fails(&["--rate", "-1"], 2, &["--rate"]);
    fails(&["--rate", "nan"], 2, &["above 0"]);
    fails(&["--prompt", "9..3"], 2, &["length: 9..3"]);
    fails(&["--prompt", "many"], 2, &["64..256"]);
    fails(&["--output", "0"], 2, &["length: 0"]);
    fails(&["--shared", "2"], 1, &["share of requests", "from 0 to 1"]);
    fails(&["--requests", "4", "--duration", "5s"], 2, &["--duration"]);
    fails(&["--duration", "5"], 2, &["10m"]);
    fails(&["--slo", "ttft=5"], 2, &["ttft=500ms"]);
    fails(&["--prompt", "500", "--output", "20"], 1, &["prompt 500 + 20 tokens", "context is 512"]);
    fails(&["--device", "npu"], 3, &["npu"]);
    fails(&["no/such/model"], 1, &["no/such/model"]);
    fails(&["--block-size", "7", "--cache-mib", "4000000000"], 1, &["error"]);
}

/// Presses Ctrl-C after a while. A machine that has not measured anything by then is given longer.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_what_was_measured() {
    for seconds in [1, 4, 16, 64] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qiao"));
        command.args(["bench", "serve", "--json", "-", "--prompt", "8", "--output", "3", "--duration", "2h"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(seconds));
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
        if let Ok(json) = serde_json::from_slice::<serde_json::Value>(&output.stdout)
            && json.pointer("/points/0").is_some()
        {
            assert_eq!(json["interrupted"], true);
            let point = &json["points"][0];
            assert!(point["completed"].as_u64().unwrap() > 0 && point["failed"] == 0, "{json}");
            assert!(point["duration_s"].as_f64().unwrap() < 3600.0, "{json}");
            return;
        }
    }
    panic!("nothing was measured within a minute");
}
