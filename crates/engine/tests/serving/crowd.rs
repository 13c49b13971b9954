//! Requests on a model, in a crowd and alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use qiao_engine::generation::SamplingParams;
use qiao_engine::runner::LoadedModel;
use qiao_engine::sampler::Sampler;
use qiao_engine::serve::{
    CacheOptions, End, Event, PagedExecutor, Policy, Proposer, Request, RequestId, Scheduler, Speech, Stepped,
};
use qiao_engine::session::Session;

/// What the samples of requests have said: tokens, and how they ended.
#[derive(Default)]
pub struct Crowd {
    pub said: BTreeMap<(RequestId, usize), Vec<u32>>,
    pub ends: BTreeMap<(RequestId, usize), Result<End, String>>,
}

impl Crowd {
    pub fn step(&mut self, scheduler: &mut Scheduler) -> Stepped {
        let mut events = Vec::new();
        let stepped = scheduler.step(&mut events).unwrap();
        for Event { request, sample, piece, end } in events {
            self.said.entry((request, sample)).or_default().extend(piece.token_ids);
            if let Some(end) = end {
                self.ends.insert((request, sample), end.map_err(|e| e.to_string()));
            }
        }
        stepped
    }

    /// Goes on until everything is over and nothing is left behind.
    pub fn finish(&mut self, scheduler: &mut Scheduler) {
        for _ in 0..200_000 {
            if scheduler.is_idle() {
                let load = scheduler.load();
                assert_eq!((load.cache.used, load.cache.sequences, load.host_bytes), (0, 0, 0), "left behind");
                return;
            }
            self.step(scheduler);
        }
        panic!("no end: {:?}", scheduler.load());
    }
}

pub fn executor(model: &Arc<LoadedModel>, blocks: u64, block_size: usize) -> PagedExecutor {
    let bytes = Some(block_bytes(model, block_size) * blocks);
    let options = CacheOptions { bytes, block_size: Some(block_size), batch_tokens: 64, batch_sequences: 12 };
    PagedExecutor::new(model.clone(), options).unwrap()
}

fn block_bytes(model: &LoadedModel, block_size: usize) -> u64 {
    let spec = model.spec();
    let scale = if model.kv_dtype().is_activation() { 0 } else { size_of::<f32>() };
    let head = spec.head_dim * model.kv_dtype().block_bytes() + scale;
    (2 * spec.layers * spec.kv_heads * block_size * head) as u64
}

pub fn scheduler(executor: PagedExecutor, policy: Policy, proposer: Option<Box<dyn Proposer>>) -> Scheduler {
    let scheduler = Scheduler::new(Box::new(executor), Speech::none(), policy).unwrap();
    match proposer {
        Some(proposer) => scheduler.with_proposer(proposer),
        None => scheduler,
    }
}

/// What a request says alone, in a cache of its own and token by token.
pub fn alone(model: &Arc<LoadedModel>, request: &Request, sample: usize) -> Vec<u32> {
    let params = SamplingParams { seed: request.params.seed + sample as u64, ..request.params.clone() };
    let mut session = Session::new(model.clone(), model.context()).unwrap();
    let mut sampler = Sampler::new(params, &request.prompt).unwrap();
    let mut said = Vec::new();
    let first = session.prefill(&request.prompt, &|| false).unwrap().unwrap();
    let mut id = sampler.next(first, &[]).unwrap();
    loop {
        said.push(id);
        if said.len() == request.params.max_tokens {
            return said;
        }
        id = sampler.next(session.step(id).unwrap(), &[]).unwrap();
    }
}
