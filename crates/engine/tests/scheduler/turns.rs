//! Who comes in, and whose turn it is.

use qiao_engine::EngineError;
use qiao_engine::serve::{Policy, Preempt, Request, RequestId, Stepped};

use crate::crowd::{Crowd, greedy, policy};
use crate::slots::{alone, limits};

fn of(tenant: &str, priority: i32, request: Request) -> Request {
    Request { tenant: tenant.into(), priority, ..request }
}

/// The requests in the order in which they said their first word.
fn order_of_first_words(crowd: &mut Crowd, ids: &[RequestId]) -> Vec<usize> {
    let mut order = Vec::new();
    while !crowd.scheduler.is_idle() {
        crowd.step();
        for (i, id) in ids.iter().enumerate() {
            if !order.contains(&i) && crowd.said.get(&(*id, 0)).is_some_and(|said| !said.ids.is_empty()) {
                order.push(i);
            }
        }
    }
    order
}

#[test]
fn the_higher_priority_comes_in_first() {
    let mut crowd = Crowd::new(limits(4, 40, 16, 8), Policy { running: 1, ..policy() });
    let ids = [0, 0, 5, -5, 5].map(|priority| crowd.submit(of("", priority, greedy([1, 2], 3))));
    assert_eq!(order_of_first_words(&mut crowd, &ids), [2, 4, 0, 1, 3]);
}

#[test]
fn a_higher_priority_takes_the_place_of_a_lower_one() {
    let limits = limits(4, 40, 16, 8);
    let mut crowd = Crowd::new(limits, Policy { running: 2, ..policy() });
    let low = [1, 0].map(|priority| (priority, greedy([3, 4], 20)));
    let low = low.map(|(priority, request)| crowd.submit(of("", priority, request)));
    crowd.steps(5);
    let high = crowd.submit(of("", 1, greedy([7], 4)));
    crowd.finish(60);
    assert_eq!(crowd.ended, [(high, 0), (low[0], 0), (low[1], 0)]);
    assert_eq!(low.map(|id| crowd.said(id, 0).usage().preemptions), [0, 1], "an equal is left alone");
    assert_eq!(crowd.said(low[1], 0).ids, alone(&limits, &[], &greedy([3, 4], 20))[0]);
}

#[test]
fn a_higher_priority_takes_nobody_away_where_that_would_not_help() {
    let mut crowd = Crowd::new(limits(4, 1 + 12, 16, 8), Policy { chunk: 16, ..policy() });
    // Of twelve blocks the first holds eight and more, and may not be touched.
    let first = crowd.submit(of("", 9, greedy(0..30, 8)));
    crowd.steps(3);
    let low = crowd.submit(of("", 0, greedy([1], 3)));
    crowd.step();
    let high = crowd.submit(of("", 5, greedy(0..16, 4)));
    crowd.finish(60);
    assert_eq!(crowd.ended, [(low, 0), (first, 0), (high, 0)]);
    assert_eq!(crowd.scheduler.load().preemptions, 0);
}

#[test]
fn tenants_share_alike_however_much_one_of_them_asks() {
    let mut crowd = Crowd::new(limits(4, 60, 16, 4), Policy { running: 2, ..policy() });
    let many: Vec<RequestId> = (0..20).map(|_| crowd.submit(of("many", 0, greedy([1, 2, 3], 10)))).collect();
    crowd.steps(12);
    let few: Vec<RequestId> = (0..5).map(|_| crowd.submit(of("few", 0, greedy([1, 2, 3], 10)))).collect();
    crowd.finish(400);
    let place = |id: &RequestId| crowd.ended.iter().position(|(ended, _)| ended == id).unwrap();
    // From its coming on the few has every second place: 4 of the many were in before it.
    assert!(place(&few[4]) < 16, "{:?}", crowd.ended);
    assert!(place(&few[4]) > 8, "its idle time is no credit: {:?}", crowd.ended);
    let alternating = crowd.ended[6..14].iter().filter(|(id, _)| few.contains(id)).count();
    assert!((3..=5).contains(&alternating), "{:?}", crowd.ended);
    assert!(many.is_sorted_by_key(place) && few.is_sorted_by_key(place), "first come, first served");
}

#[test]
fn service_is_counted_in_tokens_and_not_in_requests() {
    let mut crowd = Crowd::new(limits(4, 60, 64, 4), Policy { running: 1, chunk: 64, ..policy() });
    let long: Vec<RequestId> = (0..6).map(|_| crowd.submit(of("long", 0, greedy(0..30, 10)))).collect();
    let short: Vec<RequestId> = (0..6).map(|_| crowd.submit(of("short", 0, greedy([1], 2)))).collect();
    crowd.finish(200);
    let order: Vec<RequestId> = crowd.ended.iter().map(|(id, _)| *id).collect();
    // One of the long is 50, all of the short are 30.
    assert_eq!(order[..7], [&long[..1], &short[..]].concat());
}

#[test]
fn who_finds_no_room_waits_and_nobody_behind_overtakes() {
    let mut crowd = Crowd::new(limits(4, 1 + 12, 64, 8), Policy { chunk: 64, ..policy() });
    let first = crowd.submit(greedy(0..30, 10));
    crowd.step();
    let large = crowd.submit(greedy(0..20, 3));
    let small = crowd.submit(greedy([1], 3));
    crowd.step();
    let load = crowd.scheduler.load();
    assert_eq!((load.running, load.queued, load.preempted), (1, 2, 0));
    crowd.finish(40);
    assert_eq!(crowd.ended, [(first, 0), (large, 0), (small, 0)]);
    assert_eq!(crowd.scheduler.load().preemptions, 0);
}

#[test]
fn no_more_run_side_by_side_than_the_policy_and_a_batch_allow() {
    for (running, sequences, tokens, most) in [(3, 8, 16, 3), (8, 4, 16, 4), (8, 8, 2, 2)] {
        let mut crowd = Crowd::new(limits(4, 60, tokens, sequences), Policy { running, ..policy() });
        for i in 0..9 {
            crowd.submit(greedy([i], 6));
        }
        let mut seen = 0;
        while !crowd.scheduler.is_idle() {
            crowd.step();
            seen = seen.max(crowd.scheduler.load().running);
        }
        assert_eq!(seen, most);
    }
}

#[test]
fn a_full_queue_refuses_until_there_is_room() {
    let mut crowd = Crowd::new(limits(4, 40, 16, 8), Policy { queue: 2, running: 1, ..policy() });
    let ids = [0, 1].map(|i| crowd.submit(greedy([i], 2)));
    let refused = crowd.scheduler.submit(greedy([3], 2));
    assert!(matches!(refused, Err(EngineError::QueueFull { most: 2 })), "{refused:?}");
    crowd.step();
    crowd.submit(greedy([3], 2));
    assert!(crowd.scheduler.submit(greedy([3], 2)).is_err());
    crowd.scheduler.cancel(ids[1]);
    crowd.submit(greedy([4], 2));
    crowd.finish(40);
    assert_eq!(crowd.ended.len(), 4);
}

#[test]
fn what_can_never_run_is_refused() {
    let mut crowd = Crowd::new(limits(4, 1 + 8, 16, 4), policy());
    let mut refusal = |request: Request| crowd.scheduler.submit(request).unwrap_err().to_string();
    assert!(refusal(greedy([], 3)).contains("no tokens"));
    assert!(refusal(greedy([36], 3)).contains("token id 36"));
    assert!(refusal(greedy((0..97).map(|i| i % 9), 1)).contains("97 tokens do not fit into a context of 96"));
    assert!(refusal(greedy(0..10, 24)).contains("33 tokens, which is 9 blocks of the cache, and it has 8"));
    assert!(refusal(Request { samples: 0, ..greedy([1], 3) }).contains("samples"));
    assert!(refusal(Request { samples: 5, ..greedy([1], 3) }).contains("5, and 4 may run side by side"));
    let mut odd = greedy([1], 3);
    odd.params.top_p = 0.0;
    assert!(refusal(odd.clone()).contains("top_p"));
    odd.params.top_p = 1.0;
    odd.params.stop = vec!["end".into()];
    assert!(refusal(odd).contains("stop must be empty"));
    crowd.submit(greedy(0..10, 23));
    crowd.finish(40);
    let many = Policy { chunk: 0, ..policy() };
    let slots = Box::new(crate::slots::Slots::new(limits(4, 9, 16, 4)));
    assert!(qiao_engine::serve::Scheduler::new(slots, qiao_engine::serve::Speech::none(), many).is_err());
}

#[test]
fn a_window_needs_room_for_itself_and_no_more() {
    let sliding = qiao_engine::serve::Limits { window: Some(8), ..limits(4, 1 + 3, 16, 4) };
    let mut crowd = Crowd::new(sliding, policy());
    let request = greedy((0..50).map(|i| i % 30), 40);
    let ids = [crowd.submit(request.clone()), crowd.submit(request.clone())];
    crowd.finish(400);
    for id in ids {
        assert_eq!(crowd.said(id, 0).ids, alone(&sliding, &[], &request)[0]);
    }
    assert!(crowd.scheduler.load().counters.released > 20);
    let swap = Policy { preempt: Preempt::Swap { host_bytes: 1 << 20 }, ..policy() };
    let mut crowd = Crowd::new(sliding, swap);
    crowd.submit(request.clone());
    crowd.submit(request);
    crowd.finish(400);
    assert_eq!(crowd.log.lock().unwrap().saved, 0, "with a window all is computed again");
}

#[test]
fn without_requests_a_step_waits() {
    let mut crowd = Crowd::new(limits(4, 40, 16, 8), policy());
    assert!(crowd.scheduler.is_idle());
    assert_eq!(crowd.step(), Stepped::Waiting);
    assert_eq!(crowd.scheduler.next_deadline(), None);
}
