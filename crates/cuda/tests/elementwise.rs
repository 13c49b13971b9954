//! Operators that work element by element match the truth.

mod rig;

use qiao_core::{DType, NoAttrs, Op};
use qiao_reference::Trial;
use qiao_reference::round::ulp;
use rig::device;

qiao_conformance::trials!(elementwise, |_, trials| rig::check_all(trials));

/// The processor's exponential is nearly exact: what is left is for a card's, of which an error counts up to twice.
#[test]
fn silu_leaves_half_of_its_limit_to_the_exponential() {
    let x: Vec<f64> = (0..120_000).map(|i| f64::from(20.0 - i as f32 * 0.000_833)).collect();
    let got = Trial::new(Op::Silu(NoAttrs::default())).values(DType::F32, &[x.len()], &x).run(&*device()).unwrap();
    for (&x, &got) in x.iter().zip(&got[0].data).filter(|(x, _)| **x > -80.0) {
        let want = x / (1.0 + (-x).exp());
        let far = (got - want).abs() / ulp(DType::F32, want);
        assert!(far <= 2.5, "silu({x}) is {got}, {far} steps from {want}");
    }
}
