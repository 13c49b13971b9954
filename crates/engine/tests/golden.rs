//! Every fixture, in both key styles, on every device of this machine: logits within 1e-4 of transformers' at every position,
//! the same greedy continuation.

mod fixture;

use std::sync::Arc;

use fixture::{cpu, fixtures, load, reference};
use qiao_core::{DType, Device};
use qiao_cpu::Isa;
use qiao_engine::compare::{Comparison, Golden, Limits, compare};
use qiao_engine::runner::LoadedModel;

/// What the fixtures promise in f32.
const PROMISE: Limits = Limits { max_abs_error: 1e-4, ..Limits::F32 };

#[derive(serde::Deserialize)]
struct Case {
    dir: String,
    configs: Vec<String>,
    golden: String,
    dtype: String,
}

fn cases() -> Vec<Case> {
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(fixtures().join("cases.json")).unwrap()).unwrap();
    assert!(cases.len() >= 17, "only {} cases", cases.len());
    cases
}

fn against(model: &Arc<LoadedModel>, dir: &str, golden: &str, limits: Limits) -> Comparison {
    let golden = Golden::open(fixtures().join(dir).join(golden)).unwrap();
    compare(model, &golden, Some(limits)).unwrap()
}

fn every_case_holds_on(device: Arc<dyn Device>) {
    let mut worst = 0.0f64;
    for case in cases() {
        for config in &case.configs {
            let model = load(&device, &case.dir, config, Some(DType::F32));
            let found = against(&model, &case.dir, &case.golden, PROMISE);
            let name = format!("{} {config} {} ({})", case.dir, case.golden, case.dtype);
            assert!(found.passed, "{name} on {}: {:?}", device.info().arch, found.failures());
            assert_eq!(found.top1_agreement, 1.0, "{name}");
            assert_eq!(found.greedy_agreement, Some(1.0), "{name}");
            assert!(!found.layers.is_empty(), "{name}");
            worst = worst.max(found.max_abs_error);
        }
    }
    println!("{}: largest error {worst:.2e}", device.info().arch);
}

fn every_case_holds_at(isa: Isa) {
    match cpu(isa) {
        Some(device) => every_case_holds_on(device),
        None => println!("{isa} is not present on this machine"),
    }
}

#[test]
fn every_case_holds_on_the_reference() {
    every_case_holds_on(reference());
}

#[test]
fn every_case_holds_on_the_scalar_tier() {
    every_case_holds_on(cpu(Isa::Scalar).expect("every machine has the scalar tier"));
}

#[test]
fn every_case_holds_on_the_avx2_tier() {
    every_case_holds_at(Isa::Avx2);
}

#[test]
fn every_case_holds_on_the_avx512_tier() {
    every_case_holds_at(Isa::Avx512);
}

#[test]
fn bf16_weights_compute_in_bf16_by_default() {
    for device in Isa::ALL.into_iter().map(cpu).chain([Some(reference())]).flatten() {
        let model = load(&device, "llama3-gqa-bf16", "config.json", None);
        assert_eq!(model.compute_dtype(), DType::BF16);
        for golden in ["golden.safetensors", "golden.bf16.safetensors"] {
            let found = against(&model, "llama3-gqa-bf16", golden, Limits::BF16);
            assert!(found.passed, "{golden} on {}: {:?}", device.info().arch, found.failures());
            assert!(found.max_abs_error > 1e-4, "bf16 can't be as exact as f32");
        }
    }
}

#[test]
fn f32_weights_compute_in_f16_when_asked() {
    for device in [Some(reference()), cpu(Isa::Scalar), cpu(Isa::Avx512)].into_iter().flatten() {
        let model = load(&device, "qwen3-qknorm", "config.json", Some(DType::F16));
        let found = against(&model, "qwen3-qknorm", "golden.safetensors", Limits::F16);
        assert!(found.passed, "{}: {:?}", device.info().arch, found.failures());
    }
}

#[test]
fn a_comparison_with_another_model_fails() {
    let model = load(&reference(), "llama-linear", "config.json", None);
    let found = against(&model, "llama-yarn", "golden.safetensors", PROMISE);
    assert!(!found.passed && found.first_divergent_layer == Some(0) && found.greedy_agreement < Some(1.0));
    let golden = Golden::open(fixtures().join("mistral-window/golden.safetensors")).unwrap();
    let message = compare(&model, &golden, None).unwrap_err().to_string();
    assert!(message.contains("layers.2.output"), "{message}");
}
