//! Operators on a device: the table of kernels, and the plan that runs them.
//!
//! A row of the table makes a node into launches, plain data that names tensors by their position in the graph. The plan builds
//! the kernels, places temporaries and sets arguments; executing it fills addresses in and queues the launches.

mod program;

mod layouts;
mod local;

mod product;

mod matmul;
mod matmul_quant;
mod scaled_matmul;

mod plan;

use qiao_core::{Accept, Graph, NodeSupport, NodeView, OpKind, OpTable, Reason, Result, Row};
use qiao_launch::{Chip, Prepared, attention, casts, choose, elementwise, kv, moves, norms, quantize, rope, rows};

use crate::tuning::Tuning;

pub(crate) use layouts::{layout, pack};
pub(crate) use plan::{Card, OpenClPlan};

/// What launches may depend on: the device that they are prepared for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The device as rows that all backends with kernels share see it.
    pub(crate) chip: Chip,
    /// What suits it.
    pub(crate) tuning: Tuning,
}

/// Prepares a node that the row accepted.
#[derive(Clone, Copy)]
pub(crate) enum Prepare {
    /// A row that backends with kernels share.
    Shared(qiao_launch::Prepare),
    /// A row of this backend.
    Own(fn(&NodeView<'_>, &Target) -> Result<Prepared>),
}

/// The device's kernels.
pub(crate) type Table = OpTable<Prepare>;

impl Prepare {
    /// The launches of a node.
    ///
    /// # Errors
    /// The row's.
    pub(crate) fn prepare(self, node: &NodeView<'_>, target: &Target) -> Result<Prepared> {
        match self {
            Prepare::Shared(prepare) => prepare(node, &target.chip),
            Prepare::Own(prepare) => prepare(node, target),
        }
    }
}

impl Target {
    /// A device of so many compute units, with so many bytes of local memory.
    pub(crate) fn new(units: u32, local: u32, tuning: Tuning) -> Target {
        // The architecture is one whose paths beyond plain kernels no row takes.
        Target { chip: Chip { arch: 0, processors: units.max(1), shared: local, blas: false }, tuning }
    }

    /// Groups of one work-item that share a product on a processor.
    pub(crate) fn shares(&self) -> usize {
        self.chip.processors as usize * self.tuning.shares as usize
    }
}

fn shared(rows: Vec<Row<qiao_launch::Prepare>>) -> impl Iterator<Item = Row<Prepare>> {
    rows.into_iter().map(|row| Row {
        op: row.op,
        name: row.name,
        act_dtype: row.act_dtype,
        accepts: row.accepts,
        launch: Prepare::Shared(row.launch),
    })
}

/// A row of this backend, whose kernel keeps activations as they are.
fn own(
    op: OpKind,
    name: &'static str,
    accepts: fn(&NodeView<'_>) -> Result<Accept, Reason>,
    prepare: fn(&NodeView<'_>, &Target) -> Result<Prepared>,
) -> Row<Prepare> {
    Row { op, name, act_dtype: None, accepts, launch: Prepare::Own(prepare) }
}

/// Every kernel, best first for each operator.
pub(crate) fn table() -> Table {
    let mut all = Vec::new();
    all.extend(shared(moves::rows()));
    all.extend(shared(casts::rows()));
    all.extend(shared(elementwise::rows()));
    all.extend(shared(norms::rows()));
    all.extend(shared(rows::rows()));
    all.extend(shared(quantize::rows()));
    all.extend(shared(rope::rows()));
    all.extend(shared(kv::rows()));
    all.extend(shared(choose::rows()));
    // The kernels of attention beside the plain one are for tensor cores.
    all.extend(shared(attention::rows()).filter(|row| row.name == "attention_plain"));
    all.extend(matmul::rows());
    all.extend(matmul_quant::rows());
    all.extend(scaled_matmul::rows());
    OpTable::new(all)
}

/// The answer for every node of a graph.
pub(crate) fn support(table: &Table, target: &Target, graph: &Graph) -> Vec<NodeSupport> {
    let answers = qiao_core::sound::support(table, graph, "opencl");
    let fitting = |(node, answer)| match local::check(table, target, &node) {
        Ok(()) => answer,
        Err(reason) => NodeSupport::no(reason),
    };
    graph.views().zip(answers).map(fitting).collect()
}
