//! quantize_dynamic, quantize_static.

use crate::kernel::{Kernel, Unit};

pub(crate) const UNIT: Unit = Unit {
    name: "quantize",
    text: include_str!("../../text/quantize.cu"),
    kernels: &[
        Kernel::new("quantize_dynamic_f32_32", 128, "ppps"),
        Kernel::new("quantize_dynamic_f32_512", 512, "ppps"),
        Kernel::new("quantize_static_f32", 256, "pppps"),
        Kernel::new("quantize_dynamic_f16_32", 128, "ppps"),
        Kernel::new("quantize_dynamic_f16_512", 512, "ppps"),
        Kernel::new("quantize_static_f16", 256, "pppps"),
        Kernel::new("quantize_dynamic_bf16_32", 128, "ppps"),
        Kernel::new("quantize_dynamic_bf16_512", 512, "ppps"),
        Kernel::new("quantize_static_bf16", 256, "pppps"),
        Kernel::new("quantize_dynamic_any_32", 128, "ppps"),
        Kernel::new("quantize_dynamic_any_512", 512, "ppps"),
        Kernel::new("quantize_static_any", 256, "pppps"),
    ],
};
