//! The weights of a `matmul_quant` as f32, row by row, whatever their format, strides and groups.

use qiao_core::{Accept, DType, MatmulQuantAttrs, NodeView, Property, Reason, Result, Rule};

use super::access::Operand;
use super::exec::{Exec, no_layouts};
use super::groups::check_order;
use super::moves::{get, number, small, unpack_row};

/// Accepts codes whose values an f32 holds, with scales, zeros and groups of any dtype.
pub(super) fn accepts_weights(node: &NodeView<'_>) -> std::result::Result<Accept, Reason> {
    let w = node.required(1);
    let narrow = matches!(w.dtype, DType::I16 | DType::U16 | DType::I8 | DType::U8 | DType::Bool);
    if !(w.dtype.is_packed() || narrow || small(w.dtype).is_some()) {
        return Err(Reason::operand(1, Property::Dtype, Rule::None, w.dtype, ""));
    }
    no_layouts(node)
}

/// Weights `[N, K]`, and how their codes become numbers.
pub(super) struct Dequantise {
    w: Operand,
    scales: Option<Operand>,
    zeros: Option<Operand>,
    g_idx: Option<Operand>,
    /// Inputs that share a scale, outputs that do.
    group: (usize, usize),
}

impl Dequantise {
    pub(super) fn new(node: &NodeView<'_>, attrs: &MatmulQuantAttrs) -> Self {
        let w = Operand::required(node, 1);
        let group = if attrs.group_size == 0 { w.len } else { attrs.group_size as usize };
        let [scales, zeros, g_idx] = [2, 3, 4].map(|i| Operand::input(node, i));
        Dequantise { w, scales, zeros, g_idx, group: (group.max(1), (attrs.group_rows as usize).max(1)) }
    }

    /// f32 of scratch that a thread needs: a scale and a zero for each group.
    pub(super) fn scratch(&self) -> usize {
        2 * self.groups()
    }

    fn groups(&self) -> usize {
        self.scales.as_ref().map_or(0, |s| s.len)
    }

    /// Checks what only the data can tell: every input channel names a group that has scales.
    ///
    /// # Errors
    /// The first that does not.
    pub(super) fn check(&self, exec: &Exec<'_>) -> Result<()> {
        self.g_idx.as_ref().map_or(Ok(()), |order| check_order(exec, order, self.groups()))
    }

    /// Row `n` of the weights in `out`, which holds K elements; `spare` holds [`Dequantise::scratch`].
    ///
    /// # Safety
    /// `n` is a row of the weights, all operands are live and initialised, and [`Dequantise::check`] found no fault.
    pub(super) unsafe fn row(&self, exec: &Exec<'_>, n: usize, out: &mut [f32], spare: &mut [f32]) {
        // SAFETY: as the caller vouches.
        unsafe {
            let base = exec.address(self.w.tensor);
            if self.w.dtype.is_packed() {
                unpack_row(&self.w, base, n, out);
            } else {
                out.iter_mut().enumerate().for_each(|(k, o)| *o = get(&self.w, base, n, k) as f32);
            }
            let Some(scales) = &self.scales else { return };
            let (s, z) = spare[..self.scratch()].split_at_mut(self.groups());
            let row = n / self.group.1;
            s.iter_mut().enumerate().for_each(|(g, s)| *s = number(scales, exec.address(scales.tensor), row, g));
            match &self.zeros {
                Some(zeros) => {
                    let base = exec.address(zeros.tensor);
                    z.iter_mut().enumerate().for_each(|(g, z)| *z = number(zeros, base, row, g));
                }
                None => z.fill(0.0),
            }
            let Some(g_idx) = &self.g_idx else {
                for ((codes, s), z) in out.chunks_mut(self.group.0).zip(s).zip(z) {
                    codes.iter_mut().for_each(|c| *c = (*c - *z) * *s);
                }
                return;
            };
            let base = exec.address(g_idx.tensor);
            for (k, c) in out.iter_mut().enumerate() {
                let g = g_idx.index(base, k * g_idx.step()) as usize;
                *c = (*c - z[g]) * s[g];
            }
        }
    }
}
