//! Dense products beside the truth in f64: every dtype, layout and epilogue, on both kinds of devices.

mod kinds;
mod rig;

/// The kernels that run the trials of a list.
fn kernels(list: &str) -> &'static str {
    match list {
        "few_rows_of_any_dtypes_and_either_layout" => "gemv",
        "many_rows_of_any_dtypes_and_either_layout" => "gemm",
        "operands_may_lie_in_any_strides"
        | "numbers_that_are_not_finite_stay_in_their_rows_and_columns"
        | "a_product_of_nothing_is_its_epilogue_or_nothing" => "gem",
        other => panic!("no kernels are named for {other}"),
    }
}

qiao_conformance::trials!(matmul, |list, trials| kinds::check(kernels(list), trials));
