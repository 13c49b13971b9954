//! Rotary positions.

use crate::kernel::{Kernel, Unit};

pub(crate) const UNIT: Unit = Unit {
    name: "rope",
    text: include_str!("../../text/rope.cu"),
    kernels: &[
        Kernel::new("rope_f32", 128, "ppppps"),
        Kernel::new("rope_f16", 128, "ppppps"),
        Kernel::new("rope_bf16", 128, "ppppps"),
        Kernel::new("rope_any", 128, "ppppps"),
    ],
};
