//! Products with panels of codes: tiles of rows times panels, the codes unpacked in registers.
//!
//! The activations are packed for all of K into tiles of as many rows as the kernel takes together. A task takes some
//! panels; for each stretch of chunks, of which a tile of activations stays in the first-level cache, it multiplies every
//! tile by every panel. A single tile goes through one panel after the other, so that codes stream from memory once.
//!
//! A row that holds numbers that are not finite, or so large that products of codes could overflow, takes decoded weights;
//! that is decided from the row alone.

use std::ops::Range;

use qiao_core::Result;
use qiao_kernels_cpu::{CHUNK, NR, QuantBlock};

use super::blocks::Panels;
use super::exec::{Core, Exec, Prepared};
use super::job::{self, Job};
use super::matmul::gemv_panels;
use super::matmul_quant::Product;
use super::quant_rows::{Packed, Packing, Tiles};
use super::quant_weights::{SCALES, STRETCH, scales_of};
use super::tail::Tail;

/// Rows whose activations are packed together.
const ROWS: usize = 512;

/// Panels that a tile of activations meets while it is in the first-level cache.
const GROUP: usize = 8;

/// Chunks of a panel that a single tile meets at once.
const LONG: usize = 64;

impl Product {
    /// Any number of rows.
    pub(super) fn tiled(self, core: &Core) -> Prepared {
        let kernel = self.weights.kernel;
        let packing = Packing::new(kernel, self.weights.format, self.weights.zeros(), self.k);
        let most = Tiles::new(self.m.min(ROWS), &kernel);
        let panels = self.n.div_ceil(NR);
        let threads = core.pool.threads();
        let (chunk, group) = match most.count() {
            1 => (gemv_panels(self.weights.format.panel_len(self.k), panels, threads), 1),
            _ => (GROUP.min(panels.div_ceil(threads)).max(1), GROUP),
        };
        let shared = packing.bytes(most.height());
        // Results, the epilogue's two rows, scales; then a stretch of decoded weights and of a row.
        let decoded = self.weights.scratch() + STRETCH * CHUNK * (NR + 1);
        let scales = (group * SCALES).max(scales_of(LONG));
        let per_thread = 4 * ((most.height() + 2) * chunk * NR + scales.max(decoded));
        Prepared::product(Tiled { product: self, packing, most, chunk, group }, shared, per_thread)
    }
}

/// A product in tiles of rows.
struct Tiled {
    product: Product,
    packing: Packing,
    /// The tiles of a whole block of rows.
    most: Tiles,
    /// Panels of a task, and those of them that a tile meets together.
    chunk: usize,
    group: usize,
}

impl Job for Tiled {
    fn rows(&self) -> usize {
        self.product.m
    }

    fn block(&self) -> usize {
        ROWS
    }

    fn packing(&self) -> job::Packing {
        job::Packing::Codes(self.product.weights.format, self.product.weights.zeros())
    }

    fn columns(&self) -> usize {
        self.chunk * NR
    }

    fn tasks(&self) -> usize {
        self.panels().div_ceil(self.chunk)
    }

    fn pack_tasks(&self, rows: &Range<usize>) -> usize {
        self.packing.tasks(self.tiles(rows))
    }

    fn tile(&self) -> usize {
        self.product.weights.kernel.most()
    }

    fn check(&self, exec: &Exec<'_>) -> Result<()> {
        Panels::check(&self.product.weights, exec)
    }

    unsafe fn pack(&self, exec: &Exec<'_>, rows: &Range<usize>, task: usize, thread: usize) {
        let packed = self.packing.packed(exec, self.tiles(rows));
        // SAFETY: as the caller vouches.
        unsafe { packed.pack(exec, &self.product.a, rows.start, task, thread) };
    }

    unsafe fn pack_tile(&self, exec: &Exec<'_>, rows: &Range<usize>, tile: usize, thread: usize) {
        let packed = self.packing.packed(exec, self.tiles(rows));
        // SAFETY: as the caller vouches.
        unsafe { packed.pack_tile(exec, &self.product.a, rows.start, tile, thread) };
    }

    /// All rows times the panels of one task.
    unsafe fn multiply(&self, exec: &Exec<'_>, rows: &Range<usize>, task: usize, thread: usize) {
        let Tiled { product, chunk, group, .. } = self;
        let packed = self.packing.packed(exec, self.tiles(rows));
        let range = task * chunk..((task + 1) * chunk).min(self.panels());
        let tiles = packed.tiles();
        let ldc = chunk * NR;
        let width = (range.end * NR).min(product.n) - range.start * NR;
        let wild = |r: &usize| product.weights.ordered() || !packed.fits(*r);
        let wild: Vec<usize> = (0..tiles.rows).filter(wild).collect();
        // SAFETY: as the caller vouches; tasks write disjoint columns.
        unsafe {
            let (y, rest) = exec.scratch(thread).split_at_mut(tiles.height() * ldc);
            let (tail, scratch) = rest.split_at_mut(2 * ldc);
            y.fill(0.0);
            if wild.len() < tiles.rows && tiles.count() == 1 {
                for (i, panel) in range.clone().enumerate() {
                    product.panel(exec, &packed, panel, &mut y[i * NR..], ldc, scratch);
                }
            } else if wild.len() < tiles.rows {
                for start in range.clone().step_by(*group) {
                    let panels = start..(start + group).min(range.end);
                    product.panels(exec, &packed, panels, &mut y[(start - range.start) * NR..], ldc, scratch);
                }
            }
            for (i, panel) in range.clone().enumerate().filter(|_| !wild.is_empty()) {
                product.decoded_rows(exec, rows.start, &wild, panel, &mut y[i * NR..], ldc, scratch);
            }
            for (r, y) in y.chunks_exact_mut(ldc).take(tiles.rows).enumerate() {
                let (r, first) = (rows.start + r, range.start * NR);
                product.tail.finish(exec, thread, r, first, &mut y[..width], tail);
            }
        }
    }

    fn tail(&self) -> &Tail {
        &self.product.tail
    }

    fn tail_mut(&mut self) -> &mut Tail {
        &mut self.product.tail
    }
}

impl Tiled {
    fn panels(&self) -> usize {
        self.product.n.div_ceil(NR)
    }

    fn tiles(&self, rows: &Range<usize>) -> Tiles {
        if rows.len() == self.most.rows { self.most } else { Tiles::new(rows.len(), &self.product.weights.kernel) }
    }
}

impl Product {
    /// Adds the products of a single tile with one panel.
    ///
    /// # Safety
    /// The operands are live, and the panel exists.
    unsafe fn panel(
        &self,
        exec: &Exec<'_>,
        packed: &Packed,
        panel: usize,
        y: &mut [f32],
        ldc: usize,
        scratch: &mut [f32],
    ) {
        for first in (0..self.weights.chunks()).step_by(LONG) {
            let chunks = first..(first + LONG).min(self.weights.chunks());
            // SAFETY: as the caller vouches.
            let block = unsafe { self.weights.stretch(exec, panel, chunks, scratch) };
            packed.multiply(y, ldc, 0, first, &[block]);
        }
    }

    /// Adds the products of all tiles with a few panels.
    ///
    /// # Safety
    /// The operands are live, and the panels exist.
    unsafe fn panels(
        &self,
        exec: &Exec<'_>,
        packed: &Packed,
        panels: Range<usize>,
        y: &mut [f32],
        ldc: usize,
        scratch: &mut [f32],
    ) {
        let format = self.weights.format;
        for first in (0..self.weights.chunks()).step_by(STRETCH) {
            let chunks = first..(first + STRETCH).min(self.weights.chunks());
            let mut blocks =
                [QuantBlock { format, codes: &[], chunks: 0, scales: &[], offsets: &[], ahead: (0, 0) }; GROUP];
            for ((block, panel), scratch) in blocks.iter_mut().zip(panels.clone()).zip(scratch.chunks_exact_mut(SCALES))
            {
                // SAFETY: as the caller vouches.
                *block = unsafe { self.weights.stretch(exec, panel, chunks.clone(), scratch) };
            }
            for tile in 0..packed.tiles().count() {
                let row = packed.tiles().tile(tile).0;
                packed.multiply(&mut y[row * ldc..], ldc, tile, first, &blocks[..panels.len()]);
            }
        }
    }

    /// The products of some of the rows from `first_row` on with the decoded weights of one panel, in place of what `y` holds
    /// of them.
    ///
    /// # Safety
    /// The operands are live, and the panel exists.
    #[allow(clippy::too_many_arguments, reason = "operands, result and scratch")]
    unsafe fn decoded_rows(
        &self,
        exec: &Exec<'_>,
        first_row: usize,
        rows: &[usize],
        panel: usize,
        y: &mut [f32],
        ldc: usize,
        scratch: &mut [f32],
    ) {
        let kernels = exec.kernels();
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
                let row = &mut row[..end - start];
                // SAFETY: as the caller vouches; the result shares no storage with the operand.
                unsafe { self.a.read_part(kernels, exec.address(self.a.tensor), first_row + r, start, row) };
                (kernels.gemv_f32.run)(&mut y[r * ldc..][..NR], row, decoded, decoded.len(), true);
            }
        }
    }
}
