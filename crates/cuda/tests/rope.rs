//! Rotary positions on the simulated card, beside the truth in f64.

mod rig;

use qiao_core::*;
use qiao_reference::Trial;
use qiao_reference::data::{Fill, to_bytes};
use rig::*;

#[test]
fn the_suites_rotations_are_within_their_limits() {
    check_all(&of_suite(OpKind::Rope, 3));
}

#[test]
fn heads_inside_a_wider_row_are_rotated() {
    let make = &mut Maker::new(5);
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
            for (dim, rotary, offset) in [(64, 0, 0), (80, 32, 0), (96, 64, 32), (24, 10, 3)] {
                let desc = TensorDesc::strided(dtype, &[5, 3, dim], &[7 * dim, dim, 1]).unwrap();
                let half = if rotary == 0 { dim } else { rotary } / 2;
                let attrs = RopeAttrs { style, rotary_dim: rotary as u32, offset: offset as u32 };
                let positions = to_bytes(DType::I64, &[3.0, 0.0, -1.0, 11.0, 12.0]);
                let trial = with(Trial::new(Op::Rope(attrs)), make.fill(Fill::Normal, desc));
                let trial = trial.input(TensorDesc::new(DType::I64, &[5]).unwrap(), positions);
                let table = || Maker::new(6).of(DType::F32, &[12, half]);
                all.push(with(with(trial, table()), table()));
            }
        }
    }
    check_all(&all);
}
