//! Softmax and reductions on the simulated card, beside the truth in f64.

mod rig;

use qiao_core::*;
use qiao_reference::Trial;
use qiao_reference::data::Fill;
use rig::*;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn the_suites_softmaxes_are_within_their_limits() {
    check_all(&of_suite(OpKind::Softmax, 6));
}

#[test]
fn the_suites_reductions_are_within_their_limits() {
    check_all(&of_suite(OpKind::Reduce, 4));
}

#[test]
fn rows_longer_than_registers_are_read_again() {
    let make = &mut Maker::new(7);
    let mut all = Vec::new();
    for dtype in FLOATS {
        for (rows, causal) in [(2, false), (3, true)] {
            for fill in [Fill::Normal, Fill::Special] {
                let x = make.fill(fill, TensorDesc::new(dtype, &[rows, 17003]).unwrap());
                let trial = with(Trial::new(Op::Softmax(SoftmaxAttrs { scale: 0.5, causal })), x);
                all.push(with(trial, make.of(dtype, &[17003])));
            }
        }
    }
    check_all(&all);
}

#[test]
fn a_causal_row_sees_no_nan_behind_it() {
    let mut data = vec![0.5; 5 * 300];
    (0..5).for_each(|row| data[row * 300 + (296 + row).min(299)] = f64::NAN);
    // The last row sees all columns, and its NaN.
    let op = Op::Softmax(SoftmaxAttrs { scale: 0.0, causal: true });
    check_all(&[Trial::new(op).values(DType::F32, &[5, 300], &data)]);
}

#[test]
fn every_axis_is_reduced() {
    let make = &mut Maker::new(8);
    let mut all = Vec::new();
    for dtype in FLOATS {
        for axis in 0..3 {
            for kind in [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max] {
                let op = Op::Reduce(ReduceAttrs { kind, axis, keep_dim: false });
                all.push(with(Trial::new(op), make.of(dtype, &[13, 19, 37])));
                all.push(with(Trial::new(op), make.special(dtype, &[5, 300, 2])));
                all.push(with(Trial::new(op), make.gapped(dtype, &[3, 9, 600])));
            }
        }
    }
    check_all(&all);
}
