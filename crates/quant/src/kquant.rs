//! Super-blocks of 256 codes with quantised scales: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.

use crate::q32::f16;

/// Two bits of 64 bytes: element j of a super-block lies in byte `32·(j/128) + j%32`, bits `2·(j%128/32)`.
fn two_bits(qs: &[u8], j: usize) -> u8 {
    qs[32 * (j / 128) + j % 32] >> (2 * (j % 128 / 32)) & 3
}

/// Nibble j of 128 bytes: 64 elements share 32 bytes, the first 32 of them in the low nibbles.
fn four_bits(qs: &[u8], j: usize) -> u8 {
    let byte = qs[32 * (j / 64) + j % 32];
    if j % 64 < 32 { byte & 15 } else { byte >> 4 }
}

/// The 6-bit scale and minimum of sub-block s of 8, out of 12 bytes.
fn scale_and_min(scales: &[u8], s: usize) -> (f32, f32) {
    let (scale, min) = if s < 4 {
        (scales[s] & 63, scales[s + 4] & 63)
    } else {
        (scales[s + 4] & 15 | scales[s - 4] >> 6 << 4, scales[s + 4] >> 4 | scales[s] >> 6 << 4)
    };
    (scale as f32, min as f32)
}

/// `scales[16] qs[64] d[2] dmin[2]`: `d·scale·q − dmin·min`, scale and min nibbles per 16.
pub(crate) fn q2_k(b: &[u8], out: &mut [f32]) {
    let (scales, qs) = (&b[..16], &b[16..80]);
    let (d, dmin) = (f16(&b[80..]), f16(&b[82..]));
    for (j, x) in out.iter_mut().enumerate() {
        let s = scales[j / 16];
        *x = d * (s & 15) as f32 * two_bits(qs, j) as f32 - dmin * (s >> 4) as f32;
    }
}

/// `hmask[32] qs[64] scales[12] d[2]`: `d·(scale − 32)·(q − (high bit ? 0 : 4))`, 6-bit scales per 16.
pub(crate) fn q3_k(b: &[u8], out: &mut [f32]) {
    let (hmask, qs, scales) = (&b[..32], &b[32..96], &b[96..108]);
    let d = f16(&b[108..]);
    for (j, x) in out.iter_mut().enumerate() {
        let s = j / 16;
        let low = if s < 8 { scales[s] & 15 } else { scales[s - 8] >> 4 };
        let scale = (low | (scales[8 + s % 4] >> (2 * (s / 4)) & 3) << 4) as f32 - 32.0;
        let high = hmask[j % 32] >> (j / 32) & 1;
        *x = d * scale * (two_bits(qs, j) as f32 - if high == 1 { 0.0 } else { 4.0 });
    }
}

/// `d[2] dmin[2] scales[12] qs[128]`: `d·scale·q − dmin·min`, 6-bit scales and minima per 32.
pub(crate) fn q4_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin, scales, qs) = (f16(b), f16(&b[2..]), &b[4..16], &b[16..]);
    for (j, x) in out.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(scales, j / 32);
        *x = d * scale * four_bits(qs, j) as f32 - dmin * min;
    }
}

/// `d[2] dmin[2] scales[12] qh[32] qs[128]`: as Q4_K, with a fifth bit from `qh`.
pub(crate) fn q5_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin, scales, qh, qs) = (f16(b), f16(&b[2..]), &b[4..16], &b[16..48], &b[48..]);
    for (j, x) in out.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(scales, j / 32);
        let q = four_bits(qs, j) | (qh[j % 32] >> (j / 32) & 1) << 4;
        *x = d * scale * q as f32 - dmin * min;
    }
}

/// `ql[128] qh[64] scales[16] d[2]`: `d·scale·(q − 32)`, i8 scales per 16.
pub(crate) fn q6_k(b: &[u8], out: &mut [f32]) {
    let (ql, qh, scales) = (&b[..128], &b[128..192], &b[192..208]);
    let d = f16(&b[208..]);
    for (j, x) in out.iter_mut().enumerate() {
        let (half, k, l) = (j / 128, j % 128 / 32, j % 32);
        let byte = ql[64 * half + l + 32 * (k & 1)];
        let low = if k < 2 { byte & 15 } else { byte >> 4 };
        let q = low | (qh[32 * half + l] >> (2 * k) & 3) << 4;
        *x = d * (scales[j / 16] as i8) as f32 * (q as f32 - 32.0);
    }
}
