//! A matrix product of many rows, cut into blocks: activations packed for all of K, tasks of some panels each, K in
//! blocks that keep a micro-panel of activations in the first-level cache.

use std::ops::Range;

use half::f16;
use qiao_kernels_cpu::{Gemm, GemmBlock, NR, PackA, Weight};

use super::access::Operand;
use super::exec::Exec;
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
pub(super) trait Panels<W>: Sync {
    /// The panels from the first of the inputs on, and the elements from one panel to the next.
    fn block<'a>(
        &'a self,
        exec: &Exec<'_>,
        scratch: &'a mut [f32],
        panels: Range<usize>,
        inputs: Range<usize>,
    ) -> (&'a [W], usize);
}

/// Packed panels.
pub(super) struct Packed<'a, W> {
    pub(super) weights: &'a [W],
    /// Elements of a panel.
    pub(super) stride: usize,
}

impl<W: Weight> Panels<W> for Packed<'_, W> {
    fn block<'a>(
        &'a self,
        _: &Exec<'_>,
        _: &'a mut [f32],
        panels: Range<usize>,
        inputs: Range<usize>,
    ) -> (&'a [W], usize) {
        (&self.weights[panels.start * self.stride + inputs.start * NR..], self.stride)
    }
}

/// Packed panels of f16, widened to f32 on the way: once for all rows.
pub(super) struct Widened<'a> {
    pub(super) panels: Packed<'a, f16>,
}

impl Panels<f32> for Widened<'_> {
    fn block<'a>(
        &'a self,
        exec: &Exec<'_>,
        scratch: &'a mut [f32],
        panels: Range<usize>,
        inputs: Range<usize>,
    ) -> (&'a [f32], usize) {
        let stride = inputs.len() * NR;
        let wide = &mut scratch[..panels.len() * stride];
        for (panel, out) in panels.zip(wide.chunks_exact_mut(stride)) {
            let from = panel * self.panels.stride + inputs.start * NR;
            (exec.kernels().f16_to_f32.run)(out, &self.panels.weights[from..from + stride]);
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

    /// Packs rows `first..first + rows` of the activations for all of K.
    pub(super) fn pack<A: Weight, P: Copy + Send + Sync + 'static>(
        &self,
        exec: &Exec<'_>,
        a: &Operand,
        pack: PackA<A, P>,
        first: usize,
        rows: usize,
    ) {
        let base = exec.address(a.tensor) as usize;
        let packed = exec.shared().0 as usize;
        exec.run(rows.div_ceil(self.mr), &|tile, thread| {
            let start = first + tile * self.mr;
            let m = self.mr.min(first + rows - start);
            // SAFETY: the pool gave this thread; the rows lie in the operand; each task packs micro-panels of its own
            // into the shared scratch, which the plan laid out for all of them.
            unsafe {
                let (data, lda): (&[A], usize) = if a.is_dense() && a.is_even() {
                    let from = (base as *const A).add(a.offset(start));
                    (std::slice::from_raw_parts(from, (m - 1) * a.pitch() + self.k), a.pitch())
                } else {
                    let spare =
                        exec.scratch(thread).as_mut_ptr().cast::<A>().add(self.scratch_bytes() / size_of::<A>());
                    for i in 0..m {
                        for j in 0..self.k {
                            let at = a.offset(start + i) + j * a.step();
                            *spare.add(i * self.k + j) = *(base as *const A).add(at);
                        }
                    }
                    (std::slice::from_raw_parts(spare, m * self.k), self.k)
                };
                for k0 in (0..self.k).step_by(self.kc) {
                    let kc = self.kc.min(self.k - k0);
                    let out = (packed as *mut P).add(self.micro_panel(tile, k0));
                    let len = kc.next_multiple_of(4) * self.mr;
                    pack(std::slice::from_raw_parts_mut(out, len.min(self.packed_len())), &data[k0..], lda, m, kc);
                }
            }
        });
    }

    /// Multiplies the packed rows with all panels and finishes them. What a thread's scratch has beyond
    /// [`Blocks::scratch_bytes`] is the source's.
    pub(super) fn multiply<P: Copy + Send + Sync + 'static, W: Weight>(
        &self,
        exec: &Exec<'_>,
        gemm: Gemm<P, W, f32>,
        source: &impl Panels<W>,
        first: usize,
        rows: usize,
        tail: &Tail,
    ) {
        let all = self.n.div_ceil(NR);
        let ldc = self.panels * NR;
        let packed = exec.shared().0 as usize;
        exec.run(all.div_ceil(self.panels), &|task, thread| {
            let p0 = task * self.panels;
            let panels = self.panels.min(all - p0);
            let columns = (self.n - p0 * NR).min(panels * NR);
            // SAFETY: the pool gave this thread; the packed activations are complete and only read; tasks write
            // disjoint columns of the result.
            unsafe {
                let (c, rest) = exec.scratch(thread).split_at_mut(self.rows * ldc);
                let (rest, spare) = rest.split_at_mut(2 * ldc);
                for k0 in (0..self.k).step_by(self.kc) {
                    let kc = self.kc.min(self.k - k0);
                    let (w, panel_stride) = source.block(exec, spare, p0..p0 + panels, k0..k0 + kc);
                    for tile in 0..rows.div_ceil(self.mr) {
                        let at = self.micro_panel(tile, k0);
                        let a =
                            std::slice::from_raw_parts((packed as *const P).add(at), kc.next_multiple_of(4) * self.mr);
                        (gemm.run)(&GemmBlock {
                            m: self.mr.min(rows - tile * self.mr),
                            kc,
                            a,
                            w,
                            panel_stride,
                            panels,
                            c: c.as_mut_ptr().add(tile * self.mr * ldc),
                            ldc,
                            columns,
                            accumulate: k0 > 0,
                        });
                    }
                }
                for (i, row) in c.chunks_exact_mut(ldc).take(rows).enumerate() {
                    if self.k == 0 {
                        row.fill(0.0);
                    }
                    tail.finish(exec, first + i, p0 * NR, &mut row[..columns], rest);
                }
            }
        });
    }
}
