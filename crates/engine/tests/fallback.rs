//! Models on devices that refuse a part of them: what is refused runs on the host, right and accounted.

mod fixture;

#[path = "../../layers/tests/chip/mod.rs"]
mod chip;

use std::sync::Arc;

use chip::{Bare, Chip, Log};
use fixture::{config, cpu, fixtures, load, load_as, reference};
use qiao_core::*;
use qiao_cpu::Isa;
use qiao_engine::compare::{Comparison, Golden, Limits, compare};
use qiao_engine::form::WeightForm;
use qiao_engine::runner::{LoadOptions, LoadedModel};
use qiao_engine::session::Session;
use qiao_layers::{Call, Fallback, Policy, Record, Way};

fn fallback(host: &Arc<dyn Device>) -> LoadOptions {
    LoadOptions { policy: Policy::Fallback(Fallback::new(host.clone())), ..Default::default() }
}

fn on(device: &Arc<dyn Device>, dir: &str, options: LoadOptions) -> Arc<LoadedModel> {
    load_as(device, dir, config(dir, "config.json"), options).unwrap_or_else(|e| panic!("{dir}: {e}"))
}

fn open(chip: Chip) -> (Arc<dyn Device>, Arc<Log>) {
    let log = chip.log.clone();
    (Arc::new(chip), log)
}

fn judged(model: &Arc<LoadedModel>, dir: &str) -> Comparison {
    let golden = Golden::open(fixtures().join(dir).join("golden.safetensors")).unwrap();
    compare(model, &golden, None).unwrap()
}

/// The greedy continuation of a prompt, with the logits of every step.
fn greedy(model: &Arc<LoadedModel>, prompt: &[u32], tokens: usize) -> (Vec<u32>, Vec<f32>) {
    let mut session = Session::new(model.clone(), prompt.len() + tokens).unwrap();
    let (mut ids, mut all) = (Vec::new(), Vec::new());
    let mut logits = session.prefill(prompt, &|| false).unwrap().unwrap().to_vec();
    for _ in 0..tokens {
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32;
        ids.push(best);
        all.extend_from_slice(&logits);
        logits = session.step(best).unwrap().to_vec();
    }
    (ids, all)
}

/// The ways of an operator in a decode step.
fn ways(model: &LoadedModel, op: &str) -> Vec<Way> {
    let account = model.account().unwrap();
    let mut all: Vec<Way> = account.entries.into_iter().filter(|e| e.op == op).map(|e| e.way).collect();
    all.dedup();
    all
}

const FAMILIES: [&str; 6] =
    ["llama2-mha", "llama-dynamic", "mistral-window", "qwen2-sliding", "qwen3-qknorm", "llama3-gqa-bf16"];

#[test]
fn a_device_of_three_methods_gives_the_bits_of_the_host() {
    let prompt: Vec<u32> = (0..21).map(|i| (i * 37 + 5) % 128).collect();
    for dir in FAMILIES {
        for host in [reference(), cpu(Isa::Scalar).unwrap()] {
            let mut chip = Chip::new(&[], true);
            chip.info.kv = host.info().kv.clone();
            let bare: Arc<dyn Device> = Arc::new(Bare(chip));
            let model = on(&bare, dir, fallback(&host));
            let alone = load(&host, dir, "config.json", None);
            assert_eq!(greedy(&model, &prompt, 8), greedy(&alone, &prompt, 8), "{dir}");
            let account = model.account().unwrap();
            assert_eq!(account.on_host(), account.entries.len(), "{account}");
            let refused =
                |e: &qiao_layers::Entry| matches!(&e.way, Way::Host { reason, .. } if *reason == Reason::operator());
            assert!(account.entries.iter().all(refused), "{account}");
            assert_eq!((model.weight_bytes(), model.host_weight_bytes()), (0, alone.weight_bytes()));
        }
    }
}

#[test]
fn a_device_of_three_methods_is_refused_without_the_policy() {
    let bare: Arc<dyn Device> = Arc::new(Bare(Chip::new(&[], true)));
    let error = load_as(&bare, "llama2-mha", config("llama2-mha", "config.json"), LoadOptions::default());
    let text = error.err().unwrap().to_string();
    assert_eq!(text.matches("rms_norm: no kernel").count(), 2, "rms_norm and add_rms_norm, each once: {text}");
    for op in ["gather_rows", "matmul", "rope", "kv_write", "attention_decode", "silu_mul"] {
        assert_eq!(text.matches(&format!("{op}: no kernel for this operator")).count(), 1, "{op} in {text}");
    }
}

#[test]
fn any_operators_that_are_refused_leave_the_results_right() {
    let host = reference();
    let sets: [&[OpKind]; 7] = [
        &[OpKind::AttentionDecode],
        &[OpKind::AttentionPrefill],
        &[OpKind::Matmul],
        &[OpKind::Rope, OpKind::SiluMul, OpKind::Silu, OpKind::Exp],
        &[OpKind::KvWrite, OpKind::GatherRows],
        &[OpKind::RmsNorm, OpKind::AddRmsNorm],
        &[OpKind::Add, OpKind::AddRmsNorm, OpKind::AttentionDecode, OpKind::AttentionPrefill],
    ];
    for (i, refused) in sets.into_iter().enumerate() {
        let (device, _) = open(Chip::new(refused, i % 2 == 0));
        for dir in ["llama-dynamic", "qwen3-qknorm"] {
            let model = on(&device, dir, fallback(&host));
            let found = judged(&model, dir);
            assert!(found.passed, "{dir} without {refused:?}: {:?}", found.failures());
            assert!(model.host_work().operators > 0);
        }
    }
}

#[test]
fn keys_and_values_live_on_the_host_when_a_prompt_must_run_there() {
    let (device, log) = open(Chip::new(&[OpKind::AttentionPrefill], true));
    let model = on(&device, "llama2-mha", fallback(&reference()));
    let [Way::Host { reason, .. }, ..] = &ways(&model, "attention_decode")[..] else {
        panic!("{}", model.account().unwrap())
    };
    assert_eq!(reason.property, Property::Memory);
    assert!(matches!(ways(&model, "matmul")[..], [Way::Native { .. }]));
    let mut session = Session::new(model.clone(), 40).unwrap();
    session.prefill(&[3; 20], &|| false).unwrap();
    log.take();
    session.step(5).unwrap();
    let (down, up) = log.take();
    let account = model.account().unwrap();
    let inputs = account.hosted().up + session_input(&model);
    assert_eq!(
        (down, up),
        (account.hosted().down + logits(&model), inputs),
        "what the account says, and the step's own"
    );
    let cache = 2 * 40 * model.spec().kv_heads * model.spec().head_dim * 4;
    assert!(account.hosted().down < cache as u64, "no cache was moved");
}

#[test]
fn a_session_whose_keys_and_values_live_on_the_host_is_saved_and_restored() {
    let (device, _) = open(Chip::new(&[OpKind::AttentionPrefill], true));
    let model = on(&device, "llama2-mha", fallback(&reference()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mut session = Session::new(model.clone(), 40).unwrap();
    session.prefill(&[3, 9, 4, 7, 1], &|| false).unwrap();
    session.save(&path).unwrap();
    let mut restored = Session::restore(model, &path, 40).unwrap();
    for id in [5, 80, 2] {
        let want: Vec<u32> = session.step(id).unwrap().iter().map(|x| x.to_bits()).collect();
        let found: Vec<u32> = restored.step(id).unwrap().iter().map(|x| x.to_bits()).collect();
        assert_eq!(found, want);
    }
}

/// Bytes of the logits of one token.
fn logits(model: &LoadedModel) -> u64 {
    model.spec().vocab as u64 * 4
}

/// Bytes of the inputs of one decode step: each of ids, positions, slots, lengths and the block table in a place of its own.
fn session_input(model: &LoadedModel) -> u64 {
    let info = model.device().info();
    let one = (4 + info.tensor_tail_pad).next_multiple_of(info.tensor_align);
    5 * one as u64
}

#[test]
fn what_ran_on_the_host_is_counted_over_all_steps_and_sizes() {
    let (device, _) = open(Chip::new(&[OpKind::SiluMul, OpKind::Silu, OpKind::Exp], true));
    let model = on(&device, "llama2-mha", fallback(&reference()));
    let layers = model.spec().layers as u64;
    greedy(&model, &[1, 2, 3], 5);
    let account = model.account().unwrap();
    assert_eq!(
        (account.hosted().runs, model.host_work().operators),
        (5 * layers, 6 * layers),
        "five steps and a prompt"
    );
    let inter = model.spec().inter as u64 * 4;
    let work = model.host_work();
    // A token moves gate and up down, and their product up; in the last layer one of the prompt's three tokens goes on.
    let rows = 5 * layers + 3 * (layers - 1) + 1;
    assert_eq!((work.down, work.up), (rows * 2 * inter, rows * inter));
    assert!(work.time > std::time::Duration::ZERO);
    let clean = load(&reference(), "llama2-mha", "config.json", None);
    assert_eq!(clean.host_work(), Default::default());
}

#[test]
fn weights_of_the_host_stay_in_their_file_where_it_can_read_them_there() {
    let (device, log) = open(Chip::new(&[OpKind::GatherRows], true));
    let host = Record::new(cpu(Isa::Scalar).unwrap());
    let own: Arc<dyn Device> = host.clone();
    let model = on(&device, "llama2-mha", fallback(&own));
    let embedding = (model.spec().vocab * model.spec().hidden * 4) as u64;
    assert_eq!(model.host_weight_bytes(), embedding);
    assert_eq!(model.step_weight_bytes(), model.weight_bytes(), "of the embedding a step reads rows");
    let calls = host.calls();
    assert!(calls.contains(&Call::Import { bytes: embedding as usize }), "{calls:?}");
    let (_, up) = log.take();
    assert_eq!(up, model.weight_bytes(), "nothing else was loaded");
}

/// A device whose products take single rows only.
struct Narrow(Arc<dyn Device>);

impl Device for Narrow {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.0.alloc(memory, bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.0.stream()
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        let wide = |node: &NodeView<'_>| node.kind() == OpKind::Matmul && node.output(0).shape[0] > 1;
        let rows = || Reason::operand(0, Property::Dim(0), Rule::AtMost, 2usize, 1usize);
        let answer = |(node, answer)| if wide(&node) { NodeSupport::no(rows()) } else { answer };
        graph.views().zip(self.0.support(graph)).map(answer).collect()
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        self.0.plan(graph)
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        self.0.prepack_bytes(tensor, layout)
    }

    fn prepack(
        &self,
        s: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        self.0.prepack(s, tensor, src, layout, dst)
    }
}

#[test]
fn weights_packed_on_the_device_are_read_from_the_checkpoint_where_the_host_needs_them() {
    for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512] {
        let Some(inner) = cpu(isa) else { continue };
        let device: Arc<dyn Device> = Arc::new(Narrow(inner));
        for dir in ["llama2-mha", "llama3-gqa-bf16"] {
            let model = on(&device, dir, fallback(&reference()));
            assert_eq!(model.account().unwrap().on_host(), 0, "a token runs on the device");
            let found = judged(&model, dir);
            assert!(found.passed, "{dir}: {:?}", found.failures());
            assert!(model.host_work().operators > 0, "a prompt does not");
        }
    }
}

#[test]
fn pages_of_any_layout_and_size_give_the_golden_logits() {
    for layout in KvLayout::ALL.iter().copied() {
        for block_size in [16, 64, 128] {
            let mut chip = Chip::new(&[], block_size == 64);
            chip.info.kv = vec![KvInfo { layout, block_size }];
            let device: Arc<dyn Device> = Arc::new(chip);
            for dir in ["llama3-gqa", "mistral-window"] {
                let model = load(&device, dir, "config.json", None);
                let found = judged(&model, dir);
                assert!(found.passed, "{dir}, {block_size} tokens a page: {:?}", found.failures());
            }
        }
    }
}

/// A chip that lists these dtypes, all of which it computes in.
fn listing(dtypes: &[DType]) -> Arc<dyn Device> {
    let mut chip = Chip::new(&[], true);
    chip.info.dtypes.retain(|d| dtypes.contains(&d.dtype) || d.dtype == DType::I32);
    Arc::new(chip)
}

#[test]
fn weights_that_a_device_does_not_store_are_converted() {
    let embed = "model.embed_tokens.weight";
    let model = load(&listing(&[DType::F32, DType::F16]), "llama3-gqa-bf16", "config.json", None);
    assert_eq!((model.compute_dtype(), model.weight_form(embed)), (DType::F32, Some(WeightForm::Plain(DType::F32))));
    let found = judged(&model, "llama3-gqa-bf16");
    assert!(found.passed && found.limits == Limits::F32, "bf16 fits into f32: {:?}", found.failures());
    let model = load(&listing(&[DType::F16]), "llama3-gqa-bf16", "config.json", None);
    assert_eq!((model.compute_dtype(), model.weight_form(embed)), (DType::F16, Some(WeightForm::Plain(DType::F16))));
    let found = judged(&model, "llama3-gqa-bf16");
    assert!(found.passed && found.limits == Limits::F16, "{:?}", found.failures());
}

#[test]
fn a_weight_beyond_the_range_of_f16_is_named_with_its_value() {
    let dir = tempfile::tempdir().unwrap();
    let from = fixtures().join("llama2-mha");
    let mut bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    let at = 8 + header + json[name]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + 4].copy_from_slice(&70_000f32.to_le_bytes());
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let weights = qiao_engine::weights::Weights::open(dir.path()).unwrap();
    let load = |device| {
        let config = config("llama2-mha", "config.json");
        LoadedModel::load(device, &weights, config, dir.path(), LoadOptions::default(), &mut |_| {})
    };
    let text = load(listing(&[DType::F16])).err().unwrap().to_string();
    for words in [name, "its value 70000 is beyond the range of f16", "stores the checkpoint's own dtype"] {
        assert!(text.contains(words), "{words} is not in: {text}");
    }
    load(listing(&[DType::F32])).unwrap();
}
