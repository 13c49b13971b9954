//! Codes and scales as they are stored, chunk by chunk, before anything is multiplied.

use super::form::QuantFormat;

/// Eight bytes from the eighth `i` on, as a number.
#[inline(always)]
fn eight(bytes: &[u8], i: usize) -> u64 {
    u64::from_le_bytes(bytes.as_chunks().0[i])
}

/// The lowest `bits` bits of every byte.
const fn lowest(bits: u32) -> u64 {
    0x0101_0101_0101_0101 * ((1 << bits) - 1)
}

/// 16 bytes of nibbles: the first 16 codes low, the others high.
#[inline(always)]
fn halves(qs: &[u8], out: &mut [u8; 32]) {
    let out = out.as_chunks_mut().0;
    for i in 0..2 {
        out[i] = (eight(&qs[..16], i) & lowest(4)).to_le_bytes();
        out[i + 2] = (eight(&qs[..16], i) >> 4 & lowest(4)).to_le_bytes();
    }
}

/// 32 bytes, of each the `bits` bits from `shift` on.
#[inline(always)]
fn fields(qs: &[u8], shift: usize, bits: u32, out: &mut [u8; 32]) {
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        *out = (eight(&qs[..32], i) >> shift & lowest(bits)).to_le_bytes();
    }
}

/// Adds bit `shift` and those above it of 32 bytes, above the `low` bits that are there.
#[inline(always)]
fn raise(qh: &[u8], shift: usize, bits: u32, low: u32, out: &mut [u8; 32]) {
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let above = (eight(&qh[..32], i) >> shift & lowest(bits)) << low;
        *out = (u64::from_le_bytes(*out) | above).to_le_bytes();
    }
}

/// Adds the bits of a word above a nibble each.
#[inline(always)]
fn fifth(qh: &[u8], out: &mut [u8; 32]) {
    for (out, bits) in out.as_chunks_mut().0.iter_mut().zip(qh) {
        // A copy of the byte for each of its bits, then that bit alone, then as the fifth.
        let bits = (u64::from(*bits) * lowest(1)) & 0x8040_2010_0804_0201;
        let bits = (bits + lowest(7)) >> 7 & lowest(1);
        *out = (u64::from_le_bytes(*out) | bits << 4).to_le_bytes();
    }
}

/// The codes of chunk `s` of a block. Where scales lie beside the codes the block is the rest of the row, and codes past
/// its end are zeros.
#[inline(always)]
pub(super) fn codes(format: QuantFormat, b: &[u8], s: usize, out: &mut [u8; 32]) {
    match format {
        QuantFormat::Q4_0 | QuantFormat::Iq4Nl => halves(&b[2..], out),
        QuantFormat::Q4_1 => halves(&b[4..], out),
        QuantFormat::Mxfp4 => halves(&b[1..], out),
        QuantFormat::Q5_0 => {
            halves(&b[6..], out);
            fifth(&b[2..6], out);
        }
        QuantFormat::Q5_1 => {
            halves(&b[8..], out);
            fifth(&b[4..8], out);
        }
        QuantFormat::Q8_0 => out.copy_from_slice(&b[2..34]),
        QuantFormat::Q2K => fields(&b[16 + 32 * (s / 4)..], 2 * (s % 4), 2, out),
        QuantFormat::Q3K => {
            fields(&b[32 + 32 * (s / 4)..], 2 * (s % 4), 2, out);
            raise(&b[..32], s, 1, 2, out);
        }
        QuantFormat::Q4K => fields(&b[16 + 32 * (s / 2)..], 4 * (s % 2), 4, out),
        QuantFormat::Q5K => {
            fields(&b[48 + 32 * (s / 2)..], 4 * (s % 2), 4, out);
            raise(&b[16..48], s, 1, 4, out);
        }
        QuantFormat::Q6K => {
            fields(&b[64 * (s / 4) + 32 * (s % 2)..], 4 * (s % 4 / 2), 4, out);
            raise(&b[128 + 32 * (s / 4)..], 2 * (s % 4), 2, 4, out);
        }
        QuantFormat::Iq4Xs => halves(&b[8 + 16 * s..], out),
        QuantFormat::I4 | QuantFormat::U4 | QuantFormat::F4E2M1 => {
            out.fill(0);
            for (o, q) in out.chunks_exact_mut(2).zip(&b[16 * s..]) {
                o[0] = q & 15;
                o[1] = q >> 4;
            }
        }
        QuantFormat::I8 | QuantFormat::U8 | QuantFormat::F8E4M3 | QuantFormat::F8E5M2 => {
            out.fill(0);
            for (o, q) in out.iter_mut().zip(&b[32 * s..]) {
                *o = *q;
            }
        }
    }
}

/// The 6-bit scale and minimum of sub-block s of 8, out of 12 bytes.
#[inline(always)]
fn scale_and_min(scales: &[u8], s: usize) -> (u8, u8) {
    if s < 4 {
        return (scales[s] & 63, scales[s + 4] & 63);
    }
    (scales[s + 4] & 15 | scales[s - 4] >> 6 << 4, scales[s + 4] >> 4 | scales[s] >> 6 << 4)
}

/// The f16 fields of a block, the scale first.
#[inline(always)]
pub(super) fn halves_of(format: QuantFormat, b: &[u8]) -> [[u8; 2]; 2] {
    let at = match format {
        QuantFormat::Q6K => 208,
        QuantFormat::Q2K => 80,
        QuantFormat::Q3K => 108,
        _ => 0,
    };
    let field = |i: usize| b.get(i..i + 2).map_or([0; 2], |f| [f[0], f[1]]);
    [field(at), field(at + 2)]
}

/// The integer factors of a block of 256: of scales, then of minima.
#[inline(always)]
pub(super) fn factors(format: QuantFormat, b: &[u8]) -> [[u8; 16]; 2] {
    let mut out = [[0; 16]; 2];
    match format {
        QuantFormat::Q4K | QuantFormat::Q5K => {
            let [scales, minima] = &mut out;
            for (s, (scale, min)) in scales.iter_mut().zip(minima).enumerate().take(8) {
                (*scale, *min) = scale_and_min(&b[4..16], s);
            }
        }
        QuantFormat::Iq4Xs => {
            let high = u16::from_le_bytes([b[2], b[3]]);
            for (s, scale) in out[0].iter_mut().enumerate().take(8) {
                let low = b[4 + s / 2] >> (4 * (s % 2)) & 15;
                *scale = (low | ((high >> (2 * s)) as u8 & 3) << 4).wrapping_sub(32);
            }
        }
        QuantFormat::Q3K => {
            let scales = &b[96..108];
            for (s, scale) in out[0].iter_mut().enumerate() {
                let low = if s < 8 { scales[s] & 15 } else { scales[s - 8] >> 4 };
                *scale = (low | (scales[8 + s % 4] >> (2 * (s / 4)) & 3) << 4).wrapping_sub(32);
            }
        }
        QuantFormat::Q6K => out[0].copy_from_slice(&b[192..208]),
        QuantFormat::Q2K => out[0].copy_from_slice(&b[..16]),
        _ => {}
    }
    out
}
