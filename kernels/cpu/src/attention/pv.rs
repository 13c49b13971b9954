//! Weighted sums of values.

use super::cached::Stored;
use super::{KEYS, Lanes, Wanted, WeighValues};

/// Weighted values of a few rows, in tiles of up to `RQ` rows by `NV` vectors (an even number) of a head's elements.
///
/// # Safety
/// Each of the values `first..end` holds `dim` elements.
#[inline(always)]
pub(crate) unsafe fn pv<S: Lanes, T: Stored, const RQ: usize, const NV: usize>(s: S, b: &mut WeighValues<'_, T>) {
    let (rows, dim) = (b.alpha.len(), b.dim);
    assert!(b.acc.len() >= rows * dim && b.p.len() >= rows * KEYS, "{rows} rows of {dim} elements");
    assert!(b.first <= b.end && b.end <= KEYS && b.values.len() >= KEYS, "tokens of a chunk");
    let tiles = rows.div_ceil(RQ);
    let mut wanted = Wanted::new(b.ahead, (dim / (NV * S::LANES)).max(1) * (b.end - b.first));
    let mut nothing = Wanted::none();
    let mut d = 0;
    while d < dim {
        let wide = d + NV * S::LANES <= dim;
        let step = if wide { NV * S::LANES } else { (dim - d).min(S::LANES) };
        let mut r = 0;
        for tile in 0..tiles {
            let next = rows * (tile + 1) / tiles;
            let wanted = if tile == 0 { &mut wanted } else { &mut nothing };
            // SAFETY: the lengths were checked, the tile ends before the rows and dim; the caller vouches for the values.
            unsafe {
                match (next - r, wide, step == S::LANES) {
                    (1, true, _) => pv_tile::<S, T, 1, NV>(s, b, r, d, wanted),
                    (2, true, _) if RQ >= 2 => pv_tile::<S, T, 2, NV>(s, b, r, d, wanted),
                    (3, true, _) if RQ >= 3 => pv_tile::<S, T, 3, NV>(s, b, r, d, wanted),
                    (4, true, _) if RQ >= 4 => pv_tile::<S, T, 4, NV>(s, b, r, d, wanted),
                    (5, true, _) if RQ >= 5 => pv_tile::<S, T, 5, NV>(s, b, r, d, wanted),
                    (6, true, _) if RQ >= 6 => pv_tile::<S, T, 6, NV>(s, b, r, d, wanted),
                    (_, true, _) => pv_tile::<S, T, 7, NV>(s, b, r, d, wanted),
                    (1, _, true) => pv_narrow::<S, T, 1>(s, b, r, d),
                    (2, _, true) if RQ >= 2 => pv_narrow::<S, T, 2>(s, b, r, d),
                    (3, _, true) if RQ >= 3 => pv_narrow::<S, T, 3>(s, b, r, d),
                    (4, _, true) if RQ >= 4 => pv_narrow::<S, T, 4>(s, b, r, d),
                    (5, _, true) if RQ >= 5 => pv_narrow::<S, T, 5>(s, b, r, d),
                    (6, _, true) if RQ >= 6 => pv_narrow::<S, T, 6>(s, b, r, d),
                    (_, _, true) => pv_narrow::<S, T, 7>(s, b, r, d),
                    (n, ..) => (r..r + n).for_each(|r| pv_tail(s, b, r, d)),
                }
            }
            r = next;
        }
        d += step;
    }
}

/// `R` rows by `N` vectors from element `d` on, kept in registers over all tokens.
///
/// # Safety
/// As for [`pv`], whose checks were made; the tile ends before the rows and dim.
#[inline(always)]
unsafe fn pv_tile<S: Lanes, T: Stored, const R: usize, const N: usize>(
    s: S,
    b: &mut WeighValues<'_, T>,
    r: usize,
    d: usize,
    wanted: &mut Wanted<'_>,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let out = b.acc.as_mut_ptr().add(r * b.dim + d);
        let mut acc = [[s.splat(0.0); N]; R];
        for (i, acc) in acc.iter_mut().enumerate() {
            let alpha = s.splat(b.alpha[r + i]);
            for n in (0..N).step_by(2) {
                let at = out.add(i * b.dim + n * S::LANES);
                let two = [s.mul(alpha, s.load_ptr(at)), s.mul(alpha, s.load_ptr(at.add(S::LANES)))];
                let two = if T::PAIRS { s.out_of_order(two) } else { two };
                [acc[n], acc[n + 1]] = two;
            }
        }
        let p = b.p.as_ptr().add(r * KEYS);
        for j in b.first..b.end {
            wanted.step();
            let row = b.values.get_unchecked(j).add(d);
            let mut value = [s.splat(0.0); N];
            for n in (0..N).step_by(2) {
                [value[n], value[n + 1]] = T::load_two(s, row.add(n * S::LANES));
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                let p = s.splat(*p.add(i * KEYS + j));
                for (acc, value) in acc.iter_mut().zip(&value) {
                    *acc = s.madd(p, *value, *acc);
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            for n in (0..N).step_by(2) {
                let two = [acc[n], acc[n + 1]];
                let two = if T::PAIRS { s.in_order(two) } else { two };
                s.store_ptr(out.add(i * b.dim + n * S::LANES), two[0]);
                s.store_ptr(out.add(i * b.dim + (n + 1) * S::LANES), two[1]);
            }
        }
    }
}

/// `R` rows by one vector from element `d` on.
///
/// # Safety
/// As for [`pv_tile`].
#[inline(always)]
unsafe fn pv_narrow<S: Lanes, T: Stored, const R: usize>(s: S, b: &mut WeighValues<'_, T>, r: usize, d: usize) {
    // SAFETY: as the caller vouches.
    unsafe {
        let out = b.acc.as_mut_ptr().add(r * b.dim + d);
        let mut acc = [s.splat(0.0); R];
        for (i, acc) in acc.iter_mut().enumerate() {
            *acc = s.mul(s.splat(b.alpha[r + i]), s.load_ptr(out.add(i * b.dim)));
        }
        let p = b.p.as_ptr().add(r * KEYS);
        for j in b.first..b.end {
            let value = T::load(s, b.values.get_unchecked(j).add(d));
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = s.madd(s.splat(*p.add(i * KEYS + j)), value, *acc);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            s.store_ptr(out.add(i * b.dim), *acc);
        }
    }
}

/// The last elements of one row, fewer than a vector.
///
/// # Safety
/// As for [`pv_tile`].
#[inline(always)]
unsafe fn pv_tail<S: Lanes, T: Stored>(s: S, b: &mut WeighValues<'_, T>, r: usize, d: usize) {
    let out = &mut b.acc[r * b.dim + d..(r + 1) * b.dim];
    let mut acc = s.mul(s.splat(b.alpha[r]), s.load_tail(out, 0.0));
    for j in b.first..b.end {
        // SAFETY: as the caller vouches.
        let value = unsafe { T::load_few(s, b.values[j].add(d), out.len()) };
        acc = s.madd(s.splat(b.p[r * KEYS + j]), value, acc);
    }
    s.store_tail(out, acc);
}
