//! Prompts of bf16, over pages or packed keys of bf16.

use crate::kernel::{Kernel, Unit};

const fn row(symbol: &'static str) -> Kernel {
    Kernel { symbol, threads: 128, params: "ppppppppppps" }
}

pub(crate) const UNIT: Unit = Unit {
    name: "attention_prefill_bf16",
    text: include_str!("../../text/attention_prefill_bf16.cu"),
    kernels: &[
        row("attention_prefill_bf16_64"),
        row("attention_prefill_bf16_96"),
        row("attention_prefill_bf16_128"),
        row("attention_prefill_bf16_256"),
    ],
};
