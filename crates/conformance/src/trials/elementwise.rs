//! Operators that work element by element.
#![allow(missing_docs, reason = "the name of a list is the promise that its trials hold a device to")]

use qiao_core::*;
use qiao_reference::Trial;

use super::{FLOATS, Maker, with};

const PLAIN: NoAttrs = NoAttrs {};

fn arithmetic() -> [Op; 4] {
    [Op::Add(PLAIN), Op::Sub(PLAIN), Op::Mul(PLAIN), Op::Div(PLAIN)]
}

fn functions() -> [Op; 7] {
    let gelu = |form| Op::Gelu(GeluAttrs { form });
    let plain = [Op::Silu(PLAIN), Op::Relu(PLAIN), Op::Sigmoid(PLAIN), Op::Tanh(PLAIN), Op::Exp(PLAIN)];
    let [silu, relu, sigmoid, tanh, exp] = plain;
    [silu, gelu(GeluForm::Erf), gelu(GeluForm::Tanh), relu, sigmoid, tanh, exp]
}

pub fn rows_of_one_dtype_match_whatever_their_length() -> Vec<Trial> {
    let mut make = Maker::new(1);
    let mut trials = Vec::new();
    for dtype in FLOATS {
        for (i, cols) in [1, 7, 8, 31, 97, 2048, 4099].into_iter().enumerate() {
            let shape = [1 + i % 3, cols];
            let op = arithmetic()[i % 4];
            trials.push(with(with(Trial::new(op), make.of(dtype, &shape)), make.of(dtype, &shape)));
            trials.push(with(Trial::new(functions()[i]), make.of(dtype, &shape)));
        }
    }
    trials
}

pub fn every_operator_takes_what_is_no_number_and_what_is_very_large_or_small() -> Vec<Trial> {
    let mut make = Maker::new(2);
    let mut trials = Vec::new();
    for dtype in FLOATS {
        for op in arithmetic() {
            trials.push(with(with(Trial::new(op), make.special(dtype, &[3, 40])), make.wide(dtype, &[3, 40])));
        }
        for op in functions() {
            trials.push(with(Trial::new(op), make.special(dtype, &[5, 33])));
            trials.push(with(Trial::new(op), make.wide(dtype, &[2, 64])));
        }
    }
    trials
}

pub fn operands_repeat_along_any_axis() -> Vec<Trial> {
    let mut make = Maker::new(3);
    let mut trials = Vec::new();
    for dtype in FLOATS {
        for (i, (a, b)) in [
            (vec![5, 64], vec![64]),
            (vec![5, 64], vec![5, 1]),
            (vec![5, 64], vec![]),
            (vec![64], vec![5, 64]),
            (vec![5, 1], vec![1, 33]),
            (vec![2, 3, 16], vec![2, 1, 16]),
            (vec![2, 3, 16], vec![3, 1]),
            (vec![], vec![]),
            (vec![1, 1], vec![1]),
        ]
        .into_iter()
        .enumerate()
        {
            trials.push(with(with(Trial::new(arithmetic()[i % 4]), make.of(dtype, &a)), make.of(dtype, &b)));
        }
    }
    trials
}

pub fn dtypes_mix_and_strides_are_free() -> Vec<Trial> {
    let mut make = Maker::new(4);
    let mut trials = Vec::new();
    for (i, a) in FLOATS.into_iter().enumerate() {
        for b in FLOATS {
            for y in FLOATS {
                let trial = with(with(Trial::new(arithmetic()[i]), make.of(a, &[3, 21])), make.of(b, &[3, 21]));
                trials.push(trial.output_dtype(y));
            }
            let x = make.strided(a, &[4, 6, 5], &[1, 4, 24]);
            trials.push(with(Trial::new(functions()[i]), x).output_dtype(b).output_strides(&[90, 14, 2]));
            let x = make.strided(a, &[3, 16], &[32, 2]);
            trials.push(with(with(Trial::new(Op::Mul(PLAIN)), x), make.strided(b, &[3, 16], &[0, 1])));
        }
        let deep = [2, 1, 2, 3, 1, 2, 2, 3];
        let strides = [300, 7, 150, 48, 5, 23, 11, 3];
        trials.push(with(Trial::new(Op::Exp(PLAIN)), make.strided(a, &deep, &strides)));
    }
    trials
}

pub fn gate_and_up_come_from_one_operand_or_two() -> Vec<Trial> {
    let mut make = Maker::new(5);
    let mut trials = Vec::new();
    for dtype in FLOATS {
        for cols in [1, 5, 64, 2056] {
            for (gate_second, clamp) in [(false, 0.0), (true, 0.0), (false, 0.5), (true, 7.0)] {
                let op = Op::SiluMul(SiluMulAttrs { gate_second, clamp });
                trials.push(with(Trial::new(op), make.of(dtype, &[3, 2 * cols])));
                if !gate_second {
                    trials.push(with(with(Trial::new(op), make.of(dtype, &[3, cols])), make.of(dtype, &[3, cols])));
                }
            }
        }
        let op = Op::SiluMul(SiluMulAttrs { gate_second: true, clamp: 0.0 });
        trials.push(with(Trial::new(op), make.strided(dtype, &[3, 4, 10], &[1, 3, 12])).output_dtype(DType::F32));
    }
    trials
}
