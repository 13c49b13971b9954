//! Sequences on a device: chunks, steps, limits, and what an error leaves behind.

mod fixture;

use std::sync::Arc;

use fixture::{config, cpu, fixtures, load, load_as, reference};
use qiao_core::{Buffer, Device, DeviceInfo, Graph, KvInfo, KvLayout, NodeSupport, Plan, Stream};
use qiao_cpu::Isa;
use qiao_engine::EngineError;
use qiao_engine::compare::Golden;
use qiao_engine::runner::{DEFAULT_CONTEXT, LoadOptions, LoadedModel, PREFILL_CHUNK, longest_context};
use qiao_engine::session::Session;

fn scalar() -> Arc<dyn Device> {
    cpu(Isa::Scalar).unwrap()
}

fn session(model: &Arc<LoadedModel>) -> Session {
    Session::new(model.clone(), model.context()).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// Logits of every position, with chunks of this many tokens.
fn all_logits(model: &Arc<LoadedModel>, ids: &[u32], chunk: usize) -> Vec<f32> {
    let mut all = Vec::new();
    session(model)
        .prefill_all(ids, chunk, false, &mut |out| {
            assert_eq!(out.start * model.spec().vocab, all.len());
            all.extend_from_slice(out.logits);
            Ok(())
        })
        .unwrap();
    all
}

#[test]
fn chunks_of_any_size_give_the_same_logits() {
    for dir in ["mistral-window", "qwen2-sliding", "llama-dynamic", "llama-longrope", "qwen3-qknorm"] {
        let golden = Golden::open(fixtures().join(dir).join("golden.safetensors")).unwrap();
        for device in [reference(), scalar()] {
            let model = load(&device, dir, "config.json", None);
            for chunk in [1, 7, 16, 100] {
                let found = all_logits(&model, golden.input_ids(), chunk);
                for (t, row) in found.chunks_exact(model.spec().vocab).enumerate() {
                    let error = largest_difference(row, &golden.logits_row(t).unwrap());
                    assert!(error < 1e-4, "{dir}, chunks of {chunk}, position {t}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_prompt_longer_than_a_chunk_gives_the_logits_of_its_last_token() {
    let mut config = config("llama3-gqa", "config.json");
    config.max_position_embeddings = 2048;
    let model = load_as(&scalar(), "llama3-gqa", config, LoadOptions::default()).unwrap();
    assert_eq!(model.context(), 2048);
    let ids: Vec<u32> = (0..2 * PREFILL_CHUNK as u32 + 1).map(|i| (i * 37 + i / 11) % 128).collect();
    for len in [PREFILL_CHUNK - 1, PREFILL_CHUNK, PREFILL_CHUNK + 1, 2 * PREFILL_CHUNK + 1] {
        let all = all_logits(&model, &ids[..len], 100);
        let mut s = session(&model);
        let last = s.prefill(&ids[..len], &|| false).unwrap().unwrap();
        let error = largest_difference(last, &all[all.len() - 128..]);
        assert!(error < 1e-4, "{len} tokens: {error}");
        assert_eq!(s.len(), len);
    }
}

#[test]
fn a_cancelled_prompt_keeps_the_chunks_that_ran() {
    let mut config = config("llama3-gqa", "config.json");
    config.max_position_embeddings = 2048;
    let model = load_as(&scalar(), "llama3-gqa", config, LoadOptions::default()).unwrap();
    let mut s = session(&model);
    let asked = std::cell::Cell::new(0);
    let cancelled = || asked.replace(asked.get() + 1) == 1;
    assert!(s.prefill(&[5; 3 * PREFILL_CHUNK], &cancelled).unwrap().is_none());
    assert_eq!(s.len(), PREFILL_CHUNK);
}

#[test]
fn a_shortened_sequence_goes_on_as_if_it_had_never_been_longer() {
    for dir in ["llama-dynamic", "llama-longrope", "mistral-window"] {
        let golden = Golden::open(fixtures().join(dir).join("golden.safetensors")).unwrap();
        let ids = golden.input_ids();
        let model = load(&scalar(), dir, "config.json", None);
        let mut fresh = session(&model);
        fresh.prefill(&ids[..20], &|| false).unwrap();
        let want = fresh.step(ids[20]).unwrap().to_vec();
        let mut s = session(&model);
        s.prefill(ids, &|| false).unwrap();
        s.truncate(0);
        s.prefill(&ids[..20], &|| false).unwrap();
        let found = s.step(ids[20]).unwrap();
        assert_eq!(found, want, "{dir}");
    }
}

#[test]
fn limits_are_typed_errors_and_leave_the_session_usable() {
    let model = load(&scalar(), "llama2-mha", "config.json", None);
    let context = model.context();
    assert_eq!(context, 128);
    let mut s = session(&model);
    assert!(matches!(s.prefill(&[], &|| false), Err(EngineError::EmptyPrompt)));
    let found = s.prefill(&[1, 128], &|| false).err();
    assert!(matches!(found, Some(EngineError::TokenOutOfRange { id: 128, vocab_size: 128 })));
    let found = s.prefill(&[1; 129], &|| false).err();
    assert!(matches!(found, Some(EngineError::PromptTooLong { tokens: 129, context: 128 })));
    assert!(s.is_empty());
    s.prefill(&[1; 127], &|| false).unwrap();
    s.step(2).unwrap();
    assert!(matches!(s.step(2), Err(EngineError::PromptTooLong { tokens: 129, context: 128 })));
    s.truncate(10);
    s.step(2).unwrap();
    assert_eq!(s.len(), 11);
    assert!(Session::new(model, 129).is_err());
}

#[test]
fn a_context_is_checked_against_the_configuration() {
    let load_with = |context| {
        load_as(
            &scalar(),
            "llama2-mha",
            config("llama2-mha", "config.json"),
            LoadOptions { context, ..Default::default() },
        )
    };
    assert!(matches!(load_with(Some(129)), Err(EngineError::ContextTooLong { asked: 129, limit: 128 })));
    assert!(matches!(load_with(Some(0)), Err(EngineError::ContextTooLong { .. })));
    assert_eq!(load_with(Some(40)).unwrap().context(), 40);
    assert_eq!(load_with(None).unwrap().context(), 128);
    let mut long = config("llama2-mha", "config.json");
    long.max_position_embeddings = 1 << 31;
    assert_eq!(longest_context(&long), i32::MAX as usize);
    let model = load_as(&scalar(), "llama2-mha", long, LoadOptions::default()).unwrap();
    assert_eq!(model.context(), DEFAULT_CONTEXT);
}

#[test]
fn rope_scaling_stretches_the_context() {
    assert_eq!(longest_context(&config("llama-dynamic", "config.json")), 32 * 4);
    assert_eq!(longest_context(&config("llama-yarn", "config.json")), 128);
    assert_eq!(longest_context(&config("llama-longrope", "config.json")), 128);
    assert_eq!(longest_context(&config("llama3-gqa", "config.json")), 384);
}

#[test]
fn integer_compute_is_refused() {
    let options = LoadOptions { dtype: Some(qiao_core::DType::I8), ..Default::default() };
    let found = load_as(&scalar(), "llama2-mha", config("llama2-mha", "config.json"), options).err().unwrap();
    assert!(found.to_string().contains("f32, bf16 or f16"), "{found}");
}

#[test]
fn sessions_of_one_model_run_side_by_side() {
    let model = load(&cpu(Isa::Avx2).unwrap_or_else(scalar), "qwen2-bias", "config.json", None);
    let golden = Golden::open(fixtures().join("qwen2-bias/golden.safetensors")).unwrap();
    let ids = golden.input_ids();
    let want = session(&model).prefill(ids, &|| false).unwrap().unwrap().to_vec();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let mut s = session(&model);
                    s.prefill(&ids[..ids.len() - 1], &|| false).unwrap();
                    let found = s.step(ids[ids.len() - 1]).unwrap();
                    assert!(largest_difference(found, &want) < 1e-4);
                }
            });
        }
    });
}

/// The reference under another description: small pages in the other layout, padded and aligned tensors, one node a plan.
struct Picky {
    info: DeviceInfo,
    inner: Arc<dyn Device>,
}

impl Device for Picky {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> qiao_core::Result<Arc<dyn Buffer>> {
        self.inner.alloc(memory, bytes)
    }

    fn stream(&self) -> qiao_core::Result<Box<dyn Stream>> {
        self.inner.stream()
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        self.inner.support(graph)
    }

    fn plan(&self, graph: &Graph) -> qiao_core::Result<Arc<dyn Plan>> {
        assert!(graph.nodes().len() <= 1, "it does not take graphs of {} nodes", graph.nodes().len());
        self.inner.plan(graph)
    }
}

#[test]
fn a_device_with_small_pages_and_padding_gives_the_same_logits() {
    let inner = reference();
    let mut info = inner.info().clone();
    info.kv = vec![KvInfo { layout: KvLayout::BlockTokenHead, block_size: 16 }];
    info.caps.multi_op = false;
    (info.tensor_align, info.tensor_tail_pad) = (64, 96);
    let picky: Arc<dyn Device> = Arc::new(Picky { info, inner });
    for dir in ["mistral-window", "qwen3-qknorm"] {
        let golden = Golden::open(fixtures().join(dir).join("golden.safetensors")).unwrap();
        let model = load(&picky, dir, "config.json", None);
        for chunk in [11, 100] {
            for (t, row) in all_logits(&model, golden.input_ids(), chunk).chunks_exact(128).enumerate() {
                assert!(largest_difference(row, &golden.logits_row(t).unwrap()) < 1e-4, "{dir}, position {t}");
            }
        }
    }
}
