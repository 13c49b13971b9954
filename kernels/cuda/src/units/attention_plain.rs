//! Attention of any dtypes and sizes, and the kernel that joins split keys.

use crate::kernel::{Kernel, Unit};

const fn row(symbol: &'static str) -> Kernel {
    Kernel { symbol, threads: 128, params: "ppppppppppps" }
}

pub(crate) const UNIT: Unit = Unit {
    name: "attention_plain",
    text: include_str!("../../text/attention_plain.cu"),
    kernels: &[row("attention_plain_f32"), row("attention_plain_any"), row("attention_join")],
};
