//! Operators that move elements.
#![allow(missing_docs, reason = "the name of a list is the promise that its trials hold a device to")]

use qiao_core::*;
use qiao_reference::Trial;

use super::{Maker, SCALARS, with};

const PLAIN: NoAttrs = NoAttrs {};

pub fn copies_of_every_dtype_keep_every_bit() -> Vec<Trial> {
    let mut make = Maker::new(1);
    let mut trials = Vec::new();
    for &dtype in DType::ALL {
        let columns = 3 * dtype.block_elems();
        let copy = || Trial::new(Op::Copy(PLAIN));
        trials.push(with(copy(), make.bits(dtype, &[5, columns], 0)));
        trials.push(with(copy(), make.bits(dtype, &[2, 3, columns], dtype.block_elems())));
        trials.push(with(copy(), make.bits(dtype, &[1, 64 * dtype.block_elems()], 0)));
        let gap = [columns + 3 * dtype.block_elems(), 1];
        trials.push(with(copy(), make.bits(dtype, &[4, columns], 0)).output_strides(&gap));
    }
    trials
}

pub fn strides_of_any_kind_are_followed() -> Vec<Trial> {
    let mut make = Maker::new(2);
    let mut trials = Vec::new();
    for dtype in [DType::F64, DType::F32, DType::BF16, DType::I8] {
        for (shape, strides, out) in [
            (vec![4, 6], vec![1, 4], vec![6, 1]),
            (vec![4, 6], vec![6, 1], vec![1, 4]),
            (vec![4, 6], vec![24, 2], vec![12, 2]),
            (vec![3, 32], vec![0, 1], vec![32, 1]),
            (vec![2, 3, 4], vec![0, 0, 0], vec![12, 4, 1]),
            (vec![2, 1, 2, 3, 1, 2, 2, 3], vec![300, 7, 150, 48, 5, 23, 11, 3], vec![216, 1, 100, 33, 1, 15, 7, 2]),
            (vec![7], vec![3], vec![2]),
            (vec![], vec![], vec![]),
        ] {
            let x = make.strided(dtype, &shape, &strides);
            trials.push(with(Trial::new(Op::Copy(PLAIN)), x).output_strides(&out));
        }
    }
    trials
}

pub fn parts_are_put_together_and_taken_apart() -> Vec<Trial> {
    let mut make = Maker::new(3);
    let mut trials = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::I8, DType::Q4_0, DType::Q6K, DType::I4, DType::Mxfp4] {
        let block = dtype.block_elems();
        for axis in [0u32, 1, 2] {
            let part = |n: usize| match axis {
                0 => [n, 2, block],
                1 => [2, n, block],
                _ => [2, 3, n * block],
            };
            let concat = Trial::new(Op::Concat(ConcatAttrs { axis }));
            let concat = [1, 3, 2].iter().fold(concat, |t, &n| with(t, make.bits(dtype, &part(n), 0)));
            trials.push(concat);
            trials.push(with(Trial::new(Op::Split(SplitAttrs { axis, parts: 3 })), make.bits(dtype, &part(6), block)));
            let unit = if axis == 2 { block as u32 } else { 1 };
            let slice = Op::Slice(SliceAttrs { axis, start: 2 * unit, len: 3 * unit });
            trials.push(with(Trial::new(slice), make.bits(dtype, &part(6), 0)));
        }
    }
    trials
}

pub fn axes_change_places() -> Vec<Trial> {
    let mut make = Maker::new(4);
    let mut trials = Vec::new();
    for dtype in [DType::F64, DType::F32, DType::F16, DType::U8] {
        for (shape, perm) in [
            (vec![5, 8], vec![1, 0]),
            (vec![33, 17], vec![1, 0]),
            (vec![2, 3, 16], vec![1, 0, 2]),
            (vec![2, 3, 4], vec![2, 0, 1]),
            (vec![2, 3, 4, 5], vec![3, 2, 1, 0]),
            (vec![2, 1, 3, 1, 2, 2, 3, 2], vec![7, 6, 5, 4, 3, 2, 1, 0]),
        ] {
            let perm = Perm::new(&perm).expect("an order of the axes");
            trials.push(with(Trial::new(Op::Transpose(TransposeAttrs { perm })), make.bits(dtype, &shape, 0)));
        }
    }
    trials
}

pub fn a_value_fills_every_dtype() -> Vec<Trial> {
    let mut trials = Vec::new();
    for dtype in SCALARS {
        for value in [0.0, 1.0, -1.5, 2.5, 1e10, f32::NAN, f32::INFINITY] {
            if dtype == DType::F8E8M0 && value != 1.0 {
                continue;
            }
            let fill = || Trial::new(Op::Fill(FillAttrs { value })).output_dtype(dtype);
            trials.push(fill().output_shape(&[3, 19]));
            trials.push(fill().output_shape(&[2, 16]).output_strides(&[1, 2]));
        }
    }
    trials
}
