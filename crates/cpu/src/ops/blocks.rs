//! A matrix product of many rows, cut into blocks: activations packed for all of K, tasks of some panels each, K in
//! blocks that keep a micro-panel of activations in the first-level cache.

use std::any::TypeId;
use std::marker::PhantomData;
use std::ops::Range;

use half::f16;
use qiao_core::Result;
use qiao_kernels_cpu::{Gemm, GemmBlock, NR, PackA, Weight};

use super::access::Operand;
use super::exec::{Exec, Prepared};
use super::job::{Job, Packing};
use super::tail::Tail;

/// Panels that one task takes: 128 columns.
const GEMM_PANELS: usize = 8;

/// Rows of a block of activations that are packed together.
const GEMM_ROWS: usize = 512;

/// Activations of which all of K may be one block.
const WHOLE: usize = 128 << 10;

/// What blocks of K are a multiple of.
const K_UNIT: usize = 32;

/// The panels of a task, at most `most` and a multiple of `unit`: those by which the busiest thread has the least to
/// do, and the most among equals.
pub(super) fn task_panels(all: usize, most: usize, unit: usize, threads: usize) -> usize {
    let busiest = |panels: usize| all.div_ceil(panels).div_ceil(threads) * panels;
    (1..=(most / unit).max(1)).rev().map(|units| units * unit).min_by_key(|&panels| busiest(panels)).unwrap_or(unit)
}

/// Where the weights of a block come from.
pub(super) trait Panels<W>: Send + Sync {
    /// Checks what only the data can tell.
    ///
    /// # Errors
    /// Inputs in a group that has no scales.
    fn check(&self, _: &Exec<'_>) -> Result<()> {
        Ok(())
    }

    /// The panels from the first of the inputs on, and the elements from one panel to the next.
    fn block<'a>(
        &self,
        exec: &Exec<'a>,
        scratch: &'a mut [f32],
        panels: Range<usize>,
        inputs: Range<usize>,
    ) -> (&'a [W], usize);
}

/// Packed panels.
pub(super) struct Packed<W> {
    /// The tensor that they are.
    pub(super) tensor: usize,
    /// Elements of a panel, and panels.
    pub(super) stride: usize,
    pub(super) panels: usize,
    pub(super) elements: PhantomData<fn() -> W>,
}

impl<W: Weight> Packed<W> {
    /// All of them.
    pub(super) fn all<'a>(&self, exec: &Exec<'a>) -> &'a [W] {
        // SAFETY: the plan checked that the binding holds all panels, which live as long as its run.
        unsafe { std::slice::from_raw_parts(exec.address(self.tensor).cast::<W>(), self.panels * self.stride) }
    }
}

impl<W: Weight> Panels<W> for Packed<W> {
    fn block<'a>(
        &self,
        exec: &Exec<'a>,
        _: &'a mut [f32],
        panels: Range<usize>,
        inputs: Range<usize>,
    ) -> (&'a [W], usize) {
        (&self.all(exec)[panels.start * self.stride + inputs.start * NR..], self.stride)
    }
}

/// Packed panels of f16, widened to f32 on the way: once for all rows.
pub(super) struct Widened {
    pub(super) panels: Packed<f16>,
}

impl Panels<f32> for Widened {
    fn block<'a>(
        &self,
        exec: &Exec<'a>,
        scratch: &'a mut [f32],
        panels: Range<usize>,
        inputs: Range<usize>,
    ) -> (&'a [f32], usize) {
        let stride = inputs.len() * NR;
        let wide = &mut scratch[..panels.len() * stride];
        let all = self.panels.all(exec);
        for (panel, out) in panels.zip(wide.chunks_exact_mut(stride)) {
            let from = panel * self.panels.stride + inputs.start * NR;
            (exec.kernels().f16_to_f32.run)(out, &all[from..from + stride]);
        }
        (wide, stride)
    }
}

/// How a product is cut into blocks.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    n: usize,
    k: usize,
    /// Rows of a micro-panel.
    pub(super) mr: usize,
    /// Inputs of a block of K.
    pub(super) kc: usize,
    /// K rounded up to whole steps of every dtype.
    k_padded: usize,
    /// Rows that are packed together.
    pub(super) rows: usize,
    /// Panels of a task.
    pub(super) panels: usize,
}

impl Blocks {
    pub(super) fn new<P, W, C>(m: usize, n: usize, k: usize, gemm: Gemm<P, W, C>, threads: usize) -> Self {
        let rows = m.clamp(1, GEMM_ROWS).next_multiple_of(gemm.mr);
        let all = n.div_ceil(NR);
        let unit = if all < 2 * threads { 1 } else { 2 };
        let panels = task_panels(all, GEMM_PANELS.min(all.div_ceil(threads)), unit, threads);
        // Blocks of K are of one length, a multiple of what codes and pairs come in.
        let kc = k.div_ceil(k.div_ceil(gemm.kc).max(1)).max(1).next_multiple_of(K_UNIT).min(gemm.kc);
        Blocks { n, k, mr: gemm.mr, kc, k_padded: k.next_multiple_of(4), rows, panels }
    }

    /// The same with K in one block, where all rows are one micro-panel that the second-level cache keeps: then nothing is
    /// read twice.
    pub(super) fn with_whole_k(self) -> Self {
        let whole = self.rows == self.mr && self.rows * self.k <= WHOLE;
        let kc = if whole { self.k.next_multiple_of(K_UNIT).max(self.kc) } else { self.kc };
        Blocks { kc, ..self }
    }

    /// Elements of the packed activations.
    pub(super) fn packed_len(&self) -> usize {
        self.rows * self.k_padded
    }

    /// Bytes of a thread's scratch: the products of a task, and two rows for the epilogue.
    pub(super) fn scratch_bytes(&self) -> usize {
        (self.rows + 2) * self.panels * NR * 4
    }

    /// Where the micro-panel of rows `tile` starts for the block of K that starts at `k0`.
    fn micro_panel(&self, tile: usize, k0: usize) -> usize {
        (tile * self.k_padded + k0) * self.mr
    }
}

/// A product in blocks. `A` is the dtype of the activations in memory, `P` as they are packed.
pub(super) struct Blocked<A, P, W, S> {
    pub(super) cut: Blocks,
    pub(super) a: Operand,
    pub(super) m: usize,
    pub(super) gemm: Gemm<P, W, f32>,
    pub(super) pack: PackA<A, P>,
    pub(super) source: S,
    pub(super) tail: Tail,
}

impl<A: Weight, P: Copy + Send + Sync + 'static, W: Weight, S: Panels<W> + 'static> Blocked<A, P, W, S> {
    /// The product, whose source needs so many f32 of a thread's scratch.
    pub(super) fn prepare(self, source: usize) -> Prepared {
        let even = self.a.is_dense() && self.a.is_even();
        let uneven = if even { 0 } else { self.cut.mr * self.cut.k * size_of::<A>() };
        let per_thread = self.cut.scratch_bytes() + uneven.max(4 * source).next_multiple_of(4);
        let shared = self.cut.packed_len() * size_of::<P>();
        Prepared::product(self, shared, per_thread)
    }
}

impl<A: Weight, P: Copy + Send + Sync + 'static, W: Weight, S: Panels<W>> Job for Blocked<A, P, W, S> {
    fn rows(&self) -> usize {
        self.m
    }

    fn block(&self) -> usize {
        self.cut.rows
    }

    fn packing(&self) -> Packing {
        let (from, to) = (TypeId::of::<A>(), TypeId::of::<P>());
        Packing::Panels { from, to, rows: self.cut.mr, inputs: self.cut.kc }
    }

    fn columns(&self) -> usize {
        self.cut.panels * NR
    }

    fn tasks(&self) -> usize {
        self.cut.n.div_ceil(NR).div_ceil(self.cut.panels)
    }

    fn pack_tasks(&self, rows: &Range<usize>) -> usize {
        rows.len().div_ceil(self.cut.mr)
    }

    fn tile(&self) -> usize {
        self.cut.mr
    }

    fn check(&self, exec: &Exec<'_>) -> Result<()> {
        self.source.check(exec)
    }

    /// Packs a micro-panel for all of K.
    unsafe fn pack(&self, exec: &Exec<'_>, rows: &Range<usize>, tile: usize, thread: usize) {
        let (cut, a) = (&self.cut, &self.a);
        let base = exec.address(a.tensor) as usize;
        let packed = exec.shared().0 as usize;
        let start = rows.start + tile * cut.mr;
        let m = cut.mr.min(rows.end - start);
        // SAFETY: as the caller vouches; the rows lie in the operand; each task packs micro-panels of its own into the shared
        // scratch, which the plan laid out for all of them.
        unsafe {
            let (data, lda): (&[A], usize) = if a.is_dense() && a.is_even() {
                let from = (base as *const A).add(a.offset(start));
                (std::slice::from_raw_parts(from, (m - 1) * a.pitch() + cut.k), a.pitch())
            } else {
                let spare = exec.scratch(thread).as_mut_ptr().cast::<A>().add(cut.scratch_bytes() / size_of::<A>());
                for i in 0..m {
                    for j in 0..cut.k {
                        let at = a.offset(start + i) + j * a.step();
                        *spare.add(i * cut.k + j) = *(base as *const A).add(at);
                    }
                }
                (std::slice::from_raw_parts(spare, m * cut.k), cut.k)
            };
            for k0 in (0..cut.k).step_by(cut.kc) {
                let kc = cut.kc.min(cut.k - k0);
                let out = (packed as *mut P).add(cut.micro_panel(tile, k0));
                let len = kc.next_multiple_of(4) * cut.mr;
                (self.pack)(std::slice::from_raw_parts_mut(out, len.min(cut.packed_len())), &data[k0..], lda, m, kc);
            }
        }
    }

    /// Multiplies the packed rows with some panels and finishes them. What a thread's scratch has beyond
    /// [`Blocks::scratch_bytes`] is the source's.
    unsafe fn multiply(&self, exec: &Exec<'_>, rows: &Range<usize>, task: usize, thread: usize) {
        let cut = &self.cut;
        let ldc = cut.panels * NR;
        let packed = exec.shared().0 as usize;
        let p0 = task * cut.panels;
        let panels = cut.panels.min(cut.n.div_ceil(NR) - p0);
        let columns = (cut.n - p0 * NR).min(panels * NR);
        // SAFETY: as the caller vouches; the packed activations are complete and only read; tasks write disjoint columns of
        // the result.
        unsafe {
            let (c, rest) = exec.scratch(thread).split_at_mut(cut.rows * ldc);
            let (rest, spare) = rest.split_at_mut(2 * ldc);
            for k0 in (0..cut.k).step_by(cut.kc) {
                let kc = cut.kc.min(cut.k - k0);
                let (w, panel_stride) = self.source.block(exec, spare, p0..p0 + panels, k0..k0 + kc);
                for tile in 0..rows.len().div_ceil(cut.mr) {
                    let at = cut.micro_panel(tile, k0);
                    let a = std::slice::from_raw_parts((packed as *const P).add(at), kc.next_multiple_of(4) * cut.mr);
                    (self.gemm.run)(&GemmBlock {
                        m: cut.mr.min(rows.len() - tile * cut.mr),
                        kc,
                        a,
                        w,
                        panel_stride,
                        panels,
                        c: c.as_mut_ptr().add(tile * cut.mr * ldc),
                        ldc,
                        columns,
                        accumulate: k0 > 0,
                    });
                }
            }
            for (i, row) in c.chunks_exact_mut(ldc).take(rows.len()).enumerate() {
                if cut.k == 0 {
                    row.fill(0.0);
                }
                self.tail.finish(exec, thread, rows.start + i, p0 * NR, &mut row[..columns], rest);
            }
        }
    }

    fn tail(&self) -> &Tail {
        &self.tail
    }

    fn tail_mut(&mut self) -> &mut Tail {
        &mut self.tail
    }
}
