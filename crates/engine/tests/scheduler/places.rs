//! Who loses its place, how it comes back, and what a paused reader means.

use qiao_engine::generation::SamplingParams;
use qiao_engine::serve::{FinishReason, Policy, Preempt, Request, RequestId, Stepped};
use std::time::Duration;

use crate::crowd::{Crowd, greedy, policy};
use crate::slots::{alone, limits};

/// Two requests for which there is not room enough, of which the second must go.
fn squeezed(policy: Policy) -> (Crowd, [RequestId; 2]) {
    let limits = limits(2, 1 + 20, 16, 8);
    let mut crowd = Crowd::new(limits, policy);
    let requests = [greedy([1, 2, 3], 24), greedy([4, 5, 6], 24)];
    let ids = requests.clone().map(|request| crowd.submit(request));
    crowd.finish(80);
    for (id, request) in ids.iter().zip(&requests) {
        assert_eq!(crowd.said(*id, 0).ids, alone(&limits, &[], request)[0]);
    }
    assert_eq!(ids.map(|id| crowd.said(id, 0).usage().preemptions), [0, 1], "the later one goes");
    (crowd, ids)
}

/// Tokens that ran, all batches together.
fn tokens(crowd: &Crowd) -> u64 {
    crowd.scheduler.load().tokens
}

#[test]
fn a_sequence_that_lost_its_blocks_is_computed_again() {
    let (crowd, _) = squeezed(policy());
    // 26 of each, and the second once more up to where it stood.
    assert_eq!(tokens(&crowd), 2 * 26 + 20);
}

#[test]
fn what_the_cache_has_kept_is_not_computed_again() {
    let (crowd, ids) = squeezed(Policy { sharing: true, ..policy() });
    assert!(tokens(&crowd) < 2 * 26 + 20, "{}", tokens(&crowd));
    assert_eq!(crowd.said(ids[1], 0).usage().cached_tokens, 0, "of the prompt nothing was there before");
}

#[test]
fn blocks_that_went_to_the_host_come_back_as_they_were() {
    let (crowd, _) = squeezed(Policy { preempt: Preempt::Swap { host_bytes: 1 << 20 }, ..policy() });
    assert_eq!(tokens(&crowd), 2 * 26);
    let log = crowd.log.lock().unwrap();
    assert_eq!((log.saved, log.restored), (10, 10));
}

#[test]
fn a_host_without_room_means_computing_again() {
    // Ten blocks of two slots of 16 bytes.
    for (host_bytes, saved) in [(319, 0), (320, 10)] {
        let (crowd, _) = squeezed(Policy { preempt: Preempt::Swap { host_bytes }, ..policy() });
        assert_eq!(crowd.log.lock().unwrap().saved, saved, "{host_bytes}");
    }
}

#[test]
fn the_lowest_priority_goes_then_the_latest() {
    let mut crowd = Crowd::new(limits(1, 1 + 30, 16, 8), policy());
    let asked = [(1, 16), (0, 16), (1, 16)];
    let ids = asked.map(|(priority, most)| crowd.submit(Request { priority, ..greedy([1, 2], most) }));
    crowd.finish(100);
    let lost = ids.map(|id| crowd.said(id, 0).usage().preemptions);
    assert_eq!(lost[0], 0);
    assert!(lost[1] > 0, "{lost:?}");
    assert_eq!(crowd.ended.last(), Some(&(ids[1], 0)));
}

#[test]
fn who_lost_its_place_comes_back_before_new_ones() {
    let mut crowd = Crowd::new(limits(2, 1 + 20, 16, 8), policy());
    let ids = [greedy([1, 2, 3], 24), greedy([4, 5, 6], 24)].map(|request| crowd.submit(request));
    while crowd.scheduler.load().preempted == 0 {
        crowd.step();
    }
    let new = crowd.submit(greedy([7], 2));
    crowd.finish(80);
    assert_eq!(crowd.said(ids[1], 0).usage().preemptions, 1);
    let first_words = |id: RequestId| crowd.said(id, 0).usage().first_token;
    assert!(first_words(new) > Duration::ZERO);
    assert_eq!(crowd.ended[0], (ids[0], 0), "the new one was let in after the return: {:?}", crowd.ended);
}

#[test]
fn a_paused_sample_has_no_part_and_goes_first() {
    let mut crowd = Crowd::new(limits(2, 1 + 20, 16, 8), policy());
    let ids = [greedy([1, 2, 3], 24), greedy([4, 5, 6], 24)].map(|request| crowd.submit(request));
    crowd.steps(5);
    crowd.scheduler.pause(ids[0], 0, true);
    let said = crowd.said(ids[0], 0).ids.len();
    while crowd.said(ids[1], 0).end.is_none() {
        crowd.step();
    }
    assert_eq!(crowd.said(ids[0], 0).ids.len(), said, "not one more");
    assert_eq!(crowd.said(ids[1], 0).usage().preemptions, 0);
    assert_eq!(crowd.step(), Stepped::Waiting);
    assert!(!crowd.scheduler.is_idle());
    crowd.scheduler.pause(ids[0], 0, false);
    crowd.finish(40);
    assert_eq!(crowd.said(ids[0], 0).ids.len(), 24);
}

#[test]
fn a_request_whose_samples_are_all_paused_is_not_let_in() {
    let mut crowd = Crowd::new(limits(2, 1 + 20, 16, 8), policy());
    let asked = Request { samples: 2, ..greedy([1, 2, 3], 6) };
    let id = crowd.submit(asked.clone());
    crowd.scheduler.pause(id, 0, true);
    crowd.scheduler.pause(id, 1, true);
    assert_eq!(crowd.step(), Stepped::Waiting);
    assert_eq!(crowd.scheduler.load().queued, 1);
    crowd.scheduler.pause(id, 1, false);
    while crowd.said.get(&(id, 1)).is_none_or(|said| said.end.is_none()) {
        assert_ne!(crowd.step(), Stepped::Waiting);
    }
    assert!(!crowd.said.contains_key(&(id, 0)), "the paused one has said nothing");
    crowd.scheduler.pause(id, 0, false);
    crowd.finish(20);
    let limits = limits(2, 1 + 20, 16, 8);
    assert_eq!(crowd.said(id, 0).ids, alone(&limits, &[], &asked)[0]);
}

#[test]
fn a_cancelled_request_gives_everything_back_wherever_it_stands() {
    let swap = Policy { preempt: Preempt::Swap { host_bytes: 1 << 20 }, ..policy() };
    let mut crowd = Crowd::new(limits(2, 1 + 20, 4, 4), Policy { running: 3, ..swap });
    let speaking = crowd.submit(Request { samples: 2, ..greedy([1, 2], 24) });
    let reading = crowd.submit(greedy((0..20).map(|i| i % 7), 4));
    let waiting = crowd.submit(greedy([3], 4));
    crowd.steps(4);
    for id in [speaking, reading, waiting] {
        crowd.scheduler.cancel(id);
        crowd.scheduler.cancel(id);
    }
    assert!(!crowd.scheduler.is_idle(), "the ends were not told");
    assert_eq!(crowd.step(), Stepped::Waiting);
    assert!(crowd.ended.len() == 4 && crowd.scheduler.is_idle());
    assert!(crowd.ended.iter().all(|(id, sample)| crowd.said(*id, *sample).reason() == FinishReason::Cancelled));
    assert!(crowd.said(speaking, 1).usage().generated_tokens > 0);
    crowd.is_clean();
    // One that is away, with blocks on the host.
    let ids = [greedy([1, 2, 3], 24), greedy([4, 5, 6], 24)].map(|request| crowd.submit(request));
    while crowd.scheduler.load().host_bytes == 0 {
        crowd.step();
    }
    crowd.scheduler.cancel(ids[1]);
    assert_eq!(crowd.scheduler.load().host_bytes, 0);
    crowd.finish(40);
}

#[test]
fn a_request_ends_in_an_error_when_its_time_is_over() {
    let mut crowd = Crowd::new(limits(2, 1 + 40, 16, 8), policy());
    let timed = |millis| {
        let timeout = Some(Duration::from_millis(millis));
        let params = SamplingParams { max_tokens: 40, ignore_eos: true, timeout, ..Default::default() };
        Request { samples: 2, ..Request::new(vec![1, 2], params) }
    };
    let (over, soon, long) = (crowd.submit(timed(0)), crowd.submit(timed(400)), crowd.submit(timed(3_600_000)));
    crowd.step();
    assert_eq!(crowd.said(over, 1).error(), "the request did not finish within 0 ms");
    assert_eq!(crowd.scheduler.load().running, 4);
    // A paused one has its time as well.
    crowd.scheduler.pause(soon, 0, true);
    let due = crowd.scheduler.next_deadline().unwrap();
    std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
    crowd.step();
    for sample in 0..2 {
        assert_eq!(crowd.said(soon, sample).error(), "the request did not finish within 400 ms");
    }
    crowd.finish(50);
    assert_eq!(crowd.said(long, 0).ids.len(), 40);
}
