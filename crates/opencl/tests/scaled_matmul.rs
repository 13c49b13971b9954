//! Products of int8 codes beside the truth: exact sums, every scale, what joins them, on both kinds of devices.

mod kinds;
mod rig;

qiao_conformance::trials!(scaled_matmul, |_, trials| kinds::check("gemm_i8", trials));
