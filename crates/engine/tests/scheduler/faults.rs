//! Errors of the device.

use std::sync::{Arc, Mutex};

use qiao_core::Error;
use qiao_engine::generation::SamplingParams;
use qiao_engine::serve::{Policy, Preempt, Request, RequestId, Stepped};

use crate::crowd::{Crowd, greedy, policy};
use crate::slots::{Faults, alone, limits};

fn broken() -> Error {
    Error::internal("a kernel", "it failed")
}

/// These calls of one name, counted from 1, fail.
fn failing(name: &'static str, which: std::ops::RangeInclusive<usize>, error: Error) -> Faults {
    let mut seen = 0;
    Box::new(move |call, _| {
        seen += usize::from(call == name);
        (call == name && which.contains(&seen)).then(|| error.clone())
    })
}

fn three(crowd: &mut Crowd) -> [(RequestId, Request); 3] {
    [greedy(1..12, 12), greedy([3, 4], 12), greedy(5..6, 12)].map(|request| (crowd.submit(request.clone()), request))
}

#[test]
fn a_batch_that_fails_runs_again_and_nobody_notices() {
    let limits = limits(4, 40, 32, 8);
    let mut crowd = Crowd::failing(limits, Policy { retries: 2, ..policy() }, failing("run", 3..=4, broken()));
    let asked = three(&mut crowd);
    crowd.finish(30);
    for (id, request) in asked {
        assert_eq!(crowd.said(id, 0).ids, alone(&limits, &[], &request)[0]);
    }
    assert_eq!((crowd.scheduler.load().faults, crowd.log.lock().unwrap().recovered), (2, 2));
    assert_eq!(crowd.scheduler.load().batches, 13);
}

#[test]
fn a_batch_that_fails_too_often_ends_its_requests_and_no_others() {
    let limits = limits(4, 40, 32, 8);
    let mut crowd = Crowd::failing(limits, Policy { retries: 1, ..policy() }, failing("run", 3..=4, broken()));
    let asked = three(&mut crowd);
    let waiting = crowd.submit(greedy([9], 7));
    crowd.scheduler.pause(waiting, 0, true);
    crowd.steps(3);
    assert!(asked.iter().all(|(id, _)| crowd.said(*id, 0).error() == "a kernel: it failed"));
    assert_eq!(crowd.step(), Stepped::Waiting);
    crowd.scheduler.pause(waiting, 0, false);
    crowd.finish(10);
    assert_eq!(crowd.said(waiting, 0).ids.len(), 7);
}

#[test]
fn memory_that_is_short_halves_the_batch_for_a_while() {
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let memory = Error::OutOfMemory { device: "slots".into(), asked: 1, free: 0 };
    let faults = failing("run", 1..=2, memory);
    let mut crowd = Crowd::failing(limits(4, 60, 32, 8), Policy { chunk: 32, ..policy() }, faults);
    let id = crowd.submit(greedy((0..90).map(|i| i % 30), 3));
    while !crowd.scheduler.is_idle() {
        if let Stepped::Ran { tokens, .. } = crowd.step() {
            sizes.lock().unwrap().push(tokens);
        }
    }
    // 32 and 16 fail; then eight of 8, and twice as many.
    assert_eq!(sizes.lock().unwrap()[..10], [8, 8, 8, 8, 8, 8, 8, 8, 16, 10]);
    assert_eq!(crowd.said(id, 0).ids.len(), 3);
}

#[test]
fn a_lost_device_ends_everything_with_its_error() {
    let lost = Error::DeviceLost { device: "slots".into(), why: "it was pulled out".into() };
    let poisoned = Error::Poisoned { first: Box::new(lost.clone()) };
    let gone = failing("recover", 1..=1, lost.clone());
    let mut both = Vec::from([failing("run", 3..=3, lost.clone()), failing("run", 3..=3, poisoned)]);
    let mut run = failing("run", 3..=3, broken());
    let mut recover = gone;
    both.push(Box::new(move |call, n| run(call, n).or_else(|| recover(call, n))));
    for faults in both {
        let mut crowd = Crowd::failing(limits(4, 40, 32, 8), policy(), faults);
        let asked = three(&mut crowd);
        crowd.scheduler.pause(asked[2].0, 0, true);
        crowd.steps(2);
        let error = crowd.try_step().unwrap_err().to_string();
        assert!(error.contains("pulled out"), "{error}");
        assert!(asked.iter().all(|(id, _)| crowd.said(*id, 0).error() == error));
        assert!(crowd.scheduler.is_idle() && crowd.try_step().is_err());
        assert_eq!(crowd.scheduler.submit(greedy([1], 1)).unwrap_err().to_string(), error);
        crowd.is_clean();
    }
}

#[test]
fn a_copy_that_fails_is_made_again_and_one_that_went_well_is_not() {
    let limits = limits(4, 40, 32, 8);
    let params = SamplingParams { temperature: 1.0, max_tokens: 10, ignore_eos: true, ..Default::default() };
    let request = Request { samples: 3, ..Request::new(vec![1, 2, 3, 4, 5], params) };
    for (name, which, copied) in [("copy", 1..=2, 2), ("run", 2..=3, 2)] {
        let mut crowd = Crowd::failing(limits, policy(), failing(name, which, broken()));
        let id = crowd.submit(request.clone());
        crowd.finish(30);
        for (sample, ids) in alone(&limits, &[], &request).iter().enumerate() {
            assert_eq!(&crowd.said(id, sample).ids, ids);
        }
        assert_eq!(crowd.log.lock().unwrap().copied, copied, "{name}");
    }
    // Where copies never work the samples compute what they need.
    let mut crowd = Crowd::failing(limits, policy(), failing("copy", 1..=1000, broken()));
    let id = crowd.submit(request.clone());
    crowd.finish(60);
    for (sample, ids) in alone(&limits, &[], &request).iter().enumerate() {
        assert_eq!(&crowd.said(id, sample).ids, ids);
    }
}

#[test]
fn what_can_not_be_saved_or_brought_back_is_computed_again() {
    let limits = limits(2, 12, 16, 8);
    for name in ["save", "restore"] {
        let swap = Policy { preempt: Preempt::Swap { host_bytes: 1 << 20 }, chunk: 4, ..policy() };
        let mut crowd = Crowd::failing(limits, swap, failing(name, 1..=1000, broken()));
        let asked = three(&mut crowd);
        crowd.finish(200);
        for (id, request) in asked {
            assert_eq!(crowd.said(id, 0).ids, alone(&limits, &[], &request)[0]);
        }
        let log = crowd.log.lock().unwrap();
        assert!(crowd.scheduler.load().faults > 0, "{name} was never tried");
        assert_eq!((log.restored, log.saved == 0), (0, name == "save"));
    }
}

#[test]
fn a_device_that_is_lost_while_blocks_move_leaves_nothing_behind() {
    let lost = Error::DeviceLost { device: "slots".into(), why: "it was pulled out".into() };
    for name in ["save", "restore"] {
        let swap = Policy { preempt: Preempt::Swap { host_bytes: 1 << 20 }, chunk: 4, ..policy() };
        let mut crowd = Crowd::failing(limits(2, 12, 16, 8), swap, failing(name, 1..=1, lost.clone()));
        let asked = three(&mut crowd);
        let error = (0..200).find_map(|_| crowd.try_step().err()).unwrap().to_string();
        assert!(error.contains("pulled out") && asked.iter().all(|(id, _)| crowd.said(*id, 0).end.is_some()), "{name}");
        crowd.is_clean();
    }
}
