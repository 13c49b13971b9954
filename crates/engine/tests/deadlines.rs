//! A device that hangs or fails ends the request, within its time, and nothing else.

mod fixture;

#[path = "../../layers/tests/chip/mod.rs"]
mod chip;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chip::{Chip, Log};
use fixture::{config, fixtures, load_as, reference};
use qiao_core::{Device, Error, OpKind};
use qiao_engine::EngineError;
use qiao_engine::checkpoint::Checkpoint;
use qiao_engine::generate::Generation;
use qiao_engine::generation::SamplingParams;
use qiao_engine::runner::LoadOptions;
use qiao_engine::serve::{CacheOptions, DraftModel, PagedExecutor, Proposer, Want};
use qiao_engine::sides::{Deadline, PATIENCE};
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

/// A draft model whose errors are kept.
struct Watched(DraftModel, Arc<Mutex<Vec<EngineError>>>);

impl Proposer for Watched {
    fn propose(&mut self, wants: &[Want<'_>]) -> qiao_engine::Result<Vec<Vec<u32>>> {
        self.0.propose(wants).map_err(|error| {
            let again = Error::Timeout { what: "chip".into(), millis: millis(error) };
            self.1.lock().unwrap().push(again.clone().into());
            again.into()
        })
    }

    fn forget(&mut self, sequence: u64) {
        self.0.forget(sequence);
    }

    fn set_deadline(&mut self, deadline: Deadline) {
        self.0.set_deadline(deadline);
    }
}

#[test]
fn a_draft_that_hangs_costs_one_wait_within_the_time_of_the_request() {
    let (text, _) = model(&[]);
    let said = |generation: Generation| generation.flat_map(|piece| piece.unwrap().token_ids).collect::<Vec<u32>>();
    let expected = said(generate(&text, None));
    for (timeout, most) in [(None, PATIENCE), (Some(Duration::from_secs(60)), Duration::from_secs(60))] {
        let (draft, log) = model(&[]);
        let errors = Arc::default();
        let executor = PagedExecutor::new(draft.model().clone(), CacheOptions::default()).unwrap();
        let vocab = text.model().spec().vocab;
        let watched = Watched(DraftModel::new(Box::new(executor), vocab).unwrap(), Arc::clone(&errors));
        let mut guessed = generate(&text, timeout).guess(Box::new(watched), 3).unwrap();
        let first: Vec<u32> = guessed.by_ref().take(6).flat_map(|piece| piece.unwrap().token_ids).collect();
        assert!(guessed.stats().drafted_tokens > 0);
        log.hangs.store(true, Ordering::Relaxed);
        assert_eq!([first, said(guessed)].concat(), expected);
        let waits: Vec<u64> = std::mem::take(&mut *errors.lock().unwrap()).into_iter().map(millis).collect();
        assert_eq!(waits.len(), 1, "it is not asked again: {waits:?}");
        assert!(u128::from(waits[0]) <= most.as_millis() && waits[0] > 0, "{waits:?}");
    }
}
