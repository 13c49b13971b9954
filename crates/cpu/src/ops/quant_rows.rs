//! Rows of activations, packed into tiles for products with panels of codes.

use qiao_kernels_cpu::{
    CHUNK, FloatRows, IntegerRows, IntegerRowsMut, NR, QuantDot, QuantFormat, QuantKernel, QuantOffset,
};

use super::access::Operand;
use super::exec::Exec;
use super::quant_weights::STRETCH;

/// The bits of 2^64: a row of floats that holds such a magnitude takes decoded weights, as one of integers does.
const TOO_LARGE: u32 = (127 + 64) << 23;

/// Activations below which packing is not worth handing to other threads.
const GRAIN: usize = 16 << 10;

/// How rows are cut into tiles: all but the last have as many as the kernel takes together.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub(super) rows: usize,
    most: usize,
    /// Rows of the last tile, those included that only fill it.
    last: usize,
    count: usize,
}

impl Tiles {
    pub(super) fn new(rows: usize, kernel: &QuantKernel) -> Self {
        let most = kernel.most();
        let rest = rows - rows.saturating_sub(1) / most * most;
        Tiles { rows, most, last: kernel.height(rest), count: rows.div_ceil(most) }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// First row and height of a tile.
    pub(super) fn tile(&self, index: usize) -> (usize, usize) {
        (index * self.most, if index + 1 < self.count() { self.most } else { self.last })
    }

    /// Rows of all tiles, those included that only fill the last.
    pub(super) fn height(&self) -> usize {
        self.count().saturating_sub(1) * self.most + self.last
    }
}

/// How a row is packed: what its product takes, and 4-byte words of each list.
pub(super) struct Packing {
    kernel: QuantKernel,
    format: QuantFormat,
    zeros: bool,
    k: usize,
    /// Integers or floats, their scales, what sums start from, sums, and for each stretch whether it can be multiplied.
    words: [usize; 5],
    /// Chunks of a row, and words of each list for one of them; the last list has one a stretch.
    chunks: usize,
    each: [usize; 4],
}

/// Where packed rows lie: the address of each list.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    packing: &'a Packing,
    tiles: Tiles,
    lists: [usize; 5],
}

impl Packing {
    /// For rows of `k` inputs.
    pub(super) fn new(kernel: QuantKernel, format: QuantFormat, zeros: bool, k: usize) -> Self {
        let (chunks, per_chunk) = (k.div_ceil(CHUNK), format.scales_per_chunk());
        let sums = if format.offset(zeros) == QuantOffset::None { 0 } else { per_chunk };
        let each = match kernel.dot {
            QuantDot::Integers(_) => [16, 1, per_chunk, sums],
            QuantDot::Floats(_) => [CHUNK, 0, 0, 0],
        };
        let [x, scales, starts, sums] = each.map(|words| words * chunks);
        let words = [x, scales, starts, sums, chunks.div_ceil(STRETCH)];
        Packing { kernel, format, zeros, k, words, chunks, each }
    }

    /// Bytes of so many packed rows.
    pub(super) fn bytes(&self, rows: usize) -> usize {
        4 * rows * self.words.iter().sum::<usize>()
    }

    fn stretches(&self) -> usize {
        self.words[4]
    }

    /// Tasks that pack these rows.
    pub(super) fn tasks(&self, tiles: Tiles) -> usize {
        if tiles.rows * self.k < GRAIN { 1 } else { tiles.count() * self.stretches() }
    }

    /// Where the packed rows lie in the shared scratch.
    pub(super) fn packed(&self, exec: &Exec<'_>, tiles: Tiles) -> Packed<'_> {
        let (buffer, bytes) = exec.shared();
        assert!(self.bytes(tiles.height()) <= bytes, "the plan laid out scratch for the largest block of rows");
        let mut lists = [buffer as usize; 5];
        for i in 1..5 {
            lists[i] = lists[i - 1] + 4 * tiles.height() * self.words[i - 1];
        }
        Packed { packing: self, tiles, lists }
    }
}

impl Packed<'_> {
    /// Elements of list `list` from 4-byte word `at` on.
    ///
    /// # Safety
    /// They lie in the list, and nobody else uses them while the slice lives.
    unsafe fn list_mut<'a, T>(&self, list: usize, at: usize, words: usize) -> &'a mut [T] {
        // SAFETY: as the caller vouches.
        unsafe {
            std::slice::from_raw_parts_mut((self.lists[list] as *mut T).byte_add(4 * at), 4 * words / size_of::<T>())
        }
    }

    /// The elements that a tile has in a list from chunk `chunk` of all on; empty where the list is.
    fn list<'a, T>(&self, list: usize, tile: usize, chunk: usize) -> &'a [T] {
        let (row, height) = self.tiles.tile(tile);
        let (words, each) = (self.packing.words[list], self.packing.each[list]);
        if words == 0 {
            return &[];
        }
        let start = height * each * chunk;
        // SAFETY: the tile has `height` rows of `words` words; they were packed, and nobody writes to them any more.
        unsafe {
            let at = (self.lists[list] as *const T).byte_add(4 * (row * words + start));
            std::slice::from_raw_parts(at, 4 * (height * words - start) / size_of::<T>())
        }
    }

    /// Packs the part of rows `first..` of the activations that is a task's. A thread's scratch holds a stretch of a row.
    ///
    /// # Safety
    /// The pool gave `thread` to the running task, and each task once.
    pub(super) unsafe fn pack(&self, exec: &Exec<'_>, a: &Operand, first: usize, task: usize, thread: usize) {
        let stretches = self.packing.stretches();
        // SAFETY: as the caller vouches; each task has a stretch of its own of a tile of its own, or all of them.
        unsafe {
            match self.packing.tasks(self.tiles) {
                1 => (0..self.tiles.count()).for_each(|tile| self.pack_tile(exec, a, first, tile, thread)),
                _ => self.fill(exec, a, first, task / stretches, task % stretches, thread),
            }
        }
    }

    /// Packs a tile of rows `first..`.
    ///
    /// # Safety
    /// As [`Packed::pack`], for tiles.
    pub(super) unsafe fn pack_tile(&self, exec: &Exec<'_>, a: &Operand, first: usize, tile: usize, thread: usize) {
        for stretch in 0..self.packing.stretches() {
            // SAFETY: as the caller vouches.
            unsafe { self.fill(exec, a, first, tile, stretch, thread) };
        }
    }

    /// Packs one stretch of one tile.
    ///
    /// # Safety
    /// The pool gave `thread` to the running task, and nobody else touches this part of the lists.
    unsafe fn fill(&self, exec: &Exec<'_>, a: &Operand, first: usize, tile: usize, stretch: usize, thread: usize) {
        let &Packing { format, zeros, k, words, kernel, chunks: all, each } = self.packing;
        let (row, rows) = self.tiles.tile(tile);
        let chunks = stretch * STRETCH..((stretch + 1) * STRETCH).min(all);
        let (start, end) = (chunks.start * CHUNK, (chunks.end * CHUNK).min(k));
        let kernels = exec.kernels();
        // SAFETY: the caller vouches for the thread and the part; the graph checked the operand, which is elsewhere.
        unsafe {
            let buf = &mut exec.scratch(thread)[..chunks.len() * CHUNK];
            let place = |list: usize| {
                let each = rows * each[list];
                (row * words[list] + each * chunks.start, each * chunks.len())
            };
            let [x, scales, starts, sums] = [0, 1, 2, 3].map(place);
            for i in 0..rows {
                buf.fill(0.0);
                if row + i < self.tiles.rows {
                    a.read_part(kernels, exec.address(a.tensor), first + row + i, start, &mut buf[..end - start]);
                }
                let fits = match kernel.dot {
                    QuantDot::Integers(_) => {
                        let mut to = IntegerRowsMut {
                            rows,
                            digits: self.list_mut(0, x.0, x.1),
                            scales: self.list_mut(1, scales.0, scales.1),
                            starts: self.list_mut(2, starts.0, starts.1),
                            sums: self.list_mut(3, sums.0, sums.1),
                        };
                        (kernels.pack_integers.run)(&mut to, i, format, zeros, buf)
                    }
                    QuantDot::Floats(_) => {
                        let x: &mut [f32] = self.list_mut(0, x.0, x.1);
                        x.chunks_exact_mut(rows).zip(&*buf).for_each(|(x, value)| x[i] = *value);
                        buf.iter().all(|x| x.to_bits() & 0x7fff_ffff < TOO_LARGE)
                    }
                };
                let flags: &mut [u32] = self.list_mut(4, (row + i) * words[4] + stretch, 1);
                flags[0] = u32::from(fits);
            }
        }
    }

    /// How the rows are cut into tiles.
    pub(super) fn tiles(&self) -> Tiles {
        self.tiles
    }

    /// Whether a row can be multiplied with codes: all of it is finite, and small enough for products of codes.
    pub(super) fn fits(&self, row: usize) -> bool {
        let words = self.packing.words[4];
        // SAFETY: there is a word for each stretch of each row; they were packed, and nobody writes to them any more.
        let flags = unsafe { std::slice::from_raw_parts((self.lists[4] as *const u32).add(row * words), words) };
        flags.iter().all(|&fits| fits == 1)
    }

    /// Adds the products of a tile, from chunk `chunk` on, with blocks of panels side by side: see [`QuantDot`].
    pub(super) fn multiply(
        &self,
        y: &mut [f32],
        stride: usize,
        tile: usize,
        chunk: usize,
        blocks: &[qiao_kernels_cpu::QuantBlock<'_>],
    ) {
        let rows = self.tiles.tile(tile).1;
        match self.packing.kernel.dot {
            QuantDot::Integers(dot) => {
                let digits = self.list(0, tile, chunk);
                let (scales, starts) = (self.list(1, tile, chunk), self.list(2, tile, chunk));
                dot(y, stride, &IntegerRows { rows, digits, scales, starts, sums: self.list(3, tile, chunk) }, blocks);
            }
            QuantDot::Floats(dot) => {
                for (i, block) in blocks.iter().enumerate() {
                    dot(&mut y[i * NR..], stride, &FloatRows { rows, x: self.list(0, tile, chunk) }, block);
                }
            }
        }
    }
}
