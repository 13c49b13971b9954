//! What the chip runs: one row an operator, behind the chip's limits. `support` and `plan` ask the same function.

mod accept;
mod attention;
mod gather;
mod matmul;
mod quantised;
mod truths;

use qiao_core::{Accept, Graph, NodeSupport, NodeView, OpKind, OpTable, Reason, Result, Row, Support, for_each_op};
use qiao_reference::value::Output;

use crate::limits::{Limits, Numerics};

/// Computes a node from the bytes of its operands.
pub(crate) type Launch = fn(Numerics, NodeView<'_>, &[Option<&[u8]>]) -> Result<Vec<Output>>;

macro_rules! rows {
    ($($(#[$doc:meta])* $variant:ident($attrs:ident) = $code:literal, $name:literal, $tier:ident,
       [$($input:literal),*] => [$($output:literal),*], $rule:ident, $cost:ident, $decompose:ident;)*) => {
        /// A row for every operator of the list.
        fn rows() -> Vec<Row<Launch>> {
            vec![$(Row {
                op: OpKind::$variant,
                name: concat!($name, ".sim"),
                act_dtype: None,
                accepts: |_| Ok(Accept::Native),
                launch: launch(OpKind::$variant),
            },)*]
        }
    };
}

for_each_op!(rows);

/// Products and attention are the chip's own; what is cheap is computed as the truth has it.
fn launch(kind: OpKind) -> Launch {
    match kind {
        OpKind::Matmul => matmul::matmul,
        OpKind::MatmulQuant => quantised::matmul_quant,
        OpKind::ScaledMatmul => quantised::scaled_matmul,
        OpKind::AttentionPrefill => attention::prefill,
        OpKind::AttentionDecode => attention::decode,
        OpKind::GatherRows => gather::gather_rows,
        _ => truths::truth,
    }
}

/// A chip's kernels.
pub(crate) struct Kernels {
    pub(crate) limits: Limits,
    table: OpTable<Launch>,
}

impl Kernels {
    pub(crate) fn new(limits: Limits) -> Kernels {
        Kernels { limits, table: OpTable::new(rows()) }
    }

    /// The row that runs a node and what it asks for.
    ///
    /// # Errors
    /// Why the chip does not run it.
    fn find(&self, node: &NodeView<'_>) -> Result<(&Row<Launch>, Accept), Reason> {
        let accept = accept::accept(&self.limits, node)?;
        Ok((self.table.find(node)?.0, accept))
    }

    /// The answer for every node.
    pub(crate) fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        let answer = |node: NodeView<'_>| match self.find(&node) {
            Ok((row, Accept::Native)) => NodeSupport::native(row.name),
            Ok((row, Accept::Relayout { operand, layout })) => {
                NodeSupport { answer: Support::Relayout { operand, layout }, ..NodeSupport::native(row.name) }
            }
            Err(reason) => NodeSupport::no(reason),
        };
        graph.views().map(answer).collect()
    }

    /// How every node is launched; nothing unless each is native.
    pub(crate) fn launches(&self, graph: &Graph) -> Option<Vec<Launch>> {
        let launch = |node: NodeView<'_>| match self.find(&node) {
            Ok((row, Accept::Native)) => Some(row.launch),
            _ => None,
        };
        graph.views().map(launch).collect()
    }
}
