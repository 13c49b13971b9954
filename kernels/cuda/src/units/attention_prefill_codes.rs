//! Prompts of f16 and bf16 over pages of i8 and fp8 codes.

use crate::kernel::{Kernel, Unit};

const fn row(symbol: &'static str) -> Kernel {
    Kernel { symbol, threads: 128, params: "ppppppppppps" }
}

pub(crate) const UNIT: Unit = Unit {
    name: "attention_prefill_codes",
    text: include_str!("../../text/attention_prefill_codes.cu"),
    kernels: &[
        row("attention_prefill_codes_f16_64"),
        row("attention_prefill_codes_f16_96"),
        row("attention_prefill_codes_f16_128"),
        row("attention_prefill_codes_f16_256"),
        row("attention_prefill_codes_bf16_64"),
        row("attention_prefill_codes_bf16_96"),
        row("attention_prefill_codes_bf16_128"),
        row("attention_prefill_codes_bf16_256"),
    ],
};
