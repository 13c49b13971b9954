//! Matrix multiplication over packed panels: the block that a kernel is given, and the tile loop
//! that the tiers share.
//!
//! Each element of C is one chain of multiply-adds in the order of K. So it depends neither on the
//! rows and panels that are computed beside it, nor on how K is cut into blocks: a batch is
//! bit-identical to its rows alone.

use half::bf16;

use crate::layout::{NR, Weight};
use crate::simd::{Simd, prefetch, prefetch_line};

/// A block of K whose micro-panel of activations, with the weights that stream past it, stays in
/// a first-level cache of 32 KiB.
pub(crate) const KC: usize = 512;

/// How far ahead of a tall tile its weights are fetched, in bytes: so much arithmetic goes by meanwhile that the
/// processor's own prefetchers see the next lines too late.
pub(crate) const AHEAD: usize = 4096;

/// Panels of fewer bytes are multiplied with one row one after the other, as one long stream from memory; longer ones
/// side by side, which has more sums in flight.
pub(crate) const SHORT_PANEL: usize = 48 << 10;

/// A block of work for a GEMM micro-kernel: `m` rows of A times `panels` panels of W, over `kc` inputs.
///
/// `A` is the dtype of the packed activations, `W` of the weights, `C` of the result.
#[derive(Clone, Copy, Debug)]
pub struct GemmBlock<'a, A, W, C> {
    /// Rows to compute, `1 ..= mr` of the kernel.
    pub m: usize,
    /// Inputs in this block of K. All blocks but the last must be a multiple of the dtype's
    /// K step (2 for bf16, 4 for i8; 32 where activations are bf16 too).
    pub kc: usize,
    /// One micro-panel of activations for exactly these `m` rows and `kc` inputs, as the matching `pack_a` writes it.
    pub a: &'a [A],
    /// The first panel, from the first of these inputs on.
    pub w: &'a [W],
    /// Elements from one panel to the next.
    pub panel_stride: usize,
    /// Adjacent panels to compute.
    pub panels: usize,
    /// The first element of the result.
    pub c: *mut C,
    /// Elements from one row of the result to the next.
    pub ldc: usize,
    /// Columns of the result to write, more than `16 * (panels - 1)` and at most `16 * panels`.
    pub columns: usize,
    /// Add to what C holds, instead of overwriting it.
    pub accumulate: bool,
}

impl<A, W, C: Copy> GemmBlock<'_, A, W, C> {
    /// Checks the slices against the counts; `step` is the dtype's K step.
    #[inline(always)]
    pub(crate) fn check(&self, mr: usize, step: usize) {
        let k = self.kc.next_multiple_of(step);
        assert!(self.m <= mr, "a kernel of {mr} rows was given {}", self.m);
        assert!(self.a.len() >= k * mr, "packed activations are too short");
        let last = self.panels.saturating_sub(1) * self.panel_stride;
        assert!(self.panels == 0 || self.w.len() >= last + k * NR, "weight panels are too short");
        assert!(
            self.columns <= self.panels * NR && self.columns + NR > self.panels * NR,
            "columns disagree with panels"
        );
    }

    /// What one row of one panel starts from: C where the block accumulates, else zeros.
    ///
    /// # Safety
    /// Row `row` of C has `columns` readable elements.
    #[inline(always)]
    pub(crate) unsafe fn read(&self, row: usize, panel: usize) -> [C; NR]
    where
        C: Default,
    {
        let mut values = [C::default(); NR];
        if self.accumulate {
            let width = NR.min(self.columns - panel * NR);
            for (i, value) in values.iter_mut().enumerate().take(width) {
                // SAFETY: i < width keeps within the columns that the caller vouches for.
                *value = unsafe { *self.c.add(row * self.ldc + panel * NR + i) };
            }
        }
        values
    }

    /// Writes one row of one panel.
    ///
    /// # Safety
    /// Row `row` of C has `columns` writable elements.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, row: usize, panel: usize, values: &[C; NR]) {
        let width = NR.min(self.columns - panel * NR);
        for (i, value) in values.iter().enumerate().take(width) {
            // SAFETY: i < width keeps within the columns that the caller vouches for.
            unsafe { *self.c.add(row * self.ldc + panel * NR + i) = *value };
        }
    }
}

/// Runs a block: `NV` vectors of columns at a time, then one panel. Few rows take more columns together, so that
/// there are sums enough to keep the multipliers busy.
///
/// `N1` is the number of vectors in a panel, `FEW` what two rows take.
///
/// # Safety
/// Each of the block's `m` rows of C has `columns` writable elements that nobody else touches.
#[inline(always)]
pub(crate) unsafe fn block<S: Simd, W: Weight, const MR: usize, const NV: usize, const N1: usize, const FEW: usize>(
    s: S,
    b: &GemmBlock<'_, f32, W, f32>,
) {
    b.check(MR, W::K_STEP);
    // SAFETY: check() holds the slices to the counts and m to MR; C is the caller's word.
    unsafe {
        match b.m {
            0 => {}
            1 => rows::<S, W, MR, 1, FEW, N1>(s, b),
            2 => rows::<S, W, MR, 2, FEW, N1>(s, b),
            // With 32 registers there is room for the sums of six rows and four panels.
            3 | 4 if S::LANES == NR => rows::<S, W, MR, 4, FEW, N1>(s, b),
            5 | 6 if S::LANES == NR => rows::<S, W, MR, 6, FEW, N1>(s, b),
            3 | 4 => rows::<S, W, MR, 4, NV, N1>(s, b),
            5 | 6 if MR >= 6 => rows::<S, W, MR, 6, NV, N1>(s, b),
            7 | 8 if MR >= 8 => rows::<S, W, MR, 8, NV, N1>(s, b),
            9 | 10 if MR >= 10 => rows::<S, W, MR, 10, NV, N1>(s, b),
            _ => rows::<S, W, MR, MR, NV, N1>(s, b),
        }
    }
}

/// All panels of a block, `NV` vectors at a time and then one panel at a time.
///
/// # Safety
/// As for [`tile`], for all panels of the block.
#[inline(always)]
unsafe fn rows<S: Simd, W: Weight, const MR: usize, const R: usize, const NV: usize, const N1: usize>(
    s: S,
    b: &GemmBlock<'_, f32, W, f32>,
) {
    let wide = NV / N1;
    let mut panel = 0;
    while panel < b.panels {
        // SAFETY: the panels exist; the rest is the caller's word.
        unsafe {
            if panel + wide <= b.panels {
                tile::<S, W, MR, R, NV>(s, b, panel);
                panel += wide;
            } else {
                tile::<S, W, MR, R, N1>(s, b, panel);
                panel += 1;
            }
        }
    }
}

/// `R` rows by `NV` vectors of columns, kept in registers over the whole of `kc`.
///
/// Rows from `m` to `R` are computed from the zeros of the packing and not written.
///
/// # Safety
/// `R <= MR`; the block passed [`GemmBlock::check`]; the panels from `panel` that `NV` vectors
/// cover exist; C is writable as [`block`] says.
#[inline(always)]
unsafe fn tile<S: Simd, W: Weight, const MR: usize, const R: usize, const NV: usize>(
    s: S,
    b: &GemmBlock<'_, f32, W, f32>,
    panel: usize,
) {
    let per_panel = NR / S::LANES;
    let mut acc = [[s.splat(0.0); NV]; R];
    let column = panel * NR;
    let valid = b.columns - column;
    if b.accumulate {
        for (i, acc) in acc.iter_mut().enumerate() {
            if i < b.m {
                // What the next tile of these rows adds to.
                prefetch(b.c.wrapping_add(i * b.ldc + column + NV * S::LANES).cast(), NV * S::LANES * 4);
                for (v, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: row i < m; load_c keeps within the valid columns.
                    *acc = unsafe { load_c(s, b.c.add(i * b.ldc + column), v * S::LANES, valid) };
                }
            }
        }
    }
    let mut w: [*const W; NV] = [b.w.as_ptr(); NV];
    for (v, w) in w.iter_mut().enumerate() {
        let offset = (panel + v / per_panel) * b.panel_stride + v % per_panel * S::LANES * W::K_STEP;
        *w = w.wrapping_add(offset);
    }
    let mut a = b.a.as_ptr();
    for _ in 0..b.kc / W::K_STEP {
        // SAFETY: check() held both slices to kc steps; each pass moves one step on.
        unsafe { step::<S, W, MR, R, NV>(s, &mut acc, a, &w, W::K_STEP) };
        a = a.wrapping_add(MR * W::K_STEP);
        for (v, w) in w.iter_mut().enumerate() {
            if R >= 10 && v % per_panel == 0 {
                prefetch_line(w.cast::<u8>().wrapping_add(AHEAD));
            }
            *w = w.wrapping_add(NR * W::K_STEP);
        }
    }
    if !b.kc.is_multiple_of(W::K_STEP) {
        // SAFETY: the panels are padded to a whole step, and only the first input is used.
        unsafe { step::<S, W, MR, R, NV>(s, &mut acc, a, &w, 1) };
    }
    for (i, acc) in acc.iter().enumerate() {
        if i < b.m {
            for (v, acc) in acc.iter().enumerate() {
                // SAFETY: row i < m; store_c keeps within the valid columns.
                unsafe { store_c(s, b.c.add(i * b.ldc + column), v * S::LANES, valid, *acc) };
            }
        }
    }
}

/// One step of K: one or two rank-one updates of the accumulators.
///
/// # Safety
/// `MR * K_STEP` activations are readable at `a`, one vector of columns for the step at each of `w`.
#[inline(always)]
unsafe fn step<S: Simd, W: Weight, const MR: usize, const R: usize, const NV: usize>(
    s: S,
    acc: &mut [[S::V; NV]; R],
    a: *const f32,
    w: &[*const W; NV],
    inputs: usize,
) {
    for input in 0..inputs {
        if input > 0 {
            for acc in acc.as_flattened_mut() {
                *acc = s.settle(*acc);
            }
        }
        let mut weights = [s.splat(0.0); NV];
        for (weights, w) in weights.iter_mut().zip(w) {
            // SAFETY: the caller vouches for the panels.
            *weights = unsafe { W::load_columns(s, *w, input) };
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            // SAFETY: i < R <= MR, and the step has `inputs` rows of MR activations.
            let x = s.splat(unsafe { *a.add(input * MR + i) });
            for (acc, weights) in acc.iter_mut().zip(&weights) {
                *acc = s.madd(x, *weights, *acc);
            }
        }
    }
}

/// Loads the columns from `at` on, those past `valid` as zeros.
///
/// # Safety
/// `valid` elements are readable at `row`.
#[inline(always)]
unsafe fn load_c<S: Simd>(s: S, row: *const f32, at: usize, valid: usize) -> S::V {
    // SAFETY: both branches stay below `valid`.
    unsafe {
        if at + S::LANES <= valid {
            s.load_ptr(row.add(at))
        } else {
            let rest = valid.saturating_sub(at);
            s.load_tail(std::slice::from_raw_parts(row.wrapping_add(at), rest), 0.0)
        }
    }
}

/// Stores the columns from `at` on, but none past `valid`.
///
/// # Safety
/// `valid` elements are writable at `row`.
#[inline(always)]
unsafe fn store_c<S: Simd>(s: S, row: *mut f32, at: usize, valid: usize, v: S::V) {
    // SAFETY: both branches stay below `valid`.
    unsafe {
        if at + S::LANES <= valid {
            s.store_ptr(row.add(at), v);
        } else {
            let rest = valid.saturating_sub(at);
            s.store_tail(std::slice::from_raw_parts_mut(row.wrapping_add(at), rest), v);
        }
    }
}

/// One row times panels: `y[j] (+)= Σ x[k]·w[j][k]`, `NV` vectors of columns at a time, then `N1`.
///
/// # Panics
/// When the slices are shorter than the counts ask.
#[inline(always)]
pub(crate) fn gemv<S: Simd, W: Weight, const NV: usize, const N1: usize>(
    s: S,
    y: &mut [f32],
    x: &[f32],
    w: &[W],
    panel_stride: usize,
    accumulate: bool,
) {
    let panels = y.len().div_ceil(NR);
    let k = x.len().next_multiple_of(W::K_STEP);
    let last = panels.saturating_sub(1) * panel_stride;
    assert!(panels == 0 || w.len() >= last + k * NR, "weight panels are too short");
    let wide = NV / N1;
    let side_by_side = panel_stride * size_of::<W>() >= SHORT_PANEL;
    let mut panel = 0;
    while panel < panels {
        // SAFETY: the panels were just checked against the length of w.
        unsafe {
            if side_by_side && panel + wide <= panels {
                gemv_tile::<S, W, NV>(s, y, x, w, panel_stride, panel, accumulate);
                panel += wide;
            } else {
                gemv_tile::<S, W, N1>(s, y, x, w, panel_stride, panel, accumulate);
                panel += 1;
            }
        }
    }
}

/// One row times the panels that `NV` vectors cover, each panel its own stream from memory. The
/// streams are plain and ascending, which the processor's prefetchers follow by themselves: asking
/// for lines ahead only makes it slower.
///
/// # Safety
/// Those panels lie within `w`.
#[inline(always)]
unsafe fn gemv_tile<S: Simd, W: Weight, const NV: usize>(
    s: S,
    y: &mut [f32],
    x: &[f32],
    w: &[W],
    panel_stride: usize,
    panel: usize,
    accumulate: bool,
) {
    let per_panel = NR / S::LANES;
    let y = &mut y[panel * NR..];
    let valid = y.len().min(NV * S::LANES);
    let mut acc = [[s.splat(0.0); NV]; 1];
    if accumulate {
        for (v, acc) in acc[0].iter_mut().enumerate() {
            // SAFETY: load_c keeps within the valid columns of y.
            *acc = unsafe { load_c(s, y.as_ptr(), v * S::LANES, valid) };
        }
    }
    let mut at: [*const W; NV] = [w.as_ptr(); NV];
    for (v, at) in at.iter_mut().enumerate() {
        let offset = (panel + v / per_panel) * panel_stride + v % per_panel * S::LANES * W::K_STEP;
        *at = at.wrapping_add(offset);
    }
    for x in x.chunks_exact(W::K_STEP) {
        // SAFETY: the caller vouches for the panels; each pass moves one step on.
        unsafe { step::<S, W, 1, 1, NV>(s, &mut acc, x.as_ptr(), &at, W::K_STEP) };
        for at in &mut at {
            *at = at.wrapping_add(NR * W::K_STEP);
        }
    }
    let rest = x.chunks_exact(W::K_STEP).remainder();
    if !rest.is_empty() {
        // SAFETY: the panels are padded to a whole step, and only the first input is used.
        unsafe { step::<S, W, 1, 1, NV>(s, &mut acc, rest.as_ptr(), &at, 1) };
    }
    for (v, acc) in acc[0].iter().enumerate() {
        // SAFETY: store_c keeps within the valid columns of y.
        unsafe { store_c(s, y.as_mut_ptr(), v * S::LANES, valid, *acc) };
    }
}

/// Packs `m` rows of activations, `kc` inputs each, into one micro-panel `[kc][MR]` of f32.
///
/// Rows from `m` to `MR` become zeros.
///
/// # Panics
/// When `m > MR`, or the slices are too short.
#[inline(always)]
pub(crate) fn pack_a<S: Simd, A: Weight, const MR: usize>(
    s: S,
    dst: &mut [f32],
    a: &[A],
    lda: usize,
    m: usize,
    kc: usize,
) {
    assert!(m <= MR, "a micro-panel of {MR} rows was given {m}");
    let dst = &mut dst[..kc * MR];
    let rows: [&[A]; MR] = std::array::from_fn(|i| if i < m { &a[i * lda..][..kc] } else { &[][..] });
    // SAFETY: a row below m has kc elements, and the micro-panel kc columns.
    unsafe {
        turn_rows::<S, MR>(s, dst.as_mut_ptr(), m, kc, |i, k| A::load_row(s, rows[i].as_ptr().add(k)));
    }
    for k in kc / S::LANES * S::LANES..kc {
        for (out, row) in dst[k * MR..][..MR].iter_mut().zip(&rows) {
            *out = row.get(k).map_or(0.0, |x| x.widen());
        }
    }
}

/// Packs `m` rows of pairs of bf16: `[ceil(kc/2)][MR][2]`.
///
/// Rows from `m` to `MR` and an input past `kc` become zeros.
///
/// # Panics
/// When `m > MR`, or the slices are too short.
#[inline(always)]
pub(crate) fn pack_a_pairs<S: Simd, const MR: usize>(
    s: S,
    dst: &mut [bf16],
    a: &[bf16],
    lda: usize,
    m: usize,
    kc: usize,
) {
    assert!(m <= MR, "a micro-panel of {MR} rows was given {m}");
    let dst = &mut dst[..kc.div_ceil(2) * MR * 2];
    let rows: [&[bf16]; MR] = std::array::from_fn(|i| if i < m { &a[i * lda..][..kc] } else { &[][..] });
    let whole = kc / 2;
    // A vector of pairs is moved as one of f32, which keeps its bits.
    // SAFETY: a row below m has whole pairs, and the micro-panel as many columns.
    unsafe {
        let load = |i: usize, pair: usize| s.load_ptr(rows[i].as_ptr().add(2 * pair).cast());
        turn_rows::<S, MR>(s, dst.as_mut_ptr().cast(), m, whole, load);
    }
    for pair in whole / S::LANES * S::LANES..kc.div_ceil(2) {
        for (out, row) in dst[pair * 2 * MR..][..2 * MR].chunks_exact_mut(2).zip(&rows) {
            out[0] = row.get(2 * pair).copied().unwrap_or_default();
            out[1] = row.get(2 * pair + 1).copied().unwrap_or_default();
        }
    }
}

/// Writes the whole vectors of `count` units of `m` rows as columns of `MR` units, zeros from row `m` on.
///
/// # Safety
/// `load(i, k)` may be called for `i < m` and whole vectors of units below `count`; `dst` has room for
/// `count * MR` units.
#[inline(always)]
unsafe fn turn_rows<S: Simd, const MR: usize>(
    s: S,
    dst: *mut f32,
    m: usize,
    count: usize,
    load: impl Fn(usize, usize) -> S::V,
) {
    for k in (0..count / S::LANES * S::LANES).step_by(S::LANES) {
        for first in (0..MR).step_by(4) {
            let mut rows = [s.splat(0.0); 4];
            for (i, row) in rows.iter_mut().enumerate() {
                if first + i < m {
                    *row = load(first + i, k);
                }
            }
            // SAFETY: the columns from k on exist, and have room for these rows.
            unsafe { s.store_columns(rows, dst.add(k * MR + first), MR, 4.min(MR - first)) };
        }
    }
}

/// Packs `m` rows of activations in groups of `STEP` inputs: `[ceil(kc/STEP)][MR][STEP]`.
///
/// Rows from `m` to `MR` and inputs past `kc` become zeros.
///
/// # Panics
/// When `m > MR`, or the slices are too short.
#[inline(always)]
pub(crate) fn pack_a_groups<A: Copy + Default, const MR: usize, const STEP: usize>(
    dst: &mut [A],
    a: &[A],
    lda: usize,
    m: usize,
    kc: usize,
) {
    assert!(m <= MR, "a micro-panel of {MR} rows was given {m}");
    let dst = &mut dst[..kc.div_ceil(STEP) * MR * STEP];
    if m < MR || !kc.is_multiple_of(STEP) {
        dst.fill(A::default());
    }
    let (groups, _) = dst.as_chunks_mut::<STEP>();
    for i in 0..m {
        let (row, rest) = a[i * lda..][..kc].as_chunks::<STEP>();
        for (out, x) in groups.chunks_exact_mut(MR).zip(row) {
            out[i] = *x;
        }
        if !rest.is_empty() {
            groups[row.len() * MR + i][..rest.len()].copy_from_slice(rest);
        }
    }
}
