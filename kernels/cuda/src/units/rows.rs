//! softmax, reduce.

use crate::kernel::{Kernel, Unit};

pub(crate) const UNIT: Unit = Unit {
    name: "rows",
    text: include_str!("../../text/rows.cu"),
    kernels: &[
        Kernel::new("softmax_f32_32", 128, "ppps"),
        Kernel::new("reduce_f32_32", 128, "pps"),
        Kernel::new("softmax_f32_512", 512, "ppps"),
        Kernel::new("reduce_f32_512", 512, "pps"),
        Kernel::new("softmax_f16_32", 128, "ppps"),
        Kernel::new("reduce_f16_32", 128, "pps"),
        Kernel::new("softmax_f16_512", 512, "ppps"),
        Kernel::new("reduce_f16_512", 512, "pps"),
        Kernel::new("softmax_bf16_32", 128, "ppps"),
        Kernel::new("reduce_bf16_32", 128, "pps"),
        Kernel::new("softmax_bf16_512", 512, "ppps"),
        Kernel::new("reduce_bf16_512", 512, "pps"),
        Kernel::new("softmax_any_32", 128, "ppps"),
        Kernel::new("reduce_any_32", 128, "pps"),
        Kernel::new("softmax_any_512", 512, "ppps"),
        Kernel::new("reduce_any_512", 512, "pps"),
        Kernel::new("reduce_columns", 256, "pps"),
    ],
};
