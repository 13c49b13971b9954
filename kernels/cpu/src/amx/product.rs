//! A product of packed activations with panels, tile by tile.

use crate::gemm::GemmBlock;
use crate::layout::NR;

use super::tiles::{Multiply, Run, Shapes, TILE, Tail, release};

/// Rows of a micro-panel of activations.
pub(super) const MR: usize = 128;

/// Rows that are multiplied together.
const GROUP: usize = 32;

/// Panels that meet all rows before the next do.
const QUAD: usize = 4;

/// Steps of K after which the next panels come: activations of a group and four panels, 48 KiB, fill a first-level cache.
const BLOCK: usize = 8;

/// Packs `m` rows of activations, `kc` inputs each: `[kc/WIDE][m][WIDE]`, then `[m][rest]` with the rest of the inputs
/// rounded up by zeros to a multiple of `STEP`.
///
/// # Panics
/// When `m > MR`, or the slices are too short.
pub(super) fn pack<T: Copy + Default, const WIDE: usize, const STEP: usize>(
    dst: &mut [T],
    a: &[T],
    lda: usize,
    m: usize,
    kc: usize,
) {
    assert!(m <= MR, "a micro-panel of {MR} rows was given {m}");
    let rest = kc % WIDE;
    let (tiles, tail) = dst[..kc.next_multiple_of(STEP) * m].split_at_mut((kc - rest) * m);
    for i in 0..m {
        let row = &a[i * lda..][..kc];
        let (whole, end) = row.as_chunks::<WIDE>();
        for (tile, x) in tiles.chunks_exact_mut(m * WIDE).zip(whole) {
            tile[i * WIDE..][..WIDE].copy_from_slice(x);
        }
        if rest > 0 {
            let out = &mut tail[i * rest.next_multiple_of(STEP)..][..rest.next_multiple_of(STEP)];
            out[..rest].copy_from_slice(end);
            out[rest..].fill(T::default());
        }
    }
}

/// Operands in bytes, and how K is cut.
#[derive(Clone, Copy)]
struct Part {
    a: *const u8,
    /// Rows that were packed together.
    m: usize,
    w: *const u8,
    w_stride: usize,
    /// Whole tiles in K, and the bytes of a row behind them.
    steps: usize,
    rest: usize,
    c: *mut u8,
    ldc: usize,
    accumulate: bool,
}

/// Runs a block: full groups of rows and what is left, panels with all their columns and one with fewer, each such
/// section with shapes of its own.
///
/// # Safety
/// The processor has the instruction of `M`. The block passed [`GemmBlock::check`] for [`MR`] rows and a step of `STEP`;
/// `A` has `64 / WIDE` bytes and `C` four. Each of the block's `m` rows of C has `columns` writable elements that nobody
/// else touches.
pub(super) unsafe fn product<M: Multiply, A, C, const WIDE: usize, const STEP: usize>(block: &GemmBlock<'_, A, A, C>) {
    let part = Part {
        a: block.a.as_ptr().cast(),
        m: block.m,
        w: block.w.as_ptr().cast(),
        w_stride: block.panel_stride * size_of::<A>(),
        steps: block.kc / WIDE,
        rest: (block.kc % WIDE).next_multiple_of(STEP) * size_of::<A>(),
        c: block.c.cast(),
        ldc: block.ldc * size_of::<C>(),
        accumulate: block.accumulate,
    };
    let (groups, left) = (block.m / GROUP, block.m % GROUP);
    let (full, edge) = (block.columns / NR, block.columns % NR);
    let rows = [(0, groups, GROUP), (groups * GROUP, 1, left)];
    let columns = [(0, full, NR), (full, 1, edge)];
    for (row, groups, height) in rows.into_iter().filter(|(_, groups, height)| groups * height > 0) {
        for (panel, panels, width) in columns.into_iter().filter(|(_, panels, width)| panels * width > 0) {
            // SAFETY: as the caller vouches; the sections lie within the block.
            unsafe {
                Shapes::new(height, width).set();
                section::<M>(&part, (row, groups, height), (panel, panels));
            }
        }
    }
    // SAFETY: the processor has tiles.
    unsafe { release() };
}

/// Groups of rows, `(first, how many, height)`, by panels, `(first, how many)`.
///
/// # Safety
/// As for [`product`]; the tiles have the shapes of this height and of the panels' width.
unsafe fn section<M: Multiply>(
    part: &Part,
    (row, groups, height): (usize, usize, usize),
    (panel, panels): (usize, usize),
) {
    // What few rows read is read once: blocks of K would but store and load the sums.
    let depth = if groups > 1 { BLOCK } else { part.steps.max(1) };
    let mut tail = Tail::ZERO;
    let mut step = 0;
    loop {
        let steps = depth.min(part.steps - step);
        let last = step + steps == part.steps;
        for first in (panel..panel + panels).step_by(QUAD) {
            let quad = QUAD.min(panel + panels - first);
            for group in 0..groups {
                let row = row + group * GROUP;
                let mut at = 0;
                while at < quad {
                    let wide = together(height, quad - at);
                    let run = Run {
                        a: part.a.wrapping_add((step * part.m + row) * 64),
                        a_step: part.m * 64,
                        w: part.w.wrapping_add((first + at) * part.w_stride + step * TILE),
                        w_stride: part.w_stride,
                        steps,
                        tail: std::ptr::null(),
                        c: part.c.wrapping_add(row * part.ldc + (first + at) * NR * 4),
                        ldc: part.ldc,
                        accumulate: part.accumulate || step > 0,
                    };
                    // SAFETY: as the caller vouches; the rows and panels are those of the section.
                    unsafe {
                        let run = if last && part.rest > 0 {
                            part.fill(&mut tail, (row, height), (first + at, wide));
                            Run { tail: &raw const tail, ..run }
                        } else {
                            run
                        };
                        match (height > 16, wide) {
                            (true, 2) => M::two_by_two(&run),
                            (true, _) => M::two_by_one(&run),
                            (false, 4) => M::one_by_four(&run),
                            (false, _) => M::one_by_one(&run),
                        }
                    }
                    at += wide;
                }
            }
        }
        step += steps;
        if last {
            return;
        }
    }
}

/// The panels that a group of this height meets together, of those that are left.
fn together(height: usize, left: usize) -> usize {
    match (height > 16, left) {
        (true, 2..) => 2,
        (false, 4..) => 4,
        _ => 1,
    }
}

impl Part {
    /// Copies what K has beyond whole tiles, for `(first, how many)` rows and panels. What it does not write of the rows
    /// and tiles that are used is zero.
    ///
    /// # Safety
    /// The rows and panels exist, and `rest` is not 0.
    unsafe fn fill(&self, tail: &mut Tail, (row, rows): (usize, usize), (panel, panels): (usize, usize)) {
        // Behind the whole tiles each row has `rest` bytes, and each panel 16 bytes for each of them.
        let a = self.a.wrapping_add(self.steps * self.m * 64 + row * self.rest);
        for (i, to) in tail.a.iter_mut().enumerate().take(rows) {
            // SAFETY: the caller vouches for the row, and a rest is shorter than a tile's row.
            unsafe { std::ptr::copy_nonoverlapping(a.wrapping_add(i * self.rest), to.as_mut_ptr(), self.rest) };
        }
        for (i, to) in tail.w.iter_mut().enumerate().take(panels) {
            let w = self.w.wrapping_add((panel + i) * self.w_stride + self.steps * TILE);
            // SAFETY: the caller vouches for the panel, and a rest is shorter than a tile.
            unsafe { std::ptr::copy_nonoverlapping(w, to.as_mut_ptr(), 16 * self.rest) };
        }
    }
}
