//! A model runs on a wrapped device as on the device itself: checks find nothing, a profile sees every operator.

use std::sync::Arc;

use qiao::core::{Backend, Device, OpKind};
use qiao::{Model, ModelOptions, Params};
use qiao_cpu::CpuBackend;
use qiao_layers::{Call, Profile, Record, Validate};
use qiao_reference::ReferenceBackend;

fn poem(model: &Model) -> Vec<u32> {
    let params = Params::new().temperature(0.0).max_tokens(12);
    model.generate("床前明月光", &params).unwrap().collect_all().unwrap().token_ids
}

fn on(device: Arc<dyn Device>) -> Model {
    ModelOptions::new().on(device).demo().unwrap()
}

#[test]
fn full_checks_find_nothing_in_a_generation() {
    let plain = poem(&Model::demo().unwrap());
    assert_eq!(plain.len(), 12);
    assert_eq!(poem(&on(Validate::wrap(CpuBackend.open(0).unwrap()))), plain);
    assert_eq!(poem(&on(Validate::wrap(ReferenceBackend.open(0).unwrap()))), plain);
}

#[test]
fn a_profile_sees_every_operator_of_a_generation() {
    let profile = Profile::new(CpuBackend.open(0).unwrap());
    let model = on(profile.clone());
    let account = model.account().unwrap();
    profile.reset();
    assert_eq!(poem(&model), poem(&Model::demo().unwrap()));
    let times = profile.times();
    for entry in &account.entries {
        assert!(times.usages.iter().any(|u| u.op.name() == entry.op && u.count > 0), "{} of\n{times}", entry.op);
    }
    let matmuls: u64 = times.usages.iter().filter(|u| u.op == OpKind::Matmul).map(|u| u.count).sum();
    let of_a_step = account.entries.iter().filter(|e| e.op == "matmul").count() as u64;
    assert_eq!(matmuls, 12 * of_a_step, "one prefill and eleven decode steps\n{times}");
}

#[test]
fn a_decode_step_is_one_upload_one_execution_and_one_download() {
    let record = Record::new(CpuBackend.open(0).unwrap());
    let model = on(record.clone());
    let params = Params::new().temperature(0.0).max_tokens(8);
    let mut generation = model.generate("床前明月光", &params).unwrap();
    // The first pieces have the prompt and the first bindings behind them.
    for _ in 0..4 {
        generation.next().unwrap().unwrap();
    }
    record.calls();
    generation.next().unwrap().unwrap();
    let calls: Vec<_> = record.calls().into_iter().filter(|c| !matches!(c, Call::Sync { .. })).collect();
    let [Call::Upload { .. }, Call::Execute { .. }, Call::Download { .. }] = &calls[..] else { panic!("{calls:?}") };
}
