//! Packed formats as numbers.

use crate::kernel::{Group, Kernel};

const TEXTS: &[&str] = &[
    include_str!("../../text/walk.cl"),
    include_str!("../../text/numbers.cl"),
    include_str!("../../text/blocks.cl"),
    include_str!("../../text/unpack.cl"),
];

macro_rules! formats {
    ($($format:literal $define:literal),*) => {
        &[$(Kernel {
            symbol: concat!("unpack_", $format),
            texts: TEXTS,
            options: concat!("-DBLOCK_", $define),
            sizes: &[],
            group: Group::Walk,
            params: "ppullpusll",
        }),*]
    };
}

pub(crate) const KERNELS: &[Kernel] = formats!(
    "q4_0" "Q4_0", "q4_1" "Q4_1", "q5_0" "Q5_0", "q5_1" "Q5_1", "q8_0" "Q8_0",
    "q2_k" "Q2_K", "q3_k" "Q3_K", "q4_k" "Q4_K", "q5_k" "Q5_K", "q6_k" "Q6_K",
    "iq4_nl" "IQ4_NL", "iq4_xs" "IQ4_XS", "mxfp4" "MXFP4",
    "i4" "I4", "u4" "U4", "f4_e2m1" "F4_E2M1"
);
