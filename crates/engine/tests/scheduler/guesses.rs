//! Guesses, right and wrong, and what becomes of them.

use qiao_core::Error;
use qiao_engine::Result;
use qiao_engine::serve::{Policy, Proposer, Request, Want};

use crate::crowd::{Crowd, greedy, policy};
use crate::slots::{Dice, Plain, VOCAB, alone, limits};

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
