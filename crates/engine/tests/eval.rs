//! Perplexity and divergence of fixtures, against plain f64 loops over logits from elsewhere.

mod fixture;

use std::sync::Arc;

use fixture::{cpu, fixtures, load, reference};
use qiao_core::DType;
use qiao_cpu::Isa;
use qiao_engine::compare::Golden;
use qiao_engine::eval::{Evaluation, Plan, evaluate};
use qiao_engine::runner::LoadedModel;
use qiao_engine::session::Session;

fn run(model: &Arc<LoadedModel>, base: Option<&Arc<LoadedModel>>, plan: &Plan<'_>) -> qiao_engine::Result<Evaluation> {
    Ok(evaluate(model, base, plan, &|| false, &mut |_, _| {})?.unwrap())
}

fn golden(dir: &str) -> Golden {
    Golden::open(fixtures().join(dir).join("golden.safetensors")).unwrap()
}

/// `ln p` of a row, as the formula reads.
fn log_p(row: &[f32]) -> Vec<f64> {
    let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
    row.iter().map(|&x| f64::from(x) - sum.ln()).collect()
}

fn near(x: f64, y: f64, limit: f64) {
    assert!((x - y).abs() <= limit, "{x} is not {y} within {limit:e}");
}

#[test]
fn perplexity_is_that_of_the_golden_logits() {
    let golden = golden("llama3-gqa");
    let ids = golden.input_ids();
    let n = ids.len();
    let mut nll = 0.0;
    for at in n / 2..n - 1 {
        nll -= log_p(&golden.logits_row(at).unwrap())[ids[at + 1] as usize];
    }
    let scored = n - 1 - n / 2;
    nll /= scored as f64;
    let plan = Plan { ids, bos: None, context: n, chunks: None };
    for device in [Some(reference()), cpu(Isa::Scalar), cpu(Isa::Avx512)].into_iter().flatten() {
        let model = load(&device, "llama3-gqa", "config.json", Some(DType::F32));
        let found = run(&model, None, &plan).unwrap();
        assert_eq!((found.tokens_scored, found.chunking.chunks), (scored, 1));
        near(found.model.nll.value, nll, 1e-4);
        near(found.model.perplexity.value, nll.exp(), 1e-4 * nll.exp() + 1e-9);
        assert!(found.against.is_none() && !found.interrupted);
    }
}

#[test]
fn divergence_is_that_of_two_rows_of_logits() {
    // Both chunks of 24 tokens start anew, with another first token.
    let (a, b) = (golden("llama3-gqa"), ("llama3-gqa", "llama3-gqa-bf16"));
    let ids = &a.input_ids()[..50];
    let device = reference();
    let model = load(&device, b.1, "config.json", None);
    let base = load(&device, b.0, "config.json", None);
    let found = run(&model, Some(&base), &Plan { ids, bos: Some(1), context: 24, chunks: None }).unwrap();
    let (mut nll, mut nll_base, mut kl, mut same, mut square) = (0.0, 0.0, Vec::new(), 0, 0.0);
    for chunk in ids.chunks_exact(24) {
        let mut chunk = chunk.to_vec();
        chunk[0] = 1;
        let rows = |of: &Arc<LoadedModel>| {
            let mut rows: Vec<Vec<f32>> = Vec::new();
            let mut session = Session::new(of.clone(), 24).unwrap();
            let mut keep = |out: qiao_engine::session::ChunkOutput<'_>| {
                rows.extend(out.logits.chunks_exact(128).map(<[f32]>::to_vec));
                Ok(())
            };
            session.prefill_all(&chunk, 24, false, &mut keep).unwrap();
            rows
        };
        let (rows, rows_base) = (rows(&model), rows(&base));
        for at in 12..23 {
            let (q, p) = (log_p(&rows[at]), log_p(&rows_base[at]));
            let next = chunk[at + 1] as usize;
            nll -= q[next];
            nll_base -= p[next];
            kl.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
            let top = |row: &[f64]| (0..row.len()).rev().max_by(|&i, &j| row[i].total_cmp(&row[j])).unwrap();
            same += usize::from(top(&p) == top(&q));
            square += (q[next].exp() - p[next].exp()).powi(2);
        }
    }
    let n = kl.len() as f64;
    kl.sort_by(f64::total_cmp);
    let against = found.against.unwrap();
    assert_eq!((found.tokens_scored, found.chunking.chunks), (22, 2));
    near(found.model.nll.value, nll / n, 1e-5);
    near(against.base.nll.value, nll_base / n, 1e-5);
    near(against.ln_ratio.value, (nll - nll_base) / n, 1e-6);
    near(against.kl.mean.value, kl.iter().sum::<f64>() / n, 1e-7);
    near(against.kl.max, kl[21], 1e-6);
    near(against.kl.median, (kl[10] + kl[11]) / 2.0, 1e-7);
    near(against.top1_agreement.value, same as f64 / n, 1e-12);
    near(against.rms_delta_p, (square / n).sqrt(), 1e-7);
    assert!(against.kl.mean.value > 1e-7, "bf16 is not f32: {}", against.kl.mean.value);
}

#[test]
fn a_model_agrees_with_itself() {
    let golden = golden("qwen3-qknorm");
    let device = cpu(Isa::Scalar).unwrap();
    let model = load(&device, "qwen3-qknorm", "config.json", None);
    let plan = Plan { ids: golden.input_ids(), bos: None, context: 16, chunks: Some(2) };
    let found = run(&model, Some(&model), &plan).unwrap();
    let against = found.against.unwrap();
    assert_eq!((against.kl.max, against.kl.mean.value), (0.0, 0.0));
    assert_eq!((against.top1_agreement.value, against.rms_delta_p), (1.0, 0.0));
    assert_eq!((against.ln_ratio.value, against.ln_ratio.error), (0.0, 0.0));
    assert_eq!(found.chunking.chunks, 2);
}

#[test]
fn what_does_not_fit_the_model_is_refused() {
    let device = reference();
    let model = load(&device, "llama3-gqa", "config.json", None);
    let refused = |ids: &[u32], context| {
        run(&model, None, &Plan { ids, bos: None, context, chunks: None }).unwrap_err().to_string()
    };
    let long = vec![1; 10_000];
    let text = refused(&[1, 2, 3, 500], 4);
    assert!(text.contains("500") && text.contains("128"), "{text}");
    let text = refused(&long, 5000);
    assert!(text.contains("5000") && text.contains("384"), "{text}");
}

#[test]
fn an_evaluation_can_be_ended() {
    let device = cpu(Isa::Scalar).unwrap();
    let model = load(&device, "llama3-gqa", "config.json", None);
    let ids = vec![5; 64];
    let plan = Plan { ids: &ids, bos: None, context: 16, chunks: None };
    let asked = std::cell::Cell::new(0);
    let after = |limit: usize| {
        asked.set(0);
        let cancelled = || asked.replace(asked.get() + 1) >= limit;
        evaluate(&model, None, &plan, &cancelled, &mut |_, _| {}).unwrap()
    };
    assert!(after(0).is_none());
    let found = after(5).unwrap();
    assert!(found.interrupted && found.chunking.chunks == 2 && found.tokens_scored == 14, "{found:?}");
}
