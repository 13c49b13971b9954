//! Packed formats as numbers.

use crate::kernel::{Kernel, Unit};

const fn row(symbol: &'static str) -> Kernel {
    Kernel { symbol, threads: 256, params: "ppullpusll" }
}

pub(crate) const UNIT: Unit = Unit {
    name: "unpack",
    text: include_str!("../../text/unpack.cu"),
    kernels: &[
        row("unpack_q4_0"),
        row("unpack_q4_1"),
        row("unpack_q5_0"),
        row("unpack_q5_1"),
        row("unpack_q8_0"),
        row("unpack_q2_k"),
        row("unpack_q3_k"),
        row("unpack_q4_k"),
        row("unpack_q5_k"),
        row("unpack_q6_k"),
        row("unpack_iq4_nl"),
        row("unpack_iq4_xs"),
        row("unpack_mxfp4"),
        row("unpack_i4"),
        row("unpack_u4"),
        row("unpack_f4_e2m1"),
    ],
};
