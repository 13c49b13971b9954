//! The two products of attention, for a few query rows that share keys and values.
//!
//! Keys and values are read once per group of query rows, in their stored dtype. An element of a
//! result does not depend on the rows and keys that are computed beside it.

use crate::layout::Weight;
use crate::simd::Simd;

/// Rows of a matrix in the cache: row `i` is `data[i * stride ..][.. dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T> {
    /// The elements.
    pub data: &'a [T],
    /// Elements from one row to the next.
    pub stride: usize,
    /// Rows.
    pub count: usize,
}

impl<'a, T> Rows<'a, T> {
    /// Checks that every row holds `dim` elements.
    #[inline(always)]
    fn check(&self, dim: usize) {
        assert!(
            self.count == 0 || self.data.len() >= (self.count - 1) * self.stride + dim,
            "{} rows of {dim} at a stride of {} do not fit {} elements",
            self.count,
            self.stride,
            self.data.len()
        );
    }

    /// A pointer to row `i`.
    #[inline(always)]
    fn row(&self, i: usize) -> *const T {
        self.data.as_ptr().wrapping_add(i * self.stride)
    }
}

/// `scores[r * ld + j] = scale · Σ_d q[r][d] · k[j][d]`, in tiles of `RQ` rows by `RK` keys.
#[inline(always)]
pub(crate) fn qk<S: Simd, T: Weight, const RQ: usize, const RK: usize>(
    s: S,
    scores: &mut [f32],
    ld: usize,
    q: Rows<'_, f32>,
    k: Rows<'_, T>,
    dim: usize,
    scale: f32,
) {
    q.check(dim);
    k.check(dim);
    let mut j = 0;
    while j < k.count {
        let keys = if j + RK <= k.count { RK } else { 1 };
        let mut r = 0;
        while r < q.count {
            let rows = if r + RQ <= q.count { RQ } else { 1 };
            let out = &mut scores[r * ld + j..];
            // SAFETY: the rows were checked to hold dim elements each.
            unsafe {
                match (rows == RQ, keys == RK) {
                    (true, true) => qk_tile::<S, T, RQ, RK>(s, out, ld, q, r, k, j, dim, scale),
                    (true, false) => qk_tile::<S, T, RQ, 1>(s, out, ld, q, r, k, j, dim, scale),
                    (false, true) => qk_tile::<S, T, 1, RK>(s, out, ld, q, r, k, j, dim, scale),
                    (false, false) => qk_tile::<S, T, 1, 1>(s, out, ld, q, r, k, j, dim, scale),
                }
            }
            r += rows;
        }
        j += keys;
    }
}

/// `R` query rows from `r` by `J` keys from `j`.
///
/// # Safety
/// Those rows and keys hold `dim` elements each.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // A tile is named by its matrices and where it starts in them.
unsafe fn qk_tile<S: Simd, T: Weight, const R: usize, const J: usize>(
    s: S,
    out: &mut [f32],
    ld: usize,
    q: Rows<'_, f32>,
    r: usize,
    k: Rows<'_, T>,
    j: usize,
    dim: usize,
    scale: f32,
) {
    let mut acc = [[s.splat(0.0); J]; R];
    let q: [*const f32; R] = std::array::from_fn(|i| q.row(r + i));
    let k: [*const T; J] = std::array::from_fn(|i| k.row(j + i));
    let whole = dim - dim % S::LANES;
    let mut d = 0;
    while d < whole {
        let mut key = [s.splat(0.0); J];
        for (key, k) in key.iter_mut().zip(&k) {
            // SAFETY: d + LANES <= dim.
            *key = unsafe { T::load_row(s, k.add(d)) };
        }
        for (acc, q) in acc.iter_mut().zip(&q) {
            // SAFETY: d + LANES <= dim.
            let x = unsafe { s.load_ptr(q.add(d)) };
            for (acc, key) in acc.iter_mut().zip(&key) {
                *acc = s.madd(x, *key, *acc);
            }
        }
        d += S::LANES;
    }
    if d < dim {
        for (acc, q) in acc.iter_mut().zip(&q) {
            // SAFETY: dim - d elements are left of the row.
            let x = s.load_tail(unsafe { std::slice::from_raw_parts(q.add(d), dim - d) }, 0.0);
            for (acc, k) in acc.iter_mut().zip(&k) {
                // SAFETY: dim - d elements are left of the row.
                let key = s.load_row_tail(unsafe { std::slice::from_raw_parts(k.add(d), dim - d) });
                *acc = s.madd(x, key, *acc);
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        let out = &mut out[i * ld..][..J];
        for (out, acc) in out.chunks_mut(4).zip(acc.chunks(4)) {
            if let Ok(four) = <[S::V; 4]>::try_from(acc) {
                let sums = s.sum_lanes_of_four(four);
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = scale * sum;
                }
            } else {
                for (out, acc) in out.iter_mut().zip(acc) {
                    *out = scale * s.sum_lanes(*acc);
                }
            }
        }
    }
}

/// `acc[r][d] = alpha[r] · acc[r][d] + Σ_j p[r * ld + j] · v[j][d]`, in tiles of `RQ` rows by `NV`
/// vectors of d; row r of `acc` starts at `r * acc_stride`.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // Three matrices with a stride each.
pub(crate) fn pv<S: Simd, T: Weight, const RQ: usize, const NV: usize>(
    s: S,
    acc: &mut [f32],
    acc_stride: usize,
    alpha: &[f32],
    p: &[f32],
    ld: usize,
    v: Rows<'_, T>,
    dim: usize,
) {
    v.check(dim);
    let rows = alpha.len();
    let mut r = 0;
    while r < rows {
        let wide = r + RQ <= rows;
        let out = &mut acc[r * acc_stride..];
        let mut d = 0;
        while d + S::LANES <= dim {
            let full = d + NV * S::LANES <= dim;
            // SAFETY: v was checked to hold dim elements in each row, and the tile ends before dim.
            unsafe {
                match (wide, full) {
                    (true, true) => pv_tile::<S, T, RQ, NV>(s, out, acc_stride, &alpha[r..], &p[r * ld..], ld, v, d),
                    (true, false) => pv_tile::<S, T, RQ, 1>(s, out, acc_stride, &alpha[r..], &p[r * ld..], ld, v, d),
                    (false, true) => pv_tile::<S, T, 1, NV>(s, out, acc_stride, &alpha[r..], &p[r * ld..], ld, v, d),
                    (false, false) => pv_tile::<S, T, 1, 1>(s, out, acc_stride, &alpha[r..], &p[r * ld..], ld, v, d),
                }
            }
            d += if full { NV * S::LANES } else { S::LANES };
        }
        let tile = if wide { RQ } else { 1 };
        if d < dim {
            for i in 0..tile {
                pv_tail(s, &mut out[i * acc_stride + d..][..dim - d], alpha[r + i], &p[(r + i) * ld..], v, d);
            }
        }
        r += tile;
    }
}

/// `R` rows by `N` vectors of d from `d`, kept in registers over all of `v`.
///
/// # Safety
/// Each row of `v` holds `d + N * LANES` elements.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // As for pv.
unsafe fn pv_tile<S: Simd, T: Weight, const R: usize, const N: usize>(
    s: S,
    out: &mut [f32],
    stride: usize,
    alpha: &[f32],
    p: &[f32],
    ld: usize,
    v: Rows<'_, T>,
    d: usize,
) {
    let mut acc = [[s.splat(0.0); N]; R];
    for (i, acc) in acc.iter_mut().enumerate() {
        let alpha = s.splat(alpha[i]);
        for (n, acc) in acc.iter_mut().enumerate() {
            *acc = s.mul(alpha, s.load(&out[i * stride + d + n * S::LANES..]));
        }
    }
    let p: [&[f32]; R] = std::array::from_fn(|i| &p[i * ld..][..v.count]);
    for j in 0..v.count {
        let row = v.row(j).wrapping_add(d);
        let mut value = [s.splat(0.0); N];
        for (n, value) in value.iter_mut().enumerate() {
            // SAFETY: the caller vouches for N vectors from d on.
            *value = unsafe { T::load_row(s, row.add(n * S::LANES)) };
        }
        for (acc, p) in acc.iter_mut().zip(&p) {
            let p = s.splat(p[j]);
            for (acc, value) in acc.iter_mut().zip(&value) {
                *acc = s.madd(p, *value, *acc);
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (n, acc) in acc.iter().enumerate() {
            s.store(&mut out[i * stride + d + n * S::LANES..], *acc);
        }
    }
}

/// The last elements of one row, fewer than a vector.
#[inline(always)]
fn pv_tail<S: Simd, T: Weight>(s: S, out: &mut [f32], alpha: f32, p: &[f32], v: Rows<'_, T>, d: usize) {
    let mut acc = s.mul(s.splat(alpha), s.load_tail(out, 0.0));
    for (j, p) in p[..v.count].iter().enumerate() {
        let value = s.load_row_tail(&v.data[j * v.stride + d..][..out.len()]);
        acc = s.madd(s.splat(*p), value, acc);
    }
    s.store_tail(out, acc);
}
