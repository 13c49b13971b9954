//! What follows a matrix product: bias, residual, GELU, a gate, and the rounding to the dtype of the result.

use half::{bf16, f16};
use qiao_core::{DType, Epilogue, NodeView, Reason, Rule};
use qiao_kernels_cpu::Kernels;

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
pub(crate) struct Tail {
    epilogue: Epilogue,
    bias: Option<Operand>,
    residual: Option<Operand>,
    out: Operand,
    role: Role,
}

/// Where the result of a product goes.
enum Role {
    /// To its place.
    Writes,
    /// Nowhere: it waits for the product that it gates.
    Gate(Kept),
    /// It meets the gate, and `silu(gate) · result` goes to the operand.
    Gated(Kept, Operand),
}

/// The part of a thread's scratch in which the result of a task waits.
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    /// Its first byte.
    pub(crate) at: usize,
    /// Rows that wait together.
    pub(crate) rows: usize,
    /// Columns of a task.
    pub(crate) columns: usize,
}

impl Kept {
    /// Where row `r` of a result waits.
    fn row(self, exec: &Exec<'_>, thread: usize, r: usize) -> *mut f32 {
        exec.kept(thread, self.at + 4 * (r % self.rows) * self.columns)
    }
}

impl Tail {
    /// What follows a product whose bias and residual are these operands.
    pub(super) fn new(node: &NodeView<'_>, epilogue: Epilogue, bias: usize, residual: usize) -> Self {
        Tail {
            epilogue,
            bias: Operand::input(node, bias),
            residual: Operand::input(node, residual),
            out: Operand::output(node, 0),
            role: Role::Writes,
        }
    }

    /// Whether there is nothing but a bias between the product and its result.
    pub(super) fn is_plain(&self) -> bool {
        self.epilogue != Epilogue::Gelu && self.residual.is_none()
    }

    /// Has results wait for the product that they gate.
    pub(super) fn keep(&mut self, kept: Kept) {
        self.role = Role::Gate(kept);
    }

    /// Has results meet their gate on the way to `out`.
    pub(super) fn gate(&mut self, kept: Kept, out: Operand) {
        self.role = Role::Gated(kept, out);
    }

    /// Finishes columns `first..` of result row `r` from the f32 products `c`, and writes them. `buf` has twice as
    /// many elements as `c`.
    ///
    /// # Safety
    /// The pool gave `thread` to the running task, and no other task touches these columns.
    pub(super) unsafe fn finish(
        &self,
        exec: &Exec<'_>,
        thread: usize,
        r: usize,
        first: usize,
        c: &mut [f32],
        buf: &mut [f32],
    ) {
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
        let done: &mut [f32] = if self.epilogue == Epilogue::Gelu {
            (k.gelu_erf.run)(&mut spare[..c.len()], c);
            &mut spare[..c.len()]
        } else {
            c
        };
        // SAFETY: as the caller vouches; a gate waits in the scratch of the thread that runs both tasks.
        unsafe {
            match &self.role {
                Role::Writes => self.out.write(k, exec.address(self.out.tensor), r, first, done),
                Role::Gate(kept) => {
                    let row = std::slice::from_raw_parts_mut(kept.row(exec, thread, r), done.len());
                    row.copy_from_slice(done);
                    round(k, self.out.dtype, row, part);
                }
                Role::Gated(kept, out) => {
                    round(k, self.out.dtype, done, part);
                    let gate = std::slice::from_raw_parts(kept.row(exec, thread, r), done.len());
                    (k.silu_mul.run)(part, gate, done);
                    out.write(k, exec.address(out.tensor), r, first, part);
                }
            }
        }
    }
}

/// Rounds values to a dtype, of which `buf` holds as many.
fn round(k: &Kernels, dtype: DType, values: &mut [f32], buf: &mut [f32]) {
    assert!(buf.len() >= values.len(), "room for the rounded values");
    let to = buf.as_mut_ptr();
    // SAFETY: elements of 16 bits fit where as many f32 do, and any bits are one.
    unsafe {
        match dtype {
            DType::F16 => {
                let to = std::slice::from_raw_parts_mut(to.cast::<f16>(), values.len());
                (k.f32_to_f16.run)(to, values);
                (k.f16_to_f32.run)(values, to);
            }
            DType::BF16 => {
                let to = std::slice::from_raw_parts_mut(to.cast::<bf16>(), values.len());
                (k.f32_to_bf16.run)(to, values);
                (k.bf16_to_f32.run)(values, to);
            }
            _ => {}
        }
    }
}
