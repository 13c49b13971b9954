//! Whole models on the simulated AscendCL, with the CPU's help where a chip has no operator.

use std::sync::Arc;

use qiao::core::{Backend, DType};
use qiao::{Device, Model, ModelOptions, Params, Way};
use qiao_ascend::AscendBackend;
use qiao_simascend::install;

const TOKENS: usize = 12;

fn device() -> Arc<dyn Device> {
    AscendBackend::with_libraries(install().folder()).open(0).unwrap()
}

fn greedy() -> Params {
    Params::new().temperature(0.0).max_tokens(TOKENS).ignore_eos(true)
}

fn demo(on: ModelOptions) -> (Model, Vec<u32>) {
    let model = on.demo().unwrap();
    let said = model.generate("床前明月光", &greedy()).unwrap().collect_all().unwrap().token_ids;
    (model, said)
}

/// The operators that the host runs for a model, each once.
fn hosted(model: &Model) -> Vec<&'static str> {
    let account = model.account().unwrap();
    let mut names: Vec<&str> =
        account.entries.iter().filter(|e| matches!(e.way, Way::Host { .. })).map(|e| e.op).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn the_demo_says_what_it_says_on_the_cpu_and_the_host_is_accounted_for() {
    let _card = install().alone();
    // The checkpoint is bf16. In f16 and f32 its weights meet activations of another dtype; in bf16 only the logits, which are
    // f32, are the host's; attention takes no f32.
    let weights = ["add_rms_norm", "gather_rows", "matmul", "rms_norm"];
    let wide = ["add_rms_norm", "attention_decode", "gather_rows", "kv_write", "matmul", "rms_norm"];
    for (dtype, host) in [(DType::BF16, &["matmul"][..]), (DType::F16, &weights), (DType::F32, &wide)] {
        let (model, said) = demo(ModelOptions::new().on(device()).dtype(dtype).host_fallback());
        let (_, want) = demo(ModelOptions::new().device("cpu").dtype(dtype));
        assert_eq!(said, want, "{dtype}");
        assert_eq!(hosted(&model), host, "{dtype}");
    }
}
