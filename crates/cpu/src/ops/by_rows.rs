//! Steps that take the rows of their operands apart from each other. Several of them in a row run as one job: a task takes
//! some rows through all of them while these are in its caches.

use std::ops::Range;

use qiao_core::Result;

use super::access::Operand;
use super::exec::{CHEAP, COSTLY, Exec};

/// Takes some rows through a step, on a thread.
type Take = dyn Fn(&Exec<'_>, Range<usize>, usize) + Send + Sync;

/// What a step does before any row.
type Check = dyn Fn(&Exec<'_>) -> Result<()> + Send + Sync;

/// The rows of a step.
pub(crate) struct Rows {
    /// How many there are.
    count: usize,
    /// The work of one, in elements that are read and written once.
    work: usize,
    /// Tensors, by position in the graph, of which a part of the rows touches that part alone, in the order of the rows.
    touched: Vec<usize>,
}

impl Rows {
    /// The rows of the first operand; of the others, too, each is touched with the row of the first.
    pub(crate) fn of(operands: &[&Operand]) -> Self {
        let first = operands[0];
        Rows::split(operands, first.rows(), first.len)
    }

    /// So many rows of so many elements; empty ones are no work.
    pub(crate) fn split(operands: &[&Operand], count: usize, elements: usize) -> Self {
        let count = if elements == 0 { 0 } else { count };
        Rows { count, work: elements, touched: operands.iter().map(|o| o.tensor).collect() }
    }

    /// The same, of elements that take some dozens of operations each.
    pub(crate) fn costly(self) -> Self {
        Rows { work: self.work.saturating_mul(CHEAP / COSTLY), ..self }
    }
}

/// A step that takes rows apart.
struct Link {
    rows: Rows,
    take: Box<Take>,
    check: Option<Box<Check>>,
    /// Bytes that the check takes of the scratch which all threads share, and bytes of each thread's.
    shared: usize,
    per_thread: usize,
}

impl Link {
    /// What the step sees: its part of the scratch.
    fn seen<'a>(&self, exec: &Exec<'a>) -> Exec<'a> {
        Exec { shared_bytes: self.shared, per_thread: self.per_thread, ..*exec }
    }
}

/// Steps that take rows apart, one behind the other.
pub(crate) struct ByRows {
    links: Vec<Link>,
    /// The units in which rows are handed out: as many of each step's rows belong to each.
    units: usize,
}

impl ByRows {
    /// One step that needs so many bytes of scratch for each thread.
    pub(crate) fn one(rows: Rows, per_thread: usize, take: Box<Take>) -> Self {
        let units = rows.count;
        ByRows { links: vec![Link { rows, take, check: None, shared: 0, per_thread }], units }
    }

    /// The same, behind a check that needs so many bytes of the scratch that all threads share.
    pub(crate) fn checked(mut self, shared: usize, check: Box<Check>) -> Self {
        for link in &mut self.links {
            link.shared = shared;
        }
        self.links[0].check = Some(check);
        self
    }

    /// Several steps, one behind the other, whose rows are handed out in so many units.
    pub(crate) fn all(parts: impl IntoIterator<Item = ByRows>, units: usize) -> Self {
        ByRows { links: parts.into_iter().flat_map(|part| part.links).collect(), units }
    }

    /// The tensors of which a part of the rows touches that part alone.
    pub(crate) fn touched(&self) -> impl Iterator<Item = usize> {
        self.links.iter().flat_map(|link| link.rows.touched.iter().copied())
    }

    /// The work of a unit, where rows can be handed out in so many.
    pub(crate) fn work_of(&self, units: usize) -> Option<usize> {
        self.links.iter().try_fold(0usize, |sum, link| {
            let count = link.rows.count;
            let even = count > 0 && count.is_multiple_of(units);
            even.then(|| sum.saturating_add((count / units).saturating_mul(link.rows.work)))
        })
    }

    /// How many units there are.
    pub(crate) fn units(&self) -> usize {
        self.units
    }

    /// The work of a unit.
    pub(crate) fn work(&self) -> usize {
        self.work_of(self.units).unwrap_or(0)
    }

    /// Bytes of scratch for all threads, and for each.
    pub(crate) fn scratch(&self) -> (usize, usize) {
        let most = |bytes: fn(&Link) -> usize| self.links.iter().map(bytes).max().unwrap_or(0);
        (most(|link| link.shared), most(|link| link.per_thread))
    }

    /// Does what comes before any row.
    ///
    /// # Errors
    /// What only the data can tell.
    pub(crate) fn check(&self, exec: &Exec<'_>) -> Result<()> {
        let mut checks = self.links.iter().filter_map(|link| Some((link, link.check.as_ref()?)));
        checks.try_for_each(|(link, check)| check(&link.seen(exec)))
    }

    /// Takes some units through all steps.
    pub(crate) fn take(&self, exec: &Exec<'_>, units: Range<usize>, thread: usize) {
        for link in &self.links {
            let each = link.rows.count / self.units;
            (link.take)(&link.seen(exec), units.start * each..units.end * each, thread);
        }
    }

    /// Runs all steps.
    ///
    /// # Errors
    /// What only the data can tell.
    pub(crate) fn run(&self, exec: &Exec<'_>) -> Result<()> {
        self.check(exec)?;
        exec.rows(self.units, self.work(), &|first, last, thread| self.take(exec, first..last, thread));
        Ok(())
    }
}
