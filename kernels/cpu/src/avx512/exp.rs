//! The exponential with a table of sixteen powers of two in one register.

use std::arch::x86_64::*;

use crate::math::{LEAST, LN_2_BELOW};

/// The bits of `2^(i/16)`, less `i` in the place where [`exp_below`] finds it.
const ROOTS: [u32; 16] = {
    let mut bits: [u32; 16] = [
        0x3f80_0000,
        0x3f85_aac3,
        0x3f8b_95c2,
        0x3f91_c3d3,
        0x3f98_37f0,
        0x3f9e_f532,
        0x3fa5_fed7,
        0x3fad_583f,
        0x3fb5_04f3,
        0x3fbd_08a4,
        0x3fc5_672a,
        0x3fce_248c,
        0x3fd7_44fd,
        0x3fe0_ccdf,
        0x3fea_c0c7,
        0x3ff5_257d,
    ];
    let mut i = 0;
    while i < 16 {
        bits[i] = bits[i].wrapping_sub(ONE).wrapping_sub((i as u32) << 19);
        i += 1;
    }
    bits
};

/// The bits of 1.
const ONE: u32 = 0x3f80_0000;

/// Adding this to a small number leaves its nearest sixteenth, more by 127, in the low bits.
const ROUND: f32 = 786_432.0 + 127.0; // 1.5 · 2^19 + 127

/// See [`exp_below`](crate::math::exp_below).
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
pub(super) unsafe fn exp_below(x: __m512) -> __m512 {
    // SAFETY: the caller vouches for the instructions; the table has sixteen entries.
    unsafe {
        let splat = _mm512_set1_ps;
        let x = _mm512_max_ps(splat(LEAST), x);
        let shifted = _mm512_fmadd_ps(x, splat(std::f32::consts::LOG2_E), splat(ROUND));
        let n = _mm512_sub_ps(shifted, splat(ROUND));
        let r = _mm512_fmadd_ps(n, splat(-LN_2_BELOW[0]), x);
        let r = _mm512_fmadd_ps(n, splat(-LN_2_BELOW[1]), r);
        let bits = _mm512_castps_si512(shifted);
        let root = _mm512_permutexvar_epi32(bits, _mm512_loadu_si512(ROOTS.as_ptr().cast()));
        let p = _mm512_castsi512_ps(_mm512_add_epi32(root, _mm512_slli_epi32(bits, 19)));
        // (exp(r) - 1 - r) / r² on |r| <= ln 2 / 32, to 2^-26 of exp(r).
        let sum = _mm512_fmadd_ps(r, splat(1.0 / 6.0), splat(0.5));
        let q = _mm512_fmadd_ps(_mm512_mul_ps(r, r), sum, r);
        _mm512_fmadd_ps(p, q, p)
    }
}
