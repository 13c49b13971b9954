//! Dense products on the simulated card, beside the truth in f64: every kernel, every way of dividing a product.

use qiao_core::*;
use qiao_cuda::CudaBackend;
use qiao_reference::Trial;
use qiao_reference::data::{Fill, Rng, to_bytes, values};
use qiao_simcuda::Knob;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
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
    precision: Precision,
    /// Whether the epilogue has its bias where it may do without.
    bias: bool,
    /// Whether b has the batch dims of a.
    each: bool,
}

impl Case {
    fn of(dtype: DType) -> Case {
        let (epilogue, precision) = (Epilogue::None, Precision::Ieee);
        Case { dtypes: [dtype; 3], trans_b: true, epilogue, precision, bias: false, each: false }
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
        let attrs = MatmulAttrs { trans_b: case.trans_b, epilogue: case.epilogue, precision: case.precision };
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

/// Every trial is within its limits on a card with so many processors, by the kernel whose name starts so.
fn check(processors: u64, kernel: &str, trials: &[Trial]) {
    let card = qiao_simcuda::install().alone();
    card.set(Knob::Processors, processors);
    let device = CudaBackend.open(0).unwrap();
    let mut failures = Vec::new();
    for (i, trial) in trials.iter().enumerate() {
        let built = trial.build().unwrap();
        let at = format!("trial {i}: {}", built.graph.node(0));
        let support = device.support(&built.graph).remove(0);
        if support.kernel != format!("{kernel}.cuda") {
            failures.push(format!("{at}: {support:?}"));
        }
        match trial.check(&*device) {
            Err(e) => failures.push(format!("{at}: {e} {:?}", card.fault())),
            Ok(all) => failures.extend(all.iter().filter(|c| !c.passes()).map(|c| format!("{at}: {c:?}"))),
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures[..failures.len().min(8)].join("\n"));
}

#[test]
fn few_rows_in_16_bits_read_b_once_on_tensor_cores() {
    let (mut m, mut trials) = (Maker::new(1), Vec::new());
    for dtype in [DType::F16, DType::BF16] {
        let case = Case::of(dtype);
        for rows in 1..=8 {
            trials.push(m.product(case, &[], [rows, 8 * rows + 3, 64 * rows - 8 * (rows % 3)]));
        }
        for (epilogue, bias) in EPILOGUES.iter().flat_map(|&e| [(e, false), (e, true)]) {
            trials.push(m.product(Case { epilogue, bias, ..case }, &[], [1, 34, 1040]));
            trials.push(m.product(
                Case { epilogue, bias, dtypes: [dtype, dtype, DType::F32], ..case },
                &[],
                [5, 48, 72],
            ));
        }
        trials.push(m.product(Case { each: true, ..case }, &[2, 3], [3, 17, 40]));
        trials.push(m.product(case, &[2, 3], [1, 17, 40]));
    }
    check(4, "gemv", &trials);
    // Few columns for many processors: eight to a group, and K in parts.
    let case = Case::of(DType::BF16);
    let few = [m.product(case, &[], [2, 40, 2056]), m.product(case, &[], [8, 9, 520])];
    check(132, "gemv", &few);
}

#[test]
fn few_rows_of_any_dtypes_and_either_layout_are_a_gemv() {
    let (mut m, mut trials) = (Maker::new(2), Vec::new());
    for (i, (a, b)) in FLOATS.iter().flat_map(|&a| FLOATS.map(|b| (a, b))).enumerate() {
        let case = Case { dtypes: [a, b, FLOATS[i % 3]], ..Case::of(a) };
        for rows in [1, 3, 8] {
            trials.push(m.product(case, &[], [rows, 19, 264]));
            trials.push(m.product(Case { trans_b: false, ..case }, &[], [rows, 72, 37]));
        }
        for (epilogue, trans_b) in EPILOGUES.iter().flat_map(|&e| [(e, false), (e, true)]) {
            trials.push(m.product(Case { epilogue, trans_b, bias: i % 2 == 0, ..case }, &[], [2, 48, 72]));
        }
        trials.push(m.product(Case { each: true, trans_b: false, ..case }, &[3], [2, 24, 9]));
    }
    check(132, "gemv", &trials);
}

#[test]
fn many_rows_in_16_bits_go_in_tiles_on_tensor_cores() {
    let (mut m, mut small, mut large) = (Maker::new(3), Vec::new(), Vec::new());
    for (dtype, trans_b) in [(DType::F16, true), (DType::F16, false), (DType::BF16, true), (DType::BF16, false)] {
        let case = Case { trans_b, ..Case::of(dtype) };
        let n = if trans_b { 75 } else { 80 };
        for rows in [9, 16, 17, 65] {
            small.push(m.product(case, &[], [rows, n, 72 + 8 * rows]));
        }
        for (epilogue, bias) in EPILOGUES.iter().flat_map(|&e| [(e, false), (e, true)]) {
            small.push(m.product(Case { epilogue, bias, ..case }, &[], [19, 80, 328]));
        }
        small.push(m.product(Case { each: true, ..case }, &[2], [33, 16, 40]));
        large.push(m.product(case, &[], [129, n + 64, 104]));
        large.push(m.product(Case { epilogue: Epilogue::SiluMul, bias: true, ..case }, &[], [70, 272, 40]));
    }
    check(40, "gemm_mma", &small);
    check(1, "gemm_mma", &large);
}

#[test]
fn rounding_to_tf32_is_only_where_it_is_allowed() {
    let mut m = Maker::new(4);
    let tf32 = Case { precision: Precision::Tf32, ..Case::of(DType::F32) };
    let epilogue = |epilogue| Case { epilogue, bias: true, ..tf32 };
    let trials = [
        m.product(tf32, &[], [17, 33, 132]),
        m.product(epilogue(Epilogue::Gelu), &[], [70, 72, 260]),
        m.product(epilogue(Epilogue::SiluMul), &[], [9, 72, 40]),
        m.product(Case { each: true, ..tf32 }, &[3], [18, 20, 36]),
    ];
    check(1, "gemm_mma", &trials);
    check(30, "gemm_mma", &trials[..2]);
    check(1, "gemm_fma", &[m.product(Case::of(DType::F32), &[], [17, 33, 132])]);
}

#[test]
fn products_in_f32_go_in_tiles_by_multiply_add() {
    let (mut m, mut trials) = (Maker::new(5), Vec::new());
    for trans_b in [true, false] {
        let case = Case { trans_b, ..Case::of(DType::F32) };
        for (epilogue, bias) in EPILOGUES.iter().flat_map(|&e| [(e, false), (e, true)]) {
            trials.push(m.product(Case { epilogue, bias, ..case }, &[], [9, 72, 132]));
        }
        trials.push(m.product(case, &[], [66, 140, 36]));
        trials.push(m.product(Case { each: true, ..case }, &[2], [65, 12, 20]));
    }
    check(1, "gemm_fma", &trials);
    check(30, "gemm_fma", &trials);
}

#[test]
fn whatever_is_left_runs_too() {
    let (mut m, mut trials) = (Maker::new(6), Vec::new());
    for (i, (a, b)) in FLOATS.iter().flat_map(|&a| FLOATS.map(|b| (a, b))).enumerate() {
        let case = Case { dtypes: [a, b, FLOATS[i % 3]], trans_b: i % 2 == 0, bias: true, ..Case::of(a) };
        trials.push(m.product(Case { epilogue: EPILOGUES[i % 5], ..case }, &[], [11, 34, 37]));
        trials.push(m.product(case, &[], [2, 33, 19]));
        trials.push(m.product(Case { each: i % 2 == 1, ..case }, &[2], [3, 70, 0]));
    }
    check(3, "gemm_any", &trials);
    let long = m.product(Case::of(DType::F32), &[], [3, 5, 1001]);
    check(132, "gemm_any", &[long]);
}

#[test]
fn operands_may_lie_in_any_strides() {
    let (mut m, mut trials) = (Maker::new(7), Vec::new());
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
    let card = qiao_simcuda::install().alone();
    let device = CudaBackend.open(0).unwrap();
    for (i, trial) in trials.iter().enumerate() {
        let all = trial.check(&*device).unwrap_or_else(|e| panic!("trial {i}: {e} {:?}", card.fault()));
        assert!(all.iter().all(|c| c.passes()), "trial {i}: {} {all:?}", trial.build().unwrap().graph);
    }
}

#[test]
fn numbers_that_are_not_finite_stay_in_their_rows_and_columns() {
    let mut m = Maker { fill: Fill::Special, ..Maker::new(8) };
    for (dtype, kernel) in [(DType::F32, "gemm_fma"), (DType::F16, "gemm_mma"), (DType::BF16, "gemm_mma")] {
        let case = Case::of(dtype);
        let few = [m.product(case, &[], [1, 19, 40]), m.product(Case { trans_b: false, ..case }, &[], [3, 24, 41])];
        check(8, "gemv", &few);
        let gated = Case { epilogue: Epilogue::SiluMul, ..case };
        check(8, kernel, &[m.product(case, &[], [14, 35, 72]), m.product(gated, &[], [9, 34, 40])]);
        check(8, "gemm_any", &[m.product(case, &[], [9, 12, 33])]);
    }
}

#[test]
fn a_product_of_nothing_is_its_epilogue_or_nothing() {
    let mut m = Maker::new(9);
    let mut trials = Vec::new();
    for epilogue in [Epilogue::None, Epilogue::Bias, Epilogue::Gelu, Epilogue::SiluMul] {
        let case = Case { epilogue, bias: true, ..Case::of(DType::F16) };
        for size in [[3, 4, 0], [0, 4, 8], [3, 0, 8], [0, 0, 0]] {
            trials.push(m.product(case, &[], size));
        }
        trials.push(m.product(Case { each: true, ..case }, &[0], [3, 4, 8]));
    }
    let _card = qiao_simcuda::install().alone();
    let device = CudaBackend.open(0).unwrap();
    for trial in &trials {
        assert!(trial.check(&*device).unwrap().iter().all(|c| c.passes()), "{}", trial.build().unwrap().graph);
    }
}
