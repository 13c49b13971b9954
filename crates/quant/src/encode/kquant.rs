//! Super-blocks of 256 codes with quantised scales: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.

use super::levels::Linear;
use super::q32::put_f16;
use super::search::Block;
use super::settle::Settled;
use super::superblock::{AffineForm, ScaledForm, affine, scaled};

pub(super) const Q2_K: Linear = Linear { lo: 0.0, hi: 3.0 };
pub(super) const Q3_K: Linear = Linear { lo: -4.0, hi: 3.0 };
pub(super) const Q4_K: Linear = Linear { lo: 0.0, hi: 15.0 };
pub(super) const Q5_K: Linear = Linear { lo: 0.0, hi: 31.0 };
pub(super) const Q6_K: Linear = Linear { lo: -32.0, hi: 31.0 };

const FORM_2: AffineForm<'static> =
    AffineForm { top: 3.0, limit: 15, part: 16, cuts: &[0.0, 0.06, 0.12, 0.2], divisors: &[15.0, 14.3, 13.5, 12.5] };
const FORM_4: AffineForm<'static> =
    AffineForm { top: 15.0, limit: 63, part: 32, cuts: &[0.0, 0.035, 0.07, 0.12], divisors: &[63.0, 60.0] };
const FORM_5: AffineForm<'static> =
    AffineForm { top: 31.0, limit: 63, part: 32, cuts: &[0.0, 0.015, 0.03, 0.06], divisors: &[63.0, 60.0] };
const FORM_3: ScaledForm<'static> = ScaledForm {
    scales: (-32, 31),
    part: 16,
    ratios: &[1.0, 0.8, 0.86, 0.92, 0.97, 1.04, 1.09, 1.15, 1.22, 1.3, 1.4, 1.55],
    spreads: &[1.0, 0.96, 0.9],
};
const FORM_6: ScaledForm<'static> = ScaledForm {
    scales: (-128, 127),
    part: 16,
    ratios: &[1.0, 0.97, 0.985, 1.015, 1.03, 1.05, 1.08],
    spreads: &[1.0, 0.97],
};

pub(super) fn settle_q2_k(b: Block<'_>) -> Settled {
    affine(b, &FORM_2)
}

pub(super) fn settle_q3_k(b: Block<'_>) -> Settled {
    scaled(b, Q3_K, &FORM_3)
}

pub(super) fn settle_q4_k(b: Block<'_>) -> Settled {
    affine(b, &FORM_4)
}

pub(super) fn settle_q5_k(b: Block<'_>) -> Settled {
    affine(b, &FORM_5)
}

pub(super) fn settle_q6_k(b: Block<'_>) -> Settled {
    scaled(b, Q6_K, &FORM_6)
}

/// Two bits of 256 codes: element j in byte `32·(j/128) + j%32`, bits `2·(j%128/32)`.
fn put_two_bits(codes: impl Iterator<Item = u8>, qs: &mut [u8]) {
    qs.fill(0);
    for (j, c) in codes.enumerate() {
        qs[32 * (j / 128) + j % 32] |= (c & 3) << (2 * (j % 128 / 32));
    }
}

/// The low nibbles of 256 codes: 64 elements share 32 bytes, the first 32 of them in the low nibbles.
fn put_four_bits(codes: &[u8], qs: &mut [u8]) {
    for (codes, qs) in codes.chunks_exact(64).zip(qs.chunks_exact_mut(32)) {
        for (j, byte) in qs.iter_mut().enumerate() {
            *byte = codes[j] & 15 | (codes[j + 32] & 15) << 4;
        }
    }
}

/// Eight 6-bit scales and minima in 12 bytes.
fn put_scales_and_mins(s: &Settled, out: &mut [u8]) {
    let (scale, min) = (|i: usize| s.scales[i] as u8, |i: usize| s.mins[i]);
    for i in 0..4 {
        out[i] = scale(i) & 63 | scale(i + 4) >> 4 << 6;
        out[i + 4] = min(i) & 63 | min(i + 4) >> 4 << 6;
        out[i + 8] = scale(i + 4) & 15 | (min(i + 4) & 15) << 4;
    }
}

pub(super) fn write_q2_k(s: &Settled, codes: &[u8], out: &mut [u8]) {
    for (byte, (scale, min)) in out[..16].iter_mut().zip(s.scales.iter().zip(&s.mins)) {
        *byte = *scale as u8 & 15 | min << 4;
    }
    put_two_bits(codes.iter().copied(), &mut out[16..80]);
    put_f16(s.d, &mut out[80..]);
    put_f16(s.dmin, &mut out[82..]);
}

pub(super) fn write_q3_k(s: &Settled, codes: &[u8], out: &mut [u8]) {
    out.fill(0);
    for (j, c) in codes.iter().enumerate() {
        out[j % 32] |= (c >> 2 & 1) << (j / 32);
    }
    put_two_bits(codes.iter().copied(), &mut out[32..96]);
    for (i, &scale) in s.scales.iter().enumerate() {
        let v = (scale + 32) as u8;
        out[96 + i % 8] |= (v & 15) << (4 * (i / 8));
        out[104 + i % 4] |= (v >> 4 & 3) << (2 * (i / 4));
    }
    put_f16(s.d, &mut out[108..]);
}

pub(super) fn write_q4_k(s: &Settled, codes: &[u8], out: &mut [u8]) {
    put_f16(s.d, out);
    put_f16(s.dmin, &mut out[2..]);
    put_scales_and_mins(s, &mut out[4..16]);
    put_four_bits(codes, &mut out[16..]);
}

pub(super) fn write_q5_k(s: &Settled, codes: &[u8], out: &mut [u8]) {
    put_f16(s.d, out);
    put_f16(s.dmin, &mut out[2..]);
    put_scales_and_mins(s, &mut out[4..16]);
    out[16..48].fill(0);
    for (j, c) in codes.iter().enumerate() {
        out[16 + j % 32] |= (c >> 4 & 1) << (j / 32);
    }
    put_four_bits(codes, &mut out[48..]);
}

pub(super) fn write_q6_k(s: &Settled, codes: &[u8], out: &mut [u8]) {
    out.fill(0);
    for (j, c) in codes.iter().enumerate() {
        let (half, k, l) = (j / 128, j % 128 / 32, j % 32);
        out[64 * half + l + 32 * (k & 1)] |= (c & 15) << (4 * (k / 2));
    }
    put_two_bits(codes.iter().map(|c| c >> 4), &mut out[128..192]);
    for (byte, &scale) in out[192..208].iter_mut().zip(&s.scales) {
        *byte = scale as i8 as u8;
    }
    put_f16(s.d, &mut out[208..]);
}
