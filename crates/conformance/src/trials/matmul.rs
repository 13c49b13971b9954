//! Dense products: every dtype, layout and epilogue.
#![allow(missing_docs, reason = "the name of a list is the promise that its trials hold a device to")]

use qiao_core::*;
use qiao_reference::Trial;
use qiao_reference::data::Fill;

use super::{FLOATS, Maker, plain, strided, with};

/// What may follow a product.
pub const EPILOGUES: [Epilogue; 5] =
    [Epilogue::None, Epilogue::Bias, Epilogue::BiasResidual, Epilogue::SiluMul, Epilogue::Gelu];

/// A product's operands beside a, in words.
#[derive(Clone, Copy)]
pub struct Case {
    /// Those of a, b and the result.
    pub dtypes: [DType; 3],
    pub trans_b: bool,
    pub epilogue: Epilogue,
    pub precision: Precision,
    /// What the operands hold.
    pub fill: Fill,
    /// Whether the epilogue has its bias where it may do without.
    pub bias: bool,
    /// Whether b has the batch dims of a.
    pub each: bool,
}

impl Case {
    /// b transposed, nothing behind the product.
    pub fn of(dtype: DType) -> Case {
        let (epilogue, precision, fill) = (Epilogue::None, Precision::Ieee, Fill::Normal);
        Case { dtypes: [dtype; 3], trans_b: true, epilogue, precision, fill, bias: false, each: false }
    }
}

/// A product of `[front.., m, k]`.
pub fn product(make: &mut Maker, case: Case, front: &[usize], [m, n, k]: [usize; 3]) -> Trial {
    let [at, bt, ct] = case.dtypes;
    let attrs = MatmulAttrs { trans_b: case.trans_b, epilogue: case.epilogue, precision: case.precision };
    let of = |rows: usize, columns: usize| [front, &[rows, columns]].concat();
    let matrix = if case.trans_b { [n, k] } else { [k, n] };
    let b_shape = if case.each { of(matrix[0], matrix[1]) } else { matrix.to_vec() };
    let mut operand = |dtype, shape: &[usize]| make.fill(case.fill, plain(dtype, shape));
    let (a, b) = (operand(at, &of(m, k)), operand(bt, &b_shape));
    let mut trial = with(with(Trial::new(Op::Matmul(attrs)), a), b);
    if case.epilogue == Epilogue::Bias || case.bias && case.epilogue != Epilogue::None {
        trial = with(trial, operand(FLOATS[(m + n) % 3], &[n]));
    } else if case.epilogue == Epilogue::BiasResidual {
        trial = trial.without();
    }
    if case.epilogue == Epilogue::BiasResidual {
        trial = with(trial, operand(FLOATS[(m + k) % 3], &of(m, n)));
    }
    trial.output_dtype(ct)
}

pub fn few_rows_of_any_dtypes_and_either_layout() -> Vec<Trial> {
    let (mut m, mut trials) = (Maker::new(1), Vec::new());
    for (i, (a, b)) in FLOATS.iter().flat_map(|&a| FLOATS.map(|b| (a, b))).enumerate() {
        let case = Case { dtypes: [a, b, FLOATS[i % 3]], ..Case::of(a) };
        for (rows, columns) in [(1, 1), (1, 19), (2, 8), (3, 33), (5, 7), (8, 20)] {
            trials.push(product(&mut m, case, &[], [rows, columns, 232 + 32 * (i % 2)]));
            trials.push(product(&mut m, Case { trans_b: false, ..case }, &[], [rows, columns, 37]));
        }
        for (epilogue, trans_b) in EPILOGUES.iter().flat_map(|&e| [(e, false), (e, true)]) {
            trials.push(product(
                &mut m,
                Case { epilogue, trans_b, bias: i % 2 == 0, ..case },
                &[],
                [1 + i % 3, 34, 72],
            ));
        }
        trials.push(product(&mut m, Case { each: true, trans_b: false, ..case }, &[3], [2, 24, 9]));
        trials.push(product(&mut m, case, &[2, 3], [1, 17, 40]));
    }
    trials
}

pub fn many_rows_of_any_dtypes_and_either_layout() -> Vec<Trial> {
    let (mut m, mut trials) = (Maker::new(2), Vec::new());
    for (i, (a, b)) in FLOATS.iter().flat_map(|&a| FLOATS.map(|b| (a, b))).enumerate() {
        let case = Case { dtypes: [a, b, FLOATS[i % 3]], trans_b: i % 2 == 0, ..Case::of(a) };
        for (rows, columns) in [(9, 75), (31, 8), (33, 63), (64, 64), (65, 66)] {
            trials.push(product(&mut m, case, &[], [rows, columns, 37]));
        }
        trials.push(product(&mut m, case, &[], [9, 9, 1024 + 64 * (i % 2) + 5]));
        for epilogue in EPILOGUES {
            trials.push(product(&mut m, Case { epilogue, bias: i % 2 == 0, ..case }, &[], [10 + i, 34, 72]));
        }
        trials.push(product(&mut m, Case { each: i % 2 == 1, ..case }, &[2], [11, 70, 64]));
    }
    trials
}

pub fn operands_may_lie_in_any_strides() -> Vec<Trial> {
    let (mut m, mut trials) = (Maker::new(3), Vec::new());
    for dtype in FLOATS {
        let plain = |shape: &[usize]| plain(dtype, shape);
        let nk = MatmulAttrs { trans_b: true, ..Default::default() };
        for (attrs, a, b) in [
            // Rows with gaps, a transposed a, one row repeated, a batch whose rows are not even.
            (nk, strided(dtype, &[9, 40], &[48, 1]), strided(dtype, &[20, 40], &[56, 1])),
            (nk, strided(dtype, &[3, 40], &[48, 1]), strided(dtype, &[20, 40], &[41, 1])),
            (nk, strided(dtype, &[9, 40], &[1, 9]), plain(&[20, 40])),
            (nk, strided(dtype, &[9, 40], &[0, 1]), strided(dtype, &[20, 40], &[0, 0])),
            (nk, strided(dtype, &[2, 3, 40], &[136, 40, 1]), plain(&[20, 40])),
            (nk, strided(dtype, &[2, 3, 40], &[136, 40, 1]), strided(dtype, &[2, 20, 40], &[0, 40, 1])),
            (
                nk,
                strided(dtype, &[2, 2, 9, 40], &[1000, 400, 40, 1]),
                strided(dtype, &[2, 2, 20, 40], &[800, 0, 40, 1]),
            ),
            (nk, strided(dtype, &[1, 4, 1, 40], &[0, 40, 7, 1]), plain(&[20, 40])),
            // b [N, K] that lies as [K, N], and the other way round.
            (nk, plain(&[5, 40]), strided(dtype, &[24, 40], &[1, 24])),
            (MatmulAttrs::default(), plain(&[12, 40]), strided(dtype, &[40, 24], &[1, 40])),
        ] {
            let (a, b) = (m.fill(Fill::Normal, a), m.fill(Fill::Normal, b));
            trials.push(with(with(Trial::new(Op::Matmul(attrs)), a), b));
        }
        let tails = MatmulAttrs { trans_b: true, epilogue: Epilogue::BiasResidual, ..Default::default() };
        for rows in [2, 17] {
            let (a, b) = (m.of(dtype, &[rows, 40]), m.of(dtype, &[24, 40]));
            let trial = with(with(Trial::new(Op::Matmul(tails)), a), b);
            let (bias, residual) = (m.strided(dtype, &[24], &[3]), m.strided(dtype, &[rows, 24], &[1, rows + 2]));
            trials.push(with(with(trial, bias), residual).output_strides(&[60, 2]));
        }
    }
    trials
}

pub fn numbers_that_are_not_finite_stay_in_their_rows_and_columns() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (seed, fill) in [Fill::Special, Fill::WideRange, Fill::Subnormal, Fill::Cancelling].into_iter().enumerate() {
        let mut m = Maker::new(4 + seed as u64);
        for dtype in FLOATS {
            let case = Case { fill, ..Case::of(dtype) };
            trials.push(product(&mut m, case, &[], [1, 19, 40]));
            trials.push(product(&mut m, Case { trans_b: false, ..case }, &[], [3, 24, 41]));
            trials.push(product(&mut m, case, &[], [14, 35, 72]));
            if fill == Fill::Special {
                trials.push(product(&mut m, Case { epilogue: Epilogue::SiluMul, ..case }, &[], [9, 34, 40]));
            }
        }
    }
    trials
}

pub fn a_product_of_nothing_is_its_epilogue_or_nothing() -> Vec<Trial> {
    let mut m = Maker::new(9);
    let mut trials = Vec::new();
    for epilogue in [Epilogue::None, Epilogue::Bias, Epilogue::Gelu, Epilogue::SiluMul] {
        let case = Case { epilogue, bias: true, ..Case::of(DType::F16) };
        for size in [[3, 4, 0], [9, 4, 0], [0, 4, 8], [3, 0, 8], [0, 0, 0]] {
            trials.push(product(&mut m, case, &[], size));
        }
        trials.push(product(&mut m, Case { each: true, ..case }, &[0], [3, 4, 8]));
    }
    trials
}
