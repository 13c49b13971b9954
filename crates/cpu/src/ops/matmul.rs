//! Matrix products of plain floats.
//!
//! A row of a product does not depend on the rows beside it: one row takes the sums that it takes among many.
//!
//! Constant weights come packed in panels. One row of activations is a GEMV that streams the panels once; more rows
//! are a blocked GEMM: the activations are packed into micro-panels for all of K, then every task takes a range of
//! panels and walks K in blocks that keep a micro-panel in the first-level cache. An operand that is not constant is
//! packed on the way, panel by panel.

use std::any::TypeId;
use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};
use qiao_core::{Accept, DType, MatmulAttrs, NodeView, Op, OpKind, Reason, Row, Rule};
use qiao_kernels_cpu::{Element, Gemm, Kernels, NR, PackA, Weight, WeightMatrix, pack_panel};

use super::access::Operand;
use super::blocks::{self, Blocked, Blocks, Widened, task_panels};
use super::exec::{Core, Exec, Prepare, Prepared, activations, row};
use super::job::{Job, Packing};
use super::pack::{PANELS, PANELS_T, panel};
use super::sound::can_be_packed;
use super::tail::{Tail, epilogue_in_reach};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::Matmul, "gemv", accepts_gemv, packed),
        row(OpKind::Matmul, "gemm", accepts_gemm, packed),
        row(OpKind::Matmul, "gemm_unpacked", accepts_unpacked, unpacked),
    ]
}

fn attrs(node: &NodeView<'_>) -> MatmulAttrs {
    let Op::Matmul(attrs) = *node.op() else { unreachable!("the table pairs matmul with its kernels") };
    attrs
}

/// A constant weight of rank 2, in panels or ready to be packed.
fn accepts_packed(node: &NodeView<'_>) -> Result<Accept, Reason> {
    epilogue_in_reach(attrs(node).epilogue)?;
    let b = node.required(1);
    if !b.constant || b.rank() != 2 {
        return Err(Reason::operand(
            1,
            qiao_core::Property::Memory,
            Rule::Equal,
            "not constant",
            "a constant of rank 2",
        ));
    }
    for (i, desc) in node.operands() {
        if !desc.dtype.is_activation() {
            return Err(Reason::dtype(i, desc.dtype, &[DType::F32, DType::F16, DType::BF16]));
        }
    }
    let layout = if attrs(node).trans_b { PANELS } else { PANELS_T };
    match b.layout {
        0 if can_be_packed(node, 1) => Ok(Accept::Relayout { operand: 1, layout }),
        l if l == layout => Ok(Accept::Native),
        l => Err(Reason::operand(1, qiao_core::Property::Layout, Rule::Equal, format!("{l:#x}").as_str(), "panels")),
    }
}

fn accepts_gemv(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let m = node.required(0).shape.rows();
    if m != 1 {
        return Err(Reason::operand(0, qiao_core::Property::Dim(0), Rule::Equal, m, 1usize));
    }
    accepts_packed(node)
}

fn accepts_gemm(node: &NodeView<'_>) -> Result<Accept, Reason> {
    accepts_packed(node)
}

fn accepts_unpacked(node: &NodeView<'_>) -> Result<Accept, Reason> {
    epilogue_in_reach(attrs(node).epilogue)?;
    let all: Vec<usize> = node.operands().map(|(i, _)| i).collect();
    activations(node, &all)
}

/// A product with packed weights.
struct Packed {
    a: Operand,
    w: usize,
    m: usize,
    n: usize,
    k: usize,
    tail: Tail,
}

fn packed(node: &NodeView<'_>, core: &Core) -> Prepared {
    let b = node.required(1);
    let a = Operand::required(node, 0);
    let n = if attrs(node).trans_b { b.shape[0] } else { b.shape[1] };
    let w = node.node.inputs[1].expect("matmul has its weights").index();
    let product = Packed { m: a.rows(), k: a.len, n, w, tail: Tail::new(node, attrs(node).epilogue, 2, 3), a };
    match b.dtype {
        DType::F32 => product.prepare::<f32>(core),
        DType::F16 if product.m > WIDEN_TILES * core.kernels.gemm_f32.mr => product.widened(core),
        DType::F16 => product.prepare::<f16>(core),
        _ => match (core.kernels.gemm_bf16_dot, core.kernels.gemv_bf16_dot) {
            // One row and many take the same sums, so that a row does not depend on its batch.
            (Some(gemm), Some(gemv)) if product.a.dtype == DType::BF16 => {
                if product.m == 1 {
                    let (even, inputs) = (product.k.is_multiple_of(2), product.k.next_multiple_of(2));
                    return product.gemv(core, (read_pairs as ReadRow<bf16>, even, inputs), gemv.run);
                }
                product.blocked::<bf16, bf16, bf16>(core, gemm, core.kernels.pack_a_bf16_dot.run)
            }
            _ => product.prepare::<bf16>(core),
        },
    }
}

/// Tiles of rows from which on it pays to widen weights once, instead of in every tile.
const WIDEN_TILES: usize = 3;

/// Reads the one row of an operand into a buffer of [`OneRow::inputs`].
///
/// # Safety
/// The operand's memory is live, initialised and not written meanwhile, and the buffer is no part of it.
type ReadRow<X> = unsafe fn(&Exec<'_>, &Operand, &mut [X]);

/// Multiplies one row with panels: `(y, x, w, panel_stride, accumulate)`.
type RunRow<X, W> = fn(&mut [f32], &[X], &[W], usize, bool);

/// The row as f32.
///
/// # Safety
/// See [`ReadRow`].
unsafe fn read_f32(exec: &Exec<'_>, a: &Operand, buf: &mut [f32]) {
    // SAFETY: as the caller vouches.
    unsafe { a.read_part(exec.kernels(), exec.address(a.tensor), 0, 0, buf) }
}

/// The row as bf16, padded with a zero to whole pairs.
///
/// # Safety
/// See [`ReadRow`]; the dtype is bf16.
unsafe fn read_pairs(exec: &Exec<'_>, a: &Operand, buf: &mut [bf16]) {
    // SAFETY: as the caller vouches.
    let from = unsafe { exec.address(a.tensor).cast::<bf16>().add(a.offset(0)) };
    for (i, x) in buf[..a.len].iter_mut().enumerate() {
        // SAFETY: as the caller vouches.
        *x = unsafe { *from.add(i * a.step()) };
    }
    buf[a.len..].fill(bf16::ZERO);
}

/// Panels of so many bytes that one task of a GEMV takes: about a hundred KiB of weights.
pub(super) fn gemv_panels(bytes: usize, panels: usize, threads: usize) -> usize {
    let by_size = (128 << 10) / bytes.max(1);
    task_panels(panels, by_size.clamp(4, 64), 4, threads)
}

impl Packed {
    fn prepare<W: Element>(self, core: &Core) -> Prepared {
        if self.m == 1 {
            let lies = self.a.dtype == DType::F32;
            let row = (read_f32 as ReadRow<f32>, lies, self.k);
            return self.gemv::<f32, W>(core, row, W::gemv(&core.kernels).run);
        }
        let (gemm, k) = (*W::gemm(&core.kernels), core.kernels);
        match self.a.dtype {
            DType::F32 => self.blocked::<f32, f32, W>(core, gemm, k.pack_a_f32.run),
            DType::F16 => self.blocked::<f16, f32, W>(core, gemm, k.pack_a_f16.run),
            _ => self.blocked::<bf16, f32, W>(core, gemm, k.pack_a_bf16.run),
        }
    }

    /// One row: every weight is read once. `read` makes the activations the `inputs` that `run` multiplies; `lies` where
    /// their memory holds them already.
    fn gemv<X: Weight, W: Weight>(
        self,
        core: &Core,
        (read, lies, inputs): (ReadRow<X>, bool, usize),
        run: RunRow<X, W>,
    ) -> Prepared {
        let weights = self.panels::<W>();
        let chunk = gemv_panels(self.k * size_of::<W>() * NR, weights.panels, core.pool.threads());
        let lies = lies && self.a.is_dense();
        let job = OneRow { weights, a: self.a, n: self.n, chunk, read, lies, inputs, run, tail: self.tail };
        Prepared::product(job, inputs * size_of::<X>(), 3 * chunk * NR * 4)
    }

    /// Many rows and weights of f16, whose products are those of the same weights in f32.
    fn widened(self, core: &Core) -> Prepared {
        let k = core.kernels;
        match self.a.dtype {
            DType::F32 => self.widened_with::<f32>(core, k.pack_a_f32.run),
            DType::F16 => self.widened_with::<f16>(core, k.pack_a_f16.run),
            _ => self.widened_with::<bf16>(core, k.pack_a_bf16.run),
        }
    }

    fn widened_with<A: Weight>(self, core: &Core, pack: PackA<A, f32>) -> Prepared {
        let gemm = core.kernels.gemm_f32;
        let cut = Blocks::new(self.m, self.n, self.k, gemm, core.pool.threads());
        let wide = cut.panels * cut.kc * NR;
        let source = Widened { panels: self.panels() };
        Blocked { cut, a: self.a, m: self.m, gemm, pack, source, tail: self.tail }.prepare(wide)
    }

    /// The weights.
    fn panels<W: Weight>(&self) -> blocks::Packed<W> {
        let (stride, panels) = (panel::<W>(self.k), self.n.div_ceil(NR));
        blocks::Packed { tensor: self.w, stride, panels, elements: PhantomData }
    }

    /// Many rows, in blocks. `A` is the dtype of the activations in memory, `P` as they are packed.
    fn blocked<A: Weight, P: Copy + Send + Sync + 'static, W: Weight>(
        self,
        core: &Core,
        gemm: Gemm<P, W, f32>,
        pack: PackA<A, P>,
    ) -> Prepared {
        let cut = Blocks::new(self.m, self.n, self.k, gemm, core.pool.threads()).with_whole_k();
        let source = self.panels::<W>();
        Blocked { cut, a: self.a, m: self.m, gemm, pack, source, tail: self.tail }.prepare(0)
    }
}

/// A product of one row.
struct OneRow<X, W> {
    weights: blocks::Packed<W>,
    a: Operand,
    n: usize,
    /// Panels of a task.
    chunk: usize,
    read: ReadRow<X>,
    /// Whether the row is multiplied where it lies, and elements of what is multiplied.
    lies: bool,
    inputs: usize,
    run: RunRow<X, W>,
    tail: Tail,
}

impl<X: Weight, W: Weight> Job for OneRow<X, W> {
    fn rows(&self) -> usize {
        1
    }

    fn block(&self) -> usize {
        1
    }

    fn packing(&self) -> Packing {
        Packing::Row(TypeId::of::<X>())
    }

    fn columns(&self) -> usize {
        self.chunk * NR
    }

    fn tasks(&self) -> usize {
        self.weights.panels.div_ceil(self.chunk)
    }

    fn pack_tasks(&self, _: &Range<usize>) -> usize {
        usize::from(!self.lies)
    }

    fn tile(&self) -> usize {
        1
    }

    unsafe fn pack(&self, exec: &Exec<'_>, _: &Range<usize>, _: usize, _: usize) {
        // SAFETY: the plan laid out the shared scratch for this step, of which this is the only task.
        let buf = unsafe { std::slice::from_raw_parts_mut(exec.shared().0.cast::<X>(), self.inputs) };
        // SAFETY: the graph checked the operand.
        unsafe { (self.read)(exec, &self.a, buf) };
    }

    unsafe fn multiply(&self, exec: &Exec<'_>, _: &Range<usize>, task: usize, thread: usize) {
        let Self { weights, chunk, n, .. } = self;
        let columns = chunk * NR;
        let panels = task * chunk..((task + 1) * chunk).min(weights.panels);
        let (first, stride) = (panels.start * NR, weights.stride);
        let width = (panels.end * NR).min(*n) - first;
        // SAFETY: as the caller vouches; the row is complete and only read; tasks write disjoint columns.
        unsafe {
            let x = match self.lies {
                true => self.a.row::<X>(exec.address(self.a.tensor), 0),
                false => std::slice::from_raw_parts(exec.shared().0.cast::<X>(), self.inputs),
            };
            let (y, rest) = exec.scratch(thread).split_at_mut(columns);
            let w = &weights.all(exec)[panels.start * stride..panels.end * stride];
            (self.run)(&mut y[..width], x, w, stride, false);
            self.tail.finish(exec, thread, 0, first, &mut y[..width], rest);
        }
    }

    fn tail(&self) -> &Tail {
        &self.tail
    }

    fn tail_mut(&mut self) -> &mut Tail {
        &mut self.tail
    }
}

/// A product whose second operand is packed on the way: one panel at a time, for every batch.
fn unpacked(node: &NodeView<'_>, core: &Core) -> Prepared {
    let (a, b) = (node.required(0), node.required(1));
    let trans = attrs(node).trans_b;
    let (rows, columns) = (b.shape[b.rank() - 2], b.shape[b.rank() - 1]);
    let (n, k) = if trans { (rows, columns) } else { (columns, rows) };
    let (s0, s1) = (b.strides[b.rank() - 2], b.strides[b.rank() - 1]);
    let strides = if trans { (s0, s1) } else { (s1, s0) };
    let product = Unpacked {
        a: Operand::required(node, 0),
        b: Operand::required(node, 1),
        rows,
        shared: b.rank() == 2,
        m: if b.rank() == 2 { a.shape.rows() } else { a.shape[a.rank() - 2] },
        batches: if b.rank() == 2 { 1 } else { a.shape[..a.rank() - 2].iter().product() },
        n,
        k,
        strides,
        tail: Tail::new(node, attrs(node).epilogue, 2, 3),
    };
    match b.dtype {
        DType::F32 => product.prepare::<f32>(core),
        DType::F16 => product.prepare::<f16>(core),
        _ => product.prepare::<bf16>(core),
    }
}

struct Unpacked {
    a: Operand,
    b: Operand,
    /// Rows of b in one batch.
    rows: usize,
    /// Whether all batches share b.
    shared: bool,
    m: usize,
    batches: usize,
    n: usize,
    k: usize,
    /// Strides of b along N and K.
    strides: (usize, usize),
    tail: Tail,
}

impl Unpacked {
    fn prepare<W: Element>(self, core: &Core) -> Prepared {
        let panel_len = panel::<W>(self.k);
        let gemv = W::gemv(&core.kernels).run;
        // A panel of W, a row of a, the products and the epilogue's two rows.
        let floats = (panel_len * size_of::<W>()).div_ceil(4) + self.k + 3 * NR;
        Prepared::with_scratch(floats, move |exec| {
            let panels = self.n.div_ceil(NR);
            exec.run(self.batches * panels, &|task, thread| {
                let (batch, index) = (task / panels, task % panels);
                // SAFETY: the pool gave this thread; tasks write disjoint columns or batches of the result.
                unsafe { self.panel::<W>(exec, batch, index, thread, gemv) };
            });
            Ok(())
        })
    }

    /// All rows of one batch times one panel.
    ///
    /// # Safety
    /// The pool gave `thread` to the running task, and no other task has this batch and panel.
    unsafe fn panel<W: Element>(
        &self,
        exec: &Exec<'_>,
        batch: usize,
        index: usize,
        thread: usize,
        gemv: qiao_kernels_cpu::Gemv<W>,
    ) {
        let kernels: &Kernels = exec.kernels();
        let panel_len = panel::<W>(self.k);
        let first = index * NR;
        let width = NR.min(self.n - first);
        // SAFETY: as the caller vouches; the graph checked that b's rows lie in its tensor.
        unsafe {
            let (packed, rest) = exec.scratch(thread).split_at_mut((panel_len * size_of::<W>()).div_ceil(4));
            let packed = std::slice::from_raw_parts_mut(packed.as_mut_ptr().cast::<W>(), panel_len);
            let (buf, rest) = rest.split_at_mut(self.k);
            let (y, spare) = rest.split_at_mut(NR);
            if self.k > 0 {
                let at = if self.shared { 0 } else { self.b.offset(batch * self.rows) };
                let (sn, sk) = self.strides;
                let start = exec.address(self.b.tensor).cast::<W>().add(at + first * sn);
                let span = (width - 1) * sn + (self.k - 1) * sk + 1;
                let data = std::slice::from_raw_parts(start, span);
                pack_panel(packed, &WeightMatrix { data, n: width, k: self.k, n_stride: sn, k_stride: sk }, 0);
            }
            for i in 0..self.m {
                let r = batch * self.m + i;
                let x = self.a.read(kernels, exec.address(self.a.tensor), r, buf);
                gemv(&mut y[..width], x, packed, panel_len, false);
                self.tail.finish(exec, thread, r, first, &mut y[..width], spare);
            }
        }
    }
}
