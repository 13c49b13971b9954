use super::score::{Row, score};
use super::*;

fn chunked(ids: usize, context: usize, chunks: Option<usize>) -> Result<Chunking> {
    Plan { ids: &vec![0; ids], bos: None, context, chunks }.chunking()
}

#[test]
fn chunks_are_those_of_the_second_half() {
    let c = chunked(1100, 512, None).unwrap();
    assert_eq!((c.chunks, c.first_scored, c.scored_per_chunk), (2, 256, 255));
    assert_eq!(chunked(1100, 512, Some(1)).unwrap().chunks, 1);
    let odd = chunked(7, 7, Some(9)).unwrap();
    assert_eq!((odd.chunks, odd.first_scored, odd.scored_per_chunk), (1, 3, 3), "positions 3, 4 and 5");
    let words = c.to_string();
    for word in ["2 of 2 chunks of 512 tokens", "has 1100", "no BOS", "empty cache", "256 to 510"] {
        assert!(words.contains(word), "{words}");
    }
}

#[test]
fn what_can_not_be_chunked_is_refused() {
    for (found, words) in [
        (chunked(511, 512, None), ["511 tokens", "smaller chunks"]),
        (chunked(0, 512, None), ["0 tokens", "longer text"]),
        (chunked(100, 3, None), ["3 tokens", "at least 4"]),
        (chunked(100, 50, Some(0)), ["0 chunks", "at least 1"]),
    ] {
        let text = found.unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}

#[test]
fn rows_are_scored_by_the_formulas() {
    // p = (1/2, 1/4, 1/4) and q = (1/4, 1/2, 1/4), shifted by constants that a softmax does not see.
    let ln2 = std::f32::consts::LN_2;
    let base = [ln2 + 3.0, 3.0, 3.0];
    let model = [-7.0, ln2 - 7.0, -7.0];
    let row = score(&model, Some(&base), 1).unwrap();
    let near = |x: f64, y: f64| assert!((x - y).abs() < 1e-6, "{x} is not {y}");
    near(row.nll, 2f64.ln());
    near(row.base_nll, 4f64.ln());
    near(row.kl, 0.25 * 2f64.ln());
    assert!(!row.same_top);
    let own = score(&model, Some(&model), 2).unwrap();
    assert_eq!((own.kl, own.same_top, own.nll), (0.0, true, own.base_nll));
    assert_eq!(score(&model, None, 2).unwrap(), Row { nll: own.nll, ..Row::default() });
}

#[test]
fn nothing_is_clipped_and_what_is_impossible_is_infinite() {
    let tiny = score(&[0.0, -40.0], Some(&[0.0, -20.0]), 0).unwrap();
    // To first order in e^-20: p·(20 − 1), where llama.cpp's figures take every p below e^-16 for none.
    let expected = 19.0 * (-20f64).exp();
    assert!((tiny.kl - expected).abs() < 1e-12 && tiny.kl > 0.0, "{} beside {expected}", tiny.kl);
    let none = f32::NEG_INFINITY;
    assert_eq!(score(&[0.0, none], Some(&[0.0, none]), 0).unwrap().kl, 0.0);
    let row = score(&[0.0, none], Some(&[0.0, 0.0]), 1).unwrap();
    assert_eq!((row.kl, row.nll), (f64::INFINITY, f64::INFINITY));
    for broken in [f32::NAN, f32::INFINITY] {
        assert!(score(&[0.0, broken], None, 0).unwrap_err().to_string().contains("not numbers"));
    }
    assert!(score(&[none; 2], None, 0).is_err());
}

#[test]
fn figures_follow_from_the_rows() {
    let row = |nll: f64, base_nll: f64, kl: f64, same_top| Row { nll, base_nll, kl, same_top };
    let rows =
        [row(1.0, 0.5, 0.1, true), row(2.0, 2.0, 0.3, false), row(3.0, 2.5, 0.2, true), row(2.0, 1.0, 0.0, true)];
    let chunking = chunked(8, 8, None).unwrap();
    let found = Evaluation::new(chunking, &rows, true, 2.0, false);
    let near = |x: f64, y: f64| assert!((x - y).abs() < 1e-12, "{x} is not {y}");
    near(found.model.nll.value, 2.0);
    near(found.model.nll.error, (0.5f64 / 3.0).sqrt());
    near(found.model.perplexity.value, 2f64.exp());
    near(found.model.perplexity.error, 2f64.exp() * (0.5f64 / 3.0).sqrt());
    let against = found.against.unwrap();
    near(against.ln_ratio.value, 0.5);
    near(against.ln_ratio.error, (0.125f64 / 3.0).sqrt());
    near(against.kl.mean.value, 0.15);
    near(against.kl.median, 0.15);
    near(against.kl.p99, 0.2 + 0.1 * 0.97);
    near(against.kl.max, 0.3);
    near(against.top1_agreement.value, 0.75);
    near(against.top1_agreement.error, 0.25);
    let p = |nll: f64| (-nll).exp();
    let squares: f64 = rows.iter().map(|r| (p(r.nll) - p(r.base_nll)).powi(2)).sum();
    near(against.rms_delta_p, (squares / 4.0).sqrt());
    near(found.tokens_per_s, 4.0);
    let alone = Evaluation::new(chunking, &rows[..1], false, 2.0, true);
    assert!(alone.model.nll.error.is_nan() && alone.against.is_none());
    assert!(alone.to_json()["model"]["nll"]["error"].is_null());
    assert!(alone.to_string().contains("Interrupted"));
}

#[test]
fn scores_keep_the_order_of_the_rows() {
    let (vocab, rows) = (5, 37);
    let logits: Vec<f32> = (0..vocab * rows).map(|i| ((i * 7919) % 23) as f32 * 0.1).collect();
    let next: Vec<u32> = (0..rows as u32).map(|i| i % 5).collect();
    let found = score_all(&logits, None, vocab, &next).unwrap();
    for (i, row) in found.iter().enumerate() {
        assert_eq!(*row, score(&logits[i * vocab..(i + 1) * vocab], None, next[i]).unwrap());
    }
    assert_eq!(found.len(), rows);
}
