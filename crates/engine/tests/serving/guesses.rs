//! Speculation: greedy texts are those of no guesses, sampled ones too, and have the model's own distribution.

use std::collections::HashMap;
use std::sync::Arc;

use qiao_cpu::Isa;
use qiao_engine::generation::SamplingParams;
use qiao_engine::runner::LoadedModel;
use qiao_engine::serve::{DraftModel, Policy, PromptLookup, Proposer, Request, RequestId};
use qiao_engine::session::Session;

use crate::crowd::{Crowd, alone, executor, scheduler};
use crate::fixture::{cpu, load};

const MODEL: &str = "llama3-gqa";
/// Another model of the same vocabulary.
const OTHER: &str = "qwen3-qknorm";

fn model(name: &str) -> Arc<LoadedModel> {
    let best = [Isa::Avx512, Isa::Avx2, Isa::Scalar].into_iter().find_map(cpu).unwrap();
    load(&best, name, "config.json", None)
}

fn draft(model: &Arc<LoadedModel>, of: &str, blocks: u64) -> Box<dyn Proposer> {
    let small = self::model(of);
    Box::new(DraftModel::new(Box::new(executor(&small, blocks, 8)), model.spec().vocab).unwrap())
}

fn requests(count: u64, params: &SamplingParams) -> Vec<Request> {
    let request = |i: u64| {
        // Prompts that repeat themselves, so that there is something to look up.
        let prompt = (0..6 + i % 9).map(|t| (t * (i + 3) % (2 + i % 5)) as u32).collect();
        Request { speculate: true, ..Request::new(prompt, SamplingParams { seed: i, ..params.clone() }) }
    };
    (0..count).map(request).collect()
}

/// What requests say with a proposer; how many tokens were guessed, and how many rightly.
fn guessed(
    model: &Arc<LoadedModel>,
    requests: &[Request],
    proposer: Box<dyn Proposer>,
) -> (Vec<Vec<u32>>, usize, usize) {
    let mut scheduler = scheduler(executor(model, 200, 8), Policy::default(), Some(proposer));
    let mut crowd = Crowd::default();
    let ids: Vec<RequestId> = requests.iter().map(|r| scheduler.submit(r.clone()).unwrap()).collect();
    crowd.finish(&mut scheduler);
    let usage = ids.iter().map(|id| crowd.ends[&(*id, 0)].as_ref().unwrap().usage);
    let (drafted, accepted) = usage.fold((0, 0), |(d, a), u| (d + u.drafted_tokens, a + u.accepted_tokens));
    (ids.iter().map(|id| crowd.said[&(*id, 0)].clone()).collect(), drafted, accepted)
}

fn says_the_same(params: SamplingParams) {
    let model = model(MODEL);
    let requests = requests(14, &params);
    let truth: Vec<_> = requests.iter().map(|r| alone(&model, r, 0)).collect();
    let proposers: [(&str, Box<dyn Proposer>); 4] = [
        ("lookup", Box::new(PromptLookup { longest: 3, shortest: 1 })),
        ("the model itself", draft(&model, MODEL, 200)),
        ("another model", draft(&model, OTHER, 200)),
        // Room for two or three of the texts.
        ("another model without room", draft(&model, OTHER, 14)),
    ];
    for (name, proposer) in proposers {
        let (said, drafted, accepted) = guessed(&model, &requests, proposer);
        assert_eq!(said, truth, "{name}");
        assert!(drafted > 0 && accepted <= drafted, "{name}: {accepted} of {drafted}");
        if name == "the model itself" {
            assert_eq!(accepted, drafted, "a model agrees with itself");
        }
    }
}

#[test]
fn greedy_texts_are_those_of_no_guesses() {
    says_the_same(SamplingParams { max_tokens: 24, ignore_eos: true, ..Default::default() });
}

#[test]
fn sampled_texts_are_those_of_no_guesses() {
    says_the_same(SamplingParams {
        max_tokens: 24,
        ignore_eos: true,
        temperature: 0.9,
        top_p: 0.95,
        ..Default::default()
    });
}

#[test]
fn texts_with_penalties_are_those_of_no_guesses() {
    let penalties = SamplingParams { repetition_penalty: 1.3, presence_penalty: 0.2, ..Default::default() };
    says_the_same(SamplingParams { max_tokens: 20, ignore_eos: true, temperature: 0.7, ..penalties });
}

/// The most likely tokens with their probabilities at temperature 1, among the best four.
fn best_four(logits: &[f32]) -> Vec<(u32, f64)> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    let weight = |id: u32| f64::from(logits[id as usize] - logits[order[0] as usize]).exp();
    let total: f64 = order[..4].iter().map(|id| weight(*id)).sum();
    order[..4].iter().map(|id| (*id, weight(*id) / total)).collect()
}

/// Pearson's statistic of 3000 texts of two tokens with guesses, against the probabilities that the model gives.
fn statistic(proposer: Box<dyn Proposer>) -> f64 {
    const TEXTS: u64 = 3000;
    let model = model(MODEL);
    let prompt = vec![1u32, 2, 3, 1, 2];
    let mut session = Session::new(model.clone(), 16).unwrap();
    let first = best_four(session.prefill(&prompt, &|| false).unwrap().unwrap());
    let mut expected: HashMap<Vec<u32>, f64> = HashMap::new();
    for (a, p) in &first {
        session.truncate(prompt.len());
        for (b, q) in best_four(session.step(*a).unwrap()) {
            expected.insert(vec![*a, b], p * q * TEXTS as f64);
        }
    }
    let params = SamplingParams { max_tokens: 2, ignore_eos: true, temperature: 1.0, top_k: 4, ..Default::default() };
    let request =
        |seed| Request { speculate: true, ..Request::new(prompt.clone(), SamplingParams { seed, ..params.clone() }) };
    let mut scheduler =
        scheduler(executor(&model, 200, 8), Policy { queue: 4000, ..Policy::default() }, Some(proposer));
    let mut crowd = Crowd::default();
    (0..TEXTS).for_each(|seed| _ = scheduler.submit(request(seed * 7919)).unwrap());
    crowd.finish(&mut scheduler);
    let mut found: HashMap<&[u32], f64> = HashMap::new();
    crowd.said.values().for_each(|text| *found.entry(text).or_default() += 1.0);
    assert!(found.keys().all(|text| expected.contains_key(*text)), "a text that the model does not give");
    expected.iter().map(|(text, n)| (found.get(&text[..]).copied().unwrap_or(0.0) - n).powi(2) / n).sum()
}

#[test]
fn guesses_do_not_bend_the_distribution() {
    let model = model(MODEL);
    for proposer in [draft(&model, OTHER, 300), Box::new(PromptLookup { longest: 2, shortest: 1 })] {
        let statistic = statistic(proposer);
        // Fifteen degrees of freedom: above 44.3 one time in ten thousand.
        assert!(statistic < 44.3, "chi square {statistic}");
    }
}

#[test]
fn a_draft_of_another_vocabulary_is_refused() {
    let model = model(MODEL);
    let refused = DraftModel::new(Box::new(executor(&model, 20, 8)), model.spec().vocab + 1).err().unwrap();
    assert!(refused.to_string().contains("vocabulary"), "{refused}");
}
