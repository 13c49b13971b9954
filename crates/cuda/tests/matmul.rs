//! Dense products on the simulated card, beside the truth in f64: every kernel, every way of dividing a product.

use qiao_conformance::trials::matmul::{Case, EPILOGUES, product};
use qiao_conformance::trials::{FLOATS, Maker, failures, hold};
use qiao_core::*;
use qiao_cuda::CudaBackend;
use qiao_reference::Trial;
use qiao_reference::data::Fill;
use qiao_simcuda::Knob;

/// Every trial is within its limits on a card with so many processors, by the kernel whose name starts so.
fn check(processors: u64, kernel: &str, trials: &[Trial]) {
    let card = qiao_simcuda::install().alone();
    card.set(Knob::Processors, processors);
    let device = CudaBackend.open(0).unwrap();
    let mut wrong = failures(&*device, trials, |name| name == format!("{kernel}.cuda"));
    if !wrong.is_empty() {
        wrong.extend(card.fault().map(|said| format!("the card: {said}")));
    }
    hold(&wrong);
}

#[test]
fn few_rows_in_16_bits_read_b_once_on_tensor_cores() {
    let (mut m, mut trials) = (Maker::new(1), Vec::new());
    for dtype in [DType::F16, DType::BF16] {
        let case = Case::of(dtype);
        for rows in 1..=8 {
            trials.push(product(&mut m, case, &[], [rows, 8 * rows + 3, 64 * rows - 8 * (rows % 3)]));
        }
        for (epilogue, bias) in EPILOGUES.iter().flat_map(|&e| [(e, false), (e, true)]) {
            trials.push(product(&mut m, Case { epilogue, bias, ..case }, &[], [1, 34, 1040]));
            trials.push(product(
                &mut m,
                Case { epilogue, bias, dtypes: [dtype, dtype, DType::F32], ..case },
                &[],
                [5, 48, 72],
            ));
        }
        trials.push(product(&mut m, Case { each: true, ..case }, &[2, 3], [3, 17, 40]));
        trials.push(product(&mut m, case, &[2, 3], [1, 17, 40]));
    }
    check(4, "gemv", &trials);
    // Few columns for many processors: eight to a group, and K in parts.
    let case = Case::of(DType::BF16);
    let few = [product(&mut m, case, &[], [2, 40, 2056]), product(&mut m, case, &[], [8, 9, 520])];
    check(132, "gemv", &few);
}

#[test]
fn few_rows_of_any_dtypes_and_either_layout_are_a_gemv() {
    let (mut m, mut trials) = (Maker::new(2), Vec::new());
    for (i, (a, b)) in FLOATS.iter().flat_map(|&a| FLOATS.map(|b| (a, b))).enumerate() {
        let case = Case { dtypes: [a, b, FLOATS[i % 3]], ..Case::of(a) };
        for rows in [1, 3, 8] {
            trials.push(product(&mut m, case, &[], [rows, 19, 264]));
            trials.push(product(&mut m, Case { trans_b: false, ..case }, &[], [rows, 72, 37]));
        }
        for (epilogue, trans_b) in EPILOGUES.iter().flat_map(|&e| [(e, false), (e, true)]) {
            trials.push(product(&mut m, Case { epilogue, trans_b, bias: i % 2 == 0, ..case }, &[], [2, 48, 72]));
        }
        trials.push(product(&mut m, Case { each: true, trans_b: false, ..case }, &[3], [2, 24, 9]));
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
            small.push(product(&mut m, case, &[], [rows, n, 72 + 8 * rows]));
        }
        for (epilogue, bias) in EPILOGUES.iter().flat_map(|&e| [(e, false), (e, true)]) {
            small.push(product(&mut m, Case { epilogue, bias, ..case }, &[], [19, 80, 328]));
        }
        small.push(product(&mut m, Case { each: true, ..case }, &[2], [33, 16, 40]));
        large.push(product(&mut m, case, &[], [129, n + 64, 104]));
        large.push(product(&mut m, Case { epilogue: Epilogue::SiluMul, bias: true, ..case }, &[], [70, 272, 40]));
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
        product(&mut m, tf32, &[], [17, 33, 132]),
        product(&mut m, epilogue(Epilogue::Gelu), &[], [70, 72, 260]),
        product(&mut m, epilogue(Epilogue::SiluMul), &[], [9, 72, 40]),
        product(&mut m, Case { each: true, ..tf32 }, &[3], [18, 20, 36]),
    ];
    check(1, "gemm_mma", &trials);
    check(30, "gemm_mma", &trials[..2]);
    check(1, "gemm_fma", &[product(&mut m, Case::of(DType::F32), &[], [17, 33, 132])]);
}

#[test]
fn products_in_f32_go_in_tiles_by_multiply_add() {
    let (mut m, mut trials) = (Maker::new(5), Vec::new());
    for trans_b in [true, false] {
        let case = Case { trans_b, ..Case::of(DType::F32) };
        for (epilogue, bias) in EPILOGUES.iter().flat_map(|&e| [(e, false), (e, true)]) {
            trials.push(product(&mut m, Case { epilogue, bias, ..case }, &[], [9, 72, 132]));
        }
        trials.push(product(&mut m, case, &[], [66, 140, 36]));
        trials.push(product(&mut m, Case { each: true, ..case }, &[2], [65, 12, 20]));
    }
    check(1, "gemm_fma", &trials);
    check(30, "gemm_fma", &trials);
}

#[test]
fn whatever_is_left_runs_too() {
    let (mut m, mut trials) = (Maker::new(6), Vec::new());
    for (i, (a, b)) in FLOATS.iter().flat_map(|&a| FLOATS.map(|b| (a, b))).enumerate() {
        let case = Case { dtypes: [a, b, FLOATS[i % 3]], trans_b: i % 2 == 0, bias: true, ..Case::of(a) };
        trials.push(product(&mut m, Case { epilogue: EPILOGUES[i % 5], ..case }, &[], [11, 34, 37]));
        trials.push(product(&mut m, case, &[], [2, 33, 19]));
        trials.push(product(&mut m, Case { each: i % 2 == 1, ..case }, &[2], [3, 70, 0]));
    }
    check(3, "gemm_any", &trials);
    let long = product(&mut m, Case::of(DType::F32), &[], [3, 5, 1001]);
    check(132, "gemm_any", &[long]);
}

#[test]
fn numbers_that_are_not_finite_stay_where_they_are_by_every_kernel() {
    let mut m = Maker::new(8);
    for (dtype, kernel) in [(DType::F32, "gemm_fma"), (DType::F16, "gemm_mma"), (DType::BF16, "gemm_mma")] {
        let case = Case { fill: Fill::Special, ..Case::of(dtype) };
        let few = [
            product(&mut m, case, &[], [1, 19, 40]),
            product(&mut m, Case { trans_b: false, ..case }, &[], [3, 24, 41]),
        ];
        check(8, "gemv", &few);
        let gated = Case { epilogue: Epilogue::SiluMul, ..case };
        check(8, kernel, &[product(&mut m, case, &[], [14, 35, 72]), product(&mut m, gated, &[], [9, 34, 40])]);
        check(8, "gemm_any", &[product(&mut m, case, &[], [9, 12, 33])]);
    }
}

// What any device is held to, by whichever kernels.
qiao_conformance::trials!(matmul, |_, trials| {
    let _card = qiao_simcuda::install().alone();
    hold(&failures(&*CudaBackend.open(0).unwrap(), trials, |_| true));
});
