//! Operators on the device: the table of rows, and the plan that runs them.
//!
//! A row says which nodes it takes and which of AscendCL's functions it calls, and queues them. What it takes on a chip follows
//! from the chip's row, too: dtypes, and functions that its documentation leaves out.

mod accept;
mod nz;

mod launcher;

mod attention;
mod cache;
mod elementwise;
mod moves;
mod norms;
mod products;
mod rope;

mod plan;

use qiao_core::{
    Accept, DType, Limit, NodeSupport, NodeView, OpKind, OpTable, Property, Reason, Result, Row, Rule, sound,
};

use crate::chips::Chip;
use crate::operators::Operators;
use launcher::Launcher;

pub(crate) use attention::mask;
pub(crate) use nz::Blocks;
pub(crate) use plan::AscendPlan;

/// What a row does when its node's turn comes.
pub(crate) struct Launch {
    /// AscendCL's functions that it calls.
    pub(crate) needs: &'static [&'static str],
    /// Bytes of working room, each piece's in order.
    pub(crate) room: fn(&NodeView<'_>) -> Vec<usize>,
    /// Queues it; the offsets of its pieces of room are given.
    pub(crate) run: fn(&mut Launcher<'_>, &NodeView<'_>, &[usize]) -> Result<()>,
}

/// The rows.
pub(crate) type Table = OpTable<Launch>;

/// A row without working room.
fn row(
    op: OpKind,
    name: &'static str,
    needs: &'static [&'static str],
    accepts: fn(&NodeView<'_>) -> Result<Accept, Reason>,
    run: fn(&mut Launcher<'_>, &NodeView<'_>, &[usize]) -> Result<()>,
) -> Row<Launch> {
    Row { op, name, act_dtype: None, accepts, launch: Launch { needs, room: |_| Vec::new(), run } }
}

/// A row that works in pieces of room.
fn row_in(row: Row<Launch>, room: fn(&NodeView<'_>) -> Vec<usize>) -> Row<Launch> {
    Row { launch: Launch { room, ..row.launch }, ..row }
}

/// Every row, best first for each operator.
pub(crate) fn table() -> Table {
    let mut all = moves::rows();
    all.extend(elementwise::rows());
    all.extend(products::rows());
    all.extend(norms::rows());
    all.extend(rope::rows());
    all.extend(cache::rows());
    all.extend(attention::rows());
    OpTable::new(all)
}

/// What rows are looked for with: the chip, and what the library has.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    pub(crate) chip: &'static Chip,
    pub(crate) operators: &'static Operators,
}

impl Here {
    /// The row that runs a node and what it asks for.
    ///
    /// # Errors
    /// Why none does.
    pub(crate) fn find<'t>(&self, table: &'t Table, node: &NodeView<'_>) -> Result<(&'t Row<Launch>, Accept), Reason> {
        let (found, accept) = sound::find(table, node)?;
        if !sound::writes_nothing(node) {
            self.allows(found, node)?;
        }
        Ok((found, accept))
    }

    /// # Errors
    /// What of a row this chip, or this library, does not have.
    fn allows(&self, row: &Row<Launch>, node: &NodeView<'_>) -> Result<(), Reason> {
        let chip = self.chip;
        let lacks = |what: String| Reason {
            operand: None,
            property: Property::Operator,
            rule: Rule::None,
            value: Limit::Text(what),
            limit: Limit::None,
        };
        if let Some(name) = row.launch.needs.iter().find(|n| chip.lacks.contains(n)) {
            return Err(lacks(format!("{name}, which is not documented for {}", chip.products)));
        }
        if let Some(name) = row.launch.needs.iter().find(|n| !self.operators.has(n)) {
            return Err(lacks(format!("{name}, which libopapi.so lacks")));
        }
        for (i, desc) in node.operands().filter(|(_, d)| accept::FLOATS.contains(&d.dtype)) {
            if !chip.floats.contains(&desc.dtype) {
                return Err(Reason::dtype(i, desc.dtype, chip.floats));
            }
            if desc.dtype == DType::F32 && node.kind() == OpKind::Matmul && !chip.f32_products {
                return Err(Reason::dtype(i, desc.dtype, &[DType::F16]));
            }
        }
        let narrow = matches!(node.kind(), OpKind::RmsNorm | OpKind::AddRmsNorm | OpKind::SiluMul | OpKind::LayerNorm);
        if narrow && !chip.short_rows {
            let (x, least) = (node.required(0), if node.kind() == OpKind::SiluMul { 64 } else { 32 });
            let bytes = x.shape.last_dim() * x.dtype.block_bytes();
            if !bytes.is_multiple_of(least) {
                return Err(Reason::operand(
                    0,
                    Property::Dim(x.rank().saturating_sub(1)),
                    Rule::MultipleOf,
                    bytes,
                    least,
                ));
            }
        }
        Ok(())
    }

    /// The answer for one node.
    pub(crate) fn support(&self, table: &Table, node: &NodeView<'_>) -> NodeSupport {
        match self.find(table, node) {
            Ok((row, accept)) => NodeSupport {
                answer: match accept {
                    Accept::Native => qiao_core::Support::Native,
                    Accept::Relayout { operand, layout } => qiao_core::Support::Relayout { operand, layout },
                },
                kernel: format!("{}.ascend", row.name),
                act_dtype: None,
            },
            Err(reason) => NodeSupport::no(reason),
        }
    }
}
