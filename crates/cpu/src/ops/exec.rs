//! What a prepared node is, and what it sees while a plan executes.

use std::ops::Range;

use qiao_core::{Accept, DType, NodeView, OpKind, OpTable, Reason, Result, Row};
use qiao_kernels_cpu::{Kernels, stream_fence};

use super::by_rows::{ByRows, Rows};
use super::job::{Job, Together};
use crate::threads::Pool;

/// What plans share with their device.
pub(crate) struct Core {
    pub(crate) kernels: Kernels,
    pub(crate) pool: Pool,
    pub(crate) table: Table,
}

/// The CPU's kernels.
pub(crate) type Table = OpTable<Prepare>;

/// Prepares a node that the row accepted.
pub(crate) type Prepare = fn(&NodeView<'_>, &Core) -> Prepared;

/// Runs a prepared node.
type Step = dyn Fn(&Exec<'_>) -> Result<()> + Send + Sync;

/// A node, ready to run.
pub(crate) struct Prepared {
    work: Work,
    /// Bytes of scratch that all threads share.
    pub(crate) shared: usize,
    /// Bytes of scratch for each thread.
    pub(crate) per_thread: usize,
}

/// What a node does.
enum Work {
    /// Nothing that is left to do.
    Nothing,
    /// Anything, by itself.
    Step(Box<Step>),
    /// Rows apart from each other, through one step or several.
    Rows(ByRows),
    /// A product, or several as one.
    Products(Together),
}

impl Prepared {
    /// A node that needs so many bytes of scratch for all threads, and for each.
    pub(crate) fn new(
        run: impl Fn(&Exec<'_>) -> Result<()> + Send + Sync + 'static,
        shared: usize,
        per_thread: usize,
    ) -> Self {
        Prepared { work: Work::Step(Box::new(run)), shared, per_thread }
    }

    /// A node that needs this many f32 of scratch a thread.
    pub(crate) fn with_scratch(floats: usize, run: impl Fn(&Exec<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        Prepared::new(run, 0, floats * 4)
    }

    /// A node that takes rows apart from each other and needs this many f32 of scratch a thread.
    pub(crate) fn by_rows(
        rows: Rows,
        floats: usize,
        take: impl Fn(&Exec<'_>, Range<usize>, usize) + Send + Sync + 'static,
    ) -> Self {
        Prepared::rows(ByRows::one(rows, floats * 4, Box::new(take)))
    }

    /// Nodes that take rows apart from each other.
    pub(crate) fn rows(rows: ByRows) -> Self {
        let (shared, per_thread) = rows.scratch();
        Prepared { work: Work::Rows(rows), shared, per_thread }
    }

    /// A product that needs so many bytes of scratch for all threads, and for each.
    pub(crate) fn product(job: impl Job + 'static, shared: usize, per_thread: usize) -> Self {
        Prepared::products(Together::one(job, shared, per_thread))
    }

    /// Products as one.
    pub(crate) fn products(products: Together) -> Self {
        let (shared, per_thread) = products.scratch();
        Prepared { work: Work::Products(products), shared, per_thread }
    }

    /// A node that has nothing to do.
    pub(crate) fn nothing() -> Self {
        Prepared { work: Work::Nothing, shared: 0, per_thread: 0 }
    }

    /// Runs the node.
    ///
    /// # Errors
    /// What only the data can tell.
    pub(crate) fn run(&self, exec: &Exec<'_>) -> Result<()> {
        match &self.work {
            Work::Nothing => Ok(()),
            Work::Step(run) => run(exec),
            Work::Rows(rows) => rows.run(exec),
            Work::Products(products) => products.run(exec),
        }
    }

    /// Whether the node has nothing to do.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self.work, Work::Nothing)
    }

    /// The products that the node is; `None` for any other.
    pub(crate) fn as_products(&self) -> Option<&Together> {
        match &self.work {
            Work::Products(products) => Some(products),
            _ => None,
        }
    }

    /// The steps by rows that the node is; `None` for any other.
    pub(crate) fn as_rows(&self) -> Option<&ByRows> {
        match &self.work {
            Work::Rows(rows) => Some(rows),
            _ => None,
        }
    }

    /// Takes the products that the node is, and leaves nothing to do.
    pub(crate) fn take_products(&mut self) -> Option<Together> {
        match std::mem::replace(self, Prepared::nothing()).work {
            Work::Products(products) => Some(products),
            _ => None,
        }
    }

    /// Takes the steps by rows that the node is, and leaves nothing to do.
    pub(crate) fn take_rows(&mut self) -> Option<ByRows> {
        match std::mem::replace(self, Prepared::nothing()).work {
            Work::Rows(rows) => Some(rows),
            _ => None,
        }
    }
}

/// A row whose kernel keeps activations as they are.
pub(crate) fn row(
    op: OpKind,
    name: &'static str,
    accepts: fn(&NodeView<'_>) -> Result<Accept, Reason>,
    launch: Prepare,
) -> Row<Prepare> {
    Row { op, name, act_dtype: None, accepts, launch }
}

/// Accepts f32, f16 and bf16 in the operands that `floats` names; the graph checked the rest.
pub(crate) fn activations(node: &NodeView<'_>, floats: &[usize]) -> Result<Accept, Reason> {
    for (i, desc) in node.operands().filter(|(i, _)| floats.contains(i)) {
        if !desc.dtype.is_activation() {
            return Err(Reason::dtype(i, desc.dtype, &[DType::F32, DType::F16, DType::BF16]));
        }
    }
    no_layouts(node)
}

/// Accepts f32, f16 and bf16 in every operand.
pub(crate) fn all_activations(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let all: Vec<usize> = node.operands().map(|(i, _)| i).collect();
    activations(node, &all)
}

/// Accepts anything that is in no private layout.
pub(crate) fn no_layouts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    for (i, desc) in node.operands() {
        if desc.layout != 0 {
            let found = format!("{:#x}", desc.layout);
            return Err(Reason::operand(
                i,
                qiao_core::Property::Layout,
                qiao_core::Rule::Equal,
                found.as_str(),
                "strided",
            ));
        }
    }
    Ok(Accept::Native)
}

/// What a step sees while a plan executes.
#[derive(Clone, Copy)]
pub(crate) struct Exec<'a> {
    /// One address per tensor of the graph.
    pub(super) addresses: &'a [usize],
    pub(crate) core: &'a Core,
    /// Where the scratch of all threads starts, and its size.
    pub(super) shared: usize,
    pub(super) shared_bytes: usize,
    /// Where the scratch of the first thread starts, and the bytes from one thread's to the next.
    pub(super) scratch: usize,
    pub(super) apart: usize,
    /// Bytes of a thread's scratch that the step may use.
    pub(super) per_thread: usize,
}

impl Exec<'_> {
    /// The kernels of the device's tier.
    pub(crate) fn kernels(&self) -> &Kernels {
        &self.core.kernels
    }

    /// The address of a tensor's first element.
    pub(crate) fn address(&self, tensor: usize) -> *mut u8 {
        self.addresses[tensor] as *mut u8
    }

    /// This thread's scratch, as the step asked for it.
    ///
    /// # Safety
    /// `thread` is the thread that the pool gave to the running task, and the slice is dropped before the task ends.
    #[allow(clippy::mut_from_ref, reason = "each thread has scratch of its own, and the caller vouches for the thread")]
    pub(crate) unsafe fn scratch(&self, thread: usize) -> &mut [f32] {
        let start = (self.scratch + thread * self.apart) as *mut f32;
        // SAFETY: the plan laid out `apart` bytes for each thread in its workspace, which it checked, and no step may use
        // more.
        unsafe { std::slice::from_raw_parts_mut(start, self.per_thread / 4) }
    }

    /// The address of byte `at` of a thread's scratch, for what a step keeps behind [`Exec::scratch`].
    pub(crate) fn kept(&self, thread: usize, at: usize) -> *mut f32 {
        debug_assert!(self.per_thread <= at && at <= self.apart, "what is kept lies behind the scratch of products");
        (self.scratch + thread * self.apart + at) as *mut f32
    }

    /// The scratch that all threads share, as the step asked for it: its address and its size in bytes.
    pub(crate) fn shared(&self) -> (*mut u8, usize) {
        (self.shared as *mut u8, self.shared_bytes)
    }

    /// Runs tasks on the pool.
    pub(crate) fn run(&self, tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        self.core.pool.run(tasks, task);
    }

    /// Splits `count` rows of `elements` each over the threads: `task(first, last, thread)`. Rows of no elements are
    /// no work, however many there are.
    pub(crate) fn rows(&self, count: usize, elements: usize, task: &(dyn Fn(usize, usize, usize) + Sync)) {
        self.rows_together(1, count, elements, task);
    }

    /// As [`Exec::rows`], where so many rows stay together, counted from the first.
    pub(crate) fn rows_together(
        &self,
        together: usize,
        count: usize,
        elements: usize,
        task: &(dyn Fn(usize, usize, usize) + Sync),
    ) {
        if count == 0 || elements == 0 {
            return;
        }
        let tasks = count.div_ceil(CHEAP.div_ceil(elements)).min(4 * self.core.pool.threads());
        let size = count.div_ceil(tasks).next_multiple_of(together);
        self.run(count.div_ceil(size), &|i, thread| {
            task(i * size, ((i + 1) * size).min(count), thread);
            stream_fence();
        });
    }
}

/// Elements that are read and written once which are worth handing to another thread.
pub(super) const CHEAP: usize = 8192;

/// Elements which are worth handing to another thread where each takes some dozens of operations.
pub(super) const COSTLY: usize = 1024;
