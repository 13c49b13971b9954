//! Quantised products: a unit for each family of formats, their packing and their ends.

use crate::kernel::{Kernel, Unit};

/// Products of few rows, of more, of many.
macro_rules! products {
    ($name:literal, [$($format:literal),*]) => {
        Unit {
            name: $name,
            text: include_str!(concat!("../../text/", $name, ".cu")),
            kernels: &[$(
                several(concat!("quant_gemv_", $format, "_f16")),
                product(concat!("quant_few_", $format, "_f16"), 128),
                product(concat!("quant_many_", $format, "_f16"), 256),
                several(concat!("quant_gemv_", $format, "_bf16")),
                product(concat!("quant_few_", $format, "_bf16"), 128),
                product(concat!("quant_many_", $format, "_bf16"), 256),
            )*],
        }
    };
}

/// Up to three products of one a: a, residual, three times w, scales, zeros, bias and y, and what the products are.
const fn several(symbol: &'static str) -> Kernel {
    Kernel::new(symbol, 256, "ppppppppppppppppps")
}

const fn product(symbol: &'static str, threads: u32) -> Kernel {
    Kernel::new(symbol, threads, "ppppppps")
}

const fn row(symbol: &'static str, threads: u32, params: &'static str) -> Kernel {
    Kernel::new(symbol, threads, params)
}

pub(crate) const Q4_0: Unit = products!("quant_q4_0", ["q4_0"]);
pub(crate) const Q8_0: Unit = products!("quant_q8_0", ["q8_0"]);
pub(crate) const Q4_K: Unit = products!("quant_q4_k", ["q4_k"]);
pub(crate) const Q6_K: Unit = products!("quant_q6_k", ["q6_k"]);
pub(crate) const CODES4: Unit = products!("quant_codes4", ["i4", "u4"]);
pub(crate) const CODES8: Unit = products!("quant_codes8", ["i8", "u8"]);
pub(crate) const E4M3: Unit = products!("quant_e4m3", ["f8_e4m3"]);

pub(crate) const PACK: Unit = Unit {
    name: "quant_pack",
    text: include_str!("../../text/quant_pack.cu"),
    kernels: &[
        row("quant_pack_q4_0", 256, "pps"),
        row("quant_pack_q8_0", 256, "pps"),
        row("quant_pack_q4_k", 256, "pps"),
        row("quant_pack_q6_k", 256, "pps"),
        row("quant_pack_codes4", 256, "pps"),
        row("quant_pack_codes8", 256, "pps"),
        row("quant_stage_8", 256, "pps"),
        row("quant_stage_16", 256, "pps"),
        row("quant_stage_f32", 256, "pps"),
    ],
};

pub(crate) const FINISH: Unit = Unit {
    name: "quant_finish",
    text: include_str!("../../text/quant_finish.cu"),
    kernels: &[row("quant_finish", 256, "pppps")],
};

pub(crate) const SCALED: Unit = Unit {
    name: "scaled_matmul",
    text: include_str!("../../text/scaled_matmul.cu"),
    kernels: &[
        row("scaled_gemv", 256, "ppppppps"),
        row("scaled_few", 128, "ppppppps"),
        row("scaled_many", 256, "ppppppps"),
        row("scaled_finish", 256, "pppppps"),
    ],
};
