//! RMS norms whose rows are quantised at once.

use crate::kernel::{Kernel, Unit};

pub(crate) const UNIT: Unit = Unit {
    name: "norms_int8",
    text: include_str!("../../text/norms_int8.cu"),
    kernels: &[
        Kernel::new("rms_norm_codes_f32_32", 128, "ppppps"),
        Kernel::new("add_rms_norm_codes_f32_32", 128, "ppppppps"),
        Kernel::new("rms_norm_codes_f32_128", 128, "ppppps"),
        Kernel::new("add_rms_norm_codes_f32_128", 128, "ppppppps"),
        Kernel::new("rms_norm_codes_f32_512", 512, "ppppps"),
        Kernel::new("add_rms_norm_codes_f32_512", 512, "ppppppps"),
        Kernel::new("rms_norm_codes_f16_32", 128, "ppppps"),
        Kernel::new("add_rms_norm_codes_f16_32", 128, "ppppppps"),
        Kernel::new("rms_norm_codes_f16_128", 128, "ppppps"),
        Kernel::new("add_rms_norm_codes_f16_128", 128, "ppppppps"),
        Kernel::new("rms_norm_codes_f16_512", 512, "ppppps"),
        Kernel::new("add_rms_norm_codes_f16_512", 512, "ppppppps"),
        Kernel::new("rms_norm_codes_bf16_32", 128, "ppppps"),
        Kernel::new("add_rms_norm_codes_bf16_32", 128, "ppppppps"),
        Kernel::new("rms_norm_codes_bf16_128", 128, "ppppps"),
        Kernel::new("add_rms_norm_codes_bf16_128", 128, "ppppppps"),
        Kernel::new("rms_norm_codes_bf16_512", 512, "ppppps"),
        Kernel::new("add_rms_norm_codes_bf16_512", 512, "ppppppps"),
    ],
};
