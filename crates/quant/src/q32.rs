//! Blocks of 32 codes with one scale, and for the `_1` formats a minimum: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! 4-bit codes lie two a byte: elements 0..16 in the low nibbles, 16..32 in the high ones.

/// The f16 at the start of `bytes`.
pub(crate) fn f16(bytes: &[u8]) -> f32 {
    half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Code j of 16 bytes that hold 32 nibbles.
pub(crate) fn nibble(qs: &[u8], j: usize) -> u8 {
    if j < 16 { qs[j] & 15 } else { qs[j - 16] >> 4 }
}

/// Code j of 5 bits: a nibble, and bit j of the little-endian word `qh` above it.
fn five_bits(qh: &[u8], qs: &[u8], j: usize) -> u8 {
    nibble(qs, j) | (qh[j / 8] >> (j % 8) & 1) << 4
}

/// `d[2] qs[16]`: `d·(q − 8)`.
pub(crate) fn q4_0(b: &[u8], out: &mut [f32]) {
    let d = f16(b);
    for (j, x) in out.iter_mut().enumerate() {
        *x = d * (nibble(&b[2..], j) as f32 - 8.0);
    }
}

/// `d[2] m[2] qs[16]`: `d·q + m`.
pub(crate) fn q4_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (f16(b), f16(&b[2..]));
    for (j, x) in out.iter_mut().enumerate() {
        *x = d * nibble(&b[4..], j) as f32 + m;
    }
}

/// `d[2] qh[4] qs[16]`: `d·(q − 16)`.
pub(crate) fn q5_0(b: &[u8], out: &mut [f32]) {
    let d = f16(b);
    for (j, x) in out.iter_mut().enumerate() {
        *x = d * (five_bits(&b[2..6], &b[6..], j) as f32 - 16.0);
    }
}

/// `d[2] m[2] qh[4] qs[16]`: `d·q + m`.
pub(crate) fn q5_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (f16(b), f16(&b[2..]));
    for (j, x) in out.iter_mut().enumerate() {
        *x = d * five_bits(&b[4..8], &b[8..], j) as f32 + m;
    }
}

/// `d[2] qs[32]` of i8: `d·q`.
pub(crate) fn q8_0(b: &[u8], out: &mut [f32]) {
    let d = f16(b);
    for (x, &q) in out.iter_mut().zip(&b[2..]) {
        *x = d * (q as i8) as f32;
    }
}
