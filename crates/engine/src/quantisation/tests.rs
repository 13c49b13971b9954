use serde_json::{Value, json};

use super::*;

fn parsed(config: Value) -> Result<Option<Quantisation>> {
    let text = json!({ "quantization_config": config }).to_string();
    Quantisation::from_config(&Object::parse("config.json".as_ref(), text.as_bytes())?)
}

fn scheme(config: Value, module: &str) -> Option<Scheme> {
    parsed(config).unwrap().unwrap().scheme(module).unwrap()
}

fn refused(config: Value) -> String {
    parsed(config).unwrap_err().to_string()
}

#[test]
fn a_gptq_rule_for_one_module_stands_before_the_rule_for_all() {
    let config = json!({
        "quant_method": "gptq", "bits": 4, "group_size": 128, "sym": true, "checkpoint_format": "gptq_v2",
        "dynamic": {"+:.*\\.down_proj": {"bits": 8, "group_size": 64}, "-:.*layers\\.0\\..*": {}},
    });
    let (plain, own) = (GptqZeros::Plain, |bits, group| Scheme::Gptq {
        bits,
        group_size: Some(group),
        symmetric: true,
        zeros: GptqZeros::Plain,
    });
    assert_eq!(plain, GptqZeros::Plain);
    assert_eq!(scheme(config.clone(), "model.layers.3.mlp.down_proj"), Some(own(8, 64)));
    assert_eq!(scheme(config.clone(), "model.layers.3.mlp.up_proj"), Some(own(4, 128)));
    assert_eq!(scheme(config, "model.layers.0.mlp.up_proj"), None);
}

#[test]
fn older_keys_mean_the_same() {
    let config = json!({"quant_method": "awq", "w_bit": 4, "q_group_size": -1, "version": "GEMV"});
    assert_eq!(scheme(config, "m"), Some(Scheme::Awq { version: AwqVersion::Gemv, group_size: None }));
    let config = json!({"method": "gptq", "bits": 3, "group_size": -1});
    let zeros = GptqZeros::OneLess;
    assert_eq!(scheme(config, "m"), Some(Scheme::Gptq { bits: 3, group_size: None, symmetric: true, zeros }));
}

#[test]
fn the_older_key_of_compressed_tensors_is_read_where_there_is_no_other() {
    let int4 = json!({"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 32});
    let groups = json!({"group_0": {"targets": ["Linear"], "weights": int4}});
    let older = json!({"format": "pack-quantized", "config_groups": groups});
    let of = |config: Value| {
        let config = Object::parse("config.json".as_ref(), config.to_string().as_bytes()).unwrap();
        Quantisation::from_config(&config).unwrap().unwrap().scheme("model.layers.0.mlp.up_proj").unwrap()
    };
    let packed = Some(Scheme::Packed { bits: 4, group_size: Some(32), symmetric: true });
    assert_eq!(of(json!({ "compression_config": older })), packed);
    let awq = json!({"quant_method": "awq", "bits": 4, "group_size": 64});
    let newer = Some(Scheme::Awq { version: AwqVersion::Gemm, group_size: Some(64) });
    assert_eq!(of(json!({ "compression_config": older, "quantization_config": awq })), newer);
}

#[test]
fn compressed_groups_are_chosen_by_name_before_kind_and_ignored_modules_are_left_alone() {
    let int4 = json!({"num_bits": 4, "type": "int", "symmetric": false, "strategy": "group", "group_size": 32});
    let fp8 = json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": "128x64"});
    let config = json!({
        "quant_method": "compressed-tensors", "format": "mixed-precision", "ignore": ["lm_head", "re:.*gate$"],
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": int4, "format": "pack-quantized"},
            "group_1": {"targets": ["re:.*down_proj"], "weights": fp8, "format": "float-quantized"},
        },
    });
    let packed = Scheme::Packed { bits: 4, group_size: Some(32), symmetric: false };
    assert_eq!(scheme(config.clone(), "model.layers.0.mlp.up_proj"), Some(packed));
    let block = Some(Scheme::Fp8 { block: Some([128, 64]) });
    assert_eq!(scheme(config.clone(), "model.layers.0.mlp.down_proj"), block);
    assert_eq!(scheme(config.clone(), "lm_head"), None);
    assert_eq!(scheme(config, "model.layers.0.mlp.gate"), None);
}

#[test]
fn presets_stand_for_their_arguments() {
    let config = json!({"quant_method": "compressed-tensors", "format": "int-quantized",
                        "config_groups": {"W8A8": ["Linear"]}});
    let int8 = Scheme::Int8 { activations: qiao_quant::import::Activations::Int8Dynamic, symmetric: true };
    assert_eq!(scheme(config, "m"), Some(int8));
}

#[test]
fn auto_round_is_gptq_or_awq_with_rules_for_single_modules() {
    let config = |packing: &str| {
        json!({
            "quant_method": "auto-round", "packing_format": packing, "bits": 4, "group_size": 128, "sym": true, "data_type": "int",
            "autoround_version": "0.6.0", "block_name_to_quantize": "model.layers", "rotation_config": {}, "act_bits": 16,
            "extra_config": {
                ".*\\.mlp\\..*": {"group_size": 32},
                "model.layers.0.mlp.up_proj": {"bits": 16, "data_type": "float"},
                "o_proj$": {"bits": 4, "group_size": -1, "act_bits": 16},
            },
        })
    };
    let zeros = GptqZeros::OneLess;
    let gptq = |group_size| Some(Scheme::Gptq { bits: 4, group_size, symmetric: true, zeros });
    let awq = |group_size| Some(Scheme::Awq { version: AwqVersion::Gemm, group_size });
    for (module, group_size) in [
        ("model.layers.0.self_attn.q_proj", Some(Some(128))),
        ("model.layers.1.mlp.up_proj", Some(Some(32))),
        ("model.layers.0.mlp.up_proj", None),
        ("model.layers.0.self_attn.o_proj", Some(None)),
    ] {
        assert_eq!(scheme(config("auto_round:auto_gptq"), module), group_size.and_then(gptq), "{module}");
        assert_eq!(scheme(config("auto_round:auto_awq"), module), group_size.and_then(awq), "{module}");
    }
    let mut other = config("auto_round:auto_gptq");
    other["extra_config"] = json!({"lm_head": {"bits": 8, "sym": false}});
    let own = Some(Scheme::Gptq { bits: 8, group_size: Some(128), symmetric: false, zeros });
    assert_eq!(scheme(other, "lm_head"), own);
}

#[test]
fn what_is_computed_on_activations_and_what_lacks_its_zeros_is_refused() {
    let int4 = json!({"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 32});
    let config = |key: &str, value: Value| {
        let mut config = json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": int4}}});
        config[key] = value;
        config
    };
    let transform = |locations: &[&str]| {
        let apply = |location: &&str| json!({"targets": ["re:.*down_proj$"], "location": location, "inverse": false});
        let apply: Vec<Value> = locations.iter().map(apply).collect();
        json!({"config_groups": {"R4": {"type": "random-hadamard", "apply": apply, "requires_grad": false}}})
    };
    for locations in [&["input"][..], &["weight_output", "output"], &["k_cache"], &["q_attn"], &["elsewhere"]] {
        let message = refused(config("transform_config", transform(locations)));
        assert!(message.contains("transform_config.config_groups.R4.apply"), "{message}");
        assert!(message.contains("transforms of activations are not run"), "{message}");
    }
    assert!(
        refused(config("transform_config", json!({"R4": {}}))).contains("\"quantization_config.transform_config\"")
    );
    for format in ["sparse-24-bitmask", "sparse-bitmask", "marlin-24"] {
        let sparse = json!({"format": format, "sparsity_structure": "2:4", "global_sparsity": 0.5});
        let message = refused(config("sparsity_config", sparse));
        assert!(message.contains("sparsity_config.format") && message.contains(format), "{message}");
    }
    for (key, value) in [
        ("transform_config", Value::Null),
        ("transform_config", json!({"config_groups": {}})),
        ("transform_config", transform(&["weight_input", "weight_output"])),
        ("sparsity_config", json!({})),
        ("sparsity_config", json!({"format": "dense", "sparsity_structure": "2:4"})),
    ] {
        let packed = Some(Scheme::Packed { bits: 4, group_size: Some(32), symmetric: true });
        assert_eq!(scheme(config(key, value), "model.layers.0.mlp.up_proj"), packed);
    }
}

#[test]
fn what_is_not_read_is_refused_with_its_key_and_what_is() {
    for (config, key, mend) in [
        (json!({"quant_method": "bitsandbytes"}), "quant_method", "gptq, awq"),
        (json!({"quant_method": "gptq", "bits": 5}), "bits", "2, 3, 4 or 8"),
        (json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}), "checkpoint_format", "gptq_v2"),
        (json!({"quant_method": "gptq", "bits": 4, "is_marlin_format": true}), "is_marlin_format", "repack"),
        (json!({"quant_method": "awq", "bits": 4, "version": "gemv_fast"}), "version", "gemm or gemv"),
        (json!({"quant_method": "awq", "bits": 8}), "bits", "4"),
        (json!({"quant_method": "fp8", "fmt": "e5m2"}), "fmt", "e4m3"),
        (json!({"quant_method": "fp8", "weight_block_size": [128]}), "weight_block_size", "two sizes"),
        (json!({"quant_method": "compressed-tensors"}), "config_groups", "groups"),
        (
            json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {"g":
            {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float"}}}}),
            "num_bits",
            "nvfp4",
        ),
        (
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g":
            {"targets": ["re:("], "weights": {"num_bits": 4}}}}),
            "targets",
            "regular expressions",
        ),
        (json!({"quant_method": "gptq", "bits": 4, "group_size": 0}), "group_size", "whole number"),
        (json!({"quant_method": "auto-round", "bits": 4}), "packing_format", "auto_round:auto_gptq"),
        (
            json!({"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round"}),
            "packing_format",
            "auto_awq",
        ),
        (json!({"quant_method": "auto-round", "data_type": "mx_fp"}), "data_type", "int"),
        (json!({"quant_method": "auto-round", "act_bits": 8}), "act_bits", "weights alone"),
        (json!({"quant_method": "auto-round", "spinquant_config": {"r1": true}}), "spinquant_config", "rotated"),
        (
            json!({"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_awq",
            "extra_config": {"m": {"bits": 8}}}),
            "extra_config.m.bits",
            "4",
        ),
        (
            json!({"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_gptq",
            "extra_config": {"m": {"act_bits": 4}}}),
            "extra_config.m.act_bits",
            "16",
        ),
    ] {
        let message = refused(config.clone());
        assert!(message.contains(key) && message.contains(mend), "{config}: {message}");
    }
}

#[test]
fn types_of_ascend_are_read_by_tensor_and_unknown_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let types =
        json!({"a.weight": "FLOAT", "b.weight": "W8A8", "c.weight": "W4A4_DYNAMIC", "model_quant_type": "W8A8"});
    std::fs::write(dir.path().join("quant_model_description_w8a8.json"), types.to_string()).unwrap();
    let found = Quantisation::beside_config(dir.path()).unwrap().unwrap();
    assert_eq!(found.scheme("a").unwrap(), None);
    assert_eq!(found.scheme("b").unwrap(), Some(Scheme::Ascend { kind: AscendKind::W8A8 }));
    let message = found.scheme("c").unwrap_err().to_string();
    assert!(message.contains("c.weight") && message.contains("W4A4_DYNAMIC"), "{message}");
    assert_eq!(found.scheme("d").unwrap(), None);
}
