//! Quantisation of activations on the simulated card, beside the truth in f64.

mod rig;

use qiao_core::*;
use qiao_reference::Trial;
use rig::*;

#[test]
fn the_suites_rows_are_quantised() {
    check_all(&of_suite(OpKind::QuantizeDynamic, 3));
}

#[test]
fn the_suites_fixed_grids_are_kept() {
    check_all(&of_suite(OpKind::QuantizeStatic, 3));
}

#[test]
fn rows_longer_than_registers_are_read_again() {
    let make = &mut Maker::new(12);
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for cols in [16384, 16391] {
            all.push(with(Trial::new(Op::QuantizeDynamic(NoAttrs {})), make.of(dtype, &[2, cols])));
            all.push(with(Trial::new(Op::QuantizeDynamic(NoAttrs {})), make.special(dtype, &[2, cols])));
        }
        all.push(with(Trial::new(Op::QuantizeDynamic(NoAttrs {})), make.gapped(dtype, &[2, 5003])));
    }
    check_all(&all);
}

#[test]
fn rows_of_nothing_have_scale_zero() {
    let make = &mut Maker::new(13);
    check_all(&[with(Trial::new(Op::QuantizeDynamic(NoAttrs {})), make.of(DType::F16, &[5, 0]))]);
}
