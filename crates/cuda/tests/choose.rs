//! Choices on the simulated card, beside the truth in f64.

mod rig;

use qiao_core::*;
use qiao_reference::Trial;
use qiao_reference::data::Rng;
use rig::*;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn the_suites_largest_are_found() {
    check_all(&of_suite(OpKind::Argmax, 4));
}

#[test]
fn the_suites_k_largest_are_found() {
    check_all(&of_suite(OpKind::TopK, 4));
}

#[test]
fn the_suites_tokens_are_sampled() {
    let all: Vec<Trial> = of_suite(OpKind::Sample, 7).into_iter().step_by(8).collect();
    check_all(&all);
}

/// Rows of numbers, of which many stand at several places.
fn row(rng: &mut Rng, n: usize, values: usize) -> Vec<f64> {
    (0..n).map(|_| if values == 0 { 3.0 * rng.normal() } else { rng.below(values) as f64 / 4.0 }).collect()
}

#[test]
fn long_rows_are_chosen_from_by_many_blocks() {
    let rng = &mut Rng::new(9);
    let mut all = Vec::new();
    for dtype in FLOATS {
        for values in [0, 7] {
            let n = 40_003;
            let data = [row(rng, n, values), row(rng, n, values)].concat();
            all.push(Trial::new(Op::Argmax(NoAttrs {})).values(dtype, &[2, n], &data));
            for k in [1, 50, 700] {
                all.push(Trial::new(Op::TopK(TopKAttrs { k })).values(dtype, &[2, n], &data));
            }
        }
    }
    check_all(&all);
}

#[test]
fn as_many_as_a_row_has_are_sorted() {
    let rng = &mut Rng::new(10);
    let mut all = Vec::new();
    for dtype in FLOATS {
        for n in [513, 1000, 4096] {
            let data = row(rng, n, 9);
            all.push(Trial::new(Op::TopK(TopKAttrs { k: n as u32 })).values(dtype, &[1, n], &data));
        }
    }
    check_all(&all);
}

#[test]
fn tokens_of_long_rows_are_sampled() {
    let rng = &mut Rng::new(11);
    let mut all = Vec::new();
    for dtype in FLOATS {
        for (values, temperature) in [(0, 0.7), (5, 1.0), (0, 0.0), (0, 3.0)] {
            for (top_k, top_p, min_p) in [(0.0, 1.0, 0.0), (40.0, 0.9, 0.0), (0.0, 0.95, 0.02), (5000.0, 0.99, 0.0)] {
                let (rows, n) = (2, 9001);
                let data: Vec<f64> = (0..rows).flat_map(|_| row(rng, n, values)).collect();
                let each = |v: f64| vec![v; rows];
                let trial = Trial::new(Op::Sample(NoAttrs {})).values(dtype, &[rows, n], &data);
                let trial = trial.values(DType::F32, &[rows], &[rng.uniform() * 0.999, 0.97]);
                let trial = trial.values(DType::F32, &[rows], &each(temperature));
                let trial = trial.values(DType::I32, &[rows], &each(top_k));
                let trial = trial.values(DType::F32, &[rows], &each(top_p));
                all.push(trial.values(DType::F32, &[rows], &each(min_p)));
            }
        }
    }
    check_all(&all);
}

#[test]
fn a_k_that_no_block_sorts_is_refused() {
    let trial = Trial::new(Op::TopK(TopKAttrs { k: 4097 })).values(DType::F16, &[1, 5000], &vec![0.0; 5000]);
    assert_eq!(refused(&trial), Some(Reason::attribute("k", Rule::AtMost, 4097usize, 4096usize)));
}
