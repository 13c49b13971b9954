use qiao_core::{OpKind, Storage};
use serde_json::json;

use super::*;

fn config(changes: serde_json::Value) -> ModelConfig {
    let mut base = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 512
    });
    for (key, value) in changes.as_object().unwrap() {
        base[key] = value.clone();
    }
    ModelConfig::from_json("config.json", base.to_string().as_bytes()).unwrap()
}

fn build(config: &ModelConfig, step: Step, compute: DType) -> ModelGraph {
    let spec = (Family::of(config, Path::new("config.json")).unwrap().spec)(config).unwrap();
    let cache = CacheShape::contiguous(&[], compute, 32);
    spec.graph(step, cache, Precision { compute, weight: &|_| WeightForm::Plain(DType::BF16) }).unwrap()
}

fn count(g: &ModelGraph, kind: OpKind) -> usize {
    g.graph.nodes().iter().filter(|n| n.op.kind() == kind).count()
}

const DECODE: Step = Step::of_one(1, 1);

#[test]
fn a_graph_needs_no_weights() {
    let g = build(&config(json!({})), DECODE, DType::BF16);
    assert_eq!(count(&g, OpKind::Matmul), 3 * 7 + 1);
    assert_eq!(count(&g, OpKind::AttentionDecode), 3);
    assert_eq!(count(&g, OpKind::AddRmsNorm), 6);
    assert_eq!(count(&g, OpKind::RmsNorm), 1);
    assert_eq!(g.constants.len(), 1 + 3 * 9 + 2);
    let logits = g.graph.bound()[g.logits.unwrap()];
    assert_eq!(*g.graph.desc(logits).shape, [1, 100]);
    assert_eq!(g.graph.desc(logits).dtype, DType::F32);
}

#[test]
fn every_constant_is_bound_once_and_marked() {
    let g = build(&config(json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"})), DECODE, DType::F32);
    let names: Vec<_> = g.constants.iter().map(|c| c.name.as_str()).collect();
    assert!(names.contains(&"model.layers.2.self_attn.q_norm.weight"));
    assert!(!names.iter().any(|n| n.ends_with(".bias")));
    for c in &g.constants {
        let id = g.graph.bound()[c.bound];
        assert!(g.graph.desc(id).constant && g.graph.tensor(id).name == c.name);
        assert_eq!(g.graph.tensor(id).storage, Storage::Bound(c.bound));
        assert_eq!(names.iter().filter(|n| **n == c.name).count(), 1);
    }
}

#[test]
fn qwen2_has_biases_on_q_k_and_v_only() {
    let g = build(&config(json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"})), DECODE, DType::F32);
    let biases: Vec<_> = g.constants.iter().filter(|c| c.name.ends_with(".bias")).collect();
    assert_eq!(biases.len(), 9);
    assert!(biases.iter().all(|c| ["q_proj", "k_proj", "v_proj"].iter().any(|p| c.name.contains(p))));
}

#[test]
fn a_tied_head_uses_the_embedding_in_two_ways() {
    let g = build(&config(json!({"tie_word_embeddings": true})), DECODE, DType::F32);
    let uses: Vec<_> = g.constants.iter().filter(|c| c.name == "model.embed_tokens.weight").map(|c| c.usage).collect();
    assert_eq!(uses, [Use::Table, Use::Projection]);
    assert!(g.constants.iter().all(|c| c.name != "lm_head.weight"));
}

#[test]
fn only_wanted_tokens_pass_the_last_layer() {
    let config = config(json!({}));
    let g = build(&config, Step::of_one(7, 1), DType::F32);
    assert!(g.inputs.select.is_some() && g.inputs.cu_q.is_some());
    let last = g.graph.views().last().unwrap();
    assert_eq!(*last.output(0).shape, [1, 100]);
    let silent = build(&config, Step::of_one(7, 0), DType::F32);
    assert!(silent.logits.is_none());
    assert_eq!(silent.graph.views().last().unwrap().kind(), OpKind::KvWrite);
    assert!(silent.graph.cost().flops < g.graph.cost().flops);
}

#[test]
fn windows_reach_the_attention_of_their_layers() {
    let config =
        config(json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": true,
        "sliding_window": 9, "max_window_layers": 1}));
    let g = build(&config, DECODE, DType::F32);
    let windows = g.graph.nodes().iter().filter_map(|n| match n.op {
        qiao_core::Op::AttentionDecode(a) => Some(a.window),
        _ => None,
    });
    assert_eq!(windows.collect::<Vec<_>>(), [0, 9, 9]);
}

#[test]
fn hidden_states_are_kept_for_every_layer() {
    let g = build(&config(json!({})), Step { keep_hidden: true, ..Step::of_one(5, 5) }, DType::BF16);
    assert_eq!(g.hidden.len(), 3);
    for &h in &g.hidden {
        assert_eq!(*g.graph.desc(g.graph.bound()[h]).shape, [5, 64]);
        assert!(g.graph.writes_bound(h));
    }
}

#[test]
fn an_impossible_step_is_refused() {
    let config = config(json!({}));
    let spec = DecoderSpec::plain(&config).unwrap();
    let cache = CacheShape::contiguous(&[], DType::F32, 8);
    let precision = Precision { compute: DType::F32, weight: &|_| WeightForm::Plain(DType::F32) };
    for (tokens, rows, keep_hidden) in [(0, 0, false), (2, 3, false), (2, 1, true)] {
        assert!(spec.graph(Step { keep_hidden, ..Step::of_one(tokens, rows) }, cache, precision).is_err());
    }
}

#[test]
fn a_family_is_found_by_architecture_and_by_type_alone() {
    let of = |changes| Family::of(&config(changes), Path::new("config.json")).map(|f| f.name);
    assert_eq!(of(json!({"architectures": ["MistralForCausalLM"], "model_type": "mistral"})).unwrap(), "mistral");
    assert_eq!(of(json!({"architectures": [], "model_type": "qwen3"})).unwrap(), "qwen3");
    let error = of(json!({"architectures": ["LlamaForSequenceClassification"]})).unwrap_err().to_string();
    assert!(error.contains("LlamaForSequenceClassification") && error.contains("Qwen3ForCausalLM"), "{error}");
    assert!(of(json!({"hidden_act": "silu", "architectures": ["MambaForCausalLM"], "model_type": "mamba"})).is_err());
}

#[test]
fn the_cache_takes_the_layout_and_block_size_of_the_device() {
    let token_head = KvInfo { layout: KvLayout::BlockTokenHead, block_size: 16 };
    let shape = CacheShape::contiguous(&[token_head], DType::F16, 100);
    assert_eq!((shape.dims(2, 8), shape.table, shape.capacity()), ([7, 16, 2, 8], 7, 112));
    let head_token = KvInfo { layout: KvLayout::BlockHeadToken, block_size: 0 };
    let shape = CacheShape::contiguous(&[head_token, token_head], DType::F16, 100);
    assert_eq!((shape.dims(2, 8), shape.table), ([1, 2, 100, 8], 1));
    let shape = CacheShape::contiguous(&[token_head, head_token], DType::F16, 100);
    assert_eq!(shape.dims(2, 8), [7, 16, 2, 8], "the first is the preferred one");
    for block_size in [16, 64, 128] {
        let fixed = KvInfo { layout: KvLayout::BlockHeadToken, block_size };
        let shape = CacheShape::contiguous(&[fixed], DType::F16, 129);
        assert_eq!((shape.block_size, shape.table), (block_size, 129usize.div_ceil(block_size)));
    }
}

#[test]
fn every_node_has_its_place() {
    let config = config(json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}));
    let spec = (Family::of(&config, Path::new("config.json")).unwrap().spec)(&config).unwrap();
    let g = build(&config, DECODE, DType::F32);
    let places = g.places(&spec);
    let told: Vec<String> = g
        .graph
        .nodes()
        .iter()
        .zip(&places)
        .map(|(n, p)| format!("{} {} {}", n.op.kind(), p.layer.map_or("-".into(), |l| l.to_string()), p.part))
        .collect();
    assert_eq!(told[0], "gather_rows - model.embed_tokens");
    assert_eq!(told[1], "rms_norm 0 input_layernorm");
    assert_eq!(told[2], "matmul 0 self_attn.q_proj", "the matrix, not its bias");
    assert_eq!(told[5], "rope 0 self_attn.k_proj");
    assert!(told.contains(&"kv_write 2 ".to_string()) && told.contains(&"attention_decode 1 ".to_string()), "{told:?}");
    assert!(
        told.contains(&"add_rms_norm 1 input_layernorm".to_string()),
        "the norm that a layer starts with is its own"
    );
    assert_eq!(told[told.len() - 2..], ["add_rms_norm - model.norm", "matmul - lm_head"]);
}

#[test]
fn several_sequences_share_one_graph() {
    let config = config(json!({}));
    let spec = (Family::of(&config, Path::new("config.json")).unwrap().spec)(&config).unwrap();
    let cache = CacheShape { blocks: 12, table: 4, ..CacheShape::contiguous(&[], DType::F32, 16) };
    let precision = Precision { compute: DType::F32, weight: &|_| WeightForm::Plain(DType::F32) };
    let step = |sequences, tokens| Step { sequences, ..Step::of_one(tokens, 3) };
    let g = spec.graph(step(3, 3), cache, precision).unwrap();
    let shape = |g: &ModelGraph, at: usize| g.graph.desc(g.graph.bound()[at]).shape.to_vec();
    assert_eq!((shape(&g, g.inputs.kv_len), shape(&g, g.inputs.block_table)), (vec![3], vec![3, 4]));
    assert_eq!((count(&g, OpKind::AttentionDecode), g.inputs.cu_q), (3, None));
    let g = spec.graph(step(3, 9), cache, precision).unwrap();
    assert_eq!(shape(&g, g.inputs.cu_q.unwrap()), [4]);
    assert_eq!(count(&g, OpKind::AttentionPrefill), 3);
    assert!(spec.graph(step(4, 3), cache, precision).is_err());
    assert!(spec.graph(step(0, 3), cache, precision).is_err());
}
