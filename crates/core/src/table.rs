//! A backend's table of kernels: the answer to `support` and the launch in `plan` come from the same row, so they can't
//! drift.

use crate::dtype::DType;
use crate::graph::{Graph, NodeView};
use crate::op::OpKind;
use crate::support::{NodeSupport, Reason, Support};

/// What a row accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// The node as it is.
    Native,
    /// The node once this constant operand is in this private layout.
    Relayout {
        /// The operand's position among the inputs.
        operand: usize,
        /// The layout's id, never 0.
        layout: u64,
    },
}

/// One kernel: which operator, its name, what it accepts, and how it is launched.
pub struct Row<L> {
    /// The operator.
    pub op: OpKind,
    /// The kernel's name, printed as `what.how`.
    pub name: &'static str,
    /// The dtype to which the kernel rounds activations first, where it does.
    pub act_dtype: Option<DType>,
    /// Whether the kernel runs a node, or why not.
    pub accepts: fn(&NodeView<'_>) -> Result<Accept, Reason>,
    /// What the backend needs to launch it.
    pub launch: L,
}

/// A backend's kernels. Of several rows for one operator the first that accepts a node runs it.
pub struct OpTable<L> {
    rows: Vec<Row<L>>,
}

impl<L> OpTable<L> {
    /// The table of these rows, best kernel first.
    pub fn new(rows: Vec<Row<L>>) -> Self {
        OpTable { rows }
    }

    /// The row that runs a node and what it asks for, or the reason of the first row that was tried.
    ///
    /// # Errors
    /// The reason why no row accepts the node.
    pub fn find(&self, node: &NodeView<'_>) -> Result<(&Row<L>, Accept), Reason> {
        let mut refused = None;
        for row in self.rows.iter().filter(|r| r.op == node.kind()) {
            match (row.accepts)(node) {
                Ok(accept) => return Ok((row, accept)),
                Err(reason) => refused = refused.or(Some(reason)),
            }
        }
        Err(refused.unwrap_or_else(Reason::operator))
    }

    /// The answer for one node.
    pub fn support_node(&self, node: &NodeView<'_>) -> NodeSupport {
        match self.find(node) {
            Ok((row, accept)) => NodeSupport {
                answer: match accept {
                    Accept::Native => Support::Native,
                    Accept::Relayout { operand, layout } => Support::Relayout { operand, layout },
                },
                kernel: row.name.into(),
                act_dtype: row.act_dtype,
            },
            Err(reason) => NodeSupport::no(reason),
        }
    }

    /// The answer for every node.
    pub fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        graph.views().map(|n| self.support_node(&n)).collect()
    }

    /// The rows, in order.
    pub fn rows(&self) -> &[Row<L>] {
        &self.rows
    }
}
