//! Rotary positions and writes of the KV cache at once.

use crate::kernel::{Kernel, Unit};

pub(crate) const UNIT: Unit = Unit {
    name: "rope_kv",
    text: include_str!("../../text/rope_kv.cu"),
    kernels: &[
        Kernel::new("rope_kv_f32", 128, "pppppppppps"),
        Kernel::new("rope_kv_f16", 128, "pppppppppps"),
        Kernel::new("rope_kv_bf16", 128, "pppppppppps"),
    ],
};
