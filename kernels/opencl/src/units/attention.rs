//! Attention of any dtypes and sizes, and the kernel that joins split keys.

use crate::kernel::{Group, Kernel};

const SHARED: [&str; 2] = [include_str!("../../text/minifloats.cl"), include_str!("../../text/attention.cl")];
const ROWS: &[&str] = &[SHARED[0], SHARED[1], include_str!("../../text/attention_rows.cl")];
const JOIN: &[&str] = &[SHARED[0], SHARED[1], include_str!("../../text/attention_join.cl")];

pub(crate) const KERNELS: &[Kernel] = &[
    Kernel {
        symbol: "attention_plain_f32",
        texts: ROWS,
        options: "-DALL_F32",
        sizes: &[],
        group: Group::Rows,
        params: "pppppppppppsm",
    },
    Kernel {
        symbol: "attention_plain_any",
        texts: ROWS,
        options: "",
        sizes: &[],
        group: Group::Rows,
        params: "pppppppppppsm",
    },
    Kernel {
        symbol: "attention_join",
        texts: JOIN,
        options: "",
        sizes: &[],
        group: Group::Rows,
        params: "ppppppppppps",
    },
];
