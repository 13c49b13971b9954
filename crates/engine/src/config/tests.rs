use super::*;
use crate::rope::RopeScaling;
use proptest::prelude::*;
use serde_json::{Value, json};

fn base() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 512
    })
}

fn with(changes: Value) -> Value {
    let mut config = base();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn parse(config: &Value) -> Result<ModelConfig> {
    ModelConfig::from_json("config.json", config.to_string().as_bytes())
}

fn refusal(changes: Value) -> String {
    parse(&with(changes)).unwrap_err().to_string()
}

#[test]
fn absent_keys_take_the_family_defaults() {
    let config = parse(&base()).unwrap();
    assert_eq!((config.head_dim, config.group_size()), (16, 2));
    assert_eq!(config.rope.theta, 10000.0);
    assert_eq!(config.rope.scaling, RopeScaling::None);
    assert!(!config.tie_word_embeddings && !config.attention_bias && !config.mlp_bias);
    assert_eq!(config.window(0), None);
    assert_eq!(config.hidden_act, "silu");
    let mut multi_head = base();
    multi_head.as_object_mut().unwrap().remove("num_key_value_heads");
    assert_eq!(parse(&multi_head).unwrap().num_kv_heads, 4);
    let qwen3 = with(json!({"model_type": "qwen3"}));
    assert_eq!(parse(&qwen3).unwrap().head_dim, 128);
}

#[test]
fn both_key_styles_say_the_same() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let older =
        with(json!({"rope_theta": 500000.0, "rope_scaling": scaling, "torch_dtype": "bfloat16", "eos_token_id": 2}));
    let mut parameters = scaling;
    parameters["rope_theta"] = json!(500000.0);
    let newer = with(json!({"rope_parameters": parameters, "dtype": "bfloat16", "eos_token_id": [2]}));
    let (older, newer) = (parse(&older).unwrap(), parse(&newer).unwrap());
    assert_eq!(older, newer);
    assert_eq!(older.rope.theta, 500000.0);
    assert_eq!(older.dtype, Some(DType::BF16));
    assert!(matches!(older.rope.scaling, RopeScaling::Llama3 { factor: 8.0, .. }));
}

#[test]
fn sliding_windows_follow_each_family() {
    let window = |changes| {
        let config = parse(&with(changes)).unwrap();
        (0..3).map(|layer| config.window(layer)).collect::<Vec<_>>()
    };
    assert_eq!(window(json!({"model_type": "mistral", "sliding_window": 7})), [Some(7); 3]);
    assert_eq!(window(json!({"model_type": "mistral", "sliding_window": null})), [None; 3]);
    assert_eq!(window(json!({"model_type": "mistral"})), [Some(4096); 3]);
    assert_eq!(window(json!({"model_type": "llama", "sliding_window": 7})), [None; 3]);
    assert_eq!(window(json!({"model_type": "qwen2", "sliding_window": 7})), [None; 3]);
    assert_eq!(
        window(json!({"model_type": "qwen2", "sliding_window": 7, "use_sliding_window": true, "max_window_layers": 1})),
        [None, Some(7), Some(7)]
    );
    assert_eq!(
        window(json!({"model_type": "qwen3", "sliding_window": 7, "use_sliding_window": true,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]})),
        [Some(7), None, Some(7)]
    );
}

#[test]
fn every_wrong_value_is_one_error_that_names_its_key() {
    let wrong = [
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(6)),
        ("num_key_value_heads", json!(3)),
        ("num_key_value_heads", json!(0)),
        ("head_dim", json!(15)),
        ("hidden_size", json!(1e18)),
        ("hidden_size", json!(-64)),
        ("hidden_size", json!("64")),
        ("hidden_size", json!(64.5)),
        ("hidden_size", json!(null)),
        ("intermediate_size", json!([128])),
        ("num_hidden_layers", json!(1_000_000_000)),
        ("vocab_size", json!(u64::MAX)),
        ("vocab_size", json!(true)),
        ("rms_norm_eps", json!(-1.0)),
        ("rms_norm_eps", json!("1e-5")),
        ("max_position_embeddings", json!(0)),
        ("rope_theta", json!(0)),
        ("rope_theta", json!("10000")),
        ("rope_scaling", json!("linear")),
        ("tie_word_embeddings", json!("yes")),
        ("eos_token_id", json!(-1)),
        ("eos_token_id", json!([1, "2"])),
        ("torch_dtype", json!("int7")),
        ("hidden_act", json!(3)),
        ("architectures", json!("LlamaForCausalLM")),
    ];
    for (key, value) in wrong {
        let message = refusal(json!({key: value}));
        assert!(message.contains(&format!("{key:?}")) && message.contains("config.json"), "{key}={value}: {message}");
    }
    let message = refusal(json!({"rope_scaling": {"type": "linear", "factor": "two"}}));
    assert!(message.contains("rope_scaling.factor"), "{message}");
}

#[test]
fn layer_types_of_another_length_are_refused() {
    let changes = json!({"model_type": "qwen3", "sliding_window": 7, "use_sliding_window": true, "layer_types": ["full_attention"]});
    assert!(refusal(changes).contains("layer_types"));
}

#[test]
fn an_unknown_family_lists_the_known_ones() {
    let config = parse(&with(json!({"model_type": "mamba"}))).unwrap();
    let message = config.require_family("config.json", ["llama", "qwen2"]).unwrap_err().to_string();
    assert!(message.contains("mamba") && message.contains("llama, qwen2"), "{message}");
    assert!(config.require_family("config.json", ["mamba"]).is_ok());
}

#[test]
fn python_only_numbers_are_called_what_they_are() {
    let message = ModelConfig::from_json("config.json", br#"{"rms_norm_eps": NaN}"#).unwrap_err().to_string();
    assert!(message.contains("NaN and Infinity are not JSON"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_config_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
    ) {
        let config = with(json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32},
            "sliding_window": 8, "use_sliding_window": true, "layer_types": ["full_attention", "full_attention", "full_attention"],
            "model_type": "qwen2", "eos_token_id": [1, 2]}));
        let mut bytes = config.to_string().into_bytes();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(config) = ModelConfig::from_json("config.json", &bytes) {
            prop_assert!(config.num_heads % config.num_kv_heads == 0 && config.head_dim % 2 == 0);
            prop_assert_eq!(config.layer_kinds.len(), config.num_layers);
        }
    }

    /// Any JSON value under any key is accepted or refused, and what is accepted can build its rope frequencies.
    #[test]
    fn any_value_under_any_key_is_judged(key in 0usize..16, value in prop_oneof![
        any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from), any::<bool>().prop_map(Value::from),
        Just(Value::Null), "[a-z]{0,4}".prop_map(Value::from), prop::collection::vec(any::<i32>(), 0..3).prop_map(Value::from)
    ]) {
        let keys = ["hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rope_theta",
            "max_position_embeddings", "partial_rotary_factor", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow",
            "mscale", "attention_factor", "num_hidden_layers", "truncate"];
        let mut config = with(json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}}));
        config[keys[key]] = value.clone();
        config["rope_parameters"][keys[key]] = value;
        if let Ok(config) = parse(&config) {
            prop_assert!(config.rope.rotary_dim(config.head_dim) <= config.head_dim);
        }
    }
}
