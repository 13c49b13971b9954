//! Products of int8 codes on the simulated card beside the truth: exact sums, every scale, what joins them, every way through the
//! kernels.

mod rig;

qiao_conformance::trials!(scaled_matmul, |_, trials| rig::check_all(trials));
