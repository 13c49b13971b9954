//! Operators that move elements, cast them and look rows up match the truth.

mod rig;

use qiao_core::*;
use qiao_reference::Trial;
use qiao_reference::data::to_bytes;
use rig::{Maker, check_all, with};

const PLAIN: NoAttrs = NoAttrs {};

const SCALARS: [DType; 18] = [
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F8E4M3,
    DType::F8E5M2,
    DType::F8E8M0,
    DType::F8E4M3Fnuz,
    DType::F8E5M2Fnuz,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U64,
    DType::U32,
    DType::U16,
    DType::U8,
    DType::Bool,
];

fn packed() -> Vec<DType> {
    DType::ALL.iter().copied().filter(|d| d.is_packed()).collect()
}

#[test]
fn copies_of_every_dtype_keep_every_bit() {
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
    check_all(&trials);
}

#[test]
fn strides_of_any_kind_are_followed() {
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
    check_all(&trials);
}

#[test]
fn parts_are_put_together_and_taken_apart() {
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
    check_all(&trials);
}

#[test]
fn axes_change_places() {
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
            let perm = Perm::new(&perm).unwrap();
            trials.push(with(Trial::new(Op::Transpose(TransposeAttrs { perm })), make.bits(dtype, &shape, 0)));
        }
    }
    check_all(&trials);
}

#[test]
fn a_value_fills_every_dtype() {
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
    check_all(&trials);
}

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

#[test]
fn every_plain_dtype_becomes_every_other() {
    let mut make = Maker::new(5);
    let mut trials = Vec::new();
    for from in SCALARS {
        for to in SCALARS.into_iter().filter(|&d| d != DType::F8E8M0 && d != from) {
            let cast = || Trial::new(Op::Cast(PLAIN)).output_dtype(to);
            trials.push(with(cast(), make.bits(from, &[5, 24], 3)));
            let notable = TensorDesc::new(from, &[2, 13]).unwrap();
            trials.push(with(cast(), (notable, to_bytes(from, &NOTABLE))));
        }
    }
    check_all(&trials);
}

#[test]
fn activations_are_cast_side_by_side_and_one_by_one() {
    let mut make = Maker::new(6);
    let mut trials = Vec::new();
    for from in rig::FLOATS {
        for to in rig::FLOATS.into_iter().filter(|&d| d != from) {
            for count in [1, 7, 8, 2047, 2056, 5003] {
                trials.push(with(Trial::new(Op::Cast(PLAIN)).output_dtype(to), make.bits(from, &[count], 0)));
            }
            let x = make.strided(from, &[3, 20], &[1, 3]);
            trials.push(with(Trial::new(Op::Cast(PLAIN)).output_dtype(to), x));
        }
    }
    check_all(&trials);
}

#[test]
fn every_packed_format_becomes_numbers() {
    let mut make = Maker::new(7);
    let mut trials = Vec::new();
    for from in packed() {
        for (i, to) in [DType::F32, DType::F16, DType::BF16, DType::F64].into_iter().enumerate() {
            let shape = [3, (1 + i) * from.block_elems() * if from.block_elems() == 2 { 5 } else { 1 }];
            let gap = (i % 2) * from.block_elems();
            let cast = with(Trial::new(Op::Cast(PLAIN)).output_dtype(to), make.bits(from, &shape, gap));
            trials.push(if i == 2 { cast.output_strides(&[2 * shape[1] + 6, 2]) } else { cast });
        }
    }
    check_all(&trials);
}

/// Ids of which every other one is no row.
fn ids(make: &mut Maker, dtype: DType, shape: &[usize], rows: usize) -> rig::Data {
    let (desc, _) = make.ids(dtype, shape, rows);
    let outside = [-1.0, rows as f64, -2147483648.0, 2147483647.0];
    let data: Vec<f64> = (0..desc.elements())
        .map(|i| if i % 2 == 0 { make.rng.below(rows) as f64 } else { outside[i / 2 % 4] })
        .collect();
    let bytes = to_bytes(dtype, &data);
    (desc, bytes)
}

#[test]
fn rows_of_every_dtype_are_looked_up() {
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
    check_all(&trials);
}

#[test]
fn rows_are_looked_up_in_another_dtype() {
    let mut make = Maker::new(9);
    let mut trials = Vec::new();
    let tables =
        [DType::F32, DType::F16, DType::BF16, DType::F8E4M3, DType::F4E2M1, DType::Q8_0, DType::Q4K, DType::Mxfp4];
    for table in tables {
        for to in rig::FLOATS.into_iter().filter(|&d| d != table) {
            let data = make.bits(table, &[7, 2 * table.block_elems()], 0);
            let trial = with(with(Trial::new(Op::GatherRows(PLAIN)), data), ids(&mut make, DType::I32, &[6], 7));
            trials.push(trial.output_dtype(to));
        }
    }
    let table = make.strided(DType::F32, &[5, 6], &[1, 5]);
    let trial = with(with(Trial::new(Op::GatherRows(PLAIN)), table), ids(&mut make, DType::I64, &[3], 5));
    trials.push(trial.output_strides(&[14, 2]));
    check_all(&trials);
}
