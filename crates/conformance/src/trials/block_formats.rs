//! Products with weights in each of the block formats, as they are stored: few rows, sizes that no tile divides.
#![allow(missing_docs, reason = "the name of a list is the promise that its trials hold a device to")]

use qiao_core::{DType, Epilogue};
use qiao_reference::Trial;

use super::matmul_quant::{op, weight};
use super::{FLOATS, Maker, with};

/// Every block format.
pub fn all() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|dtype| dtype.is_block())
}

/// `rows` rows against `n` columns of so many blocks.
fn product(m: &mut Maker, x: DType, format: DType, rows: usize, n: usize, blocks: usize) -> Trial {
    let a = m.of(x, &[rows, blocks * format.block_elems()]);
    with(with(Trial::new(op(0, 0, Epilogue::None)), a), weight(m, format, n, blocks))
}

pub fn one_row_of_every_dtype_meets_every_format() -> Vec<Trial> {
    let mut m = Maker::new(57);
    let mut trials = Vec::new();
    for format in all() {
        for (i, x) in FLOATS.into_iter().enumerate() {
            for (n, blocks) in [(1, 1), ([17, 33, 67][i], [3, 5, 7][i])] {
                trials.push(product(&mut m, x, format, 1, n, blocks));
            }
        }
    }
    trials
}

pub fn few_rows_meet_every_format() -> Vec<Trial> {
    let mut m = Maker::new(58);
    let mut trials = Vec::new();
    for (i, format) in all().enumerate() {
        for rows in 2..=8 {
            let (n, blocks) = ([17, 5, 33, 3, 47, 19, 31][rows - 2], [3, 1, 5, 3, 1, 3, 1][rows - 2]);
            trials.push(product(&mut m, FLOATS[(rows + i) % 3], format, rows, n, blocks));
        }
    }
    trials
}

pub fn inputs_of_every_format_are_many() -> Vec<Trial> {
    let mut m = Maker::new(59);
    let mut trials = Vec::new();
    for (i, format) in all().enumerate() {
        for rows in [1, 2 + i % 7] {
            trials.push(product(&mut m, FLOATS[(rows + i) % 3], format, rows, 19, 2400 / format.block_elems()));
        }
    }
    trials
}

pub fn formats_are_read_eight_by_eight() -> Vec<Trial> {
    let mut m = Maker::new(40);
    let of = |(i, format)| product(&mut m, FLOATS[i % 3], format, if i % 2 == 0 { 3 } else { 10 }, 19, 2);
    all().enumerate().map(of).collect()
}
