//! Dense products beside the truth in f64: every dtype, layout and epilogue, on both kinds of devices.

mod kinds;
mod rig;

use kinds::check;
use qiao_core::*;
use qiao_reference::Trial;
use qiao_reference::data::{Fill, Rng, to_bytes, values};
use rig::FLOATS;

const EPILOGUES: [Epilogue; 5] =
    [Epilogue::None, Epilogue::Bias, Epilogue::BiasResidual, Epilogue::SiluMul, Epilogue::Gelu];

/// Operands of a product, from a seed.
struct Maker {
    rng: Rng,
    fill: Fill,
}

/// A product's operands beside a, in words.
#[derive(Clone, Copy)]
struct Case {
    dtypes: [DType; 3],
    trans_b: bool,
    epilogue: Epilogue,
    /// Whether the epilogue has its bias where it may do without.
    bias: bool,
    /// Whether b has the batch dims of a.
    each: bool,
}

impl Case {
    fn of(dtype: DType) -> Case {
        Case { dtypes: [dtype; 3], trans_b: true, epilogue: Epilogue::None, bias: false, each: false }
    }
}

impl Maker {
    fn new(seed: u64) -> Self {
        Maker { rng: Rng::new(seed), fill: Fill::Normal }
    }

    fn tensor(&mut self, desc: TensorDesc) -> (TensorDesc, Vec<u8>) {
        let held = desc.bytes().unwrap() / desc.dtype.block_bytes();
        let data = values(&mut self.rng, self.fill, desc.dtype, held);
        (desc.clone(), to_bytes(desc.dtype, &data))
    }

    fn of(&mut self, dtype: DType, shape: &[usize]) -> (TensorDesc, Vec<u8>) {
        self.tensor(TensorDesc::new(dtype, shape).unwrap())
    }

    /// A product of `[front.., m, k]`.
    fn product(&mut self, case: Case, front: &[usize], [m, n, k]: [usize; 3]) -> Trial {
        let [at, bt, ct] = case.dtypes;
        let attrs = MatmulAttrs { trans_b: case.trans_b, epilogue: case.epilogue, precision: Precision::Ieee };
        let of = |rows: usize, columns: usize| [front, &[rows, columns]].concat();
        let matrix = if case.trans_b { [n, k] } else { [k, n] };
        let b_shape = if case.each { of(matrix[0], matrix[1]) } else { matrix.to_vec() };
        let (a, b) = (self.of(at, &of(m, k)), self.of(bt, &b_shape));
        let mut trial = Trial::new(Op::Matmul(attrs)).input(a.0, a.1).input(b.0, b.1);
        if case.epilogue == Epilogue::Bias || case.bias && case.epilogue != Epilogue::None {
            let bias = self.of(FLOATS[(m + n) % 3], &[n]);
            trial = trial.input(bias.0, bias.1);
        } else if case.epilogue == Epilogue::BiasResidual {
            trial = trial.without();
        }
        if case.epilogue == Epilogue::BiasResidual {
            let residual = self.of(FLOATS[(m + k) % 3], &of(m, n));
            trial = trial.input(residual.0, residual.1);
        }
        trial.output_dtype(ct)
    }
}

#[test]
fn few_rows_of_any_dtypes_and_either_layout() {
    let (mut m, mut trials) = (Maker::new(1), Vec::new());
    for (i, (a, b)) in FLOATS.iter().flat_map(|&a| FLOATS.map(|b| (a, b))).enumerate() {
        let case = Case { dtypes: [a, b, FLOATS[i % 3]], ..Case::of(a) };
        for (rows, columns) in [(1, 1), (1, 19), (2, 8), (3, 33), (5, 7), (8, 20)] {
            trials.push(m.product(case, &[], [rows, columns, 232 + 32 * (i % 2)]));
            trials.push(m.product(Case { trans_b: false, ..case }, &[], [rows, columns, 37]));
        }
        for (epilogue, trans_b) in EPILOGUES.iter().flat_map(|&e| [(e, false), (e, true)]) {
            trials.push(m.product(Case { epilogue, trans_b, bias: i % 2 == 0, ..case }, &[], [1 + i % 3, 34, 72]));
        }
        trials.push(m.product(Case { each: true, trans_b: false, ..case }, &[3], [2, 24, 9]));
        trials.push(m.product(case, &[2, 3], [1, 17, 40]));
    }
    check("gemv", &trials);
}

#[test]
fn many_rows_of_any_dtypes_and_either_layout() {
    let (mut m, mut trials) = (Maker::new(2), Vec::new());
    for (i, (a, b)) in FLOATS.iter().flat_map(|&a| FLOATS.map(|b| (a, b))).enumerate() {
        let case = Case { dtypes: [a, b, FLOATS[i % 3]], trans_b: i % 2 == 0, ..Case::of(a) };
        for (rows, columns) in [(9, 75), (31, 8), (33, 63), (64, 64), (65, 66)] {
            trials.push(m.product(case, &[], [rows, columns, 37]));
        }
        trials.push(m.product(case, &[], [9, 9, 1024 + 64 * (i % 2) + 5]));
        for epilogue in EPILOGUES {
            trials.push(m.product(Case { epilogue, bias: i % 2 == 0, ..case }, &[], [10 + i, 34, 72]));
        }
        trials.push(m.product(Case { each: i % 2 == 1, ..case }, &[2], [11, 70, 64]));
    }
    check("gemm", &trials);
}

#[test]
fn operands_may_lie_in_any_strides() {
    let (mut m, mut trials) = (Maker::new(3), Vec::new());
    let strided = |dtype, shape: &[usize], strides: &[usize]| TensorDesc::strided(dtype, shape, strides).unwrap();
    for dtype in FLOATS {
        let plain = |shape: &[usize]| TensorDesc::new(dtype, shape).unwrap();
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
            let (a, b) = (m.tensor(a), m.tensor(b));
            trials.push(Trial::new(Op::Matmul(attrs)).input(a.0, a.1).input(b.0, b.1));
        }
        let tails = MatmulAttrs { trans_b: true, epilogue: Epilogue::BiasResidual, ..Default::default() };
        for rows in [2, 17] {
            let (a, b) = (m.of(dtype, &[rows, 40]), m.of(dtype, &[24, 40]));
            let trial = Trial::new(Op::Matmul(tails)).input(a.0, a.1).input(b.0, b.1);
            let (bias, residual) =
                (m.tensor(strided(dtype, &[24], &[3])), m.tensor(strided(dtype, &[rows, 24], &[1, rows + 2])));
            trials.push(trial.input(bias.0, bias.1).input(residual.0, residual.1).output_strides(&[60, 2]));
        }
    }
    check("gem", &trials);
}

#[test]
fn numbers_that_are_not_finite_stay_in_their_rows_and_columns() {
    for (seed, fill) in [Fill::Special, Fill::WideRange, Fill::Subnormal, Fill::Cancelling].into_iter().enumerate() {
        let (mut m, mut trials) = (Maker { fill, ..Maker::new(4 + seed as u64) }, Vec::new());
        for dtype in FLOATS {
            let case = Case::of(dtype);
            trials.push(m.product(case, &[], [1, 19, 40]));
            trials.push(m.product(Case { trans_b: false, ..case }, &[], [3, 24, 41]));
            trials.push(m.product(case, &[], [14, 35, 72]));
            if fill == Fill::Special {
                trials.push(m.product(Case { epilogue: Epilogue::SiluMul, ..case }, &[], [9, 34, 40]));
            }
        }
        check("gem", &trials);
    }
}

#[test]
fn a_product_of_nothing_is_its_epilogue_or_nothing() {
    let mut m = Maker::new(9);
    let mut trials = Vec::new();
    for epilogue in [Epilogue::None, Epilogue::Bias, Epilogue::Gelu, Epilogue::SiluMul] {
        let case = Case { epilogue, bias: true, ..Case::of(DType::F16) };
        for size in [[3, 4, 0], [9, 4, 0], [0, 4, 8], [3, 0, 8], [0, 0, 0]] {
            trials.push(m.product(case, &[], size));
        }
        trials.push(m.product(Case { each: true, ..case }, &[0], [3, 4, 8]));
    }
    check("gem", &trials);
}
