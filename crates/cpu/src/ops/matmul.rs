//! Matrix products of plain floats.
//!
//! Constant weights come packed in panels. One row of activations is a GEMV that streams the panels once; more rows
//! are a blocked GEMM: the activations are packed into micro-panels for all of K, then every task takes a range of
//! panels and walks K in blocks that keep a micro-panel in the first-level cache. An operand that is not constant is
//! packed on the way, panel by panel.

use half::{bf16, f16};
use qiao_core::{Accept, DType, Epilogue, MatmulAttrs, NodeView, Op, OpKind, Reason, Row, Rule};
use qiao_kernels_cpu::{Element, Gemm, GemmBlock, Kernels, NR, PackA, Weight, WeightMatrix, pack_panel};

use super::access::Operand;
use super::exec::{Core, Exec, Prepare, Prepared, activations, row};
use super::pack::{PANELS, PANELS_T, panel};
use super::sound::can_be_packed;

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

fn epilogue_in_reach(node: &NodeView<'_>) -> Result<(), Reason> {
    match attrs(node).epilogue {
        // Its two halves lie far apart in N, so it is a product and a silu_mul.
        e @ Epilogue::SiluMul => {
            Err(Reason::attribute("epilogue", Rule::OneOf, e.to_string().as_str(), "none, bias, bias_residual, gelu"))
        }
        _ => Ok(()),
    }
}

/// A constant weight of rank 2, in panels or ready to be packed.
fn accepts_packed(node: &NodeView<'_>) -> Result<Accept, Reason> {
    epilogue_in_reach(node)?;
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
    epilogue_in_reach(node)?;
    let all: Vec<usize> = node.operands().map(|(i, _)| i).collect();
    activations(node, &all)
}

/// What follows the product, row by row.
struct Tail {
    epilogue: Epilogue,
    bias: Option<Operand>,
    residual: Option<Operand>,
    out: Operand,
}

impl Tail {
    fn new(node: &NodeView<'_>) -> Self {
        Tail {
            epilogue: attrs(node).epilogue,
            bias: Operand::input(node, 2),
            residual: Operand::input(node, 3),
            out: Operand::output(node, 0),
        }
    }

    /// Finishes columns `first..` of result row `r` from the f32 products `c`, and writes them. `buf` has twice as
    /// many elements as `c`.
    ///
    /// # Safety
    /// No other task touches these columns.
    unsafe fn finish(&self, exec: &Exec<'_>, r: usize, first: usize, c: &mut [f32], buf: &mut [f32]) {
        let k = exec.kernels();
        let (part, spare) = buf.split_at_mut(c.len());
        if let Some(bias) = &self.bias {
            // SAFETY: the bias has one element per column of the result.
            unsafe { bias.read_part(k, exec.address(bias.tensor), 0, first, part) };
            c.iter_mut().zip(&*part).for_each(|(c, b)| *c += b);
        }
        if let Some(residual) = &self.residual {
            // SAFETY: the residual has the shape of the result.
            unsafe { residual.read_part(k, exec.address(residual.tensor), r, first, part) };
            c.iter_mut().zip(&*part).for_each(|(c, b)| *c += b);
        }
        let done: &[f32] = if self.epilogue == Epilogue::Gelu {
            (k.gelu_erf.run)(&mut spare[..c.len()], c);
            spare
        } else {
            c
        };
        // SAFETY: as the caller vouches.
        unsafe { self.out.write(k, exec.address(self.out.tensor), r, first, &done[..c.len()]) };
    }
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
    let product = Packed { m: a.rows(), k: a.len, n, w, tail: Tail::new(node), a };
    match b.dtype {
        DType::F32 => product.prepare::<f32>(core),
        DType::F16 => product.prepare::<f16>(core),
        _ => match core.kernels.gemm_bf16_dot {
            Some(gemm) if product.m > 1 && product.a.dtype == DType::BF16 && product.a.is_dense() => {
                let pack = core.kernels.pack_a_bf16_dot.run;
                product.blocked::<bf16, bf16, bf16>(core, gemm, pack)
            }
            _ => product.prepare::<bf16>(core),
        },
    }
}

/// Panels that one task of a GEMV takes: some hundred KiB of weights.
fn gemv_panels(k: usize, bytes: usize, panels: usize, threads: usize) -> usize {
    let by_size = (256 << 10) / (k * bytes * NR).max(1);
    let fair = panels.div_ceil(threads * 2);
    by_size.clamp(4, 64).min(fair.next_multiple_of(4)).max(1)
}

/// Panels that one task of a GEMM takes: 128 columns.
const GEMM_PANELS: usize = 8;

/// Rows of a block of activations that are packed together.
const GEMM_ROWS: usize = 512;

impl Packed {
    fn prepare<W: Element>(self, core: &Core) -> Prepared {
        if self.m == 1 {
            return self.gemv::<W>(core);
        }
        let (gemm, k) = (*W::gemm(&core.kernels), core.kernels);
        match self.a.dtype {
            DType::F32 => self.blocked::<f32, f32, W>(core, gemm, k.pack_a_f32.run),
            DType::F16 => self.blocked::<f16, f32, W>(core, gemm, k.pack_a_f16.run),
            _ => self.blocked::<bf16, f32, W>(core, gemm, k.pack_a_bf16.run),
        }
    }

    /// One row: every weight is read once.
    fn gemv<W: Element>(self, core: &Core) -> Prepared {
        let panels = self.n.div_ceil(NR);
        let chunk = gemv_panels(self.k, size_of::<W>(), panels, core.pool.threads());
        let (columns, k) = (chunk * NR, self.k);
        let run = W::gemv(&core.kernels).run;
        let stride = panel::<W>(k);
        let per_thread = (3 * columns) * 4;
        let shared = k * 4;
        let run = move |exec: &Exec<'_>| {
            let kernels = exec.kernels();
            let (buffer, bytes) = exec.shared();
            // SAFETY: the plan laid out the shared scratch for this step; the tasks below only read it.
            let buf = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<f32>(), bytes / 4) };
            // SAFETY: the graph checked the operand; the result shares no storage with it.
            let x = unsafe { self.a.read(kernels, exec.address(self.a.tensor), 0, buf) };
            // SAFETY: the plan checked that the binding holds all panels.
            let w = unsafe { std::slice::from_raw_parts(exec.address(self.w).cast::<W>(), panels * stride) };
            exec.run(panels.div_ceil(chunk), &|task, thread| {
                let first = task * chunk;
                let last = (first + chunk).min(panels);
                let width = (last * NR).min(self.n) - first * NR;
                // SAFETY: the pool gave this thread; tasks write disjoint columns.
                unsafe {
                    let (y, rest) = exec.scratch(thread).split_at_mut(columns);
                    run(&mut y[..width], x, &w[first * stride..last * stride], stride, false);
                    self.tail.finish(exec, 0, first * NR, &mut y[..width], rest);
                }
            });
            Ok(())
        };
        Prepared { run: Box::new(run), shared, per_thread }
    }

    /// Many rows, in blocks. `A` is the dtype of the activations in memory, `P` as they are packed.
    fn blocked<A: Weight, P: Copy + Send + Sync + 'static, W: Weight>(
        self,
        core: &Core,
        gemm: Gemm<P, W, f32>,
        pack: PackA<A, P>,
    ) -> Prepared {
        let plan = Blocks::new(self.m, self.n, self.k, gemm, core.pool.threads());
        let spare = if self.a.is_dense() && self.a.is_even() { 0 } else { plan.mr * self.k * size_of::<A>() };
        let per_thread = plan.scratch_bytes() + spare.next_multiple_of(4);
        let shared = plan.packed_len() * size_of::<P>();
        let run = move |exec: &Exec<'_>| {
            let stride = panel::<W>(self.k);
            let panels = self.n.div_ceil(NR);
            // SAFETY: the plan checked that the binding holds all panels.
            let w = unsafe { std::slice::from_raw_parts(exec.address(self.w).cast::<W>(), panels * stride) };
            let source = Source { weights: w, stride };
            for first in (0..self.m).step_by(plan.rows) {
                let rows = plan.rows.min(self.m - first);
                plan.pack::<A, P>(exec, &self.a, pack, first, rows);
                plan.multiply::<P, W>(exec, gemm, &source, first, rows, &self.tail);
            }
            Ok(())
        };
        Prepared { run: Box::new(run), shared, per_thread }
    }
}

/// Packed panels.
struct Source<'a, W> {
    weights: &'a [W],
    /// Elements of a panel.
    stride: usize,
}

/// How a product is cut into blocks.
#[derive(Clone, Copy)]
struct Blocks {
    n: usize,
    k: usize,
    /// Rows of a micro-panel.
    mr: usize,
    /// Inputs of a block of K.
    kc: usize,
    /// K rounded up to whole steps of every dtype.
    k_padded: usize,
    /// Rows that are packed together.
    rows: usize,
    /// Panels of a task.
    panels: usize,
}

impl Blocks {
    fn new<P, W, C>(m: usize, n: usize, k: usize, gemm: Gemm<P, W, C>, threads: usize) -> Self {
        let rows = m.clamp(1, GEMM_ROWS).next_multiple_of(gemm.mr);
        let all = n.div_ceil(NR);
        let panels = GEMM_PANELS.min(all.div_ceil(threads)).max(1);
        Blocks { n, k, mr: gemm.mr, kc: gemm.kc, k_padded: k.next_multiple_of(4), rows, panels }
    }

    /// Elements of the packed activations.
    fn packed_len(&self) -> usize {
        self.rows * self.k_padded
    }

    /// Bytes of a thread's scratch: the products of a task, and two rows for the epilogue.
    fn scratch_bytes(&self) -> usize {
        (self.rows + 2) * self.panels * NR * 4
    }

    /// Where the micro-panel of rows `tile` starts for the block of K that starts at `k0`.
    fn micro_panel(&self, tile: usize, k0: usize) -> usize {
        (tile * self.k_padded + k0) * self.mr
    }

    /// Packs rows `first..first + rows` of the activations for all of K.
    fn pack<A: Weight, P: Copy + Send + Sync + 'static>(
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

    /// Multiplies the packed rows with all panels and finishes them.
    fn multiply<P: Copy + Send + Sync + 'static, W: Weight>(
        &self,
        exec: &Exec<'_>,
        gemm: Gemm<P, W, f32>,
        source: &Source<'_, W>,
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
                for k0 in (0..self.k).step_by(self.kc) {
                    let kc = self.kc.min(self.k - k0);
                    for tile in 0..rows.div_ceil(self.mr) {
                        let at = self.micro_panel(tile, k0);
                        let a =
                            std::slice::from_raw_parts((packed as *const P).add(at), kc.next_multiple_of(4) * self.mr);
                        (gemm.run)(&GemmBlock {
                            m: self.mr.min(rows - tile * self.mr),
                            kc,
                            a,
                            w: &source.weights[p0 * source.stride + k0 * NR..],
                            panel_stride: source.stride,
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
        tail: Tail::new(node),
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
                self.tail.finish(exec, r, first, &mut y[..width], spare);
            }
        }
    }
}
