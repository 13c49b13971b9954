use std::sync::Arc;

use qiao_core::device::refuse;
use qiao_core::{
    Backend, Buffer, DeviceInfo, Graph, MemoryInfo, NodeSupport, OpKind, Plan, Reason, Stream, Support, TensorDesc,
    noop::NoopDevice,
};
use qiao_layers::{Provenance, Way};
use serde_json::json;

use super::*;

fn config(changes: serde_json::Value) -> ModelConfig {
    let mut base = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "torch_dtype": "bfloat16"
    });
    for (key, value) in changes.as_object().unwrap() {
        base[key] = value.clone();
    }
    ModelConfig::from_json("config.json", base.to_string().as_bytes()).unwrap()
}

fn cpu() -> Arc<dyn Device> {
    qiao_cpu::CpuBackend.open(0).unwrap()
}

fn peaks() -> Peaks {
    let provenance = Provenance::Declared("a data sheet".into());
    Peaks { bytes_per_s: 1e9, ops_per_s: vec![(DType::BF16, 1e11), (DType::F32, 1e10)], provenance }
}

fn options() -> ForecastOptions {
    ForecastOptions { peaks: Some(peaks()), ..Default::default() }
}

/// Weights of a layer: q and o, k and v, gate, up and down, two norms.
const LAYER: u64 = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 2 * 64;

#[test]
fn a_token_costs_its_weights_and_its_context() {
    let found = forecast(&config(json!({})), &cpu(), &ForecastOptions { context: Some(1000), ..options() }).unwrap();
    assert_eq!(found.parameters, 3 * LAYER + 2 * 100 * 64 + 64);
    assert_eq!((found.weights, found.weights_said, found.compute), (DType::BF16, true, DType::BF16));
    let decode = &found.decode;
    assert_eq!((decode.steps, decode.tokens), (1, 1));
    // Of the embedding one row is read.
    assert_eq!(decode.work.weights, 2 * (found.parameters - 99 * 64));
    // One token is written, 1000 are read, in 2 heads of 16, keys and values.
    assert_eq!(decode.work.cache, 3 * (1000 + 1) * 2 * 2 * 16 * 2);
    let attention = decode.operators.iter().find(|o| o.op == "attention_decode").unwrap();
    assert_eq!((attention.count, attention.work.flops), (3, 3 * 1000 * 4 * 2 * 2 * 16));
    let seconds = (decode.work.weights + decode.work.cache) as f64 / 1e9;
    assert_eq!(decode.bound, Least { seconds: Some(seconds), by: By::Memory });
    assert_eq!(decode.tokens_per_s(), Some(1.0 / seconds));
    assert!(decode.least.seconds > decode.bound.seconds, "operators move intermediates as well");
    let eight = ForecastOptions { context: Some(1000), batch: 8, ..options() };
    let eight = forecast(&config(json!({})), &cpu(), &eight).unwrap().decode;
    assert_eq!((eight.tokens, eight.work.cache), (8, 8 * decode.work.cache));
    assert_eq!(eight.work.weights, 2 * (found.parameters - 92 * 64), "weights are read once for all sequences");
}

#[test]
fn the_largest_table_does_not_change_the_cost_of_a_context() {
    let of = |context, longest| {
        let config = config(json!({ "max_position_embeddings": longest }));
        forecast(&config, &cpu(), &ForecastOptions { context: Some(context), ..options() }).unwrap().decode.work
    };
    assert_eq!(of(100, 2048), of(100, 32_768));
    assert!(of(200, 2048).cache > of(100, 2048).cache);
}

#[test]
fn a_long_prompt_runs_in_chunks_that_see_what_came_before() {
    let of = |prompt| {
        let options = ForecastOptions { prompt: Some(prompt), context: Some(2048), ..options() };
        forecast(&config(json!({})), &cpu(), &options).unwrap().prefill
    };
    let found = of(1300);
    assert_eq!((found.steps, found.tokens), (3, 1300));
    let attention = found.operators.iter().filter(|o| o.op == "attention_prefill");
    // The last layer of a chunk that wants no logits ends at its cache.
    let pairs = |n: u64| n * (n + 1) / 2;
    let want = (2 * pairs(1300) + pairs(1300) - pairs(1024)) * 4 * 2 * 2 * 16;
    assert_eq!(attention.map(|o| o.work.flops).sum::<u64>(), want);
    let head = found.operators.iter().find(|o| o.part == "lm_head").unwrap();
    assert_eq!((head.count, head.work.flops), (1, 2 * 64 * 100), "one token of a prompt wants logits");
    assert_eq!(of(1).tokens, 1);
    let short = ForecastOptions { prompt: Some(100), batch: 7, context: Some(256), ..options() };
    let short = forecast(&config(json!({})), &cpu(), &short).unwrap().prefill;
    assert_eq!((short.steps, short.tokens), (2, 700), "five prompts of 100 tokens share a step");
}

#[test]
fn a_sliding_window_bounds_what_a_token_reads() {
    let windowed = json!({ "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 64 });
    let found = forecast(&config(windowed), &cpu(), &ForecastOptions { context: Some(1000), ..options() }).unwrap();
    assert_eq!(found.decode.work.cache, 3 * (64 + 1) * 2 * 2 * 16 * 2);
}

#[test]
fn what_no_limit_is_known_for_has_no_time() {
    let found = forecast(&config(json!({})), &cpu(), &ForecastOptions::default()).unwrap();
    assert_eq!(found.peaks, Peaks::declared(cpu().info()));
    if found.peaks.bytes_per_s == 0.0 {
        assert_eq!((found.decode.bound.seconds, found.decode.tokens_per_s()), (None, None));
        let text = found.to_string();
        assert!(text.contains("limits  none") && text.contains("no limit is known"), "{text}");
        assert_eq!(found.to_json()["decode"]["tokens_per_s_at_most"], json!(null));
    }
    let memory_alone = Peaks { ops_per_s: Vec::new(), ..peaks() };
    let options = ForecastOptions { peaks: Some(memory_alone), ..Default::default() };
    let found = forecast(&config(json!({})), &cpu(), &options).unwrap();
    assert!(matches!(found.decode.bound, Least { seconds: Some(_), by: By::MemoryAlone(DType::BF16) }));
    assert!(found.to_string().contains("a data sheet"), "{found}");
}

#[test]
fn memory_holds_weights_cache_and_workspace() {
    let config = config(json!({ "tie_word_embeddings": true }));
    let one = forecast(&config, &cpu(), &ForecastOptions { context: Some(512), ..options() }).unwrap();
    assert_eq!(one.memory.weights, 2 * one.parameters, "a tied head is stored once");
    assert_eq!(one.memory.cache, 3 * 2 * 512 * 2 * 16 * 2);
    assert!(one.memory.workspace.as_ref().is_ok_and(|w| *w > 0), "{:?}", one.memory);
    assert!(one.memory.needed() > one.memory.weights + one.memory.cache);
    assert_eq!(one.memory.fits(), Some(true));
    let four = ForecastOptions { context: Some(512), batch: 4, dtype: Some(DType::F32), ..options() };
    let four = forecast(&config, &cpu(), &four).unwrap();
    assert_eq!(four.memory.cache, 2 * 4 * one.memory.cache, "f32, four sequences");
    assert_eq!(four.memory.weights, one.memory.weights, "weights stay as they are stored");
}

/// The CPU without some of its operators, and with another memory.
struct Lacking {
    cpu: Arc<dyn Device>,
    info: DeviceInfo,
    lacks: Vec<OpKind>,
}

impl Device for Lacking {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> qiao_core::Result<Arc<dyn Buffer>> {
        self.cpu.alloc(memory, bytes)
    }

    fn stream(&self) -> qiao_core::Result<Box<dyn Stream>> {
        self.cpu.stream()
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        let refuse = |(node, answer): (qiao_core::NodeView<'_>, NodeSupport)| match self.lacks.contains(&node.kind()) {
            true => NodeSupport::no(Reason::operator()),
            false => answer,
        };
        graph.views().zip(self.cpu.support(graph)).map(refuse).collect()
    }

    fn plan(&self, graph: &Graph) -> qiao_core::Result<Arc<dyn Plan>> {
        let answers = self.support(graph);
        if answers.iter().any(|a| matches!(a.answer, Support::No(_))) {
            return Err(refuse(&self.info, graph, &answers));
        }
        self.cpu.plan(graph)
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> qiao_core::Result<usize> {
        self.cpu.prepack_bytes(tensor, layout)
    }
}

fn lacking(lacks: &[OpKind], total_bytes: u64) -> Arc<dyn Device> {
    let cpu = cpu();
    let memory = MemoryInfo { total_bytes, ..Default::default() };
    let info = DeviceInfo { name: "half a chip".into(), memories: vec![memory], ..cpu.info().clone() };
    Arc::new(Lacking { cpu, info, lacks: lacks.to_vec() })
}

#[test]
fn every_operator_that_is_missing_is_listed_and_the_rest_is_forecast() {
    // Without concat, which is copies, rope does not come apart.
    let lacks = [OpKind::SiluMul, OpKind::AttentionDecode, OpKind::Rope, OpKind::Concat, OpKind::Copy];
    let device = lacking(&lacks, 1000);
    let found = forecast(&config(json!({})), &device, &options()).unwrap();
    assert!(!found.supported());
    let refused: Vec<_> = found.decode.unsupported().map(|o| (o.op, o.part.as_str(), o.count)).collect();
    let want = [("rope", "self_attn.k_proj", 3), ("rope", "self_attn.q_proj", 3), ("attention_decode", "", 3)];
    assert_eq!(refused, want);
    assert_eq!(found.prefill.unsupported().count(), 2, "attention over a prompt is another operator");
    let silu = found.decode.operators.iter().find(|o| o.op == "silu_mul").unwrap();
    let Ok(Way::Decomposed { into, reason }) = &silu.way else { panic!("{silu:?}") };
    assert_eq!((into.len(), reason), (2, &Reason::operator()));
    let whole = forecast(&config(json!({})), &cpu(), &options()).unwrap();
    let flops =
        |f: &Forecast| f.decode.operators.iter().filter(|o| o.op != "silu_mul").map(|o| o.work.flops).sum::<u64>();
    assert_eq!(flops(&found), flops(&whole), "what is refused is counted as it would run");
    let why = found.memory.workspace.as_ref().unwrap_err();
    assert!(why.contains("9 of"), "{why}");
    assert_eq!(found.memory.fits(), Some(false));
    let text = found.to_string();
    for words in [
        "NOT SUPPORTED",
        "→ silu + mul",
        "DOES NOT FIT",
        "rope: not supported: no kernel",
        "does not run this model: 9 of",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    let json = found.to_json();
    assert_eq!(json["supported"], false);
    let ways: Vec<_> = json["decode"]["operators"].as_array().unwrap().iter().map(|o| &o["support"]["way"]).collect();
    assert!(["native", "decomposed", "unsupported"].iter().all(|w| ways.contains(&&json!(w))), "{ways:?}");
}

#[test]
fn what_runs_on_the_host_is_told_with_its_bytes_and_takes_none_of_the_devices_time() {
    let device = lacking(&[OpKind::AttentionDecode, OpKind::Exp, OpKind::Silu, OpKind::SiluMul], 1 << 30);
    let policy = || Policy::Fallback(qiao_layers::Fallback::new(cpu()));
    let with = |device: &Arc<dyn Device>, policy| {
        forecast(&config(json!({})), device, &ForecastOptions { context: Some(1000), policy, ..options() }).unwrap()
    };
    let (found, whole) = (with(&device, policy()), with(&cpu(), policy()));
    assert!(found.supported());
    let on_host: Vec<_> = found.decode.operators.iter().filter(|o| o.hosted().is_some()).map(|o| o.op).collect();
    assert_eq!(on_host, ["kv_write", "attention_decode", "silu_mul"], "the cache draws what writes it");
    let silu = found.decode.operators.iter().find(|o| o.op == "silu_mul").unwrap();
    let hosted = silu.hosted().unwrap();
    assert_eq!((silu.count, hosted.down, hosted.up), (3, 3 * 2 * 96 * 2, 3 * 96 * 2));
    let (count, crossing) = found.decode.on_host();
    assert!(count == 9 && crossing.down > hosted.down && crossing.up > hosted.up);
    assert_eq!(whole.decode.on_host().0, 0);
    assert_eq!(found.decode.work.cache, 0, "the chip reads no cache");
    assert_eq!(found.decode.work.weights, whole.decode.work.weights);
    assert!(found.decode.bound.seconds < whole.decode.bound.seconds);
    let flops = |f: &Forecast| f.decode.operators.iter().map(|o| o.work.flops).sum::<u64>();
    assert_eq!(flops(&found), flops(&whole), "the host's work is told all the same");
    assert_eq!((found.memory.cache, found.memory.host), (0, whole.memory.cache));
    let text = found.to_string();
    for words in [
        "HOST (",
        "not in these times: 9 operator(s) on the host",
        "kv_write: runs on the host: operand 3: memory = host",
        "This model runs with 9 of",
        "on the host",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    let json = found.to_json();
    let of = |op: &str| json["decode"]["operators"].as_array().unwrap().iter().find(|o| o["op"] == op).unwrap().clone();
    assert_eq!(of("silu_mul")["support"]["bytes_down"], json!(3 * 2 * 96 * 2));
    assert_eq!(of("silu_mul")["at_least"], json!(null));
    assert_eq!(json["decode"]["on_host"]["operators"], json!(9));
    assert!(!whole.to_string().contains("host"), "{whole}");
}

#[test]
fn a_device_without_kernels_still_has_a_forecast() {
    let device: Arc<dyn Device> = Arc::new(NoopDevice::default());
    let found = forecast(&config(json!({})), &device, &options()).unwrap();
    assert_eq!(found.decode.unsupported().count(), found.decode.operators.len());
    assert!(found.decode.tokens_per_s().is_some_and(|rate| rate > 0.0));
}

#[test]
fn sizes_out_of_range_are_refused_with_what_is_allowed() {
    let refusal = |options: ForecastOptions| forecast(&config(json!({})), &cpu(), &options).unwrap_err().to_string();
    let base = ForecastOptions::default;
    assert!(refusal(ForecastOptions { context: Some(4096), ..base() }).contains("at most 2048"));
    assert!(refusal(ForecastOptions { context: Some(0), ..base() }).contains("1 to 2048"));
    assert!(refusal(ForecastOptions { prompt: Some(600), context: Some(512), ..base() }).contains("600 tokens"));
    assert!(refusal(ForecastOptions { prompt: Some(0), ..base() }).contains("no tokens"));
    assert!(refusal(ForecastOptions { batch: 0, ..base() }).contains("batch"));
    assert!(refusal(ForecastOptions { batch: usize::MAX, ..base() }).contains("65536"));
    let vast = config(json!({ "max_position_embeddings": 1 << 20 }));
    let options = ForecastOptions { batch: 1 << 16, context: Some(1 << 20), ..base() };
    let error = forecast(&vast, &cpu(), &options).unwrap_err().to_string();
    assert!(error.contains("batch times context"), "{error}");
    assert!(refusal(ForecastOptions { dtype: Some(DType::I8), ..base() }).contains("f32, bf16 or f16"));
}

#[test]
fn weights_of_unknown_dtype_are_said_to_be_assumed() {
    let config = config(json!({ "torch_dtype": null }));
    let found = forecast(&config, &cpu(), &options()).unwrap();
    assert_eq!((found.weights, found.weights_said), (DType::F32, false));
    assert!(found.to_string().contains("assumed"), "{found}");
    let found = forecast(&config, &cpu(), &ForecastOptions { dtype: Some(DType::F16), ..options() }).unwrap();
    assert_eq!((found.weights, found.compute), (DType::F16, DType::F16));
}
