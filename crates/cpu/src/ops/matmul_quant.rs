//! Products with quantised weights, the activations as they are.
//!
//! Weights of any format, constant or not, are decoded panel by panel and multiplied.

use qiao_core::{Accept, DType, MatmulQuantAttrs, NodeView, Op, OpKind, Reason, Row};
use qiao_kernels_cpu::{Element, NR, WeightMatrix, pack_panel};

use super::access::Operand;
use super::dequantise::{Dequantise, accepts_weights};
use super::exec::{Core, Exec, Prepare, Prepared, row};
use super::pack::panel;
use super::tail::{Tail, epilogue_in_reach};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![row(OpKind::MatmulQuant, "matmul_quant_decoded", accepts_decoded, decoded)]
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

fn accepts_decoded(node: &NodeView<'_>) -> Result<Accept, Reason> {
    accepts_activations(node)?;
    accepts_weights(node)
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
