//! Products with quantised weights.
//!
//! Constant weights come packed in panels of codes, which are multiplied as they are, however many the rows: see
//! [`Product::tiled`]. Where codes are integers the activations are rounded to integers of 16 bits (or 8, where the device
//! was opened so) in chunks of 32 inputs. Where inputs name their groups, many rows decode a block of K of some panels to f32
//! for the blocked product of plain f32. Weights that are not constant, or are grouped in ways that panels do not know, are
//! decoded panel by panel. Whichever it is, a row of the result does not depend on the rows beside it.

use half::{bf16, f16};
use qiao_core::{Accept, DType, MatmulQuantAttrs, NodeView, Op, OpKind, Property, Reason, Row, Rule};
use qiao_kernels_cpu::{CHUNK, Element, Kernels, NR, PackA, Weight, WeightMatrix, pack_panel};

use super::access::Operand;
use super::blocks::{Blocked, Blocks};
use super::dequantise::{Dequantise, accepts_weights};
use super::exec::{Core, Exec, Prepare, Prepared, row};
use super::groups::accepts_groups;
use super::pack::panel;
use super::quant_panels::{QUANT_PANELS, format, has_panels};
use super::quant_weights::Weights;
use super::sound::can_be_packed;
use super::tail::{Tail, epilogue_in_reach};

pub(super) fn rows(kernels: &Kernels) -> Vec<Row<Prepare>> {
    // In 16 bits a chunk's largest input keeps 15 and more: at least as close as f16.
    let act_dtype = Some(if kernels.integer_bits == 8 { DType::I8 } else { DType::F16 });
    let digits = |name, accepts| Row { act_dtype, ..row(OpKind::MatmulQuant, name, accepts, panels) };
    vec![
        digits("gemv_quant", accepts_gemv_digits),
        digits("gemm_quant", accepts_digits),
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

/// The most rows that stream the weights once.
const FEW: usize = 4;

fn accepts_gemv(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let m = node.required(0).shape.rows();
    if m > FEW {
        return Err(Reason::operand(0, Property::Dim(0), Rule::AtMost, m, FEW));
    }
    accepts_panels(node)
}

/// [`accepts_panels`] where codes are integers, and are multiplied as such: those of groups in no order are decoded.
fn accepts_digits(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let accept = accepts_panels(node)?;
    if node.input(4).is_some() {
        return Err(Reason::operand(4, Property::Memory, Rule::None, "given", ""));
    }
    match format(node.required(1).dtype) {
        Some(format) if format.has_integers() => Ok(accept),
        _ => Err(Reason::operand(1, Property::Dtype, Rule::None, node.required(1).dtype, "")),
    }
}

fn accepts_gemv_digits(node: &NodeView<'_>) -> Result<Accept, Reason> {
    accepts_gemv(node)?;
    accepts_digits(node)
}

fn accepts_decoded(node: &NodeView<'_>) -> Result<Accept, Reason> {
    accepts_activations(node)?;
    accepts_weights(node)
}

/// A product with weights in panels.
pub(super) struct Product {
    pub(super) a: Operand,
    pub(super) weights: Weights,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) tail: Tail,
}

fn panels(node: &NodeView<'_>, core: &Core) -> Prepared {
    let a = Operand::required(node, 0);
    let weights = Weights::new(node, &attrs(node), core);
    let tail = Tail::new(node, attrs(node).epilogue, 5, 6);
    let product = Product { m: a.rows(), n: node.required(1).shape[0], k: a.len, weights, tail, a };
    if product.m <= FEW || !product.weights.ordered() {
        return product.tiled(core);
    }
    let k = core.kernels;
    match product.a.dtype {
        DType::F32 => product.decoded::<f32>(core, k.pack_a_f32.run),
        DType::F16 => product.decoded::<f16>(core, k.pack_a_f16.run),
        _ => product.decoded::<bf16>(core, k.pack_a_bf16.run),
    }
}

impl Product {
    /// Many rows and decoded weights, in blocks. `A` is the dtype of the activations.
    fn decoded<A: Weight>(self, core: &Core, pack: PackA<A, f32>) -> Prepared {
        let gemm = core.kernels.gemm_f32;
        assert!(gemm.kc.is_multiple_of(CHUNK), "blocks of K are whole chunks");
        let cut = Blocks::new(self.m, self.n, self.k, gemm, core.pool.threads());
        let decoded = self.weights.scratch() + cut.panels * gemm.kc * NR;
        let Product { a, weights: source, m, tail, .. } = self;
        Blocked { cut, a, m, gemm, pack, source, tail }.prepare(decoded)
    }
}

/// A product whose weights are decoded on the way: one panel at a time, for all rows.
struct Variable {
    a: Operand,
    weights: Dequantise,
    m: usize,
    n: usize,
    k: usize,
    tail: Tail,
}

fn decoded(node: &NodeView<'_>, core: &Core) -> Prepared {
    let a = Operand::required(node, 0);
    let product = Variable {
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

impl Variable {
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
                self.tail.finish(exec, thread, r, first, &mut y[..width], spare);
            }
        }
    }
}
