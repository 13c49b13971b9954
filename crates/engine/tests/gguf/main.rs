//! GGUF files run as the checkpoints that they were made from.

#[path = "../fixture/mod.rs"]
mod fixture;

mod convert;

use std::path::Path;
use std::sync::Arc;

use convert::Source;
use fixture::{cpu, fixtures, reference};
use qiao_core::{DType, Device};
use qiao_cpu::Isa;
use qiao_engine::checkpoint::Checkpoint;
use qiao_engine::compare::{Golden, Limits, compare};
use qiao_engine::forecast::{ForecastOptions, forecast};
use qiao_engine::generate::Generation;
use qiao_engine::generation::SamplingParams;
use qiao_engine::runner::{LoadOptions, LoadedModel};
use qiao_engine::serve::{
    CacheOptions, PagedExecutor, Policy, PromptLookup, Request, Scheduler, Server, ServerOptions, Speech,
};
use qiao_engine::session::Session;
use qiao_engine::text::{Prompt, TextModel};

const FAMILIES: [&str; 8] = [
    "llama3-gqa",
    "llama2-mha",
    "llama-linear",
    "llama-yarn",
    "mistral-window",
    "qwen2-bias",
    "qwen2-bias-sharded",
    "qwen3-qknorm",
];

fn load(device: &Arc<dyn Device>, path: &Path, dtype: Option<DType>) -> Arc<LoadedModel> {
    let Checkpoint { config, weights, .. } = Checkpoint::open(path).unwrap();
    let options = LoadOptions { dtype, ..Default::default() };
    Arc::new(LoadedModel::load(device.clone(), &weights, config, path, options, &mut |_| {}).unwrap())
}

fn golden(dir: &str) -> Golden {
    Golden::open(fixtures().join(dir).join("golden.safetensors")).unwrap()
}

/// The devices that every case runs on.
fn devices() -> Vec<Arc<dyn Device>> {
    [Some(reference()), cpu(Isa::Scalar), cpu(Isa::Avx512)].into_iter().flatten().collect()
}

#[test]
fn f32_files_give_the_logits_of_their_originals() {
    let dir = tempfile::tempdir().unwrap();
    for name in FAMILIES {
        let source = Source::read(&fixtures().join(name));
        let path = dir.path().join(format!("{name}.gguf"));
        source.write(source.header(), &path, |_, _| DType::F32);
        for device in devices() {
            let model = load(&device, &path, None);
            assert_eq!(model.compute_dtype(), DType::F32);
            let limits = Limits { max_abs_error: 1e-4, ..Limits::F32 };
            let found = compare(&model, &golden(name), Some(limits)).unwrap();
            assert!(found.passed, "{name} on {}: {:?}", device.info().arch, found.failures());
            assert_eq!(found.greedy_agreement, Some(1.0), "{name}");
        }
    }
}

#[test]
fn a_llama_has_the_biases_that_its_file_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("biases.gguf");
    let source = || Source::read_as(&fixtures().join("qwen2-bias"), Some("llama"));
    source().write(source().header(), &path, |_, _| DType::F32);
    for device in devices() {
        let limits = Limits { max_abs_error: 1e-4, ..Limits::F32 };
        let found = compare(&load(&device, &path, None), &golden("qwen2-bias"), Some(limits)).unwrap();
        assert!(found.passed, "on {}: {:?}", device.info().arch, found.failures());
    }
    // Others are asked for by their names.
    let lacking = source().without("blk.0.attn_k.bias");
    lacking.write(lacking.header(), &path, |_, _| DType::F32);
    let Checkpoint { config, weights, .. } = Checkpoint::open(&path).unwrap();
    let loaded = LoadedModel::load(reference(), &weights, config, &path, LoadOptions::default(), &mut |_| {});
    let message = loaded.err().expect("refused").to_string();
    assert!(message.contains("self_attn.k_proj.bias"), "{message}");
}

#[test]
fn f16_files_give_them_within_the_rounding_of_f16() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["llama3-gqa", "qwen3-qknorm"] {
        let source = Source::read(&fixtures().join(name));
        let path = dir.path().join(format!("{name}.gguf"));
        source.write(source.header(), &path, |_, _| DType::F16);
        let model = load(&reference(), &path, Some(DType::F32));
        let found = compare(&model, &golden(name), Some(Limits::F16)).unwrap();
        assert!(found.passed && found.max_abs_error > 0.0, "{name}: {:?}", found.failures());
    }
}

fn logits(model: &Arc<LoadedModel>, ids: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    let mut session = Session::new(model.clone(), model.context()).unwrap();
    let mut keep = |out: qiao_engine::session::ChunkOutput<'_>| {
        all.extend_from_slice(out.logits);
        Ok(())
    };
    session.prefill_all(ids, 16, false, &mut keep).unwrap();
    all
}

/// Llama 3's files hold a divisor for each rotary frequency, whatever the length.
#[test]
fn a_file_with_rotary_divisors_is_served_and_guessed_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::read(&fixtures().join("llama3-gqa"));
    let path = dir.path().join("llama3.gguf");
    source.write(source.header(), &path, |_, _| DType::F32);
    let load = || {
        let checkpoint = Checkpoint::open(&path).unwrap();
        Arc::new(TextModel::load(reference(), checkpoint, LoadOptions::default(), &mut |_| {}).unwrap())
    };
    let params = SamplingParams { max_tokens: 40, ignore_eos: true, ..Default::default() };
    let prompt = vec![5u32, 6, 7, 5, 6];
    let said = |generation: Generation| generation.flat_map(|piece| piece.unwrap().token_ids).collect::<Vec<u32>>();
    let generate = || Generation::new(load(), &Prompt::Tokens(prompt.clone()), params.clone()).unwrap();
    let alone = said(generate());
    assert_eq!(alone.len(), 40);
    let lookup = PromptLookup { longest: 3, shortest: 1 };
    assert_eq!(said(generate().guess(Box::new(lookup), 4).unwrap()), alone);
    let options = CacheOptions { bytes: None, block_size: Some(8), batch_tokens: 32, batch_sequences: 2 };
    let pool = PagedExecutor::new(load().model().clone(), options).unwrap();
    let scheduler = Scheduler::new(Box::new(pool), Speech::none(), Policy::default()).unwrap();
    let server = Server::start(scheduler, ServerOptions::default()).unwrap();
    let mut reply = server.submit(Request::new(prompt.clone(), params.clone())).unwrap();
    assert_eq!(reply.blocking().flat_map(|chunk| chunk.unwrap().piece.token_ids).collect::<Vec<u32>>(), alone);
}

#[test]
fn files_of_blocks_give_the_logits_of_the_values_that_they_hold() {
    let dir = tempfile::tempdir().unwrap();
    for (name, dtype) in [("llama3-gqa", DType::Q8_0), ("qwen3-qknorm", DType::Q4_0), ("qwen2-bias", DType::Q8_0)] {
        // Rows that are no whole blocks stay as they are, as in real files.
        let chosen = |_: &str, shape: &[usize]| if shape[1].is_multiple_of(32) { dtype } else { DType::F32 };
        let source = Source::read(&fixtures().join(name));
        let (blocks, floats) = (dir.path().join("blocks.gguf"), dir.path().join("floats.gguf"));
        source.write(source.header(), &blocks, chosen);
        let rounded = source.rounded_to(chosen);
        rounded.write(rounded.header(), &floats, |_, _| DType::F32);
        let golden = golden(name);
        let truth = logits(&load(&reference(), &floats, None), golden.input_ids());
        for device in devices() {
            let model = load(&device, &blocks, None);
            let q = model.weight_form("model.layers.0.self_attn.q_proj.weight").unwrap();
            assert_eq!(q.dtype(), dtype, "{name} on {}: used as stored", device.info().arch);
            let found = logits(&model, golden.input_ids());
            let error = found.iter().zip(&truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let scale = truth.iter().map(|v| v.abs()).fold(0.0, f32::max);
            println!("{name} {dtype} on {}: {error:.2e} of {scale:.2}", device.info().arch);
            // A kernel may round activations to 8 bits on the way.
            assert!(error < 0.02 * scale, "{name} {dtype} on {}: {error} of {scale}", device.info().arch);
        }
    }
}

#[test]
fn any_part_of_a_split_file_opens_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::read(&fixtures().join("qwen3-qknorm"));
    let path = |part: usize| dir.path().join(format!("tiny-{part:05}-of-00003.gguf"));
    for part in 1..=3 {
        let mut header = if part == 1 { source.header() } else { Default::default() };
        header.set("split.no", part as u16 - 1);
        header.set("split.count", 3u16);
        header.set("split.tensors.count", source.len() as i32);
        source.write_part(header, &path(part), |_, _| DType::F32, |i| i % 3 == part - 1);
    }
    for given in [path(1), path(2), path(3), dir.path().to_path_buf()] {
        let model = load(&reference(), &given, None);
        assert!(compare(&model, &golden("qwen3-qknorm"), None).unwrap().passed, "{}", given.display());
    }
    std::fs::remove_file(path(3)).unwrap();
    let message = Checkpoint::open(path(1)).unwrap_err().to_string();
    assert!(message.contains("tiny-00003-of-00003.gguf") && message.contains("one folder"), "{message}");
    std::fs::rename(path(1), dir.path().join("renamed.gguf")).unwrap();
    let message = Checkpoint::open(dir.path().join("renamed.gguf")).unwrap_err().to_string();
    assert!(message.contains("names again"), "{message}");
}

/// What opening a fixture says after a change to its metadata.
fn refusal(name: &str, change: impl Fn(&mut qiao_gguf::GgufHeader)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::read(&fixtures().join(name));
    let mut header = source.header();
    change(&mut header);
    let path = dir.path().join("changed.gguf");
    source.write(header, &path, |_, _| DType::F32);
    let message = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(message.contains("changed.gguf"), "{message}");
    message
}

#[test]
fn keys_that_can_not_be_used_are_named_as_the_file_names_them() {
    let of = |key: &'static str, value: qiao_gguf::Value| refusal("llama2-mha", move |h| h.set(key, value.clone()));
    let message = of("general.architecture", "mamba".into());
    assert!(message.contains("\"mamba\"") && message.contains("llama, qwen2, qwen3"), "{message}");
    assert!(of("llama.block_count", 0u32.into()).contains("\"llama.block_count\""));
    assert!(of("llama.attention.head_count_kv", 3u32.into()).contains("\"llama.attention.head_count_kv\""));
    assert!(of("llama.attention.head_count", vec![4u32, 2].into()).contains("the same for every layer"));
    assert!(of("llama.embedding_length", "wide".into()).contains("\"llama.embedding_length\" must be"));
    assert!(of("llama.rope.scaling.type", "magic".into()).contains("\"magic\""));
    for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for key in ["llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon", "llama.rope.scaling.attn_factor"]
        {
            let message = of(key, number.into());
            assert!(message.contains(key) && message.contains("a finite number"), "{message}");
        }
        assert!(of("llama.rope.freq_base", f64::from(number).into()).contains("a finite number"));
    }
    assert!(of("llama.expert_count", 8u32.into()).contains("mixtures of experts"));
    assert!(of("llama.attention.value_length", 8u32.into()).contains("the width of the keys"));
    assert!(of("tokenizer.ggml.model", "rwkv".into()).contains("tokenizer.ggml.tokens"));
}

#[test]
fn directories_with_one_file_are_checkpoints_and_with_several_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::read(&fixtures().join("llama2-mha"));
    source.write(source.header(), &dir.path().join("one.gguf"), |_, _| DType::F32);
    Checkpoint::open(dir.path()).unwrap();
    assert_eq!(Checkpoint::config_of(dir.path()).unwrap().num_layers, 2);
    std::fs::copy(dir.path().join("one.gguf"), dir.path().join("two.gguf")).unwrap();
    let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("one.gguf, two.gguf"), "{message}");
    let bytes = std::fs::read(dir.path().join("one.gguf")).unwrap();
    std::fs::write(dir.path().join("cut.gguf"), &bytes[..bytes.len() / 2]).unwrap();
    let message = Checkpoint::open(dir.path().join("cut.gguf")).unwrap_err().to_string();
    assert!(message.contains("cut.gguf") && message.contains("cut short"), "{message}");
    std::fs::rename(dir.path().join("one.gguf"), dir.path().join("no-extension")).unwrap();
    Checkpoint::open(dir.path().join("no-extension")).expect("known by its first bytes");
}

#[test]
fn a_tensor_of_a_type_that_is_not_read_is_named_when_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::read(&fixtures().join("llama2-mha"));
    let path = dir.path().join("foreign.gguf");
    source.write(source.header(), &path, |_, _| DType::F32);
    let mut bytes = std::fs::read(&path).unwrap();
    // The type of this tensor, behind its name, rank and two dims, becomes one that only forks use.
    let name = b"blk.1.ffn_up.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
    bytes[at..at + 4].copy_from_slice(&144u32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let Checkpoint { config, weights, .. } = Checkpoint::open(&path).unwrap();
    let loaded = LoadedModel::load(reference(), &weights, config, &path, LoadOptions::default(), &mut |_| {});
    let message = loaded.err().expect("refused").to_string();
    assert!(message.contains("mlp.up_proj.weight") && message.contains("ggml type 144"), "{message}");
}

#[test]
fn a_forecast_counts_the_blocks_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blocks.gguf");
    let source = Source::read(&fixtures().join("qwen3-qknorm"));
    let chosen = |_: &str, shape: &[usize]| if shape[1].is_multiple_of(32) { DType::Q4_0 } else { DType::F32 };
    source.write(source.header(), &path, chosen);
    let config = Checkpoint::config_of(&path).unwrap();
    let found = forecast(&config, &reference(), &ForecastOptions::default()).unwrap();
    assert_eq!(found.memory.weights, Checkpoint::open(&path).unwrap().weights.total_bytes());
}

#[test]
fn a_block_whose_scale_is_no_number_is_named_with_its_tensor_and_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blocks.gguf");
    let source = Source::read(&fixtures().join("qwen3-qknorm"));
    let chosen = |_: &str, shape: &[usize]| if shape[1].is_multiple_of(32) { DType::Q8_0 } else { DType::F32 };
    source.write(source.header(), &path, chosen);
    let name = "model.layers.1.self_attn.q_proj.weight";
    let (range, columns) = {
        let weights = Checkpoint::open(&path).unwrap().weights;
        let handle = weights.handle(name).unwrap();
        (handle.mapping().unwrap().1, handle.shape[1])
    };
    let mut bytes = std::fs::read(&path).unwrap();
    let at = range.start + 3 * (columns / 32) * 34 + 34;
    bytes[at..at + 2].copy_from_slice(&[0x00, 0x7e]);
    std::fs::write(&path, bytes).unwrap();
    let Checkpoint { config, weights, .. } = Checkpoint::open(&path).unwrap();
    let loaded = LoadedModel::load(reference(), &weights, config, &path, LoadOptions::default(), &mut |_| {});
    let message = loaded.err().expect("a NaN among the scales").to_string();
    assert!(message.contains(name) && message.contains("row 3, from element 32"), "{message}");
}
