//! Operators on the card: the table of kernels, and the plan that runs them.

pub(crate) mod launch;

use qiao_core::OpTable;

use launch::Table;

/// Every kernel of the card, best first for each operator.
pub(crate) fn table() -> Table {
    OpTable::new(Vec::new())
}
