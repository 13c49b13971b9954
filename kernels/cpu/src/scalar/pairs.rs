//! Attention on pairs of bf16 in portable Rust.

use half::bf16;

use super::Scalar;
use crate::attention::{Ahead, AttentionPairs, Cached, E4m3, E5m2, KEY_BLOCK, KEYS, PackKeys, WeighPairs};
use crate::isa::Features;
use crate::table::Entry;

/// The kernels of this tier.
pub(super) fn attention_pairs(_: &Features) -> Option<AttentionPairs> {
    Some(AttentionPairs {
        pack_keys: Entry { name: "pack_key_pairs.scalar", run: pack_keys::<bf16> },
        pack_keys_e4m3: Entry { name: "pack_key_pairs_e4m3.scalar", run: pack_keys::<E4m3> },
        pack_keys_e5m2: Entry { name: "pack_key_pairs_e5m2.scalar", run: pack_keys::<E5m2> },
        qk: Entry { name: "qk_pairs.scalar", run: qk },
        round_weights: Entry { name: "round_weights.scalar", run: round_weights },
        pv: Entry { name: "pv_pairs.scalar", run: pv::<bf16> },
        pv_e4m3: Entry { name: "pv_pairs_e4m3.scalar", run: pv::<E4m3> },
        pv_e5m2: Entry { name: "pv_pairs_e5m2.scalar", run: pv::<E5m2> },
    })
}

fn word(low: bf16, high: bf16) -> u32 {
    u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16
}

/// An element as bf16, which holds it exactly.
///
/// # Safety
/// It is readable.
unsafe fn element<T: Cached>(p: *const T) -> bf16 {
    // SAFETY: as the caller vouches.
    bf16::from_f32(unsafe { T::load_few(Scalar, p, 1) }[0])
}

/// The two numbers of a word.
fn pair(word: u32) -> [f32; 2] {
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}

fn add(acc: &mut f32, a: u32, b: u32) {
    let (a, b) = (pair(a), pair(b));
    *acc += a[0] * b[0];
    *acc += a[1] * b[1];
}

/// # Safety
/// Each of the keys holds `dim` elements.
unsafe fn pack_keys<T: Cached>(out: &mut [u32], block: &PackKeys<'_, T>) {
    for (j, &key) in block.keys[..KEY_BLOCK].iter().enumerate() {
        for w in 0..block.dim.div_ceil(2) {
            // SAFETY: the caller vouches for the key's elements.
            let at = |d: usize| if d < block.dim { unsafe { element(key.add(d)) } } else { bf16::ZERO };
            out[w * KEY_BLOCK + j] = word(at(2 * w), at(2 * w + 1));
        }
    }
}

fn qk(scores: &mut [f32], (q, rows): (&[u32], usize), k: &[u32], pairs: usize, _: Ahead<'_>) {
    for r in 0..rows {
        for j in 0..KEY_BLOCK {
            let mut sum = 0.0;
            for (w, &q) in q[r * pairs..][..pairs].iter().enumerate() {
                add(&mut sum, q, k[w * KEY_BLOCK + j]);
            }
            scores[r * KEYS + j] = sum;
        }
    }
}

fn round_weights(row: &mut [u32], first: usize, end: usize) {
    let row = &mut row[..KEYS];
    for i in 0..KEYS / 2 {
        let at = |j: usize| {
            let seen = (first..end).contains(&j);
            bf16::from_f32(if seen { f32::from_bits(row[j]) } else { 0.0 })
        };
        row[i] = word(at(2 * i), at(2 * i + 1));
    }
}

/// # Safety
/// Each of the values `first..end` holds `dim` elements.
unsafe fn pv<T: Cached>(b: &mut WeighPairs<'_, T>) {
    assert!(b.first <= b.end && b.end <= KEYS, "tokens of a chunk");
    for (r, &alpha) in b.alpha.iter().enumerate() {
        for d in 0..b.dim {
            let acc = &mut b.acc[r * b.dim + d];
            *acc *= alpha;
            for i in b.first / 2..b.end.div_ceil(2) {
                let at = |j: usize| {
                    // SAFETY: the caller vouches for the values that count.
                    if (b.first..b.end).contains(&j) { unsafe { element(b.values[j].add(d)) } } else { bf16::ZERO }
                };
                add(acc, b.p[r * KEYS + i], word(at(2 * i), at(2 * i + 1)));
            }
        }
    }
}
