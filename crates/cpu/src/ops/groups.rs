//! Scales and zeros that lie beside the codes, as the kernels of panels take them: f32 `[chunk][16]`.

use half::{bf16, f16};
use qiao_core::{Accept, DType, MatmulQuantAttrs, NodeView, Property, Reason, Rule};
use qiao_kernels_cpu::{CHUNK, NR};

use super::access::Operand;
use super::dequantise::number;
use super::exec::Exec;
use super::quant_panels::{QUANT_GROUPS, group_bytes};
use super::sound::can_be_packed;

/// Accepts groups of whole chunks whose scales and zeros are constants that can be packed, or are shared by whole panels.
pub(super) fn accepts_groups(node: &NodeView<'_>, attrs: &MatmulQuantAttrs) -> Result<Accept, Reason> {
    let w = node.required(1);
    let size = attrs.group_size as usize;
    if !size.is_multiple_of(CHUNK) && size < w.shape[1] {
        return Err(Reason::attribute("group_size", Rule::MultipleOf, size, CHUNK));
    }
    if node.input(4).is_some() {
        return Err(Reason::operand(4, Property::Memory, Rule::None, "given", ""));
    }
    let rows = (attrs.group_rows as usize).max(1);
    if rows > 1 && !rows.is_multiple_of(NR) {
        return Err(Reason::attribute("group_rows", Rule::MultipleOf, rows, NR));
    }
    let mut answer = Accept::Native;
    for i in [2, 3] {
        let Some(desc) = node.input(i) else { continue };
        if rows > 1 && desc.layout == 0 {
            continue;
        }
        let packs = desc.constant && can_be_packed(node, i) && group_bytes(desc.dtype).is_some();
        match desc.layout {
            QUANT_GROUPS if rows == 1 => {}
            0 if packs => {
                if answer == Accept::Native {
                    answer = Accept::Relayout { operand: i, layout: QUANT_GROUPS };
                }
            }
            _ => {
                return Err(Reason::operand(i, Property::Memory, Rule::Equal, "not constant", "a constant of its own"));
            }
        }
    }
    Ok(answer)
}

/// Scales or zeros.
struct Table {
    operand: Operand,
    /// Whether they are in [`QUANT_GROUPS`].
    packed: bool,
}

/// Scales, and zeros where there are some.
pub(super) struct Groups {
    scales: Table,
    zeros: Option<Table>,
    /// Groups along K, chunks in each, outputs that share a scale.
    count: usize,
    chunks: usize,
    rows: usize,
}

impl Groups {
    /// The groups of a node that [`accepts_groups`] accepted.
    pub(super) fn new(node: &NodeView<'_>, attrs: &MatmulQuantAttrs) -> Self {
        let k = node.required(1).shape[1];
        let size = if attrs.group_size == 0 { k } else { k.min(attrs.group_size as usize) };
        let table = |i: usize| {
            let packed = node.input(i)?.layout == QUANT_GROUPS;
            Operand::input(node, i).map(|operand| Table { operand, packed })
        };
        let scales = table(2).expect("the graph checked that codes have scales");
        Groups {
            count: scales.operand.len,
            scales,
            zeros: table(3),
            chunks: size.div_ceil(CHUNK).max(1),
            rows: (attrs.group_rows as usize).max(1),
        }
    }

    /// Writes the scales of chunks `first..` of a panel, `[chunks][16]`, and the zeros where there are some; `spare` holds
    /// as many f32 as `scales`.
    ///
    /// # Safety
    /// All operands are live and initialised, and the panel and the chunks exist.
    pub(super) unsafe fn expand(
        &self,
        exec: &Exec<'_>,
        panel: usize,
        first: usize,
        scales: &mut [f32],
        zeros: &mut [f32],
        spare: &mut [f32],
    ) {
        // SAFETY: as the caller vouches.
        unsafe {
            self.expand_one(exec, &self.scales, panel, first, scales, spare);
            if let Some(table) = &self.zeros {
                self.expand_one(exec, table, panel, first, zeros, spare);
            }
        }
    }

    /// # Safety
    /// As [`Groups::expand`].
    unsafe fn expand_one(
        &self,
        exec: &Exec<'_>,
        table: &Table,
        panel: usize,
        first: usize,
        out: &mut [f32],
        spare: &mut [f32],
    ) {
        let chunks = out.len() / NR;
        let groups = first / self.chunks..(first + chunks).div_ceil(self.chunks);
        let spare = &mut spare[..groups.len() * NR];
        // SAFETY: as the caller vouches; a panel of packed scales has 16 for each group.
        unsafe {
            if table.packed {
                read(exec, &table.operand, (panel * self.count + groups.start) * NR, spare);
            } else {
                let base = exec.address(table.operand.tensor);
                for (g, row) in groups.clone().zip(spare.chunks_exact_mut(NR)) {
                    row.fill(number(&table.operand, base, panel * NR / self.rows, g));
                }
            }
        }
        for (i, row) in out.chunks_exact_mut(NR).enumerate() {
            let g = (first + i) / self.chunks - groups.start;
            row.copy_from_slice(&spare[g * NR..][..NR]);
        }
    }
}

/// Elements of packed scales from `at` on as f32.
///
/// # Safety
/// They exist, and their memory is live.
unsafe fn read(exec: &Exec<'_>, x: &Operand, at: usize, out: &mut [f32]) {
    let (k, base) = (exec.kernels(), exec.address(x.tensor).cast_const());
    // SAFETY: the caller vouches for the elements; tensors are aligned to their elements.
    unsafe {
        match x.dtype {
            DType::F32 => out.copy_from_slice(std::slice::from_raw_parts(base.cast::<f32>().add(at), out.len())),
            DType::F16 => (k.f16_to_f32.run)(out, std::slice::from_raw_parts(base.cast::<f16>().add(at), out.len())),
            DType::BF16 => {
                (k.bf16_to_f32.run)(out, std::slice::from_raw_parts(base.cast::<bf16>().add(at), out.len()));
            }
            DType::I8 | DType::I4 => {
                let codes = std::slice::from_raw_parts(base.cast::<i8>().add(at), out.len());
                out.iter_mut().zip(codes).for_each(|(o, c)| *o = f32::from(*c));
            }
            _ => {
                let codes = std::slice::from_raw_parts(base.add(at), out.len());
                out.iter_mut().zip(codes).for_each(|(o, c)| *o = f32::from(*c));
            }
        }
    }
}
