//! Products of int8 codes: exact sums, every scale, what joins them.
#![allow(missing_docs, reason = "the name of a list is the promise that its trials hold a device to")]

use qiao_core::*;
use qiao_reference::Trial;
use qiao_reference::data::to_bytes;

use super::{Data, Maker, constant, plain, strided, with};

fn table(m: &mut Maker, n: usize) -> Data {
    let data: Vec<f64> = (0..n).map(|_| 0.001 + 0.01 * m.rng.uniform()).collect();
    (plain(DType::F32, &[n]), to_bytes(DType::F32, &data))
}

/// Random codes with a scale per row and per column.
fn product(m: &mut Maker, rows: usize, n: usize, k: usize) -> Trial {
    let (a, b) = (m.bits(DType::I8, &[rows, k], 0), constant(m.bits(DType::I8, &[n, k], 0)));
    let trial = with(with(Trial::new(Op::ScaledMatmul(NoAttrs {})), a), b);
    let (sa, sb) = (table(m, rows), table(m, n));
    with(with(trial, sa), sb)
}

pub fn one_to_nine_rows_of_odd_sizes() -> Vec<Trial> {
    let mut m = Maker::new(61);
    let mut trials = Vec::new();
    for rows in 1..=9 {
        for (n, k) in [(17, 67), (33, 128), (5, 1)] {
            trials.push(product(&mut m, rows, n, k));
        }
    }
    trials
}

pub fn many_rows() -> Vec<Trial> {
    let mut m = Maker::new(62);
    let mut trials = Vec::new();
    for (rows, n, k) in [(17, 19, 128), (33, 130, 200), (65, 20, 128), (131, 33, 256), (20, 18, 1100), (130, 17, 1024)]
    {
        trials.push(product(&mut m, rows, n, k));
    }
    trials
}

pub fn sums_are_exact_where_no_float_holds_them() -> Vec<Trial> {
    let mut m = Maker::new(63);
    let mut trials = Vec::new();
    for rows in [1, 9] {
        for byte in [0x80, 0x7f] {
            let (n, k) = (3, 16500);
            let all = |rows: usize| (plain(DType::I8, &[rows, k]), vec![byte; rows * k]);
            let trial = with(with(Trial::new(Op::ScaledMatmul(NoAttrs {})), all(rows)), constant(all(n)));
            trials.push(with(with(trial, table(&mut m, rows)), table(&mut m, n)));
        }
    }
    trials
}

pub fn scales_for_all_and_what_joins_the_sum() -> Vec<Trial> {
    let mut m = Maker::new(64);
    let mut trials = Vec::new();
    for rows in [1, 6, 11] {
        for (i, bias) in [None, Some(DType::F32), Some(DType::F16), Some(DType::BF16)].into_iter().enumerate() {
            let (n, k) = (18, 70 + i);
            let (a, b) = (m.bits(DType::I8, &[rows, k], 0), constant(m.bits(DType::I8, &[n, k], 0)));
            let trial = with(with(Trial::new(Op::ScaledMatmul(NoAttrs {})), a), b);
            let (sa, sb) = (table(&mut m, if i % 2 == 0 { 1 } else { rows }), table(&mut m, if i < 2 { 1 } else { n }));
            let trial = with(with(trial, sa), sb);
            let trial = match bias {
                Some(dtype) => with(trial, m.of(dtype, &[n])),
                None => trial.without(),
            };
            let trial = match i % 3 {
                0 => with(trial, m.bits(DType::I32, &[n], 0)),
                _ => trial,
            };
            trials.push(trial.output_dtype([DType::F32, DType::F16, DType::BF16][i % 3]));
        }
    }
    trials
}

pub fn weights_and_activations_lie_as_they_like() -> Vec<Trial> {
    let mut m = Maker::new(65);
    let mut trials = Vec::new();
    for rows in [1, 7, 10] {
        let (n, k) = (35, 40);
        let laid = |m: &mut Maker, r: usize, strides: [usize; 2]| m.any(strided(DType::I8, &[r, k], &strides));
        for (a, b) in [([1, rows + 3], [k, 1]), ([k + 3, 1], [1, n + 5]), ([0, 0], [3 * k, 2])] {
            for fixed in [true, false] {
                let (x, w) = (laid(&mut m, rows, a), laid(&mut m, n, b));
                let w = if fixed { constant(w) } else { w };
                let trial = with(with(Trial::new(Op::ScaledMatmul(NoAttrs {})), x), w);
                let trial = with(with(trial, table(&mut m, rows)), table(&mut m, n));
                trials.push(trial.output_strides(&[n + 2, 1]));
            }
        }
    }
    trials
}

pub fn empty_products_are_what_joins_them() -> Vec<Trial> {
    let mut m = Maker::new(66);
    let mut trials = Vec::new();
    for (rows, n, k) in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (9, 3, 0)] {
        trials.push(with(product(&mut m, rows, n, k), m.of(DType::F32, &[n])));
    }
    trials
}
