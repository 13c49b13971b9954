//! argmax, top_k.

use crate::kernel::{Kernel, Unit};

pub(crate) const UNIT: Unit = Unit {
    name: "choose",
    text: include_str!("../../text/choose.cu"),
    kernels: &[
        Kernel::new("argmax_f32_32", 128, "ppps"),
        Kernel::new("argmax_f32_512", 512, "ppps"),
        Kernel::new("top_k_f32", 512, "pppps"),
        Kernel::new("argmax_f16_32", 128, "ppps"),
        Kernel::new("argmax_f16_512", 512, "ppps"),
        Kernel::new("top_k_f16", 512, "pppps"),
        Kernel::new("argmax_bf16_32", 128, "ppps"),
        Kernel::new("argmax_bf16_512", 512, "ppps"),
        Kernel::new("top_k_bf16", 512, "pppps"),
        Kernel::new("argmax_any_32", 128, "ppps"),
        Kernel::new("argmax_any_512", 512, "ppps"),
        Kernel::new("top_k_any", 512, "pppps"),
        Kernel::new("argmax_join", 128, "pps"),
        Kernel::new("top_k_places", 512, "ppppps"),
        Kernel::new("top_k_few", 128, "ppps"),
    ],
};
