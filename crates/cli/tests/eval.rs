//! `qiao eval`: perplexity and divergence on the command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const POEMS: &str =
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n白日依山尽，黄河入海流。欲穷千里目，更上一层楼。\n";

fn qiao(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qiao")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn within(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path).to_str().unwrap().to_string()
}

fn json(args: &[&str]) -> Value {
    let output = qiao(args);
    let out = text(&output.stdout);
    assert!(output.status.success() && out.lines().count() == 1, "{out}{}", text(&output.stderr));
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

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        Files { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path: PathBuf = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_string()
    }
}

#[test]
fn the_demo_expects_its_poems() {
    let files = Files::new();
    let poems = files.file("poems.txt", POEMS.repeat(3));
    let output = qiao(&["eval", "--text", &poems, "--context", "24"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}{}", text(&output.stderr));
    for words in ["chunks of 24 tokens", "positions 12 to 22", "perplexity", "tokens scored", "tokens/s"] {
        assert!(out.contains(words), "{words} is not in\n{out}");
    }
    let found = json(&["eval", "--text", &poems, "--context", "24", "--chunks", "2", "--json"]);
    let perplexity = found["model"]["perplexity"]["value"].as_f64().unwrap();
    assert!(perplexity > 1.0 && perplexity < 3382.0, "{found}");
    assert_eq!((found["tokens_scored"].as_u64(), found["chunking"]["chunks"].as_u64()), (Some(22), Some(2)), "{found}");
    assert!(found["against"].is_null() && found["model_name"] == "demo" && found["base_name"].is_null(), "{found}");
    assert!(found["chunking"]["words"].as_str().unwrap().contains("empty cache"), "{found}");
}

#[test]
fn a_model_beside_itself_has_no_divergence() {
    let files = Files::new();
    let poems = files.file("poems.txt", POEMS.repeat(2));
    let demo = within("crates/qiao/demo");
    let found = json(&["eval", "--text", &poems, "--context", "32", "--against", &demo, "--json"]);
    let against = &found["against"];
    assert_eq!((against["kl"]["max"].as_f64(), against["top1_agreement"]["value"].as_f64()), (Some(0.0), Some(1.0)));
    let output = qiao(&["eval", &demo, "--text", &poems, "--context", "32", "--against", &demo, "--dtype", "f32"]);
    let out = text(&output.stdout);
    for words in ["KL(base || model)", "99 %", "same most likely token", "100.000 %", "RMS"] {
        assert!(out.contains(words), "{words} is not in\n{out}");
    }
}

#[test]
fn ids_stand_for_a_text() {
    let files = Files::new();
    let ids: Vec<String> = (0..40).map(|i| (i * 7 % 128).to_string()).collect();
    let ids = files.file("ids.txt", ids.chunks(8).map(|line| line.join(", ")).collect::<Vec<_>>().join("\n"));
    let model = within("fixtures/llama3-gqa");
    let found = json(&["eval", &model, "--ids", &ids, "--context", "16", "--json"]);
    assert_eq!((found["tokens_scored"].as_u64(), found["chunking"]["bos"].as_u64()), (Some(14), None), "{found}");
    let against = within("fixtures/llama3-gqa-bf16");
    let found = json(&["eval", &model, "--ids", &ids, "--context", "16", "--against", &against, "--json"]);
    let kl = found["against"]["kl"]["mean"]["value"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 1e-2, "{found}");
}

#[test]
fn what_can_not_be_evaluated_is_named() {
    let files = Files::new();
    let poems = files.file("poems.txt", POEMS);
    let latin = files.file("latin.txt", [b'a', 0xe9, b'b']);
    let words = files.file("words.txt", "1 2\n3 x 4");
    let ids = files.file("ids.txt", "1,2,3,4,5,6,7,8");
    let beyond = files.file("beyond.txt", "1 2 3 128");
    let (model, demo) = (within("fixtures/llama3-gqa"), within("crates/qiao/demo"));
    fails(&["eval"], 2, &["--text", "--ids"]);
    fails(&["eval", "--text", &poems, "--ids", &ids], 2, &["cannot be used with"]);
    fails(&["eval", "--text", &poems, "--context", "3"], 2, &["--context"]);
    fails(&["eval", "--text", &poems, "--chunks", "0"], 2, &["--chunks"]);
    fails(&["eval", "--text", &poems, "--device", "npu"], 3, &["npu"]);
    fails(&["eval", "--text", "no-such-file"], 1, &["cannot read no-such-file"]);
    fails(&["eval", "--text", &latin], 1, &["not UTF-8 at byte 1"]);
    fails(&["eval", "--text", &poems], 1, &["tokens, and a chunk has 512", "smaller chunks"]);
    fails(&["eval", "--text", &poems, "--context", "513"], 1, &["513", "at most 512"]);
    fails(&["eval", &model, "--text", &poems, "--context", "8"], 1, &["tokenizer.json", "token ids"]);
    fails(&["eval", &model, "--ids", &words], 1, &["line 2", "\"x\""]);
    fails(&["eval", &model, "--ids", &beyond, "--context", "4"], 1, &["token id 128", "128 tokens"]);
    let both = ["eval", model.as_str(), "--against", demo.as_str(), "--context", "4"];
    fails(&[&both[..], &["--ids", &ids]].concat(), 1, &["vocabulary of 128", "base one of 3382"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_tells_what_was_done() {
    use std::io::Read;
    use std::process::Stdio;
    let files = Files::new();
    // Long enough to outlast the signal on any machine.
    let poems = files.file("poems.txt", POEMS.repeat(20_000));
    let args = ["eval", "--text", &poems, "--context", "64"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_qiao"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(4));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{out}{err}");
    assert!(
        out.contains("Interrupted") && out.contains("perplexity") || err.contains("before the first chunk"),
        "{out}{err}"
    );
}

#[test]
fn tokenizers_must_agree() {
    let files = Files::new();
    let poems = files.file("poems.txt", POEMS);
    let demo = within("crates/qiao/demo");
    let mut other = Vec::new();
    for entry in std::fs::read_dir(&demo).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if path.file_name().unwrap() == "tokenizer.json" {
            // Without merges every character is its bytes.
            let mut tokenizer: Value = serde_json::from_slice(&bytes).unwrap();
            tokenizer["model"]["merges"] = Value::Array(Vec::new());
            tokenizer["model"]["ignore_merges"] = Value::Bool(false);
            bytes = serde_json::to_vec(&tokenizer).unwrap();
        }
        other.push(files.file(path.file_name().unwrap().to_str().unwrap(), bytes));
    }
    let folder = files.folder.path().to_str().unwrap();
    fails(&["eval", "--text", &poems, "--context", "8", "--against", folder], 1, &["tokenizers", "part at token"]);
}
