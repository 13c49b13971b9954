//! What requests and samples share.

use qiao_engine::generation::SamplingParams;
use qiao_engine::serve::{FinishReason, Policy, Request};

use crate::crowd::{Crowd, greedy, policy};
use crate::slots::{alone, limits};

fn sharing() -> Policy {
    Policy { sharing: true, ..policy() }
}

fn of(tenant: &str, request: Request) -> Request {
    Request { tenant: tenant.into(), ..request }
}

#[test]
fn a_prompt_that_begins_as_another_runs_only_where_it_differs() {
    let limits = limits(4, 60, 64, 8);
    let mut crowd = Crowd::new(limits, Policy { chunk: 64, ..sharing() });
    let first = crowd.submit(greedy(0..30, 4));
    crowd.step();
    let longer = greedy((0..28).chain([9, 9, 9]), 4);
    let second = crowd.submit(longer.clone());
    crowd.step();
    assert_eq!(crowd.log.lock().unwrap().batches[1].iter().map(|part| part.tokens).collect::<Vec<_>>(), [1, 3]);
    crowd.finish(10);
    let cached = [first, second].map(|id| crowd.said(id, 0).usage().cached_tokens);
    assert_eq!(cached, [0, 28]);
    assert_eq!(crowd.said(second, 0).ids, alone(&limits, &[], &longer)[0]);
    assert_eq!(crowd.scheduler.load().counters.found, 28);
}

#[test]
fn an_answer_is_found_by_the_prompt_that_continues_it() {
    let mut crowd = Crowd::new(limits(4, 60, 64, 8), sharing());
    let first = crowd.submit(greedy([1, 2, 3], 13));
    crowd.finish(20);
    let turn: Vec<u32> = [&[1, 2, 3][..], &crowd.said(first, 0).ids, &[5, 5]].concat();
    let second = crowd.submit(greedy(turn, 3));
    crowd.finish(20);
    // The last token of the answer never ran: 15 are held, 12 in whole blocks.
    assert_eq!(crowd.said(second, 0).usage().cached_tokens, 12);
}

#[test]
fn tenants_find_nothing_of_each_other() {
    let mut crowd = Crowd::new(limits(4, 60, 64, 8), sharing());
    let ids = ["a", "b", "a"].map(|tenant| {
        let id = crowd.submit(of(tenant, greedy(0..20, 2)));
        crowd.finish(20);
        id
    });
    assert_eq!(ids.map(|id| crowd.said(id, 0).usage().cached_tokens), [0, 0, 16]);
}

#[test]
fn a_policy_without_sharing_finds_nothing() {
    let mut crowd = Crowd::new(limits(4, 60, 64, 8), policy());
    let ids = [0, 1].map(|_| {
        let id = crowd.submit(greedy(0..20, 2));
        crowd.finish(20);
        id
    });
    assert_eq!(ids.map(|id| crowd.said(id, 0).usage().cached_tokens), [0, 0]);
    assert_eq!(crowd.scheduler.load().cache.cached, 0);
}

#[test]
fn samples_share_their_prompt_and_each_has_its_own_seed() {
    let limits = limits(4, 60, 64, 8);
    let params = SamplingParams { temperature: 1.0, seed: 40, max_tokens: 12, ignore_eos: true, ..Default::default() };
    let request = Request { samples: 4, ..Request::new((0..30).collect(), params.clone()) };
    let mut crowd = Crowd::new(limits, policy());
    let id = crowd.submit(request.clone());
    crowd.steps(4);
    let load = crowd.scheduler.load();
    // The prompt is there once: 7 whole blocks, and of the half-full one a copy for each but the last to write.
    assert_eq!((load.running, load.tokens), (4, 30));
    crowd.step();
    assert_eq!((crowd.scheduler.load().cache.used, crowd.log.lock().unwrap().copied), (7 + 4, 3));
    crowd.finish(20);
    let texts: Vec<_> = (0..4).map(|sample| crowd.said(id, sample).ids.clone()).collect();
    assert_eq!(texts, alone(&limits, &[], &request));
    for (i, text) in texts.iter().enumerate() {
        assert!(!texts[..i].contains(text), "two samples say the same");
        let one = SamplingParams { seed: 40 + i as u64, ..params.clone() };
        assert_eq!(*text, alone(&limits, &[], &Request::new((0..30).collect(), one))[0]);
    }
    assert_eq!(crowd.scheduler.load().tokens, 30 + 4 * 11);
}

#[test]
fn a_request_that_may_say_nothing_ends_without_running() {
    let mut crowd = Crowd::new(limits(4, 60, 64, 8), policy());
    let id = crowd.submit(Request { samples: 2, ..greedy([1], 0) });
    crowd.finish(1);
    assert_eq!((crowd.said(id, 1).reason(), crowd.log.lock().unwrap().calls), (FinishReason::Length, 0));
}

#[test]
fn a_full_context_ends_a_text() {
    let limits = qiao_engine::serve::Limits { context: 20, ..limits(4, 60, 64, 8) };
    let mut crowd = Crowd::new(limits, policy());
    let ids = [greedy(0..20, 50), greedy(0..15, 50)].map(|request| crowd.submit(request));
    crowd.finish(20);
    // The last token needs no room: it is given out and does not run.
    assert_eq!(ids.map(|id| crowd.said(id, 0).ids.len()), [1, 6]);
    assert!(ids.iter().all(|id| crowd.said(*id, 0).reason() == FinishReason::Length));
}
