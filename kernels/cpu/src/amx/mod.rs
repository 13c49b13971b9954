//! The AMX tier: products of bf16, of bytes and of digits on tiles, all else as on AVX-512.
//!
//! - Eight tiles of 16 rows by 64 bytes. The panels of weights hold 16 such rows for 32 inputs of bf16 or 64 of i8, so a
//!   tile of weights is loaded as it lies; activations are packed so that theirs are.
//! - `tdpbf16ps` adds to each element the sum of two chains that start from zero, of the even and of the odd inputs among
//!   32, each step a fused multiply-add; subnormals count as zero and become zero. One row takes the same sums with
//!   AVX-512. So a product is the same in any crowd and in blocks of K that are multiples of 32.
//! - Tiles are configured where a kernel starts and released where it ends. Between its `asm!` blocks nothing but the
//!   configuration lives on; the compiler, to whom AMX is not enabled, does not touch it.

mod digits;
mod gemv;
mod product;
mod tiles;

use half::bf16;

use crate::gemm::GemmBlock;
use crate::isa::{Features, Isa};
use crate::layout::NR;
use crate::table::{Entry, Gemm, Kernels};

use product::{MR, pack, product};
use tiles::{Bf16, SignedBytes};

/// The inputs of bf16 that a tile holds.
const BF16_INPUTS: usize = 32;
/// The inputs of i8 that a tile holds.
const I8_INPUTS: usize = 64;

/// The table of this tier.
pub(crate) fn table(features: &Features) -> Kernels {
    let below = crate::avx512::table(features);
    let (quant_kernels, bytes) = match features.avx512_vnni {
        true => (digits::KERNELS, (below.bytes.0, digits::BYTE_KERNELS)),
        false => (below.quant_kernels, below.bytes),
    };
    Kernels {
        isa: Isa::Amx,
        pack_a_bf16_dot: Entry { name: "pack_a_bf16_dot.amx", run: pack::<bf16, BF16_INPUTS, 2> },
        gemm_bf16_dot: Some(Gemm {
            name: "gemm_bf16_dot_128x64.amx",
            mr: MR,
            nr: 4 * NR,
            kc: 32 * BF16_INPUTS,
            run: gemm_bf16,
        }),
        gemv_bf16_dot: Some(Entry { name: "gemv_bf16_dot_1x64.amx", run: gemv::gemv }),
        pack_a_i8: Entry { name: "pack_a_i8.amx", run: pack::<i8, I8_INPUTS, 4> },
        gemm_i8: Gemm { name: "gemm_i8_128x64.amx", mr: MR, nr: 4 * NR, kc: 32 * I8_INPUTS, run: gemm_i8 },
        quant_kernels,
        bytes,
        ..below
    }
}

/// `C = A·Wᵀ`. See [`Kernels::gemm_bf16_dot`].
///
/// # Safety
/// The processor has AMX-TILE and AMX-BF16. Each of the block's `m` rows of C has `columns` writable elements that
/// nobody else touches.
unsafe fn gemm_bf16(block: &GemmBlock<'_, bf16, bf16, f32>) {
    block.check(MR, 2);
    // SAFETY: check() held the slices to the counts; the rest is the caller's word.
    unsafe { product::<Bf16, _, f32, BF16_INPUTS, 2>(block) };
}

/// `C = A·Wᵀ` in i32, exact. See [`Kernels::gemm_i8`].
///
/// # Safety
/// The processor has AMX-TILE and AMX-INT8. Each of the block's `m` rows of C has `columns` writable elements that nobody
/// else touches.
unsafe fn gemm_i8(block: &GemmBlock<'_, i8, i8, i32>) {
    block.check(MR, 4);
    // SAFETY: check() held the slices to the counts; the rest is the caller's word.
    unsafe { product::<SignedBytes, _, i32, I8_INPUTS, 4>(block) };
}
