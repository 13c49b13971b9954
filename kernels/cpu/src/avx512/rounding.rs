//! Rows of bf16 with `vcvtne2ps2bf16`, which rounds two vectors to nearest even but takes subnormals for zeros: where there are
//! any, integers round.

use std::arch::x86_64::*;

use super::Avx512;
use crate::isa::Features;
use crate::table::{Entry, Kernels};

crate::entry::entry_point!(
    Avx512<true>,
    [#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]],
    f32_to_bf16(out: &mut [half::bf16], x: &[f32]), |s| crate::convert::to_bf16(s, out, x)
);
crate::entry::entry_points!(@rows
    Avx512<true>,
    [#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]],
    "avx512", "bf16" rows_bf16 half::bf16
);

/// The table with what rounds to bf16, where the processor has the instruction.
pub(super) fn refine(table: &mut Kernels, features: &Features) {
    if features.avx512_bf16 {
        table.f32_to_bf16 = Entry { name: table.f32_to_bf16.name, run: f32_to_bf16 };
        table.rows_bf16 = rows_bf16();
    }
}

/// bf16 of two vectors, to nearest even.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and BF16.
#[inline(always)]
pub(super) unsafe fn two(a: __m512, b: __m512) -> __m512i {
    /// What `vfpclassps` calls a subnormal.
    const SUBNORMAL: i32 = 0x20;
    // SAFETY: the caller vouches for the instructions; 32 bf16 are as many bits.
    unsafe {
        if _mm512_fpclass_ps_mask::<SUBNORMAL>(a) | _mm512_fpclass_ps_mask::<SUBNORMAL>(b) != 0 {
            return two_in_integers(a, b);
        }
        std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a))
    }
}

/// As [`two`], whatever the lanes are.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn two_in_integers(a: __m512, b: __m512) -> __m512i {
    Avx512::<false>(()).two_to_bf16(a, b)
}
