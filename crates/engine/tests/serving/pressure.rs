//! Two hundred requests on a cache far too small, with cancels, forks, pauses and a device that fails.
//!
//! The same for twenty minutes: `cargo test --release -p qiao-engine --test serving -- --ignored soak`; `QIAO_SOAK_MINUTES` says
//! otherwise, and `QIAO_SOAK_ROUND` that it begins with a later round, which a failure names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_core::{DType, Device};
use qiao_cpu::Isa;
use qiao_engine::generation::SamplingParams;
use qiao_engine::runner::{LoadOptions, LoadedModel};
use qiao_engine::serve::{
    DraftModel, FinishReason, Policy, Preempt, PromptLookup, Proposer, Request, RequestId, Scheduler,
};
use qiao_layers::Faulty;
use qiao_layers::faulty::{Command, Fault, Rule, When};
use qiao_reference::data::Rng;

use crate::crowd::{Crowd, alone, executor, scheduler};
use crate::fixture::{config, cpu, load_as};

/// Blocks of the pool, the null block included, and tokens of each: a little more than the longest request needs alone.
const BLOCKS: u64 = 17;
const BLOCK: usize = 8;

/// Bytes that swapped blocks may take on the host.
const HOST_BYTES: u64 = 64 << 10;

/// Numbers from a seed.
struct Rand(Rng);

impl Rand {
    fn below(&mut self, n: u64) -> u64 {
        self.0.below(n as usize) as u64
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A request of 1 to 60 prompt tokens, of which half share a beginning, 1 to 40 answers and up to three samples.
fn request(r: &mut Rand) -> Request {
    let shared = if r.one_in(2) { 1 + r.below(30) as u32 } else { 0 };
    let own = 1 + r.below(30);
    let mut prompt: Vec<u32> = (0..shared).map(|t| t * 5 % 128).collect();
    prompt.extend((0..own).map(|_| r.below(128) as u32));
    let params = SamplingParams {
        max_tokens: 1 + r.below(40) as usize,
        ignore_eos: true,
        temperature: if r.one_in(4) { 0.8 } else { 0.0 },
        seed: r.below(1 << 40),
        ..Default::default()
    };
    Request {
        samples: if r.one_in(5) { 2 + r.below(2) as usize } else { 1 },
        priority: r.below(3) as i32,
        tenant: ["", "a", "b"][r.below(3) as usize].to_string(),
        speculate: r.one_in(2),
        ..Request::new(prompt, params)
    }
}

/// What happens to a crowd, and what must come of it.
struct Trouble {
    model: Arc<LoadedModel>,
    policy: Policy,
    proposer: Option<Box<dyn Proposer>>,
    requests: u64,
    seed: u64,
    /// Turns the device's faults on and off.
    faults: Box<dyn Fn(bool)>,
    /// A model whose device does not fail, for the truth.
    sound: Arc<LoadedModel>,
}

#[derive(Debug)]
struct Outcome {
    finished: usize,
    cancelled: usize,
    failed: usize,
    preemptions: u64,
    faults: u64,
}

impl Trouble {
    /// Lets a crowd through: requests come in over time, some are cancelled, some readers are slow.
    fn run(self) -> Outcome {
        let mut r = Rand(Rng::new(self.seed));
        let mut scheduler = scheduler(executor(&self.model, BLOCKS, BLOCK), self.policy, self.proposer);
        let budget = BLOCKS as usize - 1;
        let mut crowd = Crowd::default();
        let mut requests: BTreeMap<RequestId, Request> = BTreeMap::new();
        let mut paused: Vec<(RequestId, usize)> = Vec::new();
        (self.faults)(true);
        for step in 0u64.. {
            assert!(step < 100_000, "no end: {:?}", scheduler.load());
            while (requests.len() as u64) < self.requests && scheduler.load().queued < 30 && !r.one_in(4) {
                let request = request(&mut r);
                let id = scheduler.submit(request.clone()).unwrap();
                requests.insert(id, request);
            }
            if r.one_in(30) && !requests.is_empty() {
                scheduler.cancel(*requests.keys().nth(r.below(requests.len() as u64) as usize).unwrap());
            }
            trouble_readers(&mut r, &mut scheduler, &requests, &mut paused);
            crowd.step(&mut scheduler);
            scheduler.audit().unwrap();
            let load = scheduler.load();
            assert!(load.cache.used <= budget, "{} blocks of {budget}", load.cache.used);
            assert!(load.host_bytes <= HOST_BYTES, "{} bytes on the host", load.host_bytes);
            if requests.len() as u64 == self.requests && scheduler.is_idle() {
                break;
            }
        }
        (self.faults)(false);
        crowd.finish(&mut scheduler);
        let (finished, cancelled, failed) = judge(&self.sound, &requests, &crowd);
        let load = scheduler.load();
        Outcome { finished, cancelled, failed, preemptions: load.preemptions, faults: load.faults }
    }
}

/// Some readers stop, some go on.
fn trouble_readers(
    r: &mut Rand,
    scheduler: &mut Scheduler,
    requests: &BTreeMap<RequestId, Request>,
    paused: &mut Vec<(RequestId, usize)>,
) {
    if r.one_in(10) && !requests.is_empty() {
        let (id, request) = requests.iter().nth(r.below(requests.len() as u64) as usize).unwrap();
        let reader = (*id, r.below(request.samples as u64) as usize);
        scheduler.pause(reader.0, reader.1, true);
        paused.push(reader);
    }
    if paused.len() > 3 || !paused.is_empty() && r.one_in(8) {
        let (id, sample) = paused.remove(0);
        scheduler.pause(id, sample, false);
    }
}

/// Compares what was said with what each says alone; how many finished, were cancelled, and failed.
fn judge(model: &Arc<LoadedModel>, requests: &BTreeMap<RequestId, Request>, crowd: &Crowd) -> (usize, usize, usize) {
    let (mut finished, mut cancelled, mut failed) = (0, 0, 0);
    for (id, request) in requests {
        for sample in 0..request.samples {
            let said = crowd.said.get(&(*id, sample)).map_or(&[][..], Vec::as_slice);
            let truth = alone(model, request, sample);
            assert!(truth.starts_with(said), "{id:?}, sample {sample}: {said:?} in place of {truth:?}");
            match &crowd.ends[&(*id, sample)] {
                Ok(end) if end.reason == FinishReason::Cancelled => cancelled += 1,
                Ok(_) => {
                    finished += 1;
                    assert_eq!(said.len(), truth.len(), "{id:?}, sample {sample} ended early");
                }
                Err(_) => failed += 1,
            }
        }
    }
    (finished, cancelled, failed)
}

const MODEL: &str = "llama3-gqa";

fn best() -> Arc<dyn Device> {
    [Isa::Avx512, Isa::Avx2, Isa::Scalar].into_iter().find_map(cpu).unwrap()
}

fn model_on(device: &Arc<dyn Device>, name: &str, kv: Option<DType>) -> Arc<LoadedModel> {
    let options = LoadOptions { kv_dtype: kv, patience: Some(Duration::from_secs(20)), ..LoadOptions::default() };
    load_as(device, name, config(name, "config.json"), options).unwrap()
}

/// Faults of every kind that can be mended.
fn rules() -> Vec<Rule> {
    let share = |command, fault, share| Rule { command, when: When::Share(share), fault };
    vec![
        share(Command::Execute, Fault::Failure, 0.02),
        share(Command::Execute, Fault::Timeout, 0.01),
        share(Command::Upload, Fault::Failure, 0.005),
        share(Command::Download, Fault::Failure, 0.005),
        share(Command::Download, Fault::Timeout, 0.005),
        share(Command::Copy, Fault::Failure, 0.01),
        share(Command::Alloc, Fault::OutOfMemory, 0.1),
    ]
}

fn trouble(
    seed: u64,
    requests: u64,
    policy: Policy,
    proposer: Option<Box<dyn Proposer>>,
    kv: Option<DType>,
) -> Outcome {
    let (device, faults) = Faulty::wrap(best(), seed, rules());
    let model = model_on(&device, MODEL, kv);
    let sound = model_on(&best(), MODEL, kv);
    let faults = Box::new(move |on| faults.set(on));
    Trouble { model, policy, proposer, requests, seed, faults, sound }.run()
}

fn swap() -> Policy {
    Policy { preempt: Preempt::Swap { host_bytes: HOST_BYTES }, ..recompute() }
}

fn recompute() -> Policy {
    // So many retries that a request fails only by bad luck.
    Policy { chunk: 16, retries: 6, ..Policy::default() }
}

fn draft() -> Option<Box<dyn Proposer>> {
    let small = model_on(&best(), "qwen3-qknorm", None);
    Some(Box::new(DraftModel::new(Box::new(executor(&small, 30, BLOCK)), small.spec().vocab).unwrap()))
}

fn holds(outcome: &Outcome, requests: u64) {
    println!("{outcome:?}");
    let all = outcome.finished + outcome.cancelled + outcome.failed;
    assert!(all as u64 >= requests, "{all} samples of {requests} requests");
    assert!(outcome.finished * 2 > all, "{} of {all} finished", outcome.finished);
    assert!(
        outcome.preemptions > 20 && outcome.faults > 5,
        "{} preempted, {} faults",
        outcome.preemptions,
        outcome.faults
    );
}

#[test]
fn two_hundred_requests_say_what_they_say_alone_recomputed() {
    let outcome = trouble(1, 200, recompute(), Some(Box::new(PromptLookup::default())), None);
    assert!(outcome.cancelled > 0);
    holds(&outcome, 200);
}

#[test]
fn two_hundred_requests_say_what_they_say_alone_swapped() {
    holds(&trouble(2, 200, swap(), draft(), None), 200);
}

#[test]
fn two_hundred_requests_with_quantised_pages_say_what_they_say_alone() {
    holds(&trouble(3, 200, swap(), None, Some(DType::I8)), 200);
}

/// A round, which is said where it fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was QIAO_SOAK_ROUND={}", self.0);
        }
    }
}

#[test]
#[ignore = "twenty minutes; see the head of the file"]
fn soak() {
    let minutes = std::env::var("QIAO_SOAK_MINUTES").ok().map_or(20.0, |m| m.parse::<f64>().expect("minutes"));
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let first = std::env::var("QIAO_SOAK_ROUND").ok().map_or(0, |n| n.parse().expect("a round"));
    let (mut rounds, mut finished, mut preemptions, mut faults) = (first, 0, 0, 0);
    while Instant::now() < end {
        let _named = Named(rounds);
        let (policy, kv) = [(recompute(), None), (swap(), None), (swap(), Some(DType::F8E4M3))][rounds as usize % 3];
        let proposer = match rounds % 4 {
            0 => None,
            1 => draft(),
            _ => Some(Box::new(PromptLookup { longest: 3, shortest: 1 }) as Box<dyn Proposer>),
        };
        let outcome = trouble(1000 + rounds, 200, policy, proposer, kv);
        rounds += 1;
        finished += outcome.finished;
        preemptions += outcome.preemptions;
        faults += outcome.faults;
    }
    println!(
        "{} rounds of 200 requests: {finished} samples finished, {preemptions} preemptions, {faults} faults",
        rounds - first
    );
}
