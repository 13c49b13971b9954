//! Products with panels of codes: tiles of rows times panels, the codes decoded in registers.
//!
//! The activations are packed for all of K into tiles of as many rows as the kernels take together. A task takes some
//! panels; for each stretch of chunks, of which a tile of activations stays in the first-level cache, it multiplies every
//! tile by every panel. A single tile goes through one panel after the other, so that codes stream from memory once.
//!
//! A row whose products of codes could overflow, or that holds numbers that are not finite, takes decoded weights; that is
//! decided from the row alone.

use std::ops::Range;

use qiao_kernels_cpu::{CHUNK, NR, QuantBlock, QuantRows};

use super::exec::{Core, Exec, Prepared};
use super::matmul::gemv_panels;
use super::matmul_quant::Product;
use super::quant_weights::{SCALES, STRETCH};

/// Rows whose activations are packed together.
const ROWS: usize = 512;

/// Panels that a tile of activations meets while it is in the first-level cache.
const GROUP: usize = 8;

/// Activations below which packing is not worth handing to other threads.
const GRAIN: usize = 16 << 10;

/// How rows are cut into tiles: all but the last have as many as the kernels take together.
#[derive(Clone, Copy)]
struct Tiles {
    rows: usize,
    most: usize,
    /// Rows of the last tile, those included that only fill it.
    last: usize,
}

impl Tiles {
    fn new(rows: usize, core: &Core) -> Self {
        let most = core.kernels.quant_rows;
        let rest = rows - rows.saturating_sub(1) / most * most;
        Tiles { rows, most, last: core.kernels.quant_height(rest) }
    }

    fn count(&self) -> usize {
        self.rows.div_ceil(self.most)
    }

    /// First row and height of a tile.
    fn tile(&self, index: usize) -> (usize, usize) {
        (index * self.most, if index + 1 < self.count() { self.most } else { self.last })
    }

    /// The tile of a row, and the row's place in it.
    fn place(&self, row: usize) -> (usize, usize) {
        (row / self.most, row % self.most)
    }

    /// Rows of all tiles, those included that only fill the last.
    fn height(&self) -> usize {
        self.count().saturating_sub(1) * self.most + self.last
    }
}

/// Packed activations: of each tile `[inputs][rows]`, its sums alike, and for each row and stretch the sum of squares.
struct Packed<'a> {
    x: &'a [f32],
    sums: &'a [f32],
    squares: &'a [f32],
}

/// Where [`Packed`] lies while it is made.
#[derive(Clone, Copy)]
struct Places {
    x: usize,
    sums: usize,
    squares: usize,
}

impl Product {
    /// Stretches of a row.
    fn stretches(&self) -> usize {
        self.weights.chunks().div_ceil(STRETCH)
    }

    /// f32 of activations, of their sums and of sums of squares, for each row.
    fn per_row(&self) -> [usize; 3] {
        [self.weights.chunks() * CHUNK, self.weights.sums(), self.stretches()]
    }

    /// Any number of rows.
    pub(super) fn tiled(self, core: &Core) -> Prepared {
        let most = Tiles::new(self.m.min(ROWS), core);
        let panels = self.n.div_ceil(NR);
        let threads = core.pool.threads();
        let (chunk, group) = match most.count() {
            1 => (gemv_panels(self.weights.format.panel_len(self.k), panels, threads), 1),
            _ => (GROUP.min(panels.div_ceil(threads)).max(1), GROUP),
        };
        let shared = 4 * self.per_row().iter().sum::<usize>() * most.height();
        // Results, the epilogue's two rows, scales; then a stretch of decoded weights and of a row.
        let decoded = self.weights.scratch() + STRETCH * CHUNK * (NR + 1);
        let per_thread = 4 * ((most.height() + 2) * chunk * NR + (group * SCALES).max(decoded));
        let run = move |exec: &Exec<'_>| {
            if self.weights.ordered() {
                self.weights.check(exec)?;
            }
            for first in (0..self.m).step_by(ROWS) {
                let tiles = Tiles::new(ROWS.min(self.m - first), exec.core);
                let packed = self.pack(exec, tiles, first);
                let wild = self.wild(tiles, &packed);
                exec.run(panels.div_ceil(chunk), &|task, thread| {
                    let range = task * chunk..((task + 1) * chunk).min(panels);
                    // SAFETY: the pool gave this thread; tasks write disjoint columns.
                    unsafe { self.columns(exec, tiles, &packed, &wild, first, range, chunk, group, thread) };
                });
            }
            Ok(())
        };
        Prepared { run: Box::new(run), shared, per_thread }
    }

    /// Packs rows `first..` into the shared scratch.
    fn pack<'a>(&self, exec: &Exec<'a>, tiles: Tiles, first: usize) -> Packed<'a> {
        let [x, sums, squares] = self.per_row().map(|len| len * tiles.height());
        let (buffer, bytes) = exec.shared();
        assert!(4 * (x + sums + squares) <= bytes, "the plan laid out scratch for the largest block of rows");
        let start = buffer as usize;
        let places = Places { x: start, sums: start + 4 * x, squares: start + 4 * (x + sums) };
        let parts = tiles.count() * self.stretches();
        let one = |part: usize, thread: usize| {
            let (tile, stretch) = (part / self.stretches(), part % self.stretches());
            // SAFETY: the pool gave this thread; each part writes its own stretch of its own tile.
            unsafe { self.pack_part(exec, tiles, places, first, tile, stretch, thread) };
        };
        if tiles.rows * self.k < GRAIN {
            exec.run(1, &|_, thread| (0..parts).for_each(|part| one(part, thread)));
        } else {
            exec.run(parts, &one);
        }
        // SAFETY: all of it was just written, and nobody writes to it while the step runs on.
        unsafe {
            let slice = |at: usize, len: usize| std::slice::from_raw_parts(at as *const f32, len);
            Packed { x: slice(places.x, x), sums: slice(places.sums, sums), squares: slice(places.squares, squares) }
        }
    }

    /// Packs one stretch of one tile.
    ///
    /// # Safety
    /// The pool gave `thread` to the running task, and nobody else touches this part of the places.
    #[allow(clippy::too_many_arguments, reason = "which part, and where it goes")]
    unsafe fn pack_part(
        &self,
        exec: &Exec<'_>,
        tiles: Tiles,
        to: Places,
        first: usize,
        tile: usize,
        stretch: usize,
        thread: usize,
    ) {
        let (row, height) = tiles.tile(tile);
        let [inputs, all_sums, stretches] = self.per_row();
        let per_chunk = self.weights.format.scales_per_chunk();
        let chunks = stretch * STRETCH..((stretch + 1) * STRETCH).min(self.weights.chunks());
        let (start, end) = (chunks.start * CHUNK, (chunks.end * CHUNK).min(self.k));
        let padded = chunks.len() * CHUNK;
        let kernels = exec.kernels();
        // SAFETY: the caller vouches for the thread and the part; the graph checked the operand, which is elsewhere.
        unsafe {
            let x = (to.x as *mut f32).add(row * inputs + start * height);
            let x = std::slice::from_raw_parts_mut(x, padded * height);
            let wanted = if all_sums > 0 { chunks.len() * per_chunk } else { 0 };
            let sums = (to.sums as *mut f32).add(row * all_sums + chunks.start.min(all_sums) * per_chunk * height);
            let sums = std::slice::from_raw_parts_mut(sums, wanted * height);
            let buf = &mut exec.scratch(thread)[..padded];
            for i in 0..height {
                buf.fill(0.0);
                if row + i < tiles.rows {
                    let values = &mut buf[..end - start];
                    self.a.read_part(kernels, exec.address(self.a.tensor), first + row + i, start, values);
                }
                let squares = (to.squares as *mut f32).add((row + i) * stretches + stretch);
                *squares = (kernels.sum_squares.run)(buf);
                if height == 1 {
                    x.copy_from_slice(buf);
                } else {
                    x.chunks_exact_mut(height).zip(&*buf).for_each(|(x, value)| x[i] = *value);
                }
                let groups = buf.chunks_exact(CHUNK / per_chunk);
                sums.chunks_exact_mut(height).zip(groups).for_each(|(sum, x)| sum[i] = (kernels.sum.run)(x));
            }
        }
    }

    /// The rows that take decoded weights.
    fn wild(&self, tiles: Tiles, packed: &Packed<'_>) -> Vec<usize> {
        let of = |r: usize| &packed.squares[r * self.stretches()..][..self.stretches()];
        let wild = |&r: &usize| self.weights.ordered() || !of(r).iter().all(|squares| squares.is_finite());
        (0..tiles.rows).filter(wild).collect()
    }

    /// All rows times the panels of one task.
    ///
    /// # Safety
    /// The pool gave `thread` to the running task, no other task has these panels, and the operands are live.
    #[allow(clippy::too_many_arguments, reason = "what a task is")]
    unsafe fn columns(
        &self,
        exec: &Exec<'_>,
        tiles: Tiles,
        packed: &Packed<'_>,
        wild: &[usize],
        first: usize,
        range: Range<usize>,
        chunk: usize,
        group: usize,
        thread: usize,
    ) {
        let ldc = chunk * NR;
        let width = (range.end * NR).min(self.n) - range.start * NR;
        // SAFETY: as the caller vouches.
        unsafe {
            let (y, rest) = exec.scratch(thread).split_at_mut(tiles.height() * ldc);
            let (tail, scratch) = rest.split_at_mut(2 * ldc);
            y.fill(0.0);
            if wild.len() < tiles.rows && tiles.count() == 1 {
                for (i, panel) in range.clone().enumerate() {
                    self.panel(exec, tiles.last, packed, panel, &mut y[i * NR..], ldc, scratch);
                }
            } else if wild.len() < tiles.rows {
                for start in range.clone().step_by(group) {
                    let panels = start..(start + group).min(range.end);
                    self.panels(exec, tiles, packed, panels, &mut y[(start - range.start) * NR..], ldc, scratch);
                }
            }
            for (i, panel) in range.clone().enumerate().filter(|_| !wild.is_empty()) {
                self.decoded_rows(exec, tiles, packed, wild, panel, &mut y[i * NR..], ldc, scratch);
            }
            for (r, y) in y.chunks_exact_mut(ldc).take(tiles.rows).enumerate() {
                self.tail.finish(exec, first + r, range.start * NR, &mut y[..width], tail);
            }
        }
    }

    /// Adds the products of a single tile of `height` rows with one panel.
    ///
    /// # Safety
    /// The operands are live, and the panel exists.
    #[allow(clippy::too_many_arguments, reason = "operands, result and scratch")]
    unsafe fn panel(
        &self,
        exec: &Exec<'_>,
        height: usize,
        packed: &Packed<'_>,
        panel: usize,
        y: &mut [f32],
        ldc: usize,
        scratch: &mut [f32],
    ) {
        let per_chunk = if packed.sums.is_empty() { 0 } else { self.weights.format.scales_per_chunk() };
        for first in (0..self.weights.chunks()).step_by(STRETCH) {
            let chunks = first..(first + STRETCH).min(self.weights.chunks());
            let (x, sums) = (&packed.x[first * CHUNK * height..], &packed.sums[first * per_chunk * height..]);
            // SAFETY: as the caller vouches.
            let block = unsafe { self.weights.stretch(exec, panel, chunks, &mut scratch[..SCALES]) };
            (self.weights.kernel.dot)(y, ldc, &QuantRows { rows: height, x, sums }, &block);
        }
    }

    /// Adds the products of all tiles with a few panels.
    ///
    /// # Safety
    /// The operands are live, and the panels exist.
    #[allow(clippy::too_many_arguments, reason = "operands, result and scratch")]
    unsafe fn panels(
        &self,
        exec: &Exec<'_>,
        tiles: Tiles,
        packed: &Packed<'_>,
        panels: Range<usize>,
        y: &mut [f32],
        ldc: usize,
        scratch: &mut [f32],
    ) {
        let [inputs, sums, _] = self.per_row();
        let per_chunk = if sums > 0 { self.weights.format.scales_per_chunk() } else { 0 };
        const NONE: QuantBlock<'static> =
            QuantBlock { codes: &[], chunks: 0, tables: &([0.0; 16], [0.0; 16]), scales: &[], offsets: &[] };
        for first in (0..self.weights.chunks()).step_by(STRETCH) {
            let chunks = first..(first + STRETCH).min(self.weights.chunks());
            let mut blocks = [NONE; GROUP];
            for ((block, panel), scratch) in blocks.iter_mut().zip(panels.clone()).zip(scratch.chunks_exact_mut(SCALES))
            {
                // SAFETY: as the caller vouches.
                *block = unsafe { self.weights.stretch(exec, panel, chunks.clone(), scratch) };
            }
            for tile in 0..tiles.count() {
                let (row, height) = tiles.tile(tile);
                let x = &packed.x[row * inputs + first * CHUNK * height..];
                let sums = &packed.sums[row * sums + first * per_chunk * height..];
                let rows = QuantRows { rows: height, x, sums };
                for (i, block) in blocks[..panels.len()].iter().enumerate() {
                    (self.weights.kernel.dot)(&mut y[row * ldc + i * NR..], ldc, &rows, block);
                }
            }
        }
    }

    /// The products of some rows with the decoded weights of one panel, in place of what `y` holds of them.
    ///
    /// # Safety
    /// The operands are live, and the panel exists.
    #[allow(clippy::too_many_arguments, reason = "operands, result and scratch")]
    unsafe fn decoded_rows(
        &self,
        exec: &Exec<'_>,
        tiles: Tiles,
        packed: &Packed<'_>,
        rows: &[usize],
        panel: usize,
        y: &mut [f32],
        ldc: usize,
        scratch: &mut [f32],
    ) {
        let inputs = self.per_row()[0];
        let (scratch, rest) = scratch.split_at_mut(self.weights.scratch());
        let (decoded, row) = rest.split_at_mut(STRETCH * CHUNK * NR);
        for &r in rows {
            y[r * ldc..][..NR].fill(0.0);
        }
        for first in (0..self.weights.chunks()).step_by(STRETCH) {
            let chunks = first..(first + STRETCH).min(self.weights.chunks());
            let (start, end) = (first * CHUNK, (chunks.end * CHUNK).min(self.k));
            let decoded = &mut decoded[..chunks.len() * CHUNK * NR];
            // SAFETY: as the caller vouches.
            unsafe { self.weights.decode(exec, panel, chunks, scratch, decoded) };
            for &r in rows {
                let (tile, place) = tiles.place(r);
                let (row_of_tile, height) = tiles.tile(tile);
                let x = &packed.x[row_of_tile * inputs + start * height..];
                let row = &mut row[..end - start];
                row.iter_mut().zip(x.chunks_exact(height)).for_each(|(value, x)| *value = x[place]);
                (exec.kernels().gemv_f32.run)(&mut y[r * ldc..][..NR], row, decoded, decoded.len(), true);
            }
        }
    }
}
