//! Rows of `matmul_fma.cu`: products by multiply-add in f32. The floor is the operations over the rate of f32
//! multiply-add; shared memory holds them back, and the kernel for any strides its loads of single elements.

use crate::kernel::{Kernel, Unit};

/// A tile of a product: a, b, bias, residual, c, where parts of sums go, and what the product is.
const fn tile(symbol: &'static str) -> Kernel {
    Kernel { symbol, threads: 256, params: "pppppps" }
}

pub(crate) const UNIT: Unit = Unit {
    name: "matmul_fma",
    text: include_str!("../../text/matmul_fma.cu"),
    kernels: &[
        tile("matmul_fma_f32_128x128_nk"),
        tile("matmul_fma_f32_128x128_kn"),
        tile("matmul_fma_f32_64x64_nk"),
        tile("matmul_fma_f32_64x64_kn"),
        tile("matmul_fma_any_64x64"),
    ],
};
