//! Products with weights in every block format beside the truth, on both kinds of devices.

mod kinds;
mod rig;

/// Few rows are a gemv; the others are whichever.
fn kernels(list: &str) -> &'static str {
    if list == "formats_are_read_eight_by_eight" { "gem" } else { "gemv_quant" }
}

qiao_conformance::trials!(block_formats, |list, trials| kinds::check(kernels(list), trials));
