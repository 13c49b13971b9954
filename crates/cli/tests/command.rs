//! The command as its users meet it: what it prints where, and how it ends.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn qiao(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qiao")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Runs with these lines on standard input.
fn talk(args: &[&str], lines: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_qiao"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// The one JSON object that a run with `--json` must print.
fn json(output: &Output) -> serde_json::Value {
    let out = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(&out).unwrap()
}

/// The command fails with this code and an error that holds these words, in one line unless it is about the command line;
/// nothing is on standard output.
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = qiao(args);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
    assert!(output.stdout.is_empty(), "{args:?} printed {}", text(&output.stdout));
    assert!(err.starts_with("error: ") && words.iter().all(|w| err.contains(w)), "{args:?}: {err}");
    assert!(code == 2 || err.lines().count() == 1, "{args:?}: {err}");
}

#[test]
fn help_lists_commands_and_exit_codes() {
    let output = qiao(&["--help"]);
    let help = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for word in ["devices", "run", "compare", "Exit codes", "130  interrupted"] {
        assert!(help.contains(word), "{help}");
    }
    let help = text(&qiao(&["run", "--help"]).stdout);
    let plugins = help.split("\nPlugins:\n").nth(1).expect("a heading of their own");
    assert!(plugins.contains("--plugin <FILE>") && plugins.contains("--option <KEY=VALUE>"), "{help}");
    for word in ["--prompt", "--chat", "--token-ids", "--max-tokens", "--temperature", "--seed", "--device", "--json"] {
        assert!(help.contains(word), "{help}");
    }
}

#[test]
fn wrong_command_lines_end_with_2() {
    fails(&["run", "--no-such-flag"], 2, &["--no-such-flag"]);
    fails(&["frobnicate"], 2, &["frobnicate"]);
    fails(&["run", "--token-ids", "1,x"], 2, &["'x'", "--token-ids"]);
    fails(&["run", "--chat", "--json"], 2, &["--json"]);
    fails(&["run", "--dtype", "q4_0"], 2, &["q4_0"]);
    fails(&["compare", "model"], 2, &["--golden"]);
    let model = fixture("llama3-gqa");
    fails(&["run", model.to_str().unwrap()], 2, &["nothing to continue", "--prompt"]);
    fails(&["run", "/no/such/model"], 1, &["cannot open /no/such/model:"]);
}

#[test]
fn devices_are_listed_for_people_and_programs() {
    let output = qiao(&["devices"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    assert!(out.starts_with("device ") && out.contains("\ncpu:0 "), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let json = json(&qiao(&["devices", "--json"]));
    let cpu = &json["devices"][0];
    assert_eq!(cpu["device"], "cpu:0");
    assert!(cpu["dtypes"].as_array().unwrap().iter().any(|d| d["dtype"] == "bf16"), "{cpu}");
    assert!(json["absent"].is_array() && cpu["measured"].is_null());
}

#[test]
fn what_devices_reach_is_measured_where_it_is_asked_for() {
    let json = json(&qiao(&["devices", "--measure", "0.2", "--json"]));
    for device in json["devices"].as_array().unwrap() {
        let reached = &device["measured"];
        assert!(reached["bytes_per_s"].as_f64().is_some_and(|rate| rate > 1e6), "{device}");
        assert!(reached["ops_per_s"]["f32"].as_f64().is_some_and(|rate| rate > 1e6), "{device}");
    }
    fails(&["devices", "--measure", "0"], 2, &["above 0"]);
}

#[test]
fn the_demo_continues_its_poem() {
    let output = qiao(&["run", "--max-tokens", "20", "--temperature", "0"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert!(out.starts_with("床前明月光"), "{out}");
    assert!(out.contains("疑是地上霜"), "{out}");
    let last = err.lines().last().unwrap();
    assert!(last.contains("tokens/s") && last.contains("prompt") && last.contains("decode"), "{err}");
}

#[test]
fn json_is_one_object_with_the_documented_keys() {
    let output = qiao(&["run", "--prompt", "床前明月光", "--max-tokens", "8", "--temperature", "0", "--json"]);
    let json = json(&output);
    let text = json["text"].as_str().unwrap();
    assert!(!text.is_empty() && !text.contains("床前明月光"), "{json}");
    let ids = json["token_ids"].as_array().unwrap();
    assert!(!ids.is_empty() && ids.len() <= 8 && ids.iter().all(|i| i.is_u64()), "{json}");
    assert_eq!(json["decode_tokens"].as_u64().unwrap(), ids.len() as u64, "{json}");
    assert!(json["prompt_tokens"].as_u64().unwrap() > 0, "{json}");
    for key in ["prefill_tokens_per_s", "decode_tokens_per_s", "load_s"] {
        assert!(json[key].as_f64().unwrap() > 0.0, "{key} of {json}");
    }
}

#[test]
fn a_request_has_as_long_as_it_is_given() {
    fails(&["run", "--timeout", "0.000001", "--json"], 1, &["the request did not finish within 0 ms"]);
    fails(&["run", "--timeout", "0"], 2, &["--timeout", "above 0"]);
    let given = json(&qiao(&["run", "--max-tokens", "2", "--timeout", "3600", "--json"]));
    assert_eq!(given["decode_tokens"], 2);
}

#[test]
fn a_fallback_is_asked_for_by_name_and_told() {
    fails(&["run", "--fallback", "cpu"], 2, &["--fallback", "host"]);
    let found = json(&qiao(&["run", "--max-tokens", "2", "--fallback", "host", "--json"]));
    assert!(found["on_host"].is_null(), "the CPU needs no help: {found}");
    let account = found["account"].as_array().unwrap();
    assert!(account.iter().any(|l| l["op"] == "matmul" && l["way"] == "native" && l["count"].as_u64() > Some(1)));
}

#[test]
fn one_seed_gives_one_text() {
    let run = |seed: &str| {
        let sampled = ["run", "--prompt", "春", "--max-tokens", "24", "--temperature", "1.5", "--json", "--seed", seed];
        json(&qiao(&sampled))["token_ids"].clone()
    };
    assert_eq!(run("7"), run("7"));
    assert!((8..12).any(|seed| run(&seed.to_string()) != run("7")), "the seed changes nothing");
}

#[test]
fn token_ids_are_continued_as_they_are() {
    let model = fixture("llama3-gqa");
    let args = ["run", model.to_str().unwrap(), "--token-ids", "1,2,3", "--max-tokens", "4", "--temperature", "0"];
    let found = json(&qiao(&[&args[..], &["--json", "--ignore-eos"]].concat()));
    assert_eq!(found["prompt_tokens"], 3);
    let ids: Vec<u64> = found["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(ids.len(), 4);
    // Without a tokenizer there is no text to print.
    let printed = text(&qiao(&[&args[..], &["--ignore-eos"]].concat()).stdout);
    assert_eq!(printed.trim_end(), ids.iter().map(u64::to_string).collect::<Vec<_>>().join(","));
    fails(&["run", model.to_str().unwrap(), "--token-ids", "1,99999"], 1, &["99999", "vocabulary"]);
}

#[test]
fn a_kept_session_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (path, next) = (folder.path().join("s"), folder.path().join("next"));
    let (path, next) = (path.to_str().unwrap(), next.to_str().unwrap());
    let run = |tokens: &str, more: &[&str]| {
        let args = ["run", "--temperature", "0", "--ignore-eos", "--json", "--max-tokens", tokens];
        let found = json(&qiao(&[&args[..], more].concat()));
        (found["text"].as_str().unwrap().to_string(), found["restored_tokens"].as_u64().unwrap())
    };
    let (whole, restored) = run("16", &["--prompt", "床前明月光"]);
    assert_eq!(restored, 0);
    let (first, _) = run("6", &["--prompt", "床前明月光", "--save-session", path]);
    let (second, restored) = run("6", &["--session", path, "--save-session", next]);
    assert!(restored > 0);
    let (third, _) = run("4", &["--session", next]);
    assert_eq!([&first[..], &second, &third].concat(), whole);
    let (found, _) = run("4", &["--session", path, "--prompt", "。春眠不觉晓"]);
    let (wanted, _) = run("4", &["--prompt", &format!("床前明月光{first}。春眠不觉晓")]);
    assert_eq!(found, wanted, "what is given comes after the text of the file");
    let model = fixture("llama3-gqa");
    fails(&["run", model.to_str().unwrap(), "--session", path], 1, &["was saved by a model with", "this one has"]);
    fails(&["run", "--session", folder.path().join("absent").to_str().unwrap()], 1, &["cannot open", "absent"]);
    fails(&["run", "--chat", "--session", path], 2, &["--chat", "--session"]);
    let unwritable = folder.path().join("absent/s");
    let output = qiao(&["run", "--max-tokens", "1", "--save-session", unwritable.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot keep the session in"), "{}", text(&output.stderr));
}

#[test]
fn every_turn_of_a_conversation_is_answered() {
    let args = ["run", "--chat", "--max-tokens", "8", "--temperature", "0"];
    let output = talk(&args, "床前明月光\n\n白日依山盡\n".as_bytes());
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert_eq!(err.lines().filter(|l| l.contains("tokens/s")).count(), 2, "{err}");
    assert!(out.trim().lines().count() >= 2, "{out}");
}

#[test]
fn a_model_without_a_chat_template_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for (name, files) in
        [("llama3-gqa", &["config.json", "model.safetensors"][..]), ("tokenizer-bytelevel", &["tokenizer.json"][..])]
    {
        for file in files {
            std::fs::copy(fixture(name).join(file), folder.path().join(file)).unwrap();
        }
    }
    fails(&["run", folder.path().to_str().unwrap(), "--chat"], 1, &["the checkpoint has no chat template"]);
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    fails(&["run", folder.path().to_str().unwrap(), "--chat"], 1, &["the checkpoint has no tokenizer.json"]);
}

#[test]
fn models_that_can_not_be_read_end_with_1() {
    fails(&["run", "/no/such/model", "--prompt", "x"], 1, &["cannot open /no/such/model:"]);
    let file = fixture("llama3-gqa").join("model.safetensors");
    fails(&["run", file.to_str().unwrap(), "--prompt", "x"], 1, &["model.safetensors", "a file", "directory"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    fails(&["run", path, "--prompt", "x"], 1, &["config.json"]);
    std::fs::write(folder.path().join("config.json"), "{ not json").unwrap();
    fails(&["run", path, "--prompt", "x"], 1, &["config.json"]);
}

#[test]
fn devices_that_are_not_there_end_with_3() {
    fails(&["run", "--device", "npu"], 3, &["'npu' is not present", "cpu"]);
    fails(&["run", "--device", "cpu:7"], 3, &["'cpu:7' is not present"]);
}

#[test]
fn wrong_environment_variables_are_not_an_absent_device() {
    for (variable, value) in
        [("QIAO_ISA", "foo"), ("QIAO_THREADS", "0"), ("QIAO_THREADS", "abc"), ("QIAO_ACTIVATIONS", "4")]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_qiao")).arg("run").env(variable, value).output().unwrap();
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{variable}={value}: {err}");
        assert!(err.starts_with("error: QIAO_") && err.contains(value) && !err.contains("not present"), "{err}");
    }
}

#[test]
fn a_line_that_is_no_text_is_told_and_the_conversation_goes_on() {
    let args = ["run", "--chat", "--max-tokens", "4", "--temperature", "0"];
    let asked = |lines: &[&[u8]]| {
        let output = talk(&args, &lines.concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let (first, second) = ("床前明月光\n".as_bytes(), "白日依山盡\n".as_bytes());
    let (with, told) = asked(&[first, b"\xff\xfe\n", second]);
    let (without, quiet) = asked(&[first, second]);
    assert_eq!(with, without, "earlier turns are still there");
    assert_eq!(told.matches("not UTF-8").count(), 1, "{told}");
    assert!(!quiet.contains("UTF-8"), "{quiet}");
}

#[cfg(unix)]
#[test]
fn turns_that_can_not_be_read_name_standard_input() {
    let folder = std::fs::File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_qiao")).args(["run", "--chat"]).stdin(folder).output();
    let output = run.unwrap();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.starts_with("error: cannot read a turn from standard input"), "{err}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_of_standard_output_and_borne_on_standard_error() {
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qiao"));
        command.args(["run", "--max-tokens", "4", "--temperature", "0"]);
        command
    };
    let output = run().stdout(full()).output().unwrap();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.starts_with("error: cannot write to standard output: ") && err.lines().count() == 1, "{err}");
    let output = run().stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with("床前明月光"));
}

#[cfg(unix)]
#[test]
fn whoever_has_read_enough_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_qiao"))
        .args(["run", "--max-tokens", "200", "--ignore-eos"])
        .env("QIAO_ISA", "scalar")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 3]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains("error"), "{}", text(&output.stderr));
}

#[test]
fn values_out_of_range_are_wrong_command_lines() {
    fails(&["run", "--temperature", "-1"], 2, &["temperature", "-1", "from 0"]);
    fails(&["run", "--temperature=-1"], 2, &["temperature", "-1"]);
    fails(&["run", "--temperature", "nan"], 2, &["temperature", "nan"]);
    fails(&["run", "--top-p", "1.5"], 2, &["top-p", "1.5", "at most 1"]);
    fails(&["run", "--presence-penalty", "inf"], 2, &["presence-penalty", "finite"]);
    for size in ["--batch", "--context", "--prompt"] {
        fails(&["plan", size, "0"], 2, &[size]);
    }
}

#[test]
fn a_right_model_passes_its_comparison() {
    let model = fixture("llama3-gqa");
    let golden = model.join("golden.safetensors");
    let args = ["compare", model.to_str().unwrap(), "--golden", golden.to_str().unwrap()];
    let output = qiao(&args);
    let out = text(&output.stdout);
    assert!(output.status.success(), "{out}{}", text(&output.stderr));
    assert!(out.contains("max abs error") && out.ends_with("passed\n"), "{out}");
    let found = json(&qiao(&[&args[..], &["--json"]].concat()));
    assert!(found["max_abs_error"].as_f64().unwrap() < 1e-3, "{found}");
    assert_eq!(found["top1_agreement"], 1.0);
    assert_eq!(found["greedy_agreement"], 1.0);
    assert!(found["first_divergent_layer"].is_null());
    for key in ["max_rel_error", "cosine", "kl"] {
        assert!(found[key].is_f64(), "{key} of {found}");
    }
}

/// A copy of a golden file with other bytes at the start of one of its tensors.
fn golden_with(folder: &Path, tensor: &str, bytes: &[u8]) -> PathBuf {
    let mut file = std::fs::read(fixture("mistral-window/golden.safetensors")).unwrap();
    let data = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&file[8..data]).unwrap();
    let at = data + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    file[at..at + bytes.len()].copy_from_slice(bytes);
    let path = folder.join("golden.safetensors");
    std::fs::write(&path, file).unwrap();
    path
}

#[test]
fn the_first_layer_that_diverges_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let golden = golden_with(folder.path(), "layers.1.output", &99f32.to_le_bytes());
    let model = fixture("mistral-window");
    let output = qiao(&["compare", model.to_str().unwrap(), "--golden", golden.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(4));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["first_divergent_layer"], &found["passed"]), (&1.into(), &false.into()), "{found}");
    assert!(text(&output.stderr).contains("past its limit: layers.1.output"), "{}", text(&output.stderr));
}

#[test]
fn golden_files_of_another_model_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let golden = golden_with(folder.path(), "input_ids", &100_000i64.to_le_bytes());
    let (golden, model) = (golden.to_str().unwrap(), fixture("mistral-window"));
    fails(&["compare", model.to_str().unwrap(), "--golden", golden], 1, &[golden, "token id 100000", "vocabulary"]);
}

#[test]
fn a_limit_that_is_not_set_is_left_out_of_the_json() {
    let model = fixture("llama3-gqa");
    let golden = model.join("golden.safetensors");
    let args = ["compare", model.to_str().unwrap(), "--golden", golden.to_str().unwrap(), "--dtype", "bf16", "--json"];
    let limits = json(&qiao(&args))["limits"].clone();
    assert!(limits.get("max_abs_error").is_none(), "{limits}");
    assert!(limits.as_object().unwrap().values().all(serde_json::Value::is_number), "{limits}");
}

#[test]
fn a_wrong_model_ends_with_4() {
    // Another model of the same shapes, or at least the wrong golden file for this one.
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("llama3-gqa");
    for file in ["config.json", "generation_config.json"] {
        std::fs::copy(model.join(file), folder.path().join(file)).unwrap();
    }
    let mut weights = std::fs::read(model.join("model.safetensors")).unwrap();
    let data = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    // Swaps the signs of some weights.
    for byte in weights[data..].iter_mut().skip(3).step_by(64) {
        *byte ^= 0x80;
    }
    std::fs::write(folder.path().join("model.safetensors"), weights).unwrap();
    let golden = model.join("golden.safetensors");
    let output = qiao(&["compare", folder.path().to_str().unwrap(), "--golden", golden.to_str().unwrap()]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(4), "{out}{err}");
    assert!(out.ends_with("failed\n") && err.contains("past its limit: max_abs_error"), "{out}{err}");
}

/// Starts a long generation, interrupts it once there is text, and gives what followed.
#[cfg(unix)]
fn interrupted() -> (Vec<u8>, Output) {
    let args = ["run", "--prompt", "春", "--max-tokens", "500", "--ignore-eos", "--temperature", "1"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_qiao"))
        .args(args)
        .env("QIAO_ISA", "scalar")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut bytes = vec![0u8; 1];
    out.read_exact(&mut bytes).unwrap();
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    out.read_to_end(&mut bytes).unwrap();
    (bytes, child.wait_with_output().unwrap())
}

#[cfg(unix)]
#[test]
fn an_interrupt_prints_what_there_is_and_ends_with_130() {
    // A signal may come after the last token on a busy machine; of a few runs one is in time.
    for _ in 0..8 {
        let (out, output) = interrupted();
        let err = text(&output.stderr);
        let out = String::from_utf8(out).expect("no character is cut in two");
        assert!(out.ends_with('\n'), "the text ends with a line break: {out}");
        assert!(err.lines().last().unwrap().contains("tokens/s"), "{err}");
        match output.status.code() {
            Some(130) => return,
            Some(0) => {}
            other => panic!("ended with {other:?}: {err}"),
        }
    }
    panic!("no interrupt was in time");
}

#[test]
fn guesses_and_quantised_pages_are_told_and_guesses_change_no_text() {
    let run = |more: &[&str]| {
        let args = [
            "run",
            "--temperature",
            "0",
            "--ignore-eos",
            "--json",
            "--max-tokens",
            "24",
            "--prompt",
            "床前明月光，疑是",
        ];
        json(&qiao(&[&args[..], more].concat()))
    };
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../qiao/demo");
    let plain = run(&[]);
    assert_eq!(plain["drafted_tokens"], 0);
    for more in [&["--lookup", "4"][..], &["--draft", demo.to_str().unwrap(), "--draft-tokens", "3"]] {
        let found = run(more);
        assert_eq!(found["text"], plain["text"], "{more:?}");
        assert!(found["drafted_tokens"].as_u64() >= found["accepted_tokens"].as_u64(), "{found}");
    }
    assert_eq!(run(&["--kv-dtype", "f32"])["decode_tokens"], 24);
    assert_eq!(run(&["--kv-dtype", "i8"])["decode_tokens"], 24);
    let other = fixture("llama3-gqa");
    fails(&["run", "--draft", other.to_str().unwrap()], 1, &["draft model", "vocabulary"]);
    fails(&["run", "--draft-tokens", "3"], 2, &["--draft"]);
    fails(&["run", "--kv-dtype", "q4_0"], 2, &["q4_0", "f8e4m3"]);
    fails(&["compare", "--against", "reference", "--kv-dtype", "i8"], 2, &["--kv-dtype"]);
}
