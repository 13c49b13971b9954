//! Products with quantised weights, the activations as they are.
//!
//! Constant weights come packed in panels of codes. A few rows of activations stream the panels once, each code an exact
//! small number in f32 whose sums are scaled group by group. For more rows a block of K of some panels is decoded to f32
//! and goes through the blocked product of plain f32. A row whose products of codes could overflow takes decoded weights
//! too. Weights that are not constant, or are grouped in ways that panels do not know, are decoded panel by panel.

use std::ops::Range;

use half::{bf16, f16};
use qiao_core::{Accept, DType, MatmulQuantAttrs, NodeView, Op, OpKind, Property, Reason, Row, Rule};
use qiao_kernels_cpu::{
    CHUNK, Element, NR, PackA, QuantBlock, QuantFormat, QuantKernel, QuantOffset, QuantRows, Weight, WeightMatrix,
    pack_panel,
};

use super::access::Operand;
use super::blocks::{Blocks, Panels};
use super::dequantise::{Dequantise, accepts_weights};
use super::exec::{Core, Exec, Prepare, Prepared, row};
use super::groups::{Groups, accepts_groups};
use super::matmul::gemv_panels;
use super::pack::panel;
use super::quant_panels::{QUANT_PANELS, format, has_panels};
use super::sound::can_be_packed;
use super::tail::{Tail, epilogue_in_reach};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::MatmulQuant, "gemv_quant", accepts_gemv, panels),
        row(OpKind::MatmulQuant, "gemm_quant", accepts_panels, panels),
        row(OpKind::MatmulQuant, "matmul_quant_decoded", accepts_decoded, decoded),
    ]
}

fn attrs(node: &NodeView<'_>) -> MatmulQuantAttrs {
    let Op::MatmulQuant(attrs) = *node.op() else { unreachable!("the table pairs matmul_quant with its kernels") };
    attrs
}

/// Accepts f32, f16 and bf16 in the activations, in what the epilogue adds and in the result.
fn accepts_activations(node: &NodeView<'_>) -> Result<(), Reason> {
    epilogue_in_reach(attrs(node).epilogue)?;
    let weights = 1..5;
    for (i, desc) in node.operands().filter(|(i, _)| !weights.contains(i) || *i >= node.node.inputs.len()) {
        if !desc.dtype.is_activation() {
            return Err(Reason::dtype(i, desc.dtype, &[DType::F32, DType::F16, DType::BF16]));
        }
    }
    Ok(())
}

/// A constant weight in panels or ready to be packed, with scales that go with panels.
fn accepts_panels(node: &NodeView<'_>) -> Result<Accept, Reason> {
    accepts_activations(node)?;
    let w = node.required(1);
    let refused = |found: &str| Reason::operand(1, Property::Memory, Rule::Equal, found, "a constant of its own");
    let Some(format) = format(w.dtype) else {
        return Err(Reason::operand(1, Property::Dtype, Rule::None, w.dtype, ""));
    };
    if !has_panels(w) || !w.constant || w.layout == 0 && !can_be_packed(node, 1) {
        return Err(refused("not constant"));
    }
    let zeros = node.input(3).is_some() && node.input(4).is_none();
    if matches!(w.dtype, DType::F8E4M3 | DType::F8E5M2) && zeros {
        return Err(Reason::operand(3, Property::Memory, Rule::None, "given", ""));
    }
    let groups = if format.carries_scales() { Accept::Native } else { accepts_groups(node, &attrs(node))? };
    match w.layout {
        0 => Ok(Accept::Relayout { operand: 1, layout: QUANT_PANELS }),
        QUANT_PANELS => Ok(groups),
        l => Err(refused(&format!("in layout {l:#x}"))),
    }
}

/// The most rows for which panels are multiplied as they are.
const FEW: usize = 4;

fn accepts_gemv(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let m = node.required(0).shape.rows();
    if m > FEW {
        return Err(Reason::operand(0, Property::Dim(0), Rule::AtMost, m, FEW));
    }
    accepts_panels(node)
}

fn accepts_decoded(node: &NodeView<'_>) -> Result<Accept, Reason> {
    accepts_activations(node)?;
    accepts_weights(node)
}

/// Chunks of a panel that are multiplied together: their decoded weights fit a first-level cache.
const STRETCH: usize = 16;

/// f32 of scratch for the scales of a stretch, for offsets, and for reading either.
const SCALES: usize = 3 * 2 * STRETCH * NR;

/// Weights in panels.
struct Weights {
    tensor: usize,
    format: QuantFormat,
    kernel: QuantKernel,
    tables: ([f32; 16], [f32; 16]),
    groups: Option<Groups>,
    k: usize,
}

impl Weights {
    /// Calls `f` with chunks `chunks` of a panel, at most [`STRETCH`] of them; `scratch` holds [`SCALES`].
    ///
    /// # Safety
    /// The operands are live and initialised; the panel and the chunks exist.
    unsafe fn stretch(
        &self,
        exec: &Exec<'_>,
        panel: usize,
        chunks: Range<usize>,
        scratch: &mut [f32],
        f: impl FnOnce(&QuantBlock<'_>),
    ) {
        let len = self.format.panel_len(self.k);
        let count = chunks.len() * self.format.scales_per_chunk() * NR;
        let (scales, rest) = scratch.split_at_mut(count);
        let (offsets, spare) = rest.split_at_mut(count);
        // SAFETY: as the caller vouches; the plan checked that the binding holds all panels.
        let data = unsafe { std::slice::from_raw_parts(exec.address(self.tensor).add(panel * len), len) };
        match &self.groups {
            Some(groups) if groups.ordered() => scales.fill(1.0),
            // SAFETY: as the caller vouches.
            Some(groups) => unsafe { groups.expand(exec, panel, chunks.start, scales, offsets, spare) },
            None => {
                let expand = exec.kernels().quant_scales.run;
                expand(scales, offsets, self.format, data, self.k, chunks.start, chunks.len());
            }
        }
        let bytes = self.format.codes().chunk_bytes();
        f(&QuantBlock {
            codes: &data[chunks.start * bytes..chunks.end * bytes],
            chunks: chunks.len(),
            tables: &self.tables,
            scales,
            offsets,
        });
    }

    /// f32 of scratch for [`Weights::decode`].
    fn scratch(&self) -> usize {
        SCALES + self.groups.as_ref().map_or(0, Groups::scratch)
    }

    /// The weights of chunks `chunks` of a panel, at most [`STRETCH`] of them, `[inputs][16]`; `scratch` holds
    /// [`Weights::scratch`].
    ///
    /// # Safety
    /// As [`Weights::stretch`].
    unsafe fn decode(&self, exec: &Exec<'_>, panel: usize, chunks: Range<usize>, scratch: &mut [f32], out: &mut [f32]) {
        let (scales, rest) = scratch.split_at_mut(SCALES);
        let first = chunks.start * CHUNK;
        // SAFETY: as the caller vouches.
        unsafe {
            self.stretch(exec, panel, chunks, scales, |block| (self.kernel.decode)(out, block));
            if let Some(groups) = &self.groups {
                groups.apply(exec, panel, first, out, rest);
            }
        }
    }

    /// Checks what only the data can tell.
    ///
    /// # Errors
    /// An input in a group that has no scales.
    fn check(&self, exec: &Exec<'_>) -> qiao_core::Result<()> {
        self.groups.as_ref().map_or(Ok(()), |groups| groups.check(exec))
    }
}

/// A product with weights in panels.
struct Product {
    a: Operand,
    weights: Weights,
    m: usize,
    n: usize,
    k: usize,
    tail: Tail,
}

fn panels(node: &NodeView<'_>, core: &Core) -> Prepared {
    let (a, w) = (Operand::required(node, 0), node.required(1));
    let format = format(w.dtype).expect("the table accepts only formats with panels");
    // Inputs that name their groups are scaled once they are decoded.
    let kernel = core.kernels.quant(format, node.input(3).is_some() && node.input(4).is_none());
    let weights = Weights {
        tensor: node.node.inputs[1].expect("matmul_quant has its weights").index(),
        format,
        kernel: *kernel.expect("the table accepts only codes and zeros that have a kernel"),
        tables: format.tables(),
        groups: (!format.carries_scales()).then(|| Groups::new(node, &attrs(node))),
        k: a.len,
    };
    let tail = Tail::new(node, attrs(node).epilogue, 5, 6);
    let product = Product { m: a.rows(), n: w.shape[0], k: a.len, weights, tail, a };
    if product.m <= FEW {
        return product.few(core);
    }
    let k = core.kernels;
    match product.a.dtype {
        DType::F32 => product.many::<f32>(core, k.pack_a_f32.run),
        DType::F16 => product.many::<f16>(core, k.pack_a_f16.run),
        _ => product.many::<bf16>(core, k.pack_a_bf16.run),
    }
}

/// The activations of a product of few rows, padded with zeros to whole chunks, and their sums.
struct Activations<'a> {
    x: &'a [f32],
    stride: usize,
    sums: &'a [f32],
    sums_stride: usize,
    /// Whether codes can be multiplied as they are: no product can overflow, none is NaN, groups are in order.
    tame: bool,
}

impl Product {
    /// Chunks of a row.
    fn chunks(&self) -> usize {
        self.k.div_ceil(CHUNK)
    }

    /// Sums of a row of activations.
    fn sums(&self) -> usize {
        let wanted = self.weights.format.offset(false) == QuantOffset::Min;
        if wanted { self.chunks() * self.weights.format.scales_per_chunk() } else { 0 }
    }

    /// Reads the activations into the shared scratch.
    fn read<'a>(&self, exec: &Exec<'_>, shared: &'a mut [f32]) -> Activations<'a> {
        let (kernels, stride, per_row) = (exec.kernels(), self.chunks() * CHUNK, self.sums());
        let (x, sums) = shared.split_at_mut(self.m * stride);
        let each = CHUNK / self.weights.format.scales_per_chunk();
        let mut tame = !self.weights.groups.as_ref().is_some_and(Groups::ordered);
        for r in 0..self.m {
            let row = &mut x[r * stride..][..stride];
            let (values, rest) = row.split_at_mut(self.k);
            // SAFETY: the graph checked the operand, whose storage the shared scratch is not.
            unsafe { self.a.read_part(kernels, exec.address(self.a.tensor), r, 0, values) };
            rest.fill(0.0);
            tame &= (kernels.sum_squares.run)(values).is_finite();
            for (sum, x) in sums[r * per_row..][..per_row].iter_mut().zip(row.chunks_exact(each)) {
                *sum = (kernels.sum.run)(x);
            }
        }
        Activations { x, stride, sums, sums_stride: per_row, tame }
    }

    /// A few rows: every panel is read once.
    fn few(self, core: &Core) -> Prepared {
        let panels = self.n.div_ceil(NR);
        let chunk = gemv_panels(self.weights.format.panel_len(self.k), panels, core.pool.threads());
        let columns = chunk * NR;
        let shared = 4 * self.m * (self.chunks() * CHUNK + self.sums());
        // Scales, decoded weights, results, and the epilogue's two rows.
        let per_thread = 4 * (self.weights.scratch() + STRETCH * CHUNK * NR + (self.m + 2) * columns);
        let run = move |exec: &Exec<'_>| {
            self.weights.check(exec)?;
            let (buffer, bytes) = exec.shared();
            // SAFETY: the plan laid out the shared scratch for this step; the tasks below only read it.
            let x = self.read(exec, unsafe { std::slice::from_raw_parts_mut(buffer.cast::<f32>(), bytes / 4) });
            exec.run(panels.div_ceil(chunk), &|task, thread| {
                let range = task * chunk..((task + 1) * chunk).min(panels);
                let first = range.start * NR;
                let width = (range.end * NR).min(self.n) - first;
                // SAFETY: the pool gave this thread; tasks write disjoint columns.
                unsafe {
                    let (y, rest) = exec.scratch(thread).split_at_mut(self.m * columns);
                    for (i, panel) in range.enumerate() {
                        let sums = self.one_panel(exec, &x, panel, rest);
                        for (y, sums) in y.chunks_exact_mut(columns).zip(&sums) {
                            y[i * NR..][..NR].copy_from_slice(sums);
                        }
                    }
                    for (r, y) in y.chunks_exact_mut(columns).enumerate() {
                        self.tail.finish(exec, r, first, &mut y[..width], rest);
                    }
                }
            });
            Ok(())
        };
        Prepared { run: Box::new(run), shared, per_thread }
    }

    /// All rows times one panel.
    ///
    /// # Safety
    /// The operands are live and initialised, and the panel exists.
    unsafe fn one_panel(
        &self,
        exec: &Exec<'_>,
        x: &Activations<'_>,
        panel: usize,
        scratch: &mut [f32],
    ) -> [[f32; NR]; FEW] {
        let mut y = [[0.0; NR]; FEW];
        let (scratch, decoded) = scratch.split_at_mut(self.weights.scratch());
        let per_chunk = self.weights.format.scales_per_chunk();
        for first in (0..self.chunks()).step_by(STRETCH) {
            let chunks = first..(first + STRETCH).min(self.chunks());
            let at = first * CHUNK;
            if !x.tame {
                let inputs = (chunks.len() * CHUNK).min(self.k - at);
                let decoded = &mut decoded[..chunks.len() * CHUNK * NR];
                // SAFETY: as the caller vouches.
                unsafe { self.weights.decode(exec, panel, chunks, scratch, decoded) };
                for (r, y) in y.iter_mut().enumerate().take(self.m) {
                    let x = &x.x[r * x.stride + at..][..inputs];
                    (exec.kernels().gemv_f32.run)(y, x, decoded, decoded.len(), true);
                }
                continue;
            }
            let sums = if x.sums_stride > 0 { &x.sums[first * per_chunk..] } else { &[] };
            let rows = QuantRows { rows: self.m, x: &x.x[at..], stride: x.stride, sums, sums_stride: x.sums_stride };
            let multiply = |block: &QuantBlock<'_>| (self.weights.kernel.dot)(y.as_flattened_mut(), &rows, block);
            // SAFETY: as the caller vouches.
            unsafe { self.weights.stretch(exec, panel, chunks, &mut scratch[..SCALES], multiply) };
        }
        y
    }

    /// Many rows, in blocks. `A` is the dtype of the activations.
    fn many<A: Weight>(self, core: &Core, pack: PackA<A, f32>) -> Prepared {
        let gemm = core.kernels.gemm_f32;
        assert!(gemm.kc.is_multiple_of(CHUNK), "blocks of K are whole chunks");
        let plan = Blocks::new(self.m, self.n, self.k, gemm, core.pool.threads());
        let uneven = if self.a.is_dense() && self.a.is_even() { 0 } else { plan.mr * self.k * size_of::<A>() };
        let decoded = 4 * (self.weights.scratch() + plan.panels * gemm.kc * NR);
        let per_thread = plan.scratch_bytes() + uneven.max(decoded).next_multiple_of(4);
        let shared = plan.packed_len() * 4;
        let run = move |exec: &Exec<'_>| {
            self.weights.check(exec)?;
            for first in (0..self.m).step_by(plan.rows) {
                let rows = plan.rows.min(self.m - first);
                plan.pack::<A, f32>(exec, &self.a, pack, first, rows);
                plan.multiply(exec, gemm, &self.weights, first, rows, &self.tail);
            }
            Ok(())
        };
        Prepared { run: Box::new(run), shared, per_thread }
    }
}

impl Panels<f32> for Weights {
    /// Decodes the block.
    fn block<'a>(
        &'a self,
        exec: &Exec<'_>,
        scratch: &'a mut [f32],
        panels: Range<usize>,
        inputs: Range<usize>,
    ) -> (&'a [f32], usize) {
        let chunks = inputs.start / CHUNK..inputs.end.div_ceil(CHUNK);
        let stride = chunks.len() * CHUNK * NR;
        let (scratch, decoded) = scratch.split_at_mut(self.scratch());
        let decoded = &mut decoded[..panels.len() * stride];
        for (panel, out) in panels.zip(decoded.chunks_exact_mut(stride)) {
            for first in chunks.clone().step_by(STRETCH) {
                let part = first..(first + STRETCH).min(chunks.end);
                let out = &mut out[(first - chunks.start) * CHUNK * NR..][..part.len() * CHUNK * NR];
                // SAFETY: the plan resolved all operands, and the caller asks for panels and inputs that exist.
                unsafe { self.decode(exec, panel, part, scratch, out) };
            }
        }
        (decoded, stride)
    }
}

/// A product whose weights are decoded on the way: one panel at a time, for all rows.
struct Decoded {
    a: Operand,
    weights: Dequantise,
    m: usize,
    n: usize,
    k: usize,
    tail: Tail,
}

fn decoded(node: &NodeView<'_>, core: &Core) -> Prepared {
    let a = Operand::required(node, 0);
    let product = Decoded {
        m: a.rows(),
        n: node.required(1).shape[0],
        k: a.len,
        weights: Dequantise::new(node, &attrs(node)),
        tail: Tail::new(node, attrs(node).epilogue, 5, 6),
        a,
    };
    let gemv = f32::gemv(&core.kernels).run;
    // A panel and the rows it comes from, a row of a, the products and the epilogue's two rows.
    let floats = panel::<f32>(product.k) + (NR + 1) * product.k + product.weights.scratch() + 3 * NR;
    Prepared::with_scratch(floats, move |exec| {
        product.weights.check(exec)?;
        exec.run(product.n.div_ceil(NR), &|index, thread| {
            // SAFETY: the pool gave this thread; tasks write disjoint columns of the result.
            unsafe { product.panel(exec, index, thread, gemv) };
        });
        Ok(())
    })
}

impl Decoded {
    /// All rows times one panel.
    ///
    /// # Safety
    /// The pool gave `thread` to the running task, and no other task has this panel.
    unsafe fn panel(&self, exec: &Exec<'_>, index: usize, thread: usize, gemv: qiao_kernels_cpu::Gemv<f32>) {
        let kernels = exec.kernels();
        let stride = panel::<f32>(self.k);
        let first = index * NR;
        let width = NR.min(self.n - first);
        // SAFETY: as the caller vouches; the graph checked all operands.
        unsafe {
            let (packed, rest) = exec.scratch(thread).split_at_mut(stride);
            let (rows, rest) = rest.split_at_mut(NR * self.k);
            let (buf, rest) = rest.split_at_mut(self.k);
            let (groups, rest) = rest.split_at_mut(self.weights.scratch());
            let (y, spare) = rest.split_at_mut(NR);
            if self.k > 0 {
                for (i, row) in rows.chunks_exact_mut(self.k).take(width).enumerate() {
                    self.weights.row(exec, first + i, row, groups);
                }
                pack_panel(packed, &WeightMatrix::row_major(&rows[..width * self.k], width, self.k), 0);
            }
            for r in 0..self.m {
                let x = self.a.read(kernels, exec.address(self.a.tensor), r, buf);
                gemv(&mut y[..width], x, packed, stride, false);
                self.tail.finish(exec, r, first, &mut y[..width], spare);
            }
        }
    }
}
