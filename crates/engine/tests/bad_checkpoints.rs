//! Checkpoints that are incomplete, damaged or hostile: each is an error that names what is wrong, and never a panic.

mod fixture;

use std::path::{Path, PathBuf};

use fixture::{fixtures, reference};
use proptest::prelude::*;
use qiao_engine::Result;
use qiao_engine::checkpoint::Checkpoint;
use qiao_engine::generate::Generation;
use qiao_engine::generation::SamplingParams;
use qiao_engine::runner::LoadOptions;
use qiao_engine::text::{Prompt, TextModel};
use serde_json::{Value, json};

/// A copy of a fixture that may be damaged.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join(name)).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().starts_with("golden") {
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    dir
}

/// Opens, loads, and generates two tokens.
fn run(dir: &Path) -> Result<Vec<u32>> {
    let checkpoint = Checkpoint::open(dir)?;
    let model = TextModel::load(reference(), checkpoint, LoadOptions::default(), &mut |_| {})?;
    let params = SamplingParams { max_tokens: 2, ignore_eos: true, ..Default::default() };
    let mut ids = Vec::new();
    for piece in Generation::new(model.into(), &Prompt::Tokens(vec![5, 6, 7]), params)? {
        ids.extend(piece?.token_ids);
    }
    Ok(ids)
}

fn refusal(dir: &Path, wants: &[&str]) {
    let message = run(dir).unwrap_err().to_string();
    for want in wants {
        assert!(message.contains(want), "{want} is not in: {message}");
    }
}

fn edit_config(dir: &Path, changes: Value) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(path, config.to_string()).unwrap();
}

fn weights(dir: &Path) -> PathBuf {
    dir.join("model.safetensors")
}

#[test]
fn an_undamaged_copy_runs() {
    assert_eq!(run(copy("llama2-mha").path()).unwrap().len(), 2);
    assert_eq!(run(copy("qwen2-bias-sharded").path()).unwrap().len(), 2);
}

#[test]
fn a_missing_file_is_named() {
    let dir = copy("llama2-mha");
    std::fs::remove_file(weights(dir.path())).unwrap();
    refusal(dir.path(), &["model.safetensors", "download"]);
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    refusal(dir.path(), &["config.json"]);
    refusal(&dir.path().join("nowhere"), &["nowhere"]);
}

#[test]
fn a_missing_shard_is_named_with_a_tensor_it_should_hold() {
    let dir = copy("qwen2-bias-sharded");
    std::fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    refusal(dir.path(), &["model-00002-of-00002.safetensors", "model.layers.", "missing shard"]);
}

#[test]
fn an_unknown_architecture_lists_the_known_ones() {
    let dir = copy("llama2-mha");
    edit_config(dir.path(), json!({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}));
    refusal(dir.path(), &["MambaForCausalLM", "Qwen2ForCausalLM", "config.json"]);
}

#[test]
fn a_missing_tensor_is_named() {
    let dir = copy("llama2-mha");
    edit_config(dir.path(), json!({"num_hidden_layers": 3}));
    refusal(dir.path(), &["model.layers.2.", "nearest name"]);
    edit_config(dir.path(), json!({"num_hidden_layers": 16384}));
    refusal(dir.path(), &["model.layers.2."]);
}

#[test]
fn a_wrong_shape_is_named_with_both_shapes() {
    let dir = copy("llama2-mha");
    edit_config(dir.path(), json!({"intermediate_size": 57}));
    refusal(dir.path(), &["mlp.gate_proj.weight", "[57, 64]", "[56, 64]"]);
    edit_config(dir.path(), json!({"intermediate_size": 16777216, "vocab_size": 268435456}));
    refusal(dir.path(), &["model.embed_tokens.weight", "[268435456, 64]"]);
}

#[test]
fn a_weight_of_integers_is_named_with_its_file() {
    let dir = copy("llama2-mha");
    let mut bytes = std::fs::read(weights(dir.path())).unwrap();
    let name = br#""model.layers.1.mlp.down_proj.weight":{"dtype":"F32""#;
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() - 4;
    bytes[at..at + 3].copy_from_slice(b"I32");
    std::fs::write(weights(dir.path()), bytes).unwrap();
    refusal(
        dir.path(),
        &["model.safetensors", "model.layers.1.mlp.down_proj.weight", "stored as i32", "f32, f16 or bf16"],
    );
}

#[test]
fn a_file_in_place_of_a_directory_says_so() {
    refusal(&fixtures().join("llama2-mha/config.json"), &["it is a file", "give the directory"]);
}

#[cfg(unix)]
#[test]
fn a_link_in_a_circle_is_not_a_missing_file() {
    let dir = copy("llama2-mha");
    let path = dir.path().join("config.json");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("config.json", &path).unwrap();
    refusal(dir.path(), &["cannot open", "config.json", "os error"]);
}

#[test]
fn bad_json_is_named_with_its_file() {
    let dir = copy("llama2-mha");
    std::fs::write(dir.path().join("config.json"), "{\"hidden_size\": ").unwrap();
    refusal(dir.path(), &["config.json"]);
    let dir = copy("llama2-mha");
    std::fs::write(dir.path().join("generation_config.json"), "[]").unwrap();
    refusal(dir.path(), &["generation_config.json"]);
    let dir = copy("qwen2-bias-sharded");
    std::fs::write(dir.path().join("model.safetensors.index.json"), "{\"weight_map\": 3}").unwrap();
    refusal(dir.path(), &["model.safetensors.index.json"]);
}

#[test]
fn truncated_weights_are_refused_at_every_length() {
    let dir = copy("llama2-mha");
    let whole = std::fs::read(weights(dir.path())).unwrap();
    for len in [0, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(weights(dir.path()), &whole[..len]).unwrap();
        refusal(dir.path(), &["model.safetensors"]);
    }
}

#[test]
fn an_activation_that_is_not_known_is_refused() {
    let dir = copy("llama2-mha");
    edit_config(dir.path(), json!({"hidden_act": "gelu"}));
    refusal(dir.path(), &["hidden_act", "gelu"]);
}

#[test]
fn a_missing_head_ties_to_the_embedding() {
    let dir = copy("llama3-gqa");
    let tied = run(dir.path()).unwrap();
    edit_config(dir.path(), json!({"tie_word_embeddings": false}));
    assert_eq!(run(dir.path()).unwrap(), tied);
}

#[test]
fn text_without_a_tokenizer_says_so() {
    let checkpoint = Checkpoint::open(fixtures().join("llama2-mha")).unwrap();
    let model = TextModel::load(reference(), checkpoint, LoadOptions::default(), &mut |_| {}).unwrap();
    let message = model.encode(&"text".into()).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes changed anywhere in header or configuration: an error or a run, never a panic.
    #[test]
    fn a_damaged_checkpoint_never_panics(
        in_config in any::<bool>(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)
    ) {
        let dir = copy("llama2-mha");
        let path = if in_config { dir.path().join("config.json") } else { weights(dir.path()) };
        let mut bytes = std::fs::read(&path).unwrap();
        let header = if in_config { bytes.len() } else { 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize };
        for (at, byte) in edits {
            let at = at.index(header);
            bytes[at] = byte;
        }
        std::fs::write(&path, bytes).unwrap();
        if let Err(error) = run(dir.path()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
