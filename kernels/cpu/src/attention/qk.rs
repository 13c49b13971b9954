//! Keys turned around, and their scores.

use super::cached::Stored;
use super::{Ahead, KEY_BLOCK, KEYS, Lanes, PackKeys, Wanted};
use crate::simd::MAX_LANES;

/// `out[d * KEY_BLOCK + j] = keys[j][d]`, widened.
///
/// # Safety
/// Each of the keys holds `dim` elements.
#[inline(always)]
pub(crate) unsafe fn pack_keys<S: Lanes, T: Stored>(s: S, out: &mut [f32], block: &PackKeys<'_, T>) {
    let keys: &[*const T] = &block.keys[..KEY_BLOCK];
    let (dim, out) = (block.dim, &mut out[..block.dim * KEY_BLOCK]);
    let whole = dim - dim % S::LANES;
    let mut wanted = Wanted::new(block.ahead, KEY_BLOCK / S::LANES * dim.div_ceil(S::LANES));
    for first in (0..KEY_BLOCK).step_by(S::LANES) {
        let pairs = if T::PAIRS { dim - dim % (2 * S::LANES) } else { 0 };
        for d in (0..pairs).step_by(2 * S::LANES) {
            // Words of two elements are turned around, then taken apart.
            wanted.step();
            wanted.step();
            let mut square = [s.splat(0.0); MAX_LANES];
            for (v, key) in square[..S::LANES].iter_mut().zip(&keys[first..]) {
                // SAFETY: the caller vouches for the key; d + 2 * LANES <= dim, and LANES words are as long.
                *v = unsafe { s.load_ptr(key.add(d).cast()) };
            }
            s.transpose(&mut square);
            for (i, v) in square[..S::LANES].iter().enumerate() {
                let [even, odd] = s.bf16_pairs(*v);
                s.store(&mut out[(d + 2 * i) * KEY_BLOCK + first..], even);
                s.store(&mut out[(d + 2 * i + 1) * KEY_BLOCK + first..], odd);
            }
        }
        for d in (pairs..whole).step_by(S::LANES) {
            wanted.step();
            let mut square = [s.splat(0.0); MAX_LANES];
            for (v, key) in square[..S::LANES].iter_mut().zip(&keys[first..]) {
                // SAFETY: the caller vouches for the key; d + LANES <= dim.
                *v = unsafe { T::load(s, key.add(d)) };
            }
            s.transpose(&mut square);
            for (i, v) in square[..S::LANES].iter().enumerate() {
                s.store(&mut out[(d + i) * KEY_BLOCK + first..], *v);
            }
        }
        if whole < dim {
            wanted.step();
            let mut square = [s.splat(0.0); MAX_LANES];
            for (v, key) in square[..S::LANES].iter_mut().zip(&keys[first..]) {
                // SAFETY: the caller vouches for the key, of which dim - whole elements are left.
                *v = unsafe { T::load_few(s, key.add(whole), dim - whole) };
            }
            s.transpose(&mut square);
            for (i, v) in square[..dim - whole].iter().enumerate() {
                s.store(&mut out[(whole + i) * KEY_BLOCK + first..], *v);
            }
        }
    }
}

/// `scores[r * KEYS + j] = Σ_d q[r * dim + d] · k[d * KEY_BLOCK + j]` for the keys of a block, in tiles of up to `RQ` rows
/// by `NV` vectors of keys. What is wanted ahead is asked for evenly on the way.
#[inline(always)]
pub(crate) fn qk<S: Lanes, const RQ: usize, const NV: usize>(
    s: S,
    scores: &mut [f32],
    (q, rows): (&[f32], usize),
    k: &[f32],
    dim: usize,
    ahead: Ahead<'_>,
) {
    assert!(q.len() >= rows * dim && k.len() >= dim * KEY_BLOCK, "{rows} rows and a block of keys of {dim} elements");
    assert!(rows == 0 || scores.len() >= (rows - 1) * KEYS + KEY_BLOCK, "{rows} rows of scores");
    let tiles = rows.div_ceil(RQ);
    let mut wanted = Wanted::new(ahead, tiles * KEY_BLOCK.div_ceil(NV * S::LANES) * dim);
    let mut r = 0;
    for tile in 0..tiles {
        // Tiles as equal as can be.
        let next = rows * (tile + 1) / tiles;
        let (scores, q) = (&mut scores[r * KEYS..], &q[r * dim..]);
        match next - r {
            1 => qk_tile::<S, 1, NV>(s, scores, q, k, dim, &mut wanted),
            2 if RQ >= 2 => qk_tile::<S, 2, NV>(s, scores, q, k, dim, &mut wanted),
            3 if RQ >= 3 => qk_tile::<S, 3, NV>(s, scores, q, k, dim, &mut wanted),
            4 if RQ >= 4 => qk_tile::<S, 4, NV>(s, scores, q, k, dim, &mut wanted),
            5 if RQ >= 5 => qk_tile::<S, 5, NV>(s, scores, q, k, dim, &mut wanted),
            6 if RQ >= 6 => qk_tile::<S, 6, NV>(s, scores, q, k, dim, &mut wanted),
            7 if RQ >= 7 => qk_tile::<S, 7, NV>(s, scores, q, k, dim, &mut wanted),
            _ => qk_tile::<S, 8, NV>(s, scores, q, k, dim, &mut wanted),
        }
        r = next;
    }
}

/// `R` rows by all keys of the block.
#[inline(always)]
fn qk_tile<S: Lanes, const R: usize, const NV: usize>(
    s: S,
    scores: &mut [f32],
    q: &[f32],
    k: &[f32],
    dim: usize,
    wanted: &mut Wanted<'_>,
) {
    assert!(q.len() >= R * dim && k.len() >= dim * KEY_BLOCK);
    for first in (0..KEY_BLOCK).step_by(NV * S::LANES) {
        let mut acc = [[s.splat(0.0); NV]; R];
        for d in 0..dim {
            wanted.step();
            // SAFETY: d < dim; the lengths were just checked, and NV vectors from first on lie in the block.
            unsafe {
                let mut key = [s.splat(0.0); NV];
                for (n, key) in key.iter_mut().enumerate() {
                    *key = s.load_ptr(k.as_ptr().add(d * KEY_BLOCK + first + n * S::LANES));
                }
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = s.splat(*q.get_unchecked(i * dim + d));
                    for (acc, key) in acc.iter_mut().zip(&key) {
                        *acc = s.madd(x, *key, *acc);
                    }
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            for (n, acc) in acc.iter().enumerate() {
                s.store(&mut scores[i * KEYS + first + n * S::LANES..], *acc);
            }
        }
    }
}
