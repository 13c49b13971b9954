//! A device that hangs or fails ends the request, within its time, and nothing else.

mod fixture;

#[path = "../../layers/tests/chip/mod.rs"]
mod chip;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chip::{Chip, Log};
use fixture::{config, fixtures, load_as, reference};
use qiao_core::{Device, Error, OpKind};
use qiao_engine::EngineError;
use qiao_engine::checkpoint::Checkpoint;
use qiao_engine::generate::Generation;
use qiao_engine::generation::SamplingParams;
use qiao_engine::runner::LoadOptions;
use qiao_engine::sides::PATIENCE;
use qiao_engine::text::{Prompt, TextModel};
use qiao_layers::{Fallback, Policy};

fn model(refused: &[OpKind]) -> (Arc<TextModel>, Arc<Log>) {
    let chip = Chip::new(refused, true);
    let log = chip.log.clone();
    let checkpoint = Checkpoint::open(fixtures().join("llama2-mha")).unwrap();
    let policy = Policy::Fallback(Fallback::new(reference()));
    let options = LoadOptions { policy, ..Default::default() };
    (TextModel::load(Arc::new(chip) as Arc<dyn Device>, checkpoint, options, &mut |_| {}).unwrap().into(), log)
}

fn generate(text: &Arc<TextModel>, timeout: Option<Duration>) -> Generation {
    let params = SamplingParams { max_tokens: 40, ignore_eos: true, timeout, ..Default::default() };
    Generation::new(text.clone(), &Prompt::Tokens(vec![5, 6, 7]), params).unwrap()
}

fn millis(error: EngineError) -> u64 {
    match error {
        EngineError::Device(Error::Timeout { millis, .. }) => millis,
        other => panic!("{other}"),
    }
}

#[test]
fn a_device_that_hangs_ends_the_request_within_its_time() {
    for refused in [&[][..], &[OpKind::SiluMul, OpKind::Silu], &[OpKind::KvWrite]] {
        let (text, log) = model(refused);
        let mut hung = generate(&text, Some(Duration::from_secs(20)));
        hung.next().unwrap().unwrap();
        log.hangs.store(true, Ordering::Relaxed);
        // The chip answers at once how long it would have been waited for.
        let waited = millis(hung.next().unwrap().unwrap_err());
        assert!((1..=20_000).contains(&waited), "{waited} ms");
        assert!(hung.next().is_none() && hung.finish_reason().is_none());
        let before = log.commands.load(Ordering::Relaxed);
        drop(hung);
        assert_eq!(log.commands.load(Ordering::Relaxed), before, "nothing is asked of the device, nor waited for");
        log.hangs.store(false, Ordering::Relaxed);
        assert_eq!(generate(&text, None).map(|p| p.unwrap().token_ids.len()).sum::<usize>(), 40, "others go on");
    }
}

#[test]
fn without_a_time_a_wait_is_bounded_all_the_same() {
    let (text, log) = model(&[]);
    let mut hung = generate(&text, None);
    hung.next().unwrap().unwrap();
    log.hangs.store(true, Ordering::Relaxed);
    assert_eq!(millis(hung.next().unwrap().unwrap_err()), PATIENCE.as_millis() as u64);
}

#[test]
fn a_request_whose_time_is_over_ends_on_a_device_that_works() {
    let (text, _) = model(&[]);
    let mut late = generate(&text, Some(Duration::from_secs(3600)));
    late.next().unwrap().unwrap();
    let mut late = generate(&text, Some(Duration::from_millis(300)));
    std::thread::sleep(Duration::from_millis(300));
    let error = late.next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the request did not finish within 300 ms");
    assert!(late.next().is_none());
}

#[test]
fn loading_onto_a_device_that_hangs_ends_in_an_error() {
    let chip = Chip::new(&[], true);
    chip.log.hangs.store(true, Ordering::Relaxed);
    let device: Arc<dyn Device> = Arc::new(chip);
    for patience in [None, Some(Duration::from_millis(70))] {
        let options = LoadOptions { patience, ..Default::default() };
        let error = load_as(&device, "llama2-mha", config("llama2-mha", "config.json"), options).err().unwrap();
        assert_eq!(millis(error), patience.unwrap_or(PATIENCE).as_millis() as u64);
    }
}
