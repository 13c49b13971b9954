//! int8 activations: dynamic quantisation, and the product of two int8 matrices with an exact int32 sum.

use qiao_core::{Accept, DType, NodeView, OpKind, Property, Reason, Row, Rule};
use qiao_kernels_cpu::{GemmBlock, NR, WeightMatrix, pack_panel_i8, packed_len_i8, panel_len_i8};

use super::access::Operand;
use super::by_rows::Rows;
use super::exec::{Core, Exec, Prepare, Prepared, activations, row};
use super::pack::PANELS;
use super::sound::can_be_packed;

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::QuantizeDynamic, "quantize_dynamic_i8", accepts_quantize, quantize),
        row(OpKind::QuantizeStatic, "quantize_static_i8", accepts_static, quantize_static),
        row(OpKind::ScaledMatmul, "gemm_i8", accepts_matmul, scaled_matmul),
    ]
}

fn accepts_quantize(node: &NodeView<'_>) -> Result<Accept, Reason> {
    if !node.output(0).rows_are_contiguous() {
        return Err(Reason::strides(1, "contiguous within a row"));
    }
    activations(node, &[0])
}

fn quantize(node: &NodeView<'_>, _: &Core) -> Prepared {
    let x = Operand::required(node, 0);
    let [q, scale] = [0, 1].map(|i| Operand::output(node, i));
    Prepared::by_rows(Rows::split(&[&x, &q, &scale], x.rows(), x.len.max(1)), x.len, move |exec, rows, thread| {
        let k = exec.kernels();
        let at = [&x, &q, &scale].map(|o| exec.address(o.tensor) as usize);
        // A row of no elements still has a scale.
        for r in rows {
            // SAFETY: the pool gave this thread; tasks write disjoint rows of results that share no storage with
            // the operand.
            unsafe {
                let row = x.read(k, at[0] as *const u8, r, exec.scratch(thread));
                let codes = std::slice::from_raw_parts_mut((at[1] as *mut i8).add(q.offset(r)), x.len);
                let value = (k.quantize_row_i8.run)(codes, row);
                let to = scale.offset(r / scale.len.max(1)) + r % scale.len.max(1) * scale.step();
                *(at[2] as *mut f32).add(to) = value;
            }
        }
    })
}

fn accepts_static(node: &NodeView<'_>) -> Result<Accept, Reason> {
    if !node.output(0).rows_are_contiguous() {
        return Err(Reason::strides(3, "contiguous within a row"));
    }
    activations(node, &[0])
}

fn quantize_static(node: &NodeView<'_>, _: &Core) -> Prepared {
    let [x, scale] = [0, 1].map(|i| Operand::required(node, i));
    let (zero, q) = (Operand::input(node, 2), Operand::output(node, 0));
    Prepared::by_rows(Rows::split(&[&x, &q], x.rows(), x.len.max(1)), x.len, move |exec, rows, thread| {
        let k = exec.kernels();
        let at = [&x, &q].map(|o| exec.address(o.tensor) as usize);
        let mut grid = [[0.0], [0.0]];
        // SAFETY: the graph checked that scale and zero have one element.
        unsafe {
            scale.read_part(k, exec.address(scale.tensor), 0, 0, &mut grid[0]);
            if let Some(zero) = &zero {
                zero.read_part(k, exec.address(zero.tensor), 0, 0, &mut grid[1]);
            }
        }
        let [[scale], [zero]] = grid;
        for r in rows {
            // SAFETY: the pool gave this thread; tasks write disjoint rows of a result that shares no storage with
            // the operand.
            let (row, codes) = unsafe {
                let row = x.read(k, at[0] as *const u8, r, exec.scratch(thread));
                (row, std::slice::from_raw_parts_mut((at[1] as *mut i8).add(q.offset(r)), x.len))
            };
            // The cast saturates and sends NaN to zero.
            codes.iter_mut().zip(row).for_each(|(q, x)| *q = (x / scale + zero).round_ties_even() as i8);
        }
    })
}

fn accepts_matmul(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let (a, b) = (node.required(0), node.required(1));
    if !a.rows_are_contiguous() || a.row_stride().is_none() {
        return Err(Reason::strides(0, "contiguous within a row"));
    }
    for (i, desc) in node.operands().skip(4) {
        // What joins the sum is the one operand here that is i32.
        if !desc.dtype.is_activation() && desc.dtype != DType::I32 {
            return Err(Reason::dtype(i, desc.dtype, &[DType::F32, DType::F16, DType::BF16]));
        }
    }
    match b.layout {
        0 if b.constant && can_be_packed(node, 1) => Ok(Accept::Relayout { operand: 1, layout: PANELS }),
        0 | PANELS => Ok(Accept::Native),
        l => Err(Reason::operand(1, Property::Layout, Rule::Equal, format!("{l:#x}").as_str(), "panels")),
    }
}

/// Panels that one task takes.
const PANELS_PER_TASK: usize = 8;

struct Product {
    a: Operand,
    b: Operand,
    scales: [Operand; 2],
    bias: Option<Operand>,
    sum_bias: Option<Operand>,
    out: Operand,
    /// Whether b comes in panels; else they are made first, in the shared scratch.
    packed: bool,
    m: usize,
    n: usize,
    k: usize,
    mr: usize,
}

fn scaled_matmul(node: &NodeView<'_>, core: &Core) -> Prepared {
    let desc = node.required(1);
    let a = Operand::required(node, 0);
    let product = Product {
        b: Operand::required(node, 1),
        scales: [2, 3].map(|i| Operand::required(node, i)),
        bias: Operand::input(node, 4),
        sum_bias: Operand::input(node, 5),
        out: Operand::output(node, 0),
        packed: desc.layout == PANELS,
        m: a.rows(),
        n: desc.shape[0],
        k: a.len,
        mr: core.kernels.gemm_i8.mr,
        a,
    };
    let panels = if product.packed { 0 } else { packed_len_i8(product.n, product.k).next_multiple_of(64) };
    let activations = product.m.next_multiple_of(product.mr) * product.k.next_multiple_of(4);
    // For each row of a tile: int32 sums and their f32 values; then the scales and the bias.
    let per_thread = (2 * product.mr + 2) * PANELS_PER_TASK * NR * 4;
    let run = move |exec: &Exec<'_>| {
        let scratch = exec.shared().0 as usize;
        if !product.packed {
            product.pack_weights(exec, scratch);
        }
        product.pack_activations(exec, scratch + panels);
        let weights = if product.packed { exec.address(product.b.tensor) as usize } else { scratch };
        product.multiply(exec, weights, scratch + panels);
        Ok(())
    };
    Prepared::new(run, panels + activations, per_thread)
}

impl Product {
    fn pack_weights(&self, exec: &Exec<'_>, to: usize) {
        let len = panel_len_i8(self.k);
        let from = exec.address(self.b.tensor) as usize;
        exec.run(self.n.div_ceil(NR), &|panel, _| {
            let span = (self.n - 1) * self.b.pitch() + (self.k.max(1) - 1) * self.b.step() + usize::from(self.k > 0);
            // SAFETY: the graph checked the operand; each task writes its own panel of the shared scratch.
            unsafe {
                let data = std::slice::from_raw_parts(from as *const i8, span);
                let source =
                    WeightMatrix { data, n: self.n, k: self.k, n_stride: self.b.pitch(), k_stride: self.b.step() };
                pack_panel_i8(std::slice::from_raw_parts_mut((to as *mut i8).add(panel * len), len), &source, panel);
            }
        });
    }

    fn pack_activations(&self, exec: &Exec<'_>, to: usize) {
        let len = self.mr * self.k.next_multiple_of(4);
        let pack = exec.kernels().pack_a_i8.run;
        exec.run(self.m.div_ceil(self.mr), &|tile, _| {
            let first = tile * self.mr;
            let rows = self.mr.min(self.m - first);
            // SAFETY: the table accepts evenly spaced rows only; each task writes its own micro-panel.
            unsafe {
                let from = exec.address(self.a.tensor).cast::<i8>().add(self.a.offset(first));
                let data = std::slice::from_raw_parts(from, (rows - 1) * self.a.pitch() + self.k);
                let out = std::slice::from_raw_parts_mut((to as *mut i8).add(tile * len), len);
                pack(out, data, self.a.pitch(), rows, self.k);
            }
        });
    }

    fn multiply(&self, exec: &Exec<'_>, weights: usize, activations: usize) {
        let (panel, tile_len) = (panel_len_i8(self.k), self.mr * self.k.next_multiple_of(4));
        let all = self.n.div_ceil(NR);
        let gemm = exec.kernels().gemm_i8.run;
        exec.run(all.div_ceil(PANELS_PER_TASK), &|task, thread| {
            let p0 = task * PANELS_PER_TASK;
            let panels = PANELS_PER_TASK.min(all - p0);
            let columns = (self.n - p0 * NR).min(panels * NR);
            let ldc = PANELS_PER_TASK * NR;
            for tile in 0..self.m.div_ceil(self.mr) {
                let m = self.mr.min(self.m - tile * self.mr);
                // SAFETY: the pool gave this thread; weights and activations are complete and only read; tasks write
                // disjoint columns of the result.
                unsafe {
                    let (sums, rest) = exec.scratch(thread).split_at_mut(self.mr * ldc);
                    let w = std::slice::from_raw_parts((weights as *const i8).add(p0 * panel), panels * panel);
                    let a = std::slice::from_raw_parts((activations as *const i8).add(tile * tile_len), tile_len);
                    let c = sums.as_mut_ptr().cast::<i32>();
                    let block = GemmBlock {
                        m,
                        kc: self.k,
                        a,
                        w,
                        panel_stride: panel,
                        panels,
                        c,
                        ldc,
                        columns,
                        accumulate: false,
                    };
                    gemm(&block);
                    for i in 0..m {
                        let sums = std::slice::from_raw_parts(c.add(i * ldc), columns);
                        self.finish(exec, tile * self.mr + i, p0 * NR, sums, rest);
                    }
                }
            }
        });
    }

    /// Scales the sums of columns `first..` of row `r` and writes them.
    ///
    /// # Safety
    /// No other task touches these columns; `buf` holds three times as many elements as `sums`.
    unsafe fn finish(&self, exec: &Exec<'_>, r: usize, first: usize, sums: &[i32], buf: &mut [f32]) {
        let k = exec.kernels();
        let [sa, sb] = &self.scales;
        let (out, buf) = buf.split_at_mut(sums.len());
        let (part, _) = buf.split_at_mut(sums.len());
        // SAFETY: scales have one entry, or one per row or column; the bias has one per column.
        unsafe {
            let row = if sa.len == 1 { 0 } else { r };
            let mut a = [0.0];
            sa.read_part(k, exec.address(sa.tensor), 0, row, &mut a);
            if sb.len == 1 {
                let mut one = [0.0];
                sb.read_part(k, exec.address(sb.tensor), 0, 0, &mut one);
                part.fill(one[0]);
            } else {
                sb.read_part(k, exec.address(sb.tensor), 0, first, part);
            }
            let scale = f64::from(a[0]);
            match &self.sum_bias {
                None => {
                    for ((o, &sum), &b) in out.iter_mut().zip(sums).zip(&*part) {
                        *o = (f64::from(sum) * scale * f64::from(b)) as f32;
                    }
                }
                Some(joins) => {
                    let base = exec.address(joins.tensor).cast::<i32>();
                    for (j, ((o, &sum), &b)) in out.iter_mut().zip(sums).zip(&*part).enumerate() {
                        let joined = *base.add((first + j) * joins.step());
                        *o = ((f64::from(sum) + f64::from(joined)) * scale * f64::from(b)) as f32;
                    }
                }
            }
            if let Some(bias) = &self.bias {
                bias.read_part(k, exec.address(bias.tensor), 0, first, part);
                out.iter_mut().zip(&*part).for_each(|(o, b)| *o += b);
            }
            self.out.write(k, exec.address(self.out.tensor), r, first, out);
        }
    }
}
