//! The host's sampler and the `sample` operator are one definition.

use proptest::prelude::*;
use qiao_core::{DType, NoAttrs, Op};
use qiao_engine::sampler::{Chooser, Cutoffs, Uniforms};
use qiao_reference::{Trial, Value};

const ROWS: usize = 8;

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// The operator's truth for rows of logits, and the comparison of our choices with it. Where u or a filter lies closer to another
/// decision than f32 can tell, the comparison lets either pass.
fn agrees(logits: &[f32], u: &[f32], cutoffs: &[Cutoffs]) -> bool {
    let each = |of: fn(&Cutoffs) -> f64| cutoffs.iter().map(of).collect::<Vec<f64>>();
    let width = logits.len() / ROWS;
    let trial = Trial::new(Op::Sample(NoAttrs {}))
        .values(DType::F32, &[ROWS, width], &widened(logits))
        .values(DType::F32, &[ROWS], &widened(u))
        .values(DType::F32, &[ROWS], &each(|c| f64::from(c.temperature)))
        .values(DType::I32, &[ROWS], &each(|c| c.top_k as f64))
        .values(DType::F32, &[ROWS], &each(|c| f64::from(c.top_p)))
        .values(DType::F32, &[ROWS], &each(|c| f64::from(c.min_p)));
    let mut chooser = Chooser::default();
    let chosen = logits
        .chunks_exact(width)
        .zip(u.iter().zip(cutoffs))
        .map(|(row, (u, cutoffs))| f64::from(chooser.choose(row, *cutoffs, *u).unwrap()))
        .collect();
    trial.golden(None).unwrap().compare(&[Value::new(&[ROWS], chosen)]).iter().all(|comparison| comparison.passes())
}

fn cutoffs() -> impl Strategy<Value = Cutoffs> {
    let temperature = prop_oneof![Just(0.0f32), 0.2f32..2.0];
    let top_k = prop_oneof![Just(0usize), 1usize..80];
    let top_p = prop_oneof![Just(1.0f32), 0.05f32..1.0];
    let min_p = prop_oneof![Just(0.0f32), 0.0f32..0.6];
    (temperature, top_k, top_p, min_p).prop_map(|(temperature, top_k, top_p, min_p)| Cutoffs {
        temperature,
        top_k,
        top_p,
        min_p,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_host_chooses_as_the_operator_does(seed in any::<u64>(), width in 1usize..3000, cutoffs in prop::collection::vec(cutoffs(), ROWS)) {
        let uniforms = Uniforms::new(seed);
        let logits: Vec<f32> = (0..(ROWS * width) as u64).map(|i| (uniforms.at(i) - 0.5) * 16.0).collect();
        let u: Vec<f32> = (0..ROWS as u64).map(|i| uniforms.at(u64::MAX / 2 + i)).collect();
        prop_assert!(agrees(&logits, &u, &cutoffs));
    }
}

#[test]
fn ties_are_resolved_as_the_operator_resolves_them() {
    let logits: Vec<f32> = (0..ROWS * 40).map(|i| (i % 3) as f32).collect();
    let u: Vec<f32> = (0..ROWS).map(|i| i as f32 / 8.0 + 0.03).collect();
    for top_k in [0, 1, 5, 14, 39, 40, 99] {
        let cutoffs = vec![Cutoffs { temperature: 1.0, top_k, top_p: 1.0, min_p: 0.0 }; ROWS];
        assert!(agrees(&logits, &u, &cutoffs), "top_k = {top_k}");
    }
}
