use super::*;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};

fn shard(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
    serialize(views, None).unwrap()
}

fn sharded(dir: &Path, index: &str) {
    std::fs::write(dir.join("a.safetensors"), shard(&[("x", Dtype::U8, &[3], &[1, 2, 3])])).unwrap();
    std::fs::write(
        dir.join("b.safetensors"),
        shard(&[("y", Dtype::F32, &[1], &1.5f32.to_le_bytes()), ("z", Dtype::U8, &[1], &[9])]),
    )
    .unwrap();
    std::fs::write(dir.join(INDEX_FILE), index).unwrap();
}

fn refusal(dir: &Path) -> String {
    Weights::open(dir).unwrap_err().to_string()
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe.safetensors");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(refusal(&path).contains("not a regular file"));
}

#[test]
fn a_single_file_is_read_as_stored() {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<u8> = [1.0f32, -2.0].iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    std::fs::write(dir.path().join(SINGLE_FILE), shard(&[("w", Dtype::BF16, &[2, 1], &data)])).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    let tensor = weights.tensor("w").unwrap();
    assert_eq!((tensor.dtype, tensor.shape, tensor.bytes), (DType::BF16, &[2, 1][..], &data[..]));
    assert_eq!(tensor.to_f32().unwrap(), [1.0, -2.0]);
    assert_eq!(weights.total_bytes(), 4);
    assert!(tensor.require_shape(&[1, 2]).unwrap_err().to_string().contains("[2, 1]"));
    weights.will_need("w");
    weights.release("w");
    assert_eq!(weights.tensor("w").unwrap().bytes, data);
}

#[test]
fn a_handle_outlives_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(SINGLE_FILE), shard(&[("w", Dtype::U8, &[2], &[4, 5])])).unwrap();
    let handle = Weights::open(dir.path()).unwrap().handle("w").unwrap();
    handle.release();
    assert_eq!(*handle.bytes().unwrap(), [4, 5]);
}

#[test]
fn only_the_files_named_by_the_index_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    sharded(
        dir.path(),
        r#"{"metadata":{},"weight_map":{"x":"a.safetensors","y":"b.safetensors","z":"b.safetensors"}}"#,
    );
    std::fs::write(dir.path().join("consolidated.safetensors"), b"not a weights file").unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["x", "y", "z"]);
    assert_eq!(weights.files().len(), 2);
    assert_eq!(weights.tensor("y").unwrap().to_f32().unwrap(), [1.5]);
}

#[test]
fn a_missing_shard_is_named_with_a_tensor_it_should_hold() {
    let dir = tempfile::tempdir().unwrap();
    sharded(dir.path(), r#"{"weight_map":{"x":"a.safetensors","q":"c.safetensors"}}"#);
    let message = refusal(dir.path());
    assert!(message.contains("\"c.safetensors\"") && message.contains("\"q\""), "{message}");
}

#[test]
fn an_index_entry_that_another_shard_holds_is_named() {
    let dir = tempfile::tempdir().unwrap();
    sharded(dir.path(), r#"{"weight_map":{"x":"a.safetensors","y":"a.safetensors","z":"b.safetensors"}}"#);
    let message = refusal(dir.path());
    assert!(message.contains("\"y\"") && message.contains("does not hold"), "{message}");
}

#[test]
fn an_index_entry_that_no_shard_holds_is_an_error_when_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let index = r#"{"weight_map":{"x":"a.safetensors","y":"b.safetensors","lm_head.weight":"b.safetensors","z":"b.safetensors"}}"#;
    sharded(dir.path(), index);
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["x", "y", "z"]);
    assert_eq!(weights.absent().collect::<Vec<_>>(), ["lm_head.weight"]);
    assert_eq!(weights.tensor("x").unwrap().bytes, [1, 2, 3]);
    // It is not taken for one that the checkpoint never had.
    assert!(weights.contains("lm_head.weight") && weights.info("lm_head.weight").is_none());
    for message in [weights.tensor("lm_head.weight").unwrap_err(), weights.handle("lm_head.weight").unwrap_err()] {
        let message = message.to_string();
        for part in [INDEX_FILE, "\"lm_head.weight\"", "\"b.safetensors\"", "does not hold", "download both again"] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }
}

#[test]
fn a_quantised_module_that_lacks_a_tensor_of_the_index_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let words = [0u8; 4 * 8];
    let bytes = shard(&[
        ("m.qweight", Dtype::I32, &[1, 8], &words),
        ("m.scales", Dtype::F16, &[1, 8], &words[..16]),
        ("m.n.weight", Dtype::U8, &[1], &[1]),
    ]);
    std::fs::write(dir.path().join("a.safetensors"), bytes).unwrap();
    let gptq = br#"{"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": -1}}"#;
    let config = crate::json::Object::parse("config.json".as_ref(), gptq).unwrap();
    let quantisation = crate::quantisation::Quantisation::from_config(&config).unwrap().unwrap();
    for (more, found) in [("m.n.bias", None), ("m.bias", Some("m.bias"))] {
        let names =
            ["m.qweight", "m.scales", "m.n.weight", more].map(|name| (name.to_string(), "a.safetensors".into()));
        let map: serde_json::Map<String, serde_json::Value> = names.into_iter().collect();
        std::fs::write(dir.path().join(INDEX_FILE), serde_json::json!({ "weight_map": map }).to_string()).unwrap();
        let unpacked = Weights::open(dir.path()).unwrap().unpack_with(&quantisation);
        match found {
            None => unpacked.unwrap(),
            Some(name) => {
                let message = unpacked.unwrap_err().to_string();
                assert!(message.contains(name) && message.contains("does not hold"), "{message}");
            }
        }
    }
}

#[test]
fn a_name_in_two_shards_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    sharded(dir.path(), r#"{"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}"#);
    std::fs::write(
        dir.path().join("b.safetensors"),
        shard(&[("x", Dtype::U8, &[1], &[0]), ("y", Dtype::U8, &[1], &[0])]),
    )
    .unwrap();
    let message = refusal(dir.path());
    assert!(message.contains("\"x\"") && message.contains("also stored in"), "{message}");
}

#[test]
fn an_index_cannot_lead_out_of_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    for shard in ["../a.safetensors", "/etc/hostname", "", ".", "sub/a.safetensors"] {
        sharded(dir.path(), &serde_json::json!({"weight_map": {"x": shard}}).to_string());
        assert!(refusal(dir.path()).contains("plain file name"), "{shard}");
    }
}

#[test]
fn an_index_with_a_repeated_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    sharded(dir.path(), r#"{"weight_map":{"x":"a.safetensors","x":"b.safetensors"}}"#);
    assert!(refusal(dir.path()).contains("twice"));
    std::fs::write(dir.path().join(INDEX_FILE), "{}").unwrap();
    assert!(refusal(dir.path()).contains("weight_map"));
}

#[test]
fn a_directory_without_weights_names_what_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let message = refusal(dir.path());
    assert!(message.contains(SINGLE_FILE) && message.contains(INDEX_FILE), "{message}");
    assert!(refusal(&dir.path().join("nowhere")).contains("nowhere"));
}

#[test]
fn a_missing_tensor_suggests_the_nearest_name() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = shard(&[
        ("model.layers.0.mlp.gate_proj.weight", Dtype::U8, &[1], &[1]),
        ("lm_head.weight", Dtype::U8, &[1], &[1]),
    ]);
    std::fs::write(dir.path().join(SINGLE_FILE), bytes).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    let message = weights.tensor("model.layers.0.mlp.gate.weight").unwrap_err().to_string();
    assert!(message.contains("gate_proj"), "{message}");
}

#[test]
fn a_foreign_dtype_is_refused_only_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let header = r#"{"odd":{"dtype":"Q99","shape":[1],"data_offsets":[0,3]},"fine":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&[1, 2, 3, 4]);
    std::fs::write(dir.path().join(SINGLE_FILE), bytes).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.tensor("fine").unwrap().bytes, [4]);
    let message = weights.tensor("odd").unwrap_err().to_string();
    assert!(message.contains("\"odd\"") && message.contains("Q99"), "{message}");
    assert_eq!(weights.info("odd").unwrap().byte_len(), 3);
}

#[test]
fn every_truncation_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SINGLE_FILE);
    let whole = shard(&[("a", Dtype::F32, &[2], &[0; 8]), ("b", Dtype::U8, &[5], &[1; 5])]);
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let message = refusal(dir.path());
        assert!(message.contains(SINGLE_FILE), "{length}: {message}");
    }
}

/// One random change to a file: some bytes overwritten, inserted or removed.
fn mutate(bytes: &mut Vec<u8>, at: usize, kind: u8, patch: &[u8]) {
    let at = at % (bytes.len() + 1);
    let end = (at + patch.len()).min(bytes.len());
    match kind % 3 {
        0 => bytes[at..end].copy_from_slice(&patch[..end - at]),
        1 => drop(bytes.splice(at..at, patch.iter().copied())),
        _ => drop(bytes.drain(at..end)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the header was turned into, what is accepted lies inside the file and agrees with its own shape.
    #[test]
    fn a_mutated_file_is_refused_or_consistent(
        edits in prop::collection::vec((any::<usize>(), any::<u8>(), prop::collection::vec(any::<u8>(), 1..5)), 1..6)
    ) {
        let mut bytes = shard(&[("a", Dtype::F32, &[2, 3], &[0; 24]), ("b", Dtype::U8, &[5], &[1; 5]), ("c", Dtype::BF16, &[0], &[])]);
        for (at, kind, patch) in &edits {
            mutate(&mut bytes, *at % 200, *kind, patch);
        }
        if let Ok(parsed) = header::parse(Path::new("w"), &bytes) {
            for entry in parsed.entries {
                prop_assert!(entry.range.end <= bytes.len());
                if let StoredDType::Native(dtype) = entry.dtype {
                    prop_assert_eq!(entry.range.len(), entry.shape.iter().product::<usize>() / dtype.block_elems() * dtype.block_bytes());
                }
            }
        }
    }

    #[test]
    fn a_mutated_index_never_panics(
        edits in prop::collection::vec((any::<usize>(), any::<u8>(), prop::collection::vec(any::<u8>(), 1..5)), 1..6)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut index = br#"{"metadata":{},"weight_map":{"x":"a.safetensors","y":"b.safetensors","z":"b.safetensors"}}"#.to_vec();
        for (at, kind, patch) in &edits {
            mutate(&mut index, *at, *kind, patch);
        }
        sharded(dir.path(), "");
        std::fs::write(dir.path().join(INDEX_FILE), &index).unwrap();
        if let Ok(weights) = Weights::open(dir.path()) {
            for name in weights.names() {
                prop_assert!(weights.info(name).is_some());
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = header::parse(Path::new("w"), &bytes);
    }
}
