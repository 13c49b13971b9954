//! Guesses, right and wrong, and what becomes of them.

use std::sync::{Arc, Mutex};

use qiao_core::Error;
use qiao_engine::Result;
use qiao_engine::sampler::Sampler;
use qiao_engine::serve::{DraftModel, Policy, Proposer, Request, Want};

use crate::crowd::{Crowd, greedy, policy};
use crate::slots::{Dice, Plain, Slots, VOCAB, alone, limits};

/// Knows the model, and errs as often as it is told.
pub struct Guesser {
    window: Option<usize>,
    dice: Dice,
    wrong: usize,
    forgotten: Vec<u64>,
}

impl Guesser {
    pub fn new(window: Option<usize>, dice: Dice, wrong: usize) -> Guesser {
        Guesser { window, dice, wrong, forgotten: Vec::new() }
    }

    fn guess(&mut self, want: &Want<'_>) -> Vec<u32> {
        let mut plain = Plain::new(self.window);
        let mut sampler = want.sampler.clone();
        let mut row = want.tokens.iter().map(|token| plain.push(*token)).last().unwrap();
        // More than is wanted now and then, and ids that there are not.
        (0..want.most + self.dice.below(2))
            .map_while(|_| {
                let id = sampler.next(&row, &[]).ok()?;
                let id = if self.dice.chance(self.wrong) { self.dice.below(VOCAB + 3) as u32 } else { id };
                row = plain.push(id);
                Some(id)
            })
            .collect()
    }
}

impl Proposer for Guesser {
    fn propose(&mut self, wants: &[Want<'_>]) -> Result<Vec<Vec<u32>>> {
        for want in wants {
            assert!(want.most > 0 && !self.forgotten.contains(&want.sequence));
        }
        if self.dice.chance(self.wrong / 5) {
            return Err(Error::internal("a guess", "no idea").into());
        }
        let fewer = if self.dice.chance(self.wrong / 5) { self.dice.below(wants.len() + 1) } else { wants.len() };
        Ok(wants[..fewer].iter().map(|want| self.guess(want)).collect())
    }

    fn forget(&mut self, sequence: u64) {
        assert!(!self.forgotten.contains(&sequence), "forgotten twice");
        self.forgotten.push(sequence);
    }
}

fn guessing(wrong: usize, policy: Policy) -> Crowd {
    let mut crowd = Crowd::new(limits(4, 60, 32, 8), policy);
    crowd.scheduler = crowd.scheduler.with_proposer(Box::new(Guesser::new(None, Dice(1), wrong)));
    crowd
}

fn asking(prompt: u32, max_tokens: usize) -> Request {
    Request { speculate: true, ..greedy([prompt], max_tokens) }
}

#[test]
fn right_guesses_make_fewer_batches_of_the_same_text() {
    let mut crowd = guessing(0, Policy { draft: 4, ..policy() });
    let id = crowd.submit(asking(5, 31));
    // The first token comes of the prompt, then five of every batch.
    crowd.finish(8);
    let said = crowd.said(id, 0);
    assert_eq!(said.ids, alone(&limits(4, 60, 32, 8), &[], &asking(5, 31))[0]);
    assert_eq!((said.usage().drafted_tokens, said.usage().accepted_tokens), (24, 24));
    assert_eq!(crowd.log.lock().unwrap().batches.len(), 7);
}

#[test]
fn wrong_guesses_are_counted_and_change_nothing() {
    let mut crowd = guessing(60, Policy { draft: 4, ..policy() });
    let requests: Vec<Request> = (0..5).map(|i| asking(i, 25)).collect();
    let ids: Vec<_> = requests.iter().map(|request| crowd.submit(request.clone())).collect();
    crowd.finish(60);
    for (id, request) in ids.into_iter().zip(&requests) {
        let said = crowd.said(id, 0);
        assert_eq!(said.ids, alone(&limits(4, 60, 32, 8), &[], request)[0]);
        assert!(said.usage().accepted_tokens < said.usage().drafted_tokens);
    }
}

#[test]
fn who_does_not_ask_gets_no_guesses() {
    let mut crowd = guessing(0, Policy { draft: 4, ..policy() });
    let id = crowd.submit(greedy([5], 20));
    crowd.finish(21);
    assert_eq!(crowd.said(id, 0).usage().drafted_tokens, 0);
    assert_eq!(crowd.log.lock().unwrap().batches.len(), 20);
}

#[test]
fn a_guess_takes_no_room_from_anybody() {
    // Two fill the cache to the last block; guesses would need more.
    let mut crowd = Crowd::new(limits(1, 1 + 21 + 21, 32, 8), Policy { draft: 4, ..policy() });
    crowd.scheduler = crowd.scheduler.with_proposer(Box::new(Guesser::new(None, Dice(1), 100)));
    let ids = [crowd.submit(asking(5, 21)), crowd.submit(asking(6, 21))];
    crowd.finish(30);
    for id in ids {
        assert_eq!(crowd.said(id, 0).usage().preemptions, 0);
        assert!(crowd.said(id, 0).usage().drafted_tokens > 20);
    }
}

/// Fails whenever it is asked; counts how often that is.
struct Failing(Error, Arc<Mutex<usize>>);

impl Proposer for Failing {
    fn propose(&mut self, _: &[Want<'_>]) -> Result<Vec<Vec<u32>>> {
        *self.1.lock().unwrap() += 1;
        Err(self.0.clone().into())
    }

    fn forget(&mut self, _: u64) {}
}

fn hung() -> Error {
    Error::Timeout { what: "the draft's device".into(), millis: 300_000 }
}

fn gone() -> Error {
    Error::DeviceLost { device: "the draft's".into(), why: "pulled out".into() }
}

#[test]
fn who_hangs_or_is_lost_is_not_asked_again() {
    for (error, times) in [(hung(), 1), (gone(), 1), (Error::internal("a guess", "no idea"), 19)] {
        let mut crowd = Crowd::new(limits(4, 60, 32, 8), policy());
        let asked = Arc::default();
        crowd.scheduler = crowd.scheduler.with_proposer(Box::new(Failing(error.clone(), Arc::clone(&asked))));
        let id = crowd.submit(asking(5, 21));
        crowd.finish(22);
        assert_eq!(crowd.said(id, 0).ids, alone(&limits(4, 60, 32, 8), &[], &asking(5, 21))[0]);
        assert_eq!(*asked.lock().unwrap(), times, "{error}");
    }
}

#[test]
fn a_draft_model_that_can_not_be_mended_is_lost_and_one_that_hangs_is_not_waited_for_again() {
    type Fails = fn(&'static str, usize) -> Option<Error>;
    let broken: Fails = |name, _| (name == "run").then(|| Error::internal("a batch", "it failed"));
    let beyond: Fails = |_, _| Some(Error::internal("a batch", "it failed"));
    let hangs: Fails = |name, _| (name == "run").then(hung);
    let sampler = Sampler::new(greedy([5], 9).params, &[5]).unwrap();
    let want = [Want { sequence: 0, tokens: &[5], most: 3, sampler: &sampler }];
    for (faults, recovered, what) in [(broken, 1, "it failed"), (beyond, 1, "is lost"), (hangs, 0, "300000 ms")] {
        let slots = Slots::failing(limits(4, 60, 32, 8), Box::new(faults));
        let log = slots.log();
        let error = DraftModel::new(Box::new(slots), VOCAB).unwrap().propose(&want).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert_eq!(log.lock().unwrap().recovered, recovered);
    }
}
