//! Rows of `matmul_gemv.cu`: products of up to 8 rows. The floor is the bytes of b over the memory's bandwidth; bytes in
//! flight hold them back.

use crate::kernel::{Kernel, Unit};

/// A product of up to as many rows as the symbol ends in, or 8: a, b, bias, residual, c, and what the product is.
const fn gemv(symbol: &'static str) -> Kernel {
    Kernel { symbol, threads: 256, params: "ppppps" }
}

/// Up to three products of one a: a, residual, three times b, bias and c, and what the products are.
const fn thin(symbol: &'static str) -> Kernel {
    Kernel { symbol, threads: 256, params: "ppppppppppps" }
}

pub(crate) const UNIT: Unit = Unit {
    name: "matmul_gemv",
    text: include_str!("../../text/matmul_gemv.cu"),
    kernels: &[
        thin("matmul_thin_f16_8x8"),
        thin("matmul_thin_f16_8x16"),
        thin("matmul_thin_bf16_8x8"),
        thin("matmul_thin_bf16_8x16"),
        gemv("matmul_gemv_f32_nk_1"),
        gemv("matmul_gemv_f32_nk_4"),
        gemv("matmul_gemv_f32_nk_8"),
        gemv("matmul_gemv_f16_nk_1"),
        gemv("matmul_gemv_f16_nk_4"),
        gemv("matmul_gemv_f16_nk_8"),
        gemv("matmul_gemv_bf16_nk_1"),
        gemv("matmul_gemv_bf16_nk_4"),
        gemv("matmul_gemv_bf16_nk_8"),
        gemv("matmul_gemv_f32_kn_1"),
        gemv("matmul_gemv_f32_kn_8"),
        gemv("matmul_gemv_f16_kn_1"),
        gemv("matmul_gemv_f16_kn_8"),
        gemv("matmul_gemv_bf16_kn_1"),
        gemv("matmul_gemv_bf16_kn_8"),
    ],
};
