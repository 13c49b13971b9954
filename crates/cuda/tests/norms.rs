//! Norms on the simulated card, beside the truth in f64.

mod rig;

use qiao_core::*;
use qiao_reference::Trial;
use rig::*;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn attrs() -> NormAttrs {
    NormAttrs { eps: 1e-5, weight_offset: 1, round_before_weight: false }
}

#[test]
fn the_suites_rms_norms_are_within_their_limits() {
    check_all(&of_suite(OpKind::RmsNorm, 4));
}

#[test]
fn the_suites_sums_with_their_norms_are_within_their_limits() {
    check_all(&of_suite(OpKind::AddRmsNorm, 4));
}

#[test]
fn the_suites_layer_norms_are_within_their_limits() {
    check_all(&of_suite(OpKind::LayerNorm, 4));
}

#[test]
fn rows_longer_than_registers_are_read_again() {
    let make = &mut Maker::new(1);
    let mut all = Vec::new();
    for dtype in FLOATS {
        for cols in [16384, 16385, 20003] {
            let shape = [2, cols];
            all.push(with(with(Trial::new(Op::RmsNorm(attrs())), make.of(dtype, &shape)), make.of(dtype, &[cols])));
            let layer = Trial::new(Op::LayerNorm(LayerNormAttrs { eps: 1e-5 }));
            all.push(with(with(layer, make.of(dtype, &shape)), make.of(DType::F32, &[cols])));
            for place in [None, Some(0), Some(1)] {
                let sum = Trial::new(Op::AddRmsNorm(attrs()));
                let sum = with(with(sum, make.of(dtype, &shape)), make.of(dtype, &shape));
                all.push(place.iter().fold(sum, |t, &input| t.in_place(0, input)));
            }
        }
    }
    check_all(&all);
}

#[test]
fn rows_that_start_anywhere_have_their_norms() {
    let make = &mut Maker::new(2);
    let mut all = Vec::new();
    for dtype in FLOATS {
        for (cols, pitch) in [(40, 41), (1500, 1501), (1500, 1504), (6000, 6001)] {
            let desc = TensorDesc::strided(dtype, &[3, cols], &[pitch, 1]).unwrap();
            let x = make.fill(qiao_reference::data::Fill::Normal, desc);
            let norm = with(with(Trial::new(Op::RmsNorm(attrs())), x.clone()), make.of(dtype, &[cols]));
            all.push(norm.output_strides(&[pitch + 2, 1]));
            all.push(with(with(Trial::new(Op::AddRmsNorm(attrs())), x), make.of(dtype, &[3, cols])).in_place(0, 0));
        }
    }
    check_all(&all);
}

#[test]
fn many_rows_are_taken_by_small_teams() {
    // More than four for each of the simulated card's eight multiprocessors.
    let rows = 35;
    let make = &mut Maker::new(3);
    let mut all = Vec::new();
    for dtype in FLOATS {
        let shape = [rows, 1032];
        all.push(with(with(Trial::new(Op::RmsNorm(attrs())), make.of(dtype, &shape)), make.of(dtype, &[1032])));
        let sum = with(with(Trial::new(Op::AddRmsNorm(attrs())), make.of(dtype, &shape)), make.of(dtype, &shape));
        all.push(with(sum, make.of(dtype, &[1032])).in_place(0, 1));
        all.push(with(Trial::new(Op::LayerNorm(LayerNormAttrs { eps: 1e-5 })), make.of(dtype, &shape)));
    }
    check_all(&all);
}

#[test]
fn a_weight_with_gaps_is_refused() {
    let make = &mut Maker::new(4);
    let trial =
        with(with(Trial::new(Op::RmsNorm(attrs())), make.of(DType::F16, &[2, 8])), make.gapped(DType::F16, &[8]));
    assert_eq!(refused(&trial), Some(Reason::strides(1, "contiguous")));
}
