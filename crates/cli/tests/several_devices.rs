//! `--device a,b` and `--split`: a model's layers on several devices, and the commands that take only one.

use std::path::Path;
use std::process::{Command, Output};

fn qiao(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qiao")).args(args).output().unwrap()
}

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name).display().to_string()
}

fn json(args: &[&str]) -> serde_json::Value {
    let output = qiao(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_demo_runs_across_devices_and_says_the_same() {
    let run = |more: &[&str]| json(&[&["run", "--json", "--temperature", "0", "--max-tokens", "12"], more].concat());
    let whole = run(&[]);
    for more in [
        &["--device", "cpu,cpu"][..],
        &["--device", "cpu,reference", "--split", "4,1"],
        &["--device", "cpu,cpu,cpu", "--split", "1,3,1"],
        &["--device", "cpu,cpu", "--lookup", "3"],
    ] {
        let across = run(more);
        assert_eq!(across["token_ids"], whole["token_ids"], "{more:?}");
        assert_eq!(across["device"], more[1]);
    }
}

#[test]
fn a_session_goes_from_one_split_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("poem.kv").display().to_string();
    let run = |more: &[&str]| json(&[&["run", "--json", "--temperature", "0", "--max-tokens", "6"], more].concat());
    let whole = json(&["run", "--json", "--temperature", "0", "--max-tokens", "12"]);
    let first = run(&["--device", "cpu,cpu", "--save-session", &file]);
    let second = run(&["--device", "cpu", "--session", &file]);
    let text = |object: &serde_json::Value| object["text"].as_str().unwrap().to_string();
    assert_eq!(text(&first) + &text(&second), text(&whole));
}

#[test]
fn a_model_across_devices_is_compared_evaluated_and_measured() {
    let model = fixture("llama3-gqa");
    let golden = format!("{model}/golden.safetensors");
    let found = json(&["compare", &model, "--golden", &golden, "--device", "cpu,reference", "--json"]);
    assert_eq!(found["passed"], true, "{found}");

    let folder = tempfile::tempdir().unwrap();
    let poem = folder.path().join("poem.txt");
    std::fs::write(&poem, "床前明月光，疑是地上霜。举头望明月，低头思故乡。").unwrap();
    let eval = |device: &str| {
        json(&["eval", "--text", poem.to_str().unwrap(), "--context", "8", "--device", device, "--json"])
    };
    let (whole, across) = (eval("cpu"), eval("cpu,cpu"));
    let perplexity = |found: &serde_json::Value| found["model"]["perplexity"]["value"].as_f64().unwrap();
    assert_eq!(perplexity(&whole), perplexity(&across), "{across}");

    let small = ["--prompt", "8", "--tokens", "3", "--device", "cpu,cpu", "--split", "2,3"];
    let bench = json(&[&["bench", "model", "--json", "--repeat", "1", "--warm-up", "0"], &small[..]].concat());
    assert_eq!(bench["devices"][0]["layers"], serde_json::json!([2, 3]));
    let load = ["bench", "serve", "--json", "-", "--concurrency", "2", "--requests", "3", "--prompt", "6"];
    let served = json(&[&load[..], &["--output", "3", "--device", "cpu,cpu"]].concat());
    assert_eq!(served["points"][0]["completed"], 3, "{served}");
    assert_eq!(served["device"]["asked"], "cpu,cpu");
}

#[test]
fn where_one_device_is_taken_several_are_one_clear_error() {
    for args in [
        &["plan"][..],
        &["check", "--profile", "smoke"],
        &["adapt"],
        &["bench", "ops", "--quick"],
        &["compare", "--against", "reference"],
    ] {
        let output = qiao(&[args, &["--device", "cpu,reference"]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(output.stdout.is_empty());
        assert!(error.contains("works with one device, found 2 ('cpu,reference')"), "{args:?}: {error}");
    }
}

#[test]
fn devices_and_splits_that_make_no_sense_are_refused() {
    let run = ["run", "--max-tokens", "2"];
    for (more, code, words) in [
        (&["--device", "cpu,nothing"][..], 3, "'nothing' is not present"),
        (&["--device", "cpu,"], 3, "is not present"),
        (&["--device", "cpu,cpu:7"], 3, "'cpu:7' is not present"),
        (&["--device", "cpu,cpu", "--split", "2,2"], 1, "2,2 for 2 devices and 5 layers"),
        (&["--device", "cpu,cpu", "--split", "0,5"], 1, "0,5 for 2 devices"),
        (&["--split", "3,2"], 1, "3,2 for 1 devices"),
        (&["--device", "cpu,cpu", "--split", "a,2"], 2, "--split"),
    ] {
        let output = qiao(&[&run[..], more].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{more:?}: {error}");
        assert!(error.contains(words), "{more:?}: {error}");
    }
}

#[test]
fn requests_are_shared_by_devices_with_the_whole_model() {
    let load = ["bench", "serve", "--concurrency", "4", "--requests", "12", "--prompt", "6", "--output", "4"];
    let devices = ["--device", "cpu", "--device", "cpu,cpu", "--speed", "3,1", "--no-affinity"];
    let served = json(&[&load[..], &devices, &["--json", "-"]].concat());
    assert_eq!(served["more_devices"][0]["asked"], "cpu,cpu");
    let point = &served["points"][0];
    assert_eq!(point["completed"], 12, "{served}");
    let shares = point["shares"].as_array().unwrap();
    let sum = |key: &str| shares.iter().map(|share| share[key].as_f64().unwrap()).sum::<f64>();
    assert_eq!((shares.len(), sum("requests")), (2, 12.0), "{point}");
    assert!((sum("share") - 1.0).abs() < 1e-9, "{point}");
    assert!(shares.iter().all(|share| share["lost"].is_null()));

    // Of those that arrive together the device that is said to be three times as fast gets three, however fast it is.
    let load =
        ["bench", "serve", "--together", "4", "--requests", "4", "--warm-up", "0", "--prompt", "6", "--output", "4"];
    for (speed, more) in [("3,1", 0), ("1,3", 1)] {
        let devices = ["--device", "cpu", "--device", "cpu,cpu", "--speed", speed, "--no-affinity"];
        let point = &json(&[&load[..], &devices, &["--json", "-"]].concat())["points"][0];
        let requests = |device: usize| point["shares"][device]["requests"].as_u64();
        assert!(requests(more) >= Some(3) && requests(1 - more) <= Some(1), "{speed}: {point}");
    }

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("page.html");
    let html = ["--html", file.to_str().unwrap()];
    let output = qiao(&[&load[..], &["--device", "cpu", "--device", "cpu,cpu", "--round-robin"], &html].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("share %") && text.contains("taken over"), "{text}");
    let page = std::fs::read_to_string(&file).unwrap();
    let (_, devices) = page.split_once("<h2>Devices</h2>").expect("the page tells the shares");
    let (devices, _) = devices.split_once("</table>").unwrap();
    assert!(["speed", "requests", "taken over", "ended"].iter().all(|head| devices.contains(head)), "{devices}");
    assert_eq!(devices.matches("<td>2</td><td>0</td>").count(), 2, "two requests for each: {devices}");
    assert!(devices.contains(">cpu<") && devices.contains(">cpu,cpu<"), "{devices}");
    // What one device did has nobody to share with.
    let output = qiao(&[&load[..], &html].concat());
    assert!(output.status.success() && !std::fs::read_to_string(&file).unwrap().contains("<h2>Devices"));
    for (more, code, words) in [
        (&["--device", "cpu", "--device", "cpu", "--speed", "1"][..], 1, "1 for 2 devices"),
        (&["--device", "cpu", "--speed", "0"], 2, "number above 0"),
        (&["--device", "cpu", "--device", "nothing"], 3, "'nothing' is not present"),
    ] {
        let output = qiao(&[&load[..], more].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{more:?}: {error}");
        assert!(error.contains(words), "{more:?}: {error}");
    }
}
