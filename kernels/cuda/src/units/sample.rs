//! sample.

use crate::kernel::{Kernel, Unit};

pub(crate) const UNIT: Unit = Unit {
    name: "sample",
    text: include_str!("../../text/sample.cu"),
    kernels: &[
        Kernel::new("sample_f32_256", 256, "ppppppps"),
        Kernel::new("sample_f32_1024", 1024, "ppppppps"),
        Kernel::new("sample_f16_256", 256, "ppppppps"),
        Kernel::new("sample_f16_1024", 1024, "ppppppps"),
        Kernel::new("sample_bf16_256", 256, "ppppppps"),
        Kernel::new("sample_bf16_1024", 1024, "ppppppps"),
        Kernel::new("sample_any_256", 256, "ppppppps"),
        Kernel::new("sample_any_1024", 1024, "ppppppps"),
    ],
};
