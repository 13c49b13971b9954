//! Scales and zeros that lie beside the codes, as the kernels of panels take them: f32 `[chunk][16]`.

use std::ops::Range;

use half::{bf16, f16};
use qiao_core::{Accept, DType, Error, MatmulQuantAttrs, NodeView, Property, Reason, Rule};
use qiao_kernels_cpu::{CHUNK, NR};

use super::access::Operand;
use super::exec::Exec;
use super::moves::number;
use super::quant_panels::{QUANT_GROUPS, group_bytes};
use super::sound::can_be_packed;

/// Accepts groups of whole chunks whose scales and zeros are constants that can be packed, or are shared by whole panels.
pub(super) fn accepts_groups(node: &NodeView<'_>, attrs: &MatmulQuantAttrs) -> Result<Accept, Reason> {
    let w = node.required(1);
    let size = attrs.group_size as usize;
    if !size.is_multiple_of(CHUNK) && size < w.shape[1] && node.input(4).is_none() {
        return Err(Reason::attribute("group_size", Rule::MultipleOf, size, CHUNK));
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
    /// The group of each input, where they are in no order.
    order: Option<Operand>,
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
            order: Operand::input(node, 4),
            chunks: size.div_ceil(CHUNK).max(1),
            rows: (attrs.group_rows as usize).max(1),
        }
    }

    /// Whether inputs name their groups, so that scales are for [`Groups::apply`].
    pub(super) fn ordered(&self) -> bool {
        self.order.is_some()
    }

    /// Whether [`Groups::expand`] gives zeros.
    pub(super) fn subtracts(&self) -> bool {
        self.zeros.is_some() && !self.ordered()
    }

    /// f32 of scratch that [`Groups::apply`] needs.
    pub(super) fn scratch(&self) -> usize {
        if self.ordered() { 2 * self.count * NR } else { 0 }
    }

    /// Checks what only the data can tell: every input names a group that has scales.
    ///
    /// # Errors
    /// The first that does not.
    pub(super) fn check(&self, exec: &Exec<'_>) -> Result<(), Error> {
        self.order.as_ref().map_or(Ok(()), |order| check_order(exec, order, self.count))
    }

    /// Makes weights of the codes of inputs `first..`, `[inputs][16]`, each input in the group that it names.
    ///
    /// # Safety
    /// As [`Groups::expand`]; [`Groups::check`] found no fault.
    pub(super) unsafe fn apply(
        &self,
        exec: &Exec<'_>,
        panel: usize,
        first: usize,
        codes: &mut [f32],
        scratch: &mut [f32],
    ) {
        let Some(order) = &self.order else { return };
        let (scales, zeros) = scratch[..self.scratch()].split_at_mut(self.count * NR);
        let base = exec.address(order.tensor);
        // SAFETY: as the caller vouches; inputs past the last are padding.
        unsafe {
            self.read_groups(exec, &self.scales, panel, 0..self.count, scales);
            match &self.zeros {
                Some(table) => self.read_groups(exec, table, panel, 0..self.count, zeros),
                None => zeros.fill(0.0),
            }
            for (k, codes) in (first..order.len).zip(codes.chunks_exact_mut(NR)) {
                let g = order.index(base, k * order.step()) as usize * NR;
                for ((code, scale), zero) in codes.iter_mut().zip(&scales[g..g + NR]).zip(&zeros[g..g + NR]) {
                    *code = (*code - zero) * scale;
                }
            }
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

    /// The numbers of some groups of a panel, `[groups][16]`.
    ///
    /// # Safety
    /// As [`Groups::expand`]; the groups exist.
    unsafe fn read_groups(&self, exec: &Exec<'_>, table: &Table, panel: usize, groups: Range<usize>, out: &mut [f32]) {
        // SAFETY: as the caller vouches; a panel of packed scales has 16 for each group.
        unsafe {
            if table.packed {
                return read(exec, &table.operand, (panel * self.count + groups.start) * NR, out);
            }
            let base = exec.address(table.operand.tensor);
            for (g, row) in groups.zip(out.chunks_exact_mut(NR)) {
                row.fill(number(&table.operand, base, panel * NR / self.rows, g));
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
        // SAFETY: as the caller vouches.
        unsafe { self.read_groups(exec, table, panel, groups.clone(), spare) };
        for (i, row) in out.chunks_exact_mut(NR).enumerate() {
            let g = (first + i) / self.chunks - groups.start;
            row.copy_from_slice(&spare[g * NR..][..NR]);
        }
    }
}

/// Checks that every input names one of `groups` groups.
///
/// # Errors
/// The first that does not.
pub(super) fn check_order(exec: &Exec<'_>, order: &Operand, groups: usize) -> Result<(), Error> {
    for k in 0..order.len {
        // SAFETY: the graph checked that there is one entry for each input.
        let g = unsafe { order.index(exec.address(order.tensor), k * order.step()) };
        if usize::try_from(g).map_or(true, |g| g >= groups) {
            let found = format!("group {g} of {groups} for input {k}");
            return Err(Error::invalid("matmul_quant g_idx", found, "name groups that have scales"));
        }
    }
    Ok(())
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
