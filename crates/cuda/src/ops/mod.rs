//! Operators on the card: the table of kernels, and the plan that runs them.
//!
//! A row of the table makes a node into launches, plain data that names tensors by their position in the graph. The plan loads
//! the kernels, places temporaries and lays out arguments; executing it fills addresses in and queues the launches.

mod program;

mod capture;

mod layouts;

mod plan;

use qiao_core::{Graph, NodeSupport, OpTable};
use qiao_launch::{
    Table, attention, casts, choose, elementwise, kv, matmul, matmul_quant, moves, norms, quantize, rope, rows,
    scaled_matmul,
};

pub(crate) use layouts::{layout, pack};
pub(crate) use plan::{Card, CudaPlan};

/// Every kernel of the card, best first for each operator.
pub(crate) fn table() -> Table {
    let mut all = Vec::new();
    all.extend(moves::rows());
    all.extend(casts::rows());
    all.extend(elementwise::rows());
    all.extend(matmul::rows());
    all.extend(choose::rows());
    all.extend(norms::rows());
    all.extend(quantize::rows());
    all.extend(rope::rows());
    all.extend(rows::rows());
    all.extend(kv::rows());
    all.extend(attention::rows());
    all.extend(matmul_quant::rows());
    all.extend(scaled_matmul::rows());
    OpTable::new(all)
}

/// The answer for every node of a graph.
pub(crate) fn support(backend: &str, table: &Table, graph: &Graph) -> Vec<NodeSupport> {
    qiao_core::sound::support(table, graph, backend)
}
