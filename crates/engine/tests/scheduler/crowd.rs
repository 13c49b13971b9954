//! A scheduler with its executor's log and what its requests have said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use qiao_engine::Result;
use qiao_engine::generation::SamplingParams;
use qiao_engine::serve::{
    End, Event, FinishReason, Limits, Policy, Request, RequestId, Scheduler, Speech, Stepped, Usage,
};

use crate::slots::{Faults, Log, Slots};

/// What a sample has said.
#[derive(Default)]
pub struct Said {
    pub ids: Vec<u32>,
    pub text: String,
    /// How it ended, or the text of its error.
    pub end: Option<Result<End, String>>,
}

impl Said {
    pub fn usage(&self) -> Usage {
        self.end.as_ref().unwrap().as_ref().unwrap().usage
    }

    pub fn reason(&self) -> FinishReason {
        self.end.as_ref().unwrap().as_ref().unwrap().reason
    }

    pub fn error(&self) -> &str {
        self.end.as_ref().unwrap().as_ref().unwrap_err()
    }
}

pub struct Crowd {
    pub scheduler: Scheduler,
    pub log: Arc<Mutex<Log>>,
    pub said: BTreeMap<(RequestId, usize), Said>,
    /// Samples in the order in which they ended.
    pub ended: Vec<(RequestId, usize)>,
}

impl Crowd {
    pub fn new(limits: Limits, policy: Policy) -> Crowd {
        Crowd::over(Slots::new(limits), Speech::none(), policy)
    }

    pub fn failing(limits: Limits, policy: Policy, faults: Faults) -> Crowd {
        Crowd::over(Slots::failing(limits, faults), Speech::none(), policy)
    }

    pub fn over(slots: Slots, speech: Speech, policy: Policy) -> Crowd {
        let log = slots.log();
        let scheduler = Scheduler::new(Box::new(slots), speech, policy).unwrap();
        Crowd { scheduler, log, said: BTreeMap::new(), ended: Vec::new() }
    }

    pub fn submit(&mut self, request: Request) -> RequestId {
        self.scheduler.submit(request).unwrap()
    }

    /// Takes a step, goes over the books, and notes what was said.
    pub fn try_step(&mut self) -> Result<Stepped> {
        let mut events = Vec::new();
        let stepped = self.scheduler.step(&mut events);
        self.scheduler.audit().unwrap();
        for Event { request, sample, piece, end } in events {
            let said = self.said.entry((request, sample)).or_default();
            assert!(said.end.is_none(), "{request:?} {sample} goes on after its end");
            said.ids.extend(piece.token_ids);
            said.text.push_str(&piece.text);
            if let Some(end) = end {
                said.end = Some(end.map_err(|error| error.to_string()));
                self.ended.push((request, sample));
            }
        }
        stepped
    }

    pub fn step(&mut self) -> Stepped {
        self.try_step().unwrap()
    }

    pub fn steps(&mut self, n: usize) {
        for _ in 0..n {
            self.step();
        }
    }

    /// Goes on until every request is over, and sees that nothing is left behind.
    pub fn finish(&mut self, most: usize) {
        for _ in 0..=most {
            if self.scheduler.is_idle() {
                return self.is_clean();
            }
            let waits = self.step() == Stepped::Waiting;
            assert!(!waits || self.scheduler.is_idle(), "{:?}", self.scheduler.load());
        }
        panic!("no end after {most} steps: {:?}", self.scheduler.load());
    }

    pub fn is_clean(&self) {
        let load = self.scheduler.load();
        let left = (load.cache.used, load.cache.sequences, load.host_bytes, load.queued, load.running, load.preempted);
        assert_eq!(left, (0, 0, 0, 0, 0, 0), "blocks, sequences, host bytes, requests and samples left");
    }

    pub fn said(&self, id: RequestId, sample: usize) -> &Said {
        &self.said[&(id, sample)]
    }
}

/// Greedy, and only the number of tokens ends it.
pub fn greedy(prompt: impl IntoIterator<Item = u32>, max_tokens: usize) -> Request {
    let params = SamplingParams { max_tokens, ignore_eos: true, ..Default::default() };
    Request::new(prompt.into_iter().collect(), params)
}

/// A policy without sharing, under which every request may run.
pub fn policy() -> Policy {
    Policy { chunk: 8, sharing: false, ..Default::default() }
}
