//! Decoding over pages of i8 and fp8 codes.

use crate::kernel::{Kernel, Unit};

const fn row(symbol: &'static str) -> Kernel {
    Kernel { symbol, threads: 128, params: "ppppppppppps" }
}

pub(crate) const UNIT: Unit = Unit {
    name: "attention_decode_codes",
    text: include_str!("../../text/attention_decode_codes.cu"),
    kernels: &[
        row("attention_decode_codes_64"),
        row("attention_decode_codes_96"),
        row("attention_decode_codes_128"),
        row("attention_decode_codes_256"),
    ],
};
