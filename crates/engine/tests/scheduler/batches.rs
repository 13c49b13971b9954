//! How batches are put together, and who is in them.

use qiao_engine::serve::{Policy, Stepped};

use crate::crowd::{Crowd, greedy, policy};
use crate::slots::{alone, limits};

#[test]
fn a_text_is_that_of_the_model_without_any_cache() {
    let limits = limits(4, 40, 16, 8);
    let mut crowd = Crowd::new(limits, policy());
    let requests = [greedy(1..30, 20), greedy([3, 4], 9), greedy(5..6, 30)];
    let ids = requests.clone().map(|request| crowd.submit(request));
    crowd.finish(200);
    for (request, id) in requests.iter().zip(ids) {
        assert_eq!(crowd.said(id, 0).ids, alone(&limits, &[], request)[0]);
        assert_eq!(crowd.said(id, 0).usage().generated_tokens, request.params.max_tokens);
    }
}

#[test]
fn a_long_prompt_stalls_no_other_stream() {
    let mut crowd = Crowd::new(limits(4, 100, 16, 8), Policy { chunk: 8, ..policy() });
    let short = crowd.submit(greedy([1, 2], 30));
    crowd.steps(2);
    let long = crowd.submit(greedy((0..60).map(|i| i % 30), 5));
    for step in 0..7 {
        let before = crowd.said(short, 0).ids.len();
        assert_eq!(crowd.step(), Stepped::Ran { tokens: 9, sequences: 2 }, "step {step}");
        assert_eq!(crowd.said(short, 0).ids.len(), before + 1);
    }
    let batches = crowd.log.lock().unwrap().batches.clone();
    let chunks: Vec<_> = batches[2..].iter().map(|batch| (batch[1].start, batch[1].tokens, batch[1].rows)).collect();
    assert_eq!(chunks, (0..7).map(|i| (8 * i, 8, 0)).collect::<Vec<_>>());
    assert!(!crowd.said.contains_key(&(long, 0)));
    crowd.step();
    assert_eq!(crowd.said(long, 0).ids.len(), 1);
    crowd.finish(40);
}
