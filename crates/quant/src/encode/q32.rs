//! Blocks of 32 with one scale, and for the `_1` formats a minimum: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

use super::levels::Linear;
use super::search::Block;
use super::settle::Settled;

pub(super) const Q4_0: Linear = Linear { lo: -8.0, hi: 7.0 };
pub(super) const Q5_0: Linear = Linear { lo: -16.0, hi: 15.0 };
pub(super) const Q8_0: Linear = Linear { lo: -127.0, hi: 127.0 };
pub(super) const Q4_1: Linear = Linear { lo: 0.0, hi: 15.0 };
pub(super) const Q5_1: Linear = Linear { lo: 0.0, hi: 31.0 };

/// Ratios of the peak that is laid on an end of the levels, per number of bits; 1 stands first, so that what it meets
/// exactly stays exact.
const RATIOS_4: [f32; 14] = [1.0, 0.88, 0.94, 0.97, 1.03, 1.06, 1.1, 1.14, 1.18, 1.23, 1.28, 1.35, 1.45, 1.6];
const RATIOS_5: [f32; 11] = [1.0, 0.94, 0.97, 0.985, 1.015, 1.03, 1.06, 1.1, 1.15, 1.22, 1.35];
const RATIOS_8: [f32; 7] = [1.0, 0.994, 0.997, 0.9985, 1.0015, 1.003, 1.006];
const CUTS_4: [f32; 4] = [0.0, 0.035, 0.07, 0.12];
const CUTS_5: [f32; 4] = [0.0, 0.015, 0.03, 0.06];

pub(super) fn settle_q4_0(b: Block<'_>) -> Settled {
    Settled::one(b.fit_stored(Q4_0, &RATIOS_4))
}

pub(super) fn settle_q5_0(b: Block<'_>) -> Settled {
    Settled::one(b.fit_stored(Q5_0, &RATIOS_5))
}

pub(super) fn settle_q8_0(b: Block<'_>) -> Settled {
    Settled::one(b.fit_stored(Q8_0, &RATIOS_8))
}

pub(super) fn settle_q4_1(b: Block<'_>) -> Settled {
    let (d, m) = b.fit_affine_stored(15.0, &CUTS_4);
    Settled::with_offset(d, m)
}

pub(super) fn settle_q5_1(b: Block<'_>) -> Settled {
    let (d, m) = b.fit_affine_stored(31.0, &CUTS_5);
    Settled::with_offset(d, m)
}

/// Writes an f16 at the start of `out`.
pub(super) fn put_f16(v: f32, out: &mut [u8]) {
    out[..2].copy_from_slice(&half::f16::from_f32(v).to_le_bytes());
}

/// The low four bits of 32 codes: elements 0..16 in the low nibbles, 16..32 in the high ones.
pub(super) fn put_nibbles(codes: &[u8], out: &mut [u8]) {
    for (j, byte) in out[..16].iter_mut().enumerate() {
        *byte = codes[j] & 15 | (codes[j + 16] & 15) << 4;
    }
}

/// Bit 4 of 32 codes as a little-endian word.
fn put_fifth_bits(codes: &[u8], out: &mut [u8]) {
    for (byte, codes) in out[..4].iter_mut().zip(codes.chunks_exact(8)) {
        *byte = codes.iter().rev().fold(0, |b, c| b << 1 | c >> 4 & 1);
    }
}

pub(super) fn write_q4_0(s: &Settled, codes: &[u8], out: &mut [u8]) {
    put_f16(s.d, out);
    put_nibbles(codes, &mut out[2..]);
}

pub(super) fn write_q4_1(s: &Settled, codes: &[u8], out: &mut [u8]) {
    put_f16(s.d, out);
    put_f16(-s.dmin, &mut out[2..]);
    put_nibbles(codes, &mut out[4..]);
}

pub(super) fn write_q5_0(s: &Settled, codes: &[u8], out: &mut [u8]) {
    put_f16(s.d, out);
    put_fifth_bits(codes, &mut out[2..]);
    put_nibbles(codes, &mut out[6..]);
}

pub(super) fn write_q5_1(s: &Settled, codes: &[u8], out: &mut [u8]) {
    put_f16(s.d, out);
    put_f16(-s.dmin, &mut out[2..]);
    put_fifth_bits(codes, &mut out[4..]);
    put_nibbles(codes, &mut out[8..]);
}

pub(super) fn write_q8_0(s: &Settled, codes: &[u8], out: &mut [u8]) {
    put_f16(s.d, out);
    for (byte, c) in out[2..].iter_mut().zip(codes) {
        *byte = c.wrapping_sub(127);
    }
}
