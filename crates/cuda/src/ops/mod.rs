//! Operators on the card: the table of kernels, and the plan that runs them.
//!
//! A row of the table makes a node into launches, plain data that names tensors by their position in the graph. The plan loads
//! the kernels, places temporaries and lays out arguments; executing it fills addresses in and queues the launches.

pub(crate) mod launch;

mod sound;

mod program;

mod capture;

mod walk;

mod moves;

mod casts;
mod elementwise;

mod product;

mod matmul;

mod rowwise;

mod choose;

mod norms;

mod quantize;

mod rope;

mod rows;

mod fuse;

mod fields;

mod cache;

mod kv;

mod attention;

mod prepack;

mod tiles;

mod matmul_quant;

mod scaled_matmul;

mod layouts;

mod plan;

use qiao_core::OpTable;

pub(crate) use fuse::RULES;
use launch::Table;
pub(crate) use layouts::{layout, pack};
pub(crate) use plan::{Card, CudaPlan};
pub(crate) use sound::support;

/// Every kernel of the card, best first for each operator.
pub(crate) fn table() -> Table {
    let mut rows = Vec::new();
    rows.extend(moves::rows());
    rows.extend(casts::rows());
    rows.extend(elementwise::rows());
    rows.extend(matmul::rows());
    rows.extend(choose::rows());
    rows.extend(norms::rows());
    rows.extend(quantize::rows());
    rows.extend(rope::rows());
    rows.extend(rows::rows());
    rows.extend(kv::rows());
    rows.extend(attention::rows());
    rows.extend(matmul_quant::rows());
    rows.extend(scaled_matmul::rows());
    OpTable::new(rows)
}
