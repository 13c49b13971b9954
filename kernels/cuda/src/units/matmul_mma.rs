//! Rows of `matmul_mma.cu`: products on tensor cores, and the sum of parts. The floor is the operations over the tensor
//! cores' rate, or the operands' bytes over the bandwidth where those are more; shared memory holds large products back,
//! and bytes in flight small ones.

use crate::kernel::{Kernel, Unit};

/// A tile of a product: a, b, bias, residual, c, where parts of sums go, and what the product is.
const fn tile(symbol: &'static str) -> Kernel {
    Kernel { symbol, threads: 128, params: "pppppps" }
}

pub(crate) const UNIT: Unit = Unit {
    name: "matmul_mma",
    text: include_str!("../../text/matmul_mma.cu"),
    kernels: &[
        tile("matmul_mma_f16_128x128_nk"),
        tile("matmul_mma_f16_128x128_kn"),
        tile("matmul_mma_f16_64x64_nk"),
        tile("matmul_mma_f16_64x64_kn"),
        tile("matmul_mma_f16_16x64_nk"),
        tile("matmul_mma_f16_16x64_kn"),
        tile("matmul_mma_bf16_128x128_nk"),
        tile("matmul_mma_bf16_128x128_kn"),
        tile("matmul_mma_bf16_64x64_nk"),
        tile("matmul_mma_bf16_64x64_kn"),
        tile("matmul_mma_bf16_16x64_nk"),
        tile("matmul_mma_bf16_16x64_kn"),
        tile("matmul_mma_tf32_128x128_nk"),
        tile("matmul_mma_tf32_64x64_nk"),
        // bias, residual, c, the sums, and what the product is.
        Kernel { symbol: "matmul_tail", threads: 256, params: "pppps" },
        // bias, residual, c, the parts, floats between their rows, and what the product is.
        Kernel { symbol: "matmul_join", threads: 256, params: "ppppus" },
    ],
};
