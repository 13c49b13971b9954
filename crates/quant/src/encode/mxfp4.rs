//! MXFP4: 32 codes of fp4 with one power-of-two scale.

use super::levels::{Fp4, Levels};
use super::q32::put_nibbles;
use super::search::Block;
use super::settle::Settled;

/// The largest magnitude whose code decodes to a finite f32 whatever the scale: 1.5·2^127.
pub(super) const LIMIT: f32 = f32::from_bits(0x7f40_0000);

/// The power of two of the least error: those from two below to one above the one that lays the peak in fp4's top
/// binade.
pub(super) fn settle(b: Block<'_>) -> Settled {
    let peak = b.x.iter().fold(0f32, |m, x| m.max(x.abs()));
    if peak == 0.0 {
        return Settled::one(power(0));
    }
    let field = (peak.to_bits() >> 23) as i32;
    let mut best = (f64::INFINITY, 0u8);
    for e in field - 4..=field - 1 {
        let e = e.clamp(0, 254) as u8;
        let scale = power(e) as f64;
        let error: f64 =
            b.x.iter()
                .zip(b.w)
                .map(|(&x, &w)| {
                    let r = x as f64 - scale * Fp4.nearest((x as f64 / scale) as f32) as f64;
                    w as f64 * r * r
                })
                .sum();
        if error < best.0 {
            best = (error, e);
        }
    }
    Settled::one(power(best.1))
}

/// 2^(e − 127), exact: subnormal for 0.
fn power(e: u8) -> f32 {
    f32::from_bits(if e == 0 { 1 << 22 } else { (e as u32) << 23 })
}

pub(super) fn write(s: &Settled, codes: &[u8], out: &mut [u8]) {
    out[0] = (s.d.to_bits() >> 23) as u8;
    put_nibbles(codes, &mut out[1..]);
}
