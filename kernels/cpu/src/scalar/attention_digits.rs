//! Attention on digits in portable Rust.

use crate::attention::{
    Ahead, AttentionDigits, DIGIT_DIM, DigitRows, DigitUnit, KEY_BLOCK, KEYS, PackKeys, WeighDigits, check_digits,
    digit_unit,
};
use crate::isa::Features;
use crate::table::Entry;

/// The kernels of this tier.
pub(super) fn attention_digits(_: &Features) -> Option<AttentionDigits> {
    Some(AttentionDigits {
        split: Entry { name: "split_digits.scalar", run: split },
        pack_keys: Entry { name: "pack_key_digits.scalar", run: pack_keys },
        qk: Entry { name: "qk_digits.scalar", run: qk },
        pv: Entry { name: "pv_digits.scalar", run: pv },
    })
}

fn split(out: &mut [u32], x: &[f32], first: usize, end: usize) -> DigitUnit {
    let words = x.len().div_ceil(4);
    let (high, low) = out[..2 * words].split_at_mut(words);
    high.fill(0);
    low.fill(0);
    let bits = x[first..end].iter().map(|x| x.to_bits() & 0x7fff_ffff);
    let largest = bits.max().unwrap_or(0);
    let Some(unit) = digit_unit(largest) else {
        return DigitUnit { unit: if largest == 0 { 0.0 } else { f32::NAN }, sum: 0 };
    };
    let mut sum = 0;
    for (i, x) in x.iter().enumerate().take(end).skip(first) {
        let a = (x / unit).round_ties_even() as i32;
        sum += a;
        let (at, shift) = (i / 4, i % 4 * 8);
        high[at] |= u32::from(((a + 128) >> 8) as u8) << shift;
        low[at] |= u32::from(a as u8) << shift;
    }
    DigitUnit { unit, sum }
}

/// # Safety
/// Each of the keys holds `dim` elements.
unsafe fn pack_keys(out: &mut [u32], block: &PackKeys<'_, i8>) {
    for (j, &key) in block.keys[..KEY_BLOCK].iter().enumerate() {
        // SAFETY: the caller vouches for the key.
        let key = unsafe { std::slice::from_raw_parts(key, block.dim) };
        for (w, x) in key.chunks(4).enumerate() {
            let raised = |i: usize| x.get(i).map_or(0, |x| *x as u8 ^ 0x80);
            out[w * KEY_BLOCK + j] = u32::from_le_bytes([raised(0), raised(1), raised(2), raised(3)]);
        }
    }
}

/// The sum of the products of four codes and four digits.
fn dot(codes: u32, digits: u32) -> i32 {
    codes.to_le_bytes().into_iter().zip(digits.to_le_bytes()).map(|(u, a)| i32::from(u) * i32::from(a as i8)).sum()
}

fn qk(scores: &mut [f32], q: &DigitRows<'_>, k: &[u32], words: usize, _: Ahead<'_>) {
    assert!(words <= DIGIT_DIM / 4, "{words} words of four codes");
    for (r, unit) in q.units.iter().enumerate() {
        let (high, low) = q.words[2 * words * r..][..2 * words].split_at(words);
        for j in 0..KEY_BLOCK {
            let mut sum = unit.sum.wrapping_mul(-128);
            for (w, (&high, &low)) in high.iter().zip(low).enumerate() {
                let codes = k[w * KEY_BLOCK + j];
                sum = sum.wrapping_add(dot(codes, high) << 8).wrapping_add(dot(codes, low));
            }
            scores[r * KEYS + j] = sum as f32 * unit.unit;
        }
    }
}

/// # Safety
/// Each of [`KEYS`] values holds `dim` elements.
unsafe fn pv(b: &mut WeighDigits<'_>) {
    check_digits(b);
    for (r, (&alpha, unit)) in b.alpha.iter().zip(b.p.units).enumerate() {
        let (high, low) = b.p.words[KEYS / 2 * r..][..KEYS / 2].split_at(KEYS / 4);
        for d in 0..b.dim {
            let mut sum = unit.sum.wrapping_mul(-128);
            for w in b.first / 4..b.end.div_ceil(4) {
                // SAFETY: the caller vouches for all values.
                let codes = [0, 1, 2, 3].map(|i| unsafe { *b.values[4 * w + i].add(d) } as u8 ^ 0x80);
                let codes = u32::from_le_bytes(codes);
                sum = sum.wrapping_add(dot(codes, high[w]) << 8).wrapping_add(dot(codes, low[w]));
            }
            let acc = &mut b.acc[r * b.dim + d];
            *acc = *acc * alpha + sum as f32 * unit.unit;
        }
    }
}
