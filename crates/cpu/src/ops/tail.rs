//! What follows a matrix product: bias, residual, GELU, and the rounding to the dtype of the result.

use qiao_core::{Epilogue, NodeView, Reason, Rule};

use super::access::Operand;
use super::exec::Exec;

/// Accepts the epilogues that [`Tail`] finishes.
pub(super) fn epilogue_in_reach(epilogue: Epilogue) -> Result<(), Reason> {
    match epilogue {
        // Its two halves lie far apart in N, so it is a product and a silu_mul.
        e @ Epilogue::SiluMul => {
            Err(Reason::attribute("epilogue", Rule::OneOf, e.to_string().as_str(), "none, bias, bias_residual, gelu"))
        }
        _ => Ok(()),
    }
}

/// What follows the product, row by row.
pub(super) struct Tail {
    epilogue: Epilogue,
    bias: Option<Operand>,
    residual: Option<Operand>,
    out: Operand,
}

impl Tail {
    /// What follows a product whose bias and residual are these operands.
    pub(super) fn new(node: &NodeView<'_>, epilogue: Epilogue, bias: usize, residual: usize) -> Self {
        Tail {
            epilogue,
            bias: Operand::input(node, bias),
            residual: Operand::input(node, residual),
            out: Operand::output(node, 0),
        }
    }

    /// Finishes columns `first..` of result row `r` from the f32 products `c`, and writes them. `buf` has twice as
    /// many elements as `c`.
    ///
    /// # Safety
    /// No other task touches these columns.
    pub(super) unsafe fn finish(&self, exec: &Exec<'_>, r: usize, first: usize, c: &mut [f32], buf: &mut [f32]) {
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
