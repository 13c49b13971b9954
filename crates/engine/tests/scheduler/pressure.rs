//! Any requests under any policy on caches far too small: every text is that of the request alone, and nothing is left behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use qiao_core::Error;
use qiao_engine::generation::SamplingParams;
use qiao_engine::serve::{Limits, Policy, Preempt, Request, RequestId, Speech, Stepped};
use qiao_engine::tokenizer::{Tokenizer, TokenizerConfig, Vocabulary};
use serde_json::{Map, Value, json};

use crate::crowd::{Crowd, Said};
use crate::guesses::Guesser;
use crate::slots::{CURSED, Dice, Faults, Slots, VOCAB, alone};

/// Letters, and bytes of é, 中 and the space, so that characters come in parts.
fn vocabulary() -> Arc<Vocabulary> {
    let tokens = (b'a'..=b'z').map(|letter| char::from(letter).to_string());
    let tokens = tokens.chain(["Ã", "©", "ä", "¸", "Ń", "Ġ", "ab", "ÃŃ", "Ġc", "!"].map(str::to_string));
    let vocab: Map<String, Value> = tokens.enumerate().map(|(id, text)| (text, id.into())).collect();
    assert_eq!(vocab.len(), VOCAB);
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"}});
    let tokenizer = Tokenizer::from_json("tokenizer.json", file.to_string().as_bytes(), TokenizerConfig::default());
    tokenizer.unwrap().vocabulary().unwrap()
}

fn speech(spoken: bool) -> Speech {
    let eos_ids = vec![2];
    match spoken {
        true => Speech { vocabulary: Some(vocabulary()), eos_ids, undecodable: vec![33] },
        false => Speech { eos_ids, ..Speech::none() },
    }
}

fn some_limits(dice: &mut Dice) -> Limits {
    let block_size = [1, 2, 3, 4, 8][dice.below(5)];
    let window = dice.chance(20).then(|| dice.within(1..=12));
    // Room for the longest request, and hardly for a second one.
    let blocks = 1 + 44usize.div_ceil(block_size) + dice.within(0..=12 / block_size + 2);
    let (tokens, sequences) = (dice.within(1..=24), dice.within(1..=9));
    Limits { window, context: dice.within(36..=44), ..crate::slots::limits(block_size, blocks, tokens, sequences) }
}

fn some_policy(dice: &mut Dice) -> Policy {
    let preempt = match dice.below(3) {
        0 => Preempt::Recompute,
        1 => Preempt::Swap { host_bytes: 1 << 20 },
        _ => Preempt::Swap { host_bytes: dice.below(1000) as u64 },
    };
    Policy {
        preempt,
        chunk: dice.within(1..=16),
        queue: 100,
        running: dice.within(1..=12),
        sharing: dice.chance(60),
        retries: dice.below(4),
        draft: dice.below(5),
    }
}

fn some_request(dice: &mut Dice, spoken: bool, samples: usize) -> Request {
    let stems: [&[u32]; 4] = [&[], &[1; 9], &[5, 6, 7, 8, 5, 6, 7, 8, 9, 4, 3], &[1, 1, 1, 1, 7, 7]];
    let mut prompt = stems[dice.below(4)].to_vec();
    prompt.extend((0..dice.within(1..=14)).map(|_| dice.below(3) as u32));
    let greedy = dice.chance(40);
    let params = SamplingParams {
        temperature: if greedy { 0.0 } else { 0.9 },
        top_k: dice.below(3) * 5,
        repetition_penalty: if dice.chance(20) { 1.3 } else { 1.0 },
        seed: dice.below(4) as u64,
        max_tokens: dice.below(22),
        min_tokens: dice.below(4),
        stop: if spoken && dice.chance(50) { vec!["e".into(), "é".into(), " cc".into()] } else { Vec::new() },
        stop_token_ids: vec![dice.below(VOCAB) as u32],
        ignore_eos: dice.chance(30),
        timeout: if dice.chance(4) { Some(Duration::ZERO) } else { None },
        ..Default::default()
    };
    Request {
        samples: dice.within(1..=samples),
        priority: dice.below(3) as i32 - 1,
        tenant: ["a", "b", "c"][dice.below(3)].into(),
        speculate: dice.chance(50),
        ..Request::new(prompt, params)
    }
}

/// The request alone, where nothing is scarce and nothing fails.
fn lone(limits: &Limits, spoken: bool, request: &Request) -> Vec<Said> {
    let roomy = Limits { blocks: 500, batch_tokens: 1000, batch_sequences: 10, ..*limits };
    let mut crowd = Crowd::over(Slots::new(roomy), speech(spoken), Policy { sharing: false, ..Default::default() });
    let mut request = request.clone();
    request.params.timeout = None;
    request.speculate = false;
    let id = crowd.submit(request.clone());
    crowd.finish(1000);
    let said: Vec<Said> = (0..request.samples).map(|i| crowd.said.remove(&(id, i)).unwrap()).collect();
    if request.params.stop.is_empty() && !spoken {
        let ids: Vec<_> = said.iter().map(|said| said.ids.clone()).collect();
        assert_eq!(ids, alone(limits, &[2], &request), "the cache changes nothing");
    }
    said
}

fn some_error(dice: &mut Dice) -> Error {
    match dice.below(3) {
        0 => Error::OutOfMemory { device: "slots".into(), asked: 1, free: 0 },
        1 => Error::Poisoned { first: Box::new(Error::internal("a kernel", "it failed")) },
        _ => Error::Timeout { what: "a batch".into(), millis: 1 },
    }
}

/// Calls that fail now and then.
fn faults(seed: u64, percent: usize) -> Faults {
    let mut dice = Dice(seed);
    Box::new(move |call, _| (call != "recover" && dice.chance(percent)).then(|| some_error(&mut dice)))
}

struct Run {
    crowd: Crowd,
    asked: BTreeMap<RequestId, Request>,
    cancelled: Vec<RequestId>,
    paused: Vec<(RequestId, usize)>,
}

impl Run {
    /// Something that comes from outside between two steps.
    fn meddle(&mut self, dice: &mut Dice) {
        let ids: Vec<RequestId> = self.asked.keys().copied().collect();
        let Some(id) = (!ids.is_empty()).then(|| ids[dice.below(ids.len())]) else { return };
        let sample = dice.below(self.asked[&id].samples);
        if dice.chance(3) {
            self.crowd.scheduler.cancel(id);
            self.cancelled.push(id);
        }
        if dice.chance(15) {
            self.crowd.scheduler.pause(id, sample, true);
            self.paused.push((id, sample));
        }
        if dice.chance(20) && !self.paused.is_empty() {
            let (id, sample) = self.paused.swap_remove(dice.below(self.paused.len()));
            self.crowd.scheduler.pause(id, sample, false);
        }
    }

    fn go_on(&mut self) {
        for (id, sample) in self.paused.drain(..) {
            self.crowd.scheduler.pause(id, sample, false);
        }
    }
}

/// Runs one random crowd; how many samples said all they had to say.
fn crowd_of(seed: u64, percent: usize) -> usize {
    let mut dice = Dice(seed);
    let (limits, policy, spoken) = (some_limits(&mut dice), some_policy(&mut dice), dice.chance(50));
    let slots = Slots::failing(limits, faults(seed ^ 77, percent));
    let mut crowd = Crowd::over(slots, speech(spoken), policy);
    if dice.chance(70) {
        let guesser = Guesser::new(limits.window, Dice(seed ^ 5), dice.within(0..=100));
        crowd.scheduler = crowd.scheduler.with_proposer(Box::new(guesser));
    }
    let samples = policy.running.min(limits.batch_sequences).min(limits.batch_tokens).min(3);
    let mut run = Run { crowd, asked: BTreeMap::new(), cancelled: Vec::new(), paused: Vec::new() };
    let mut coming = dice.within(1..=16);
    let mut waited = 0;
    for _ in 0..20_000 {
        while coming > 0 && dice.chance(40) {
            coming -= 1;
            let request = some_request(&mut dice, spoken, samples);
            let id = run.crowd.submit(request.clone());
            run.asked.insert(id, request);
        }
        if coming == 0 && run.crowd.scheduler.is_idle() {
            break;
        }
        run.meddle(&mut dice);
        let stepped = run.crowd.step();
        if let Preempt::Swap { host_bytes } = policy.preempt {
            assert!(run.crowd.scheduler.load().host_bytes <= host_bytes);
        }
        if stepped == Stepped::Waiting {
            waited += 1;
            if waited % 3 == 0 {
                run.go_on();
            }
        }
    }
    run.go_on();
    run.crowd.finish(2000);
    judge(&run, &limits, spoken, percent > 0)
}

fn judge(run: &Run, limits: &Limits, spoken: bool, faulty: bool) -> usize {
    let mut whole = 0;
    for (id, request) in &run.asked {
        let expected = lone(limits, spoken, request);
        for (sample, expected) in expected.iter().enumerate() {
            let said = run.crowd.said(*id, sample);
            match &said.end {
                Some(Ok(end)) if end.reason == expected.reason() => {
                    assert_eq!((&said.ids, &said.text), (&expected.ids, &expected.text), "{id:?} {sample} {request:?}");
                    assert_eq!(end.usage.generated_tokens, expected.ids.len());
                    whole += 1;
                }
                Some(Ok(_)) => {
                    assert!(run.cancelled.contains(id), "{id:?} {sample} {:?} {request:?}", said.end);
                    assert!(expected.ids.starts_with(&said.ids), "{id:?} {sample} {request:?}");
                }
                Some(Err(error)) if error.contains("the request did not finish") => {
                    assert_eq!(request.params.timeout, Some(Duration::ZERO));
                }
                Some(Err(error)) => assert!(faulty, "{id:?} {sample} {error} {request:?}"),
                None => panic!("{id:?} {sample} has no end"),
            }
        }
    }
    whole
}

fn crowds(seeds: std::ops::Range<u64>, percent: usize) {
    let mut whole = 0;
    for seed in seeds {
        println!("seed {seed}");
        whole += crowd_of(seed, percent);
    }
    assert!(whole > 500, "{whole} texts were compared");
}

#[test]
fn every_text_is_that_of_the_request_alone() {
    crowds(0..600, 0);
}

#[test]
fn every_text_is_that_of_the_request_alone_though_the_device_fails() {
    crowds(1000..1600, 6);
}

#[test]
fn two_hundred_requests_share_a_cache_for_one() {
    let mut dice = Dice(4);
    let limits = crate::slots::limits(4, 14, 32, 16);
    let swap = Preempt::Swap { host_bytes: 4000 };
    for (policy, percent) in [
        (Policy { chunk: 8, queue: 200, ..Default::default() }, 0),
        (Policy { chunk: 8, queue: 200, preempt: swap, ..Default::default() }, 3),
    ] {
        let mut crowd = Crowd::over(Slots::failing(limits, faults(9, percent)), speech(false), policy);
        let requests: Vec<Request> = (0..200).map(|_| some_request(&mut dice, false, 3)).collect();
        let ids: Vec<RequestId> = requests.iter().map(|request| crowd.submit(request.clone())).collect();
        crowd.finish(20_000);
        let mut whole = 0;
        for (id, request) in ids.iter().zip(&requests) {
            for (sample, ids) in alone(&limits, &[2], request).iter().enumerate() {
                let said = crowd.said(*id, sample);
                if said.end.as_ref().unwrap().is_ok() {
                    assert_eq!(&said.ids, ids, "{request:?}");
                    whole += 1;
                }
            }
        }
        assert!(whole > 350 && crowd.scheduler.load().preemptions > 20, "{whole} {:?}", crowd.scheduler.load());
    }
}

#[test]
fn the_oldest_of_the_highest_priority_goes_on_in_every_step() {
    for preempt in [Preempt::Recompute, Preempt::Swap { host_bytes: 1 << 20 }] {
        let mut crowd = Crowd::new(
            crate::slots::limits(2, 12, 16, 8),
            Policy { chunk: 4, sharing: false, preempt, ..Default::default() },
        );
        // Each of them fills the cache in the end.
        let ids: Vec<RequestId> = (0..6).map(|i| crowd.submit(crate::crowd::greedy([i, i, i], 20))).collect();
        for (i, id) in ids.iter().enumerate() {
            let mut before = crowd.said.get(&(*id, 0)).map_or(0, |said| said.ids.len());
            let mut idle = 0;
            while crowd.said.get(&(*id, 0)).is_none_or(|said| said.end.is_none()) {
                crowd.step();
                let now = crowd.said.get(&(*id, 0)).map_or(0, |said| said.ids.len());
                idle = if now > before { 0 } else { idle + 1 };
                assert!(idle <= 22usize.div_ceil(4) + 1, "request {i} stands still at {now}");
                before = now;
            }
            assert_eq!(crowd.ended, ids[..=i].iter().map(|id| (*id, 0)).collect::<Vec<_>>(), "in order of age");
        }
        crowd.finish(1);
        assert!(crowd.scheduler.load().preemptions > 0);
    }
}

#[test]
fn logits_that_are_no_numbers_end_their_own_request_alone() {
    let limits = crate::slots::limits(4, 30, 16, 8);
    let mut crowd = Crowd::new(limits, crate::crowd::policy());
    let good = [crate::crowd::greedy([1, 2], 10), crate::crowd::greedy([3], 10)];
    let first = crowd.submit(good[0].clone());
    let cursed = crowd.submit(Request { samples: 2, ..crate::crowd::greedy([4, CURSED], 10) });
    let second = crowd.submit(good[1].clone());
    crowd.finish(30);
    for sample in 0..2 {
        assert!(crowd.said(cursed, sample).error().contains("not a number"));
    }
    assert_eq!(crowd.said(first, 0).ids, alone(&limits, &[], &good[0])[0]);
    assert_eq!(crowd.said(second, 0).ids, alone(&limits, &[], &good[1])[0]);
}
