//! Operators on the CPU: the table of kernels, and the plan that runs them.
//!
//! A row of the table prepares a node once: it captures shapes, strides and kernels in a closure. Executing the plan
//! resolves every tensor to an address and calls the closures in order; each spreads its tasks over the pool.

pub(crate) mod exec;

mod access;
pub(crate) mod sound;

mod quant_panels;

pub(crate) mod pack;

mod cache;

mod attention;
mod choose;
mod elementwise;
mod int8;
mod kv;
mod moves;

mod job;
mod tail;

mod blocks;
mod by_rows;
mod matmul;

mod groups;

mod dequantise;

mod quant_rows;
mod quant_weights;

mod matmul_quant;
mod quant_tiles;
mod rope;
mod rows;

mod fuse;
mod plan;

use qiao_core::OpTable;
use qiao_kernels_cpu::Kernels;

use exec::Table;
pub(crate) use plan::CpuPlan;

/// Every kernel of the CPU, best first for each operator.
pub(crate) fn table(kernels: &Kernels) -> Table {
    let mut rows = Vec::new();
    rows.extend(moves::rows());
    rows.extend(elementwise::rows());
    rows.extend(matmul::rows());
    rows.extend(rows::rows());
    rows.extend(rope::rows());
    rows.extend(kv::rows());
    rows.extend(attention::rows(kernels));
    rows.extend(choose::rows());
    rows.extend(int8::rows());
    rows.extend(matmul_quant::rows(kernels));
    OpTable::new(rows)
}
