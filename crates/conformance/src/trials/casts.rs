//! Elements that become those of another dtype, and rows of tables that are looked up.
#![allow(missing_docs, reason = "the name of a list is the promise that its trials hold a device to")]

use qiao_core::*;
use qiao_reference::Trial;
use qiao_reference::data::to_bytes;

use super::{Data, FLOATS, Maker, SCALARS, plain, with};

const PLAIN: NoAttrs = NoAttrs {};

/// Numbers at which a cast must round, saturate or overflow.
const NOTABLE: [f64; 26] = [
    0.0,
    -0.0,
    0.5,
    1.5,
    2.5,
    -0.5,
    -1.5,
    127.5,
    -128.5,
    255.5,
    32767.5,
    65519.996,
    65520.0,
    -1e10,
    9.3e18,
    1.9e19,
    1e20,
    1e39,
    -1e300,
    1e-46,
    6e-8,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    448.1,
    57345.0,
];

pub fn every_plain_dtype_becomes_every_other() -> Vec<Trial> {
    let mut make = Maker::new(5);
    let mut trials = Vec::new();
    for from in SCALARS {
        for to in SCALARS.into_iter().filter(|&d| d != DType::F8E8M0 && d != from) {
            let cast = || Trial::new(Op::Cast(PLAIN)).output_dtype(to);
            trials.push(with(cast(), make.bits(from, &[5, 24], 3)));
            trials.push(with(cast(), (plain(from, &[2, 13]), to_bytes(from, &NOTABLE))));
        }
    }
    trials
}

pub fn activations_are_cast_side_by_side_and_one_by_one() -> Vec<Trial> {
    let mut make = Maker::new(6);
    let mut trials = Vec::new();
    for from in FLOATS {
        for to in FLOATS.into_iter().filter(|&d| d != from) {
            for count in [1, 7, 8, 2047, 2056, 5003] {
                trials.push(with(Trial::new(Op::Cast(PLAIN)).output_dtype(to), make.bits(from, &[count], 0)));
            }
            let x = make.strided(from, &[3, 20], &[1, 3]);
            trials.push(with(Trial::new(Op::Cast(PLAIN)).output_dtype(to), x));
        }
    }
    trials
}

pub fn every_packed_format_becomes_numbers() -> Vec<Trial> {
    let mut make = Maker::new(7);
    let mut trials = Vec::new();
    for &from in DType::ALL.iter().filter(|d| d.is_packed()) {
        for (i, to) in [DType::F32, DType::F16, DType::BF16, DType::F64].into_iter().enumerate() {
            let shape = [3, (1 + i) * from.block_elems() * if from.block_elems() == 2 { 5 } else { 1 }];
            let gap = (i % 2) * from.block_elems();
            let cast = with(Trial::new(Op::Cast(PLAIN)).output_dtype(to), make.bits(from, &shape, gap));
            trials.push(if i == 2 { cast.output_strides(&[2 * shape[1] + 6, 2]) } else { cast });
        }
    }
    trials
}

/// Ids of which every other one is no row.
fn ids(make: &mut Maker, dtype: DType, shape: &[usize], rows: usize) -> Data {
    let (desc, _) = make.ids(dtype, shape, rows);
    let outside = [-1.0, rows as f64, -2147483648.0, 2147483647.0];
    let data: Vec<f64> = (0..desc.elements())
        .map(|i| if i % 2 == 0 { make.rng.below(rows) as f64 } else { outside[i / 2 % 4] })
        .collect();
    let bytes = to_bytes(dtype, &data);
    (desc, bytes)
}

pub fn rows_of_every_dtype_are_looked_up() -> Vec<Trial> {
    let mut make = Maker::new(8);
    let mut trials = Vec::new();
    for (i, &dtype) in DType::ALL.iter().enumerate() {
        let index = if i % 2 == 0 { DType::I32 } else { DType::I64 };
        for columns in [1, 3, 8] {
            let table = make.bits(dtype, &[9, columns * dtype.block_elems()], (columns % 2) * dtype.block_elems());
            let trial = with(with(Trial::new(Op::GatherRows(PLAIN)), table), ids(&mut make, index, &[2, 4], 9));
            trials.push(if dtype == DType::F4E2M1 { trial.output_dtype(DType::F32) } else { trial });
        }
    }
    trials
}

pub fn rows_are_looked_up_in_another_dtype() -> Vec<Trial> {
    let mut make = Maker::new(9);
    let mut trials = Vec::new();
    let tables =
        [DType::F32, DType::F16, DType::BF16, DType::F8E4M3, DType::F4E2M1, DType::Q8_0, DType::Q4K, DType::Mxfp4];
    for table in tables {
        for to in FLOATS.into_iter().filter(|&d| d != table) {
            let data = make.bits(table, &[7, 2 * table.block_elems()], 0);
            let trial = with(with(Trial::new(Op::GatherRows(PLAIN)), data), ids(&mut make, DType::I32, &[6], 7));
            trials.push(trial.output_dtype(to));
        }
    }
    let table = make.strided(DType::F32, &[5, 6], &[1, 5]);
    let trial = with(with(Trial::new(Op::GatherRows(PLAIN)), table), ids(&mut make, DType::I64, &[3], 5));
    trials.push(trial.output_strides(&[14, 2]));
    trials
}
