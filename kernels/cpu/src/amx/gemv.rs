//! One row of bf16 by panels of bf16, with the sums that tiles take.

use std::arch::asm;
use std::arch::x86_64::*;

use half::bf16;

use crate::layout::NR;

use super::BF16_INPUTS;

/// Panels that are read at the same time.
const TOGETHER: usize = 4;

/// The control and status of f32 arithmetic as tiles have it: to nearest even, subnormals are zero, nothing is raised.
const LIKE_TILES: u32 = 0x9fc0;

/// Inputs behind whole tiles, filled up with zeros.
#[repr(C, align(64))]
struct Tail {
    x: [bf16; BF16_INPUTS],
    w: [[bf16; BF16_INPUTS * NR]; TOGETHER],
}

/// One row. See [`crate::Kernels::gemv_bf16_dot`].
pub(super) fn gemv(y: &mut [f32], x: &[bf16], w: &[bf16], panel_stride: usize, accumulate: bool) {
    assert!(x.len().is_multiple_of(2), "a row of {} inputs lacks half a pair", x.len());
    let panels = y.len().div_ceil(NR);
    let last = panels.saturating_sub(1) * panel_stride;
    assert!(panels == 0 || w.len() >= last + x.len() * NR, "weight panels are too short");
    for (group, y) in y.chunks_mut(TOGETHER * NR).enumerate() {
        let count = y.len().div_ceil(NR);
        // Where there are fewer panels the last is read more than once, and its sums are dropped.
        let panels =
            std::array::from_fn(|p| &w[(group * TOGETHER + p.min(count - 1)) * panel_stride..][..x.len() * NR]);
        // SAFETY: the table is only handed out on machines that have the tier.
        unsafe { four(y, x, panels, accumulate) };
    }
}

/// A group of panels.
///
/// # Safety
/// The processor has AVX-512 F. Each of the panels holds all inputs of `x`, `y` at most their columns.
#[target_feature(enable = "avx2,fma,avx512f")]
unsafe fn four(y: &mut [f32], x: &[bf16], panels: [&[bf16]; TOGETHER], accumulate: bool) {
    let mut sums = [_mm512_setzero_ps(); TOGETHER];
    if accumulate {
        for (sum, y) in sums.iter_mut().zip(y.chunks(NR)) {
            // SAFETY: the mask admits as many lanes as there are elements.
            *sum = unsafe { _mm512_maskz_loadu_ps(lanes(y.len()), y.as_ptr()) };
        }
    }
    let whole = x.len() / BF16_INPUTS * BF16_INPUTS;
    // SAFETY: the slices hold as many inputs as are asked for.
    unsafe {
        blocks(&mut sums, x.as_ptr(), panels.map(<[bf16]>::as_ptr), whole / BF16_INPUTS);
        if whole < x.len() {
            let mut tail = Tail { x: [bf16::ZERO; BF16_INPUTS], w: [[bf16::ZERO; BF16_INPUTS * NR]; TOGETHER] };
            tail.x[..x.len() - whole].copy_from_slice(&x[whole..]);
            for (to, panel) in tail.w.iter_mut().zip(panels) {
                to[..(x.len() - whole) * NR].copy_from_slice(&panel[whole * NR..]);
            }
            blocks(&mut sums, tail.x.as_ptr(), tail.w.each_ref().map(|w| w.as_ptr()), 1);
        }
    }
    for (sum, y) in sums.iter().zip(y.chunks_mut(NR)) {
        // SAFETY: the mask admits as many lanes as there are elements.
        unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr(), lanes(y.len()), *sum) };
    }
}

/// The mask of the first `count` lanes.
#[inline(always)]
fn lanes(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

/// A pair of inputs by a pair of weights of each output of four panels: the even joins one chain, the odd the other.
macro_rules! pair {
    ($x:literal, $w:literal) => {
        concat!(
            "vpbroadcastd zmm16, dword ptr [{x} + ", $x, "]\n",
            "vpandd zmm17, zmm16, zmm18\n",
            "vpslld zmm16, zmm16, 16\n",
            pair!(@ "{w0}", $w, "zmm20", "zmm24"),
            pair!(@ "{w1}", $w, "zmm21", "zmm25"),
            pair!(@ "{w2}", $w, "zmm22", "zmm26"),
            pair!(@ "{w3}", $w, "zmm23", "zmm27"),
        )
    };
    (@ $from:literal, $at:literal, $even:literal, $odd:literal) => {
        concat!(
            "vpslld zmm28, zmmword ptr [", $from, " + ", $at, "], 16\n",
            "vpandd zmm29, zmm18, zmmword ptr [", $from, " + ", $at, "]\n",
            "vfmadd231ps ", $even, ", zmm28, zmm16\n",
            "vfmadd231ps ", $odd, ", zmm29, zmm17\n",
        )
    };
}

/// Adds the products of `count` blocks of 32 inputs, as `tdpbf16ps` does.
///
/// # Safety
/// The processor has AVX-512 F. `32 * count` inputs are readable at `x`, and `16 * 32 * count` weights at each of `w`.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f")]
unsafe fn blocks(sums: &mut [__m512; TOGETHER], x: *const bf16, w: [*const bf16; TOGETHER], count: usize) {
    if count == 0 {
        return;
    }
    let [mut s0, mut s1, mut s2, mut s3] = *sums;
    // The control word of the caller, that of this block, and the mask of a pair's second element.
    let mut words = [0, LIKE_TILES, 0xffff_0000];
    // SAFETY: the operands are readable as the caller vouches; all that is written is named, and the control word is
    // back before anything else can meet it.
    unsafe {
        asm!(
            "stmxcsr dword ptr [{words}]",
            "ldmxcsr dword ptr [{words} + 4]",
            "vpbroadcastd zmm18, dword ptr [{words} + 8]",
            "2:",
            "vpxord zmm20, zmm20, zmm20",
            "vpxord zmm21, zmm21, zmm21",
            "vpxord zmm22, zmm22, zmm22",
            "vpxord zmm23, zmm23, zmm23",
            "vpxord zmm24, zmm24, zmm24",
            "vpxord zmm25, zmm25, zmm25",
            "vpxord zmm26, zmm26, zmm26",
            "vpxord zmm27, zmm27, zmm27",
            "mov {fours:e}, 4",
            "3:",
            pair!("0", "0"),
            pair!("4", "64"),
            pair!("8", "128"),
            pair!("12", "192"),
            "add {x}, 16",
            "add {w0}, 256",
            "add {w1}, 256",
            "add {w2}, 256",
            "add {w3}, 256",
            "dec {fours:e}",
            "jnz 3b",
            "vaddps zmm20, zmm20, zmm24",
            "vaddps zmm21, zmm21, zmm25",
            "vaddps zmm22, zmm22, zmm26",
            "vaddps zmm23, zmm23, zmm27",
            "vaddps {s0}, {s0}, zmm20",
            "vaddps {s1}, {s1}, zmm21",
            "vaddps {s2}, {s2}, zmm22",
            "vaddps {s3}, {s3}, zmm23",
            "dec {count}",
            "jnz 2b",
            "ldmxcsr dword ptr [{words}]",
            words = in(reg) &raw mut words,
            fours = out(reg) _,
            count = inout(reg) count => _,
            x = inout(reg) x => _,
            w0 = inout(reg) w[0] => _,
            w1 = inout(reg) w[1] => _,
            w2 = inout(reg) w[2] => _,
            w3 = inout(reg) w[3] => _,
            s0 = inout(zmm_reg) s0,
            s1 = inout(zmm_reg) s1,
            s2 = inout(zmm_reg) s2,
            s3 = inout(zmm_reg) s3,
            out("zmm16") _, out("zmm17") _, out("zmm18") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
            out("zmm28") _, out("zmm29") _,
            options(nostack),
        );
    }
    *sums = [s0, s1, s2, s3];
}
