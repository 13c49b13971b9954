//! 4-bit codes into a non-linear table: IQ4_NL (blocks of 32) and IQ4_XS (256 with 6-bit scales per 32).

use crate::q32::{f16, nibble};

/// What the 16 codes stand for.
pub(crate) const TABLE: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// `d[2] qs[16]`: `d·T[q]`.
pub(crate) fn iq4_nl(b: &[u8], out: &mut [f32]) {
    let d = f16(b);
    for (j, x) in out.iter_mut().enumerate() {
        *x = d * TABLE[nibble(&b[2..], j) as usize];
    }
}

/// `d[2] scales_h[2] scales_l[4] qs[128]`: `d·(scale − 32)·T[q]`.
pub(crate) fn iq4_xs(b: &[u8], out: &mut [f32]) {
    let d = f16(b);
    let high = u16::from_le_bytes([b[2], b[3]]);
    for (s, x) in out.chunks_exact_mut(32).enumerate() {
        let low = b[4 + s / 2] >> (4 * (s % 2)) & 15;
        let scale = (low as u16 | (high >> (2 * s) & 3) << 4) as f32 - 32.0;
        for (j, x) in x.iter_mut().enumerate() {
            *x = d * scale * TABLE[nibble(&b[8 + 16 * s..], j) as usize];
        }
    }
}
