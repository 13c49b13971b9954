//! `qiao quantize`: what it writes, what it tells, and what it leaves behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

fn qiao(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qiao")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn within(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path).to_str().unwrap().to_string()
}

fn demo() -> String {
    within("crates/qiao/demo")
}

/// A place for outputs.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    fn file(&self, name: &str, content: &str) -> String {
        fs::write(self.folder.path().join(name), content).unwrap();
        self.path(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_str().unwrap().to_string()).collect();
        names.sort();
        names
    }
}

fn json_of(args: &[&str]) -> Value {
    let output = qiao(args);
    let out = text(&output.stdout);
    assert!(output.status.success() && out.lines().count() == 1, "{args:?}: {out}{}", text(&output.stderr));
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

fn line<'a>(report: &'a Value, name: &str) -> &'a Value {
    let lines = report["tensors"].as_array().unwrap();
    lines.iter().find(|line| line["name"] == name).unwrap_or_else(|| panic!("{name} is not in {report}"))
}

#[test]
fn a_table_tells_what_every_tensor_has_become() {
    let place = Place::new();
    let output = qiao(&["quantize", &demo(), &place.path("m.gguf"), "--format", "q4_k_m"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    for words in ["SQNR dB", "cosine", "max error", "blk.0.ffn_down.weight", "no multiple of 256", "bits a weight"] {
        assert!(out.contains(words), "{words} is not in\n{out}");
    }
    assert!(err.contains("wrote "), "{err}");
    assert_eq!(place.names(), ["m.gguf"]);
    assert_eq!(&fs::read(place.path("m.gguf")).unwrap()[..4], b"GGUF");
}

#[test]
fn json_has_the_figures_of_every_tensor() {
    let place = Place::new();
    let report = json_of(&["quantize", &demo(), &place.path("m.gguf"), "--format", "q8_0", "--json"]);
    let down = line(&report, "blk.0.ffn_down.weight");
    assert_eq!((&down["format"], &down["shape"], &down["from"]), (&json!("q8_0"), &json!([192, 512]), &json!("bf16")));
    assert_eq!(down["source"], "model.layers.0.mlp.down_proj.weight");
    assert_eq!((down["bits"].as_f64(), down["bytes"].as_u64()), (Some(8.5), Some(192 * 512 / 32 * 34)));
    assert!(down["sqnr_db"].as_f64() > Some(40.0) && down["cosine"].as_f64() > Some(0.9999), "{down}");
    let norm = line(&report, "output_norm.weight");
    assert_eq!((&norm["format"], &norm["sqnr_db"]), (&json!("f32"), &Value::Null), "bf16 is exact in f32");
    assert!(report["bytes_after"].as_u64() < report["bytes_before"].as_u64());
}

#[test]
fn folders_say_how_they_are_quantised() {
    let place = Place::new();
    for (format, storage, strategy) in [
        ("w4a16", "pack-quantized", "group"),
        ("w4a16-asym", "pack-quantized", "group"),
        ("w8a16", "pack-quantized", "channel"),
        ("w8a8", "int-quantized", "channel"),
        ("fp8", "float-quantized", "channel"),
        ("fp8-block", "float-quantized", "block"),
    ] {
        let to = place.path(format);
        let mut args = vec!["quantize", "", &to, "--format", format, "--json"];
        let demo = demo();
        args[1] = &demo;
        if format.starts_with("w4") {
            args.extend(["--group-size", "64"]);
        }
        let report = json_of(&args);
        let down = line(&report, "model.layers.0.mlp.down_proj.weight");
        assert!(down["note"].is_null() && down["sqnr_db"].as_f64() > Some(15.0), "{down}");
        let config: Value = serde_json::from_slice(&fs::read(Path::new(&to).join("config.json")).unwrap()).unwrap();
        let quantised = &config["quantization_config"];
        assert_eq!((&quantised["quant_method"], &quantised["format"]), (&json!("compressed-tensors"), &json!(storage)));
        let group = &quantised["config_groups"]["group_0"];
        assert_eq!(
            (&group["weights"]["strategy"], &group["targets"]),
            (&json!(strategy), &json!(["Linear"])),
            "{group}"
        );
        assert_eq!(group["weights"]["symmetric"], !format.ends_with("asym"));
        assert_eq!(config["hidden_size"], 192);
        assert!(Path::new(&to).join("tokenizer.json").is_file());
    }
}

#[test]
fn a_plan_decides_for_single_tensors() {
    let place = Place::new();
    let plan = place.file("plan.json", r#"{"*.0.*down*": "q6_k", "blk.1.*": "f16", "token_embd*": "keep"}"#);
    let to = place.path("m.gguf");
    let report = json_of(&["quantize", &demo(), &to, "--format", "q4_0", "--plan", &plan, "--json"]);
    assert_eq!(line(&report, "blk.0.ffn_down.weight")["format"], "q6_k");
    assert_eq!(line(&report, "blk.1.ffn_up.weight")["format"], "f16");
    assert_eq!(line(&report, "blk.2.ffn_up.weight")["format"], "q4_0");
    assert_eq!(line(&report, "token_embd.weight")["format"], "bf16");
    let folder = place.path("m");
    let plan = place.file("plan.json", r#"{"*.0.*": "keep", "*.mlp.*": "w8a16"}"#);
    json_of(&["quantize", &demo(), &folder, "--format", "fp8", "--plan", &plan, "--json"]);
    let config: Value = serde_json::from_slice(&fs::read(Path::new(&folder).join("config.json")).unwrap()).unwrap();
    let quantised = &config["quantization_config"];
    assert_eq!(quantised["format"], "mixed-precision");
    assert!(quantised["ignore"].as_array().unwrap().contains(&json!("model.layers.0.mlp.up_proj")), "{quantised}");
    let groups: Vec<_> = quantised["config_groups"].as_object().unwrap().values().collect();
    assert_eq!(groups.len(), 2);
    assert!(groups.iter().all(|group| group["targets"].as_array().unwrap().len() >= 12), "{quantised}");
}

#[test]
fn what_can_not_be_quantised_is_named() {
    let place = Place::new();
    let (demo, to, folder) = (demo(), place.path("m.gguf"), place.path("m"));
    let bad = place.file("bad.json", r#"{"*": "q7_k"}"#);
    let unused = place.file("unused.json", r#"{"*.down_prj.*": "q8_0"}"#);
    let run = |rest: &[&str], code, words: &[&str]| fails(&[&["quantize", demo.as_str()], rest].concat(), code, words);
    run(&[&to, "--format", "q9_0"], 2, &["q9_0", "q8_0", "w4a16"]);
    run(&[&to, "--format", "q8_0", "--group-size", "64"], 2, &["group size", "w4a16"]);
    run(&[&to], 2, &["--format"]);
    run(&[&to, "--format", "w4a16"], 1, &["w4a16", "GGUF", "folder"]);
    run(&[&folder, "--format", "q4_k_m"], 1, &["q4_k_m", "safetensors", ".gguf"]);
    run(&[&to, "--format", "q8_0", "--plan", &bad], 1, &["bad.json", "q7_k"]);
    run(&[&to, "--format", "q8_0", "--plan", &unused], 1, &["*.down_prj.*", "no weight matrix"]);
    run(&[&to, "--format", "q8_0", "--plan", "nowhere.json"], 1, &["nowhere.json"]);
    run(&[&to, "--format", "q8_0", "--imatrix", &place.path("none")], 1, &["none"]);
    run(&["no/such/folder/m.gguf", "--format", "q8_0"], 1, &["cannot create", "no/such/folder"]);
    fails(&["quantize", "no-such-model", &to, "--format", "q8_0"], 1, &["no-such-model"]);
    fs::write(&to, b"precious").unwrap();
    run(&[&to, "--format", "q8_0"], 1, &["already", "--force"]);
    assert_eq!(fs::read(&to).unwrap(), b"precious");
    json_of(&["quantize", &demo, &to, "--format", "q8_0", "--force", "--json"]);
    json_of(&["quantize", &demo, &folder, "--format", "w8a8", "--json"]);
    fails(&["quantize", &folder, &place.path("n.gguf"), "--format", "q8_0"], 1, &["floats"]);
    assert_eq!(place.names(), ["bad.json", "m", "m.gguf", "unused.json"]);
}

#[test]
fn importances_are_gathered_kept_and_used() {
    let place = Place::new();
    let poems = place.file("poems.txt", &"床前明月光，疑是地上霜。举头望明月，低头思故乡。\n".repeat(8));
    let (kept, a, b, plain) =
        (place.path("i.safetensors"), place.path("a.gguf"), place.path("b.gguf"), place.path("plain.gguf"));
    let demo = demo();
    let run = |to: &str, rest: &[&str]| {
        json_of(&[&["quantize", demo.as_str(), to, "--format", "q4_0", "--json"], rest].concat())
    };
    let report = run(&a, &["--imatrix-text", &poems, "--imatrix-out", &kept, "--context", "64"]);
    assert_eq!(report["importance"], true);
    run(&b, &["--imatrix", &kept]);
    run(&plain, &[]);
    assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap(), "what is kept is what was gathered");
    assert_ne!(fs::read(&a).unwrap(), fs::read(&plain).unwrap());
    let passed = place.path("passed.gguf");
    let report = run(&passed, &["--imatrix-text", &poems, "--context", "64", "--gptq"]);
    assert_eq!(report["compensated"], true);
    assert_ne!(fs::read(&a).unwrap(), fs::read(&passed).unwrap());
    fails(&["quantize", &demo, &place.path("x.gguf"), "--format", "q4_0", "--gptq"], 2, &["--imatrix-text"]);
    let model = within("fixtures/llama3-gqa");
    fails(&["quantize", &model, &place.path("x.gguf"), "--format", "q4_0", "--imatrix", &kept], 1, &["importances"]);
}

/// A checkpoint that takes a while.
fn large(place: &Place) -> PathBuf {
    let folder = place.folder.path().join("large");
    fs::create_dir(&folder).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(Path::new(&demo()).join("config.json")).unwrap()).unwrap();
    let mut config = config;
    for (key, size) in [("vocab_size", 65536), ("hidden_size", 512), ("num_hidden_layers", 1)] {
        config[key] = size.into();
    }
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let (mut header, mut at) = (serde_json::Map::new(), 0usize);
    let mut add = |name: &str, shape: &[usize]| {
        let end = at + shape.iter().product::<usize>() * 4;
        header.insert(name.into(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [at, end] }));
        at = end;
    };
    add("model.embed_tokens.weight", &[65536, 512]);
    add("model.norm.weight", &[512]);
    for (name, shape) in [
        ("self_attn.q_proj", [192, 512]),
        ("self_attn.k_proj", [64, 512]),
        ("self_attn.v_proj", [64, 512]),
        ("self_attn.o_proj", [512, 192]),
        ("mlp.gate_proj", [512, 512]),
        ("mlp.up_proj", [512, 512]),
        ("mlp.down_proj", [512, 512]),
    ] {
        add(&format!("model.layers.0.{name}.weight"), &shape);
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    let values = (0..at / 4).flat_map(|i| ((i as u32).wrapping_mul(2654435761) as f32 / 4e9 - 0.5).to_le_bytes());
    bytes.extend(values);
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
    folder
}

#[cfg(unix)]
#[test]
fn a_run_that_is_ended_leaves_nothing_under_its_name() {
    let place = Place::new();
    let model = large(&place);
    for (signal, to, format) in [("-INT", "m.gguf", "q2_k"), ("-KILL", "n.gguf", "q2_k"), ("-INT", "folder", "w4a16")] {
        let target = place.path(to);
        // One thread and costly formats: seconds of work.
        let args = ["quantize", model.to_str().unwrap(), &target, "--format", format, "--threads", "1"];
        let mut child = Command::new(env!("CARGO_BIN_EXE_qiao"))
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = || place.names().iter().any(|name| name.starts_with(&format!(".{to}.partial")));
        while !begun() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        let ended = child.wait_with_output().unwrap();
        assert!(!Path::new(&target).exists(), "{signal} {to}: {}", text(&ended.stderr));
        if signal == "-INT" {
            assert_eq!(ended.status.code(), Some(130), "{}", text(&ended.stderr));
            assert!(!begun(), "{:?}", place.names());
        }
    }
}
