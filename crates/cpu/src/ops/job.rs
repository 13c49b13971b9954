//! Products as jobs: each is cut into tasks that pack its activations, and tasks that multiply them. Products which read the
//! same activations run together: one job packs, for all that pack alike at once, and one multiplies.

use std::any::TypeId;
use std::ops::Range;

use qiao_core::Result;
use qiao_kernels_cpu::QuantFormat;

use super::by_rows::ByRows;
use super::exec::Exec;
use super::tail::{Kept, Tail};
use crate::memory::ALIGN;

/// Rows that are few: their products take as long as reading the weights.
const FEW: usize = 16;

/// How activations are packed. Products that read the same ones and pack them alike share what is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// One row, as elements of a type.
    Row(TypeId),
    /// Micro-panels of so many rows in blocks of so many inputs, from one type to another.
    Panels { from: TypeId, to: TypeId, rows: usize, inputs: usize },
    /// What a format of codes is multiplied with, and whether zeros are taken off its codes.
    Codes(QuantFormat, bool),
}

/// A product, cut into tasks. The tasks of a step run in any order, on any thread.
pub(crate) trait Job: Send + Sync {
    /// Rows of the activations.
    fn rows(&self) -> usize;

    /// How many of them are packed before they are multiplied; the others follow.
    fn block(&self) -> usize;

    /// How they are packed.
    fn packing(&self) -> Packing;

    /// Columns of the result that a task multiplies; the last has what is left.
    fn columns(&self) -> usize;

    /// Tasks that multiply.
    fn tasks(&self) -> usize;

    /// Tasks that pack these rows; none where they are multiplied as they lie.
    fn pack_tasks(&self, rows: &Range<usize>) -> usize;

    /// Rows of the activations that are packed together, counted from the first of a block.
    fn tile(&self) -> usize;

    /// Checks what only the data can tell.
    ///
    /// # Errors
    /// Inputs in a group that has no scales.
    fn check(&self, _: &Exec<'_>) -> Result<()> {
        Ok(())
    }

    /// Packs a part of the rows into the shared scratch.
    ///
    /// # Safety
    /// The pool gave `thread` to the running task, the operands are live, and no other task is this one.
    unsafe fn pack(&self, exec: &Exec<'_>, rows: &Range<usize>, task: usize, thread: usize);

    /// Packs one tile of the rows.
    ///
    /// # Safety
    /// As [`Job::pack`], for tiles.
    unsafe fn pack_tile(&self, exec: &Exec<'_>, rows: &Range<usize>, tile: usize, thread: usize) {
        // SAFETY: as the caller vouches; where nothing else is said, each task packs a tile.
        unsafe { self.pack(exec, rows, tile, thread) }
    }

    /// Multiplies the rows, which are packed, by some columns of weights.
    ///
    /// # Safety
    /// As [`Job::pack`].
    unsafe fn multiply(&self, exec: &Exec<'_>, rows: &Range<usize>, task: usize, thread: usize);

    /// What follows the product.
    fn tail(&self) -> &Tail;

    /// [`Job::tail`], to have something else follow.
    fn tail_mut(&mut self) -> &mut Tail;
}

/// One of the products that run together.
struct Member {
    job: Box<dyn Job>,
    /// Its bytes of the scratch that all threads share, and of each thread's.
    bytes: usize,
    per_thread: usize,
    /// Where its packed activations start in the shared scratch, and whether it packs them itself.
    at: usize,
    packs: bool,
}

impl Member {
    /// What the product sees: its part of the scratch.
    fn seen<'a>(&self, exec: &Exec<'a>) -> Exec<'a> {
        Exec { shared: exec.shared + self.at, shared_bytes: self.bytes, per_thread: self.per_thread, ..*exec }
    }
}

/// Products of the same activations.
pub(crate) struct Together {
    members: Vec<Member>,
    /// What computes the activations, so many rows together, which are packed at once.
    before: Option<(ByRows, usize)>,
    /// Bytes of a thread's scratch in which a gate's result waits for what it gates, where the members are these two.
    kept: Option<usize>,
}

impl Together {
    /// A product by itself.
    pub(crate) fn one(job: impl Job + 'static, bytes: usize, per_thread: usize) -> Self {
        let member = Member { job: Box::new(job), bytes, per_thread, at: 0, packs: true };
        Together { members: vec![member], before: None, kept: None }
    }

    /// Several at once, all of the same activations.
    pub(crate) fn all(parts: impl IntoIterator<Item = Together>) -> Self {
        let mut all: Vec<Member> = Vec::new();
        let mut end = 0;
        for mut member in parts.into_iter().flat_map(|part| part.members) {
            let alike = |m: &&Member| m.packs && m.job.packing() == member.job.packing() && m.bytes == member.bytes;
            (member.at, member.packs) = match all.iter().find(alike) {
                Some(first) => (first.at, false),
                None => (end, true),
            };
            if member.packs {
                end = (end + member.bytes).next_multiple_of(ALIGN);
            }
            all.push(member);
        }
        Together { members: all, before: None, kept: None }
    }

    /// Whether other products can run with these, as far as they are cut alike.
    pub(crate) fn goes_with(&self, other: &Together) -> bool {
        let cut = |t: &Together| t.members.first().map(|m| (m.job.rows(), m.job.block()));
        let alone = |t: &Together| t.kept.is_none() && t.before.is_none();
        alone(self) && alone(other) && cut(self) == cut(other)
    }

    /// Whether these are two whose results had better meet element by element while they are in a thread's scratch: cut alike,
    /// with nothing but a bias behind them, and of many rows. Weights of few rows come from memory, each product's in one
    /// stream.
    pub(crate) fn can_be_gated(&self) -> bool {
        let [a, b] = &self.members[..] else { return false };
        let cut = |m: &Member| (m.job.columns(), m.job.tasks());
        a.job.rows() > FEW && cut(a) == cut(b) && [a, b].iter().all(|m| m.job.tail().is_plain())
    }

    /// The first is the gate of the second: `silu(first) · second` is what is written, to `result`.
    pub(crate) fn gated(mut self, result: super::access::Operand) -> Self {
        let [gate, up] = &mut self.members[..] else { unreachable!("the caller asked whether these are two") };
        let at = gate.per_thread.max(up.per_thread).next_multiple_of(ALIGN);
        let kept = Kept { at, columns: gate.job.columns(), rows: gate.job.rows().min(gate.job.block()) };
        self.kept = Some(at + 4 * kept.columns * kept.rows);
        gate.job.tail_mut().keep(kept);
        up.job.tail_mut().gate(kept, result);
        self
    }

    /// How many rows of activations there are, and how many of them are computed together where that is done while they are
    /// packed; `None` where it can't be: some are multiplied before all are packed, or they are not packed at all.
    pub(crate) fn tiles(&self) -> Option<(usize, usize)> {
        let packing = || self.members.iter().filter(|m| m.packs).map(|m| &*m.job);
        let whole = |job: &dyn Job| job.rows() <= job.block() && job.pack_tasks(&(0..job.rows())) > 0;
        let rows = self.members.first()?.job.rows();
        packing().all(whole).then(|| (rows, packing().map(|job| job.tile()).fold(1, lcm)))
    }

    /// Has the activations be computed by these steps, so many rows together, just before they are packed.
    pub(crate) fn behind(self, steps: ByRows, together: usize) -> Self {
        Together { before: Some((steps, together)), ..self }
    }

    /// Bytes of scratch for all threads, and for each.
    pub(crate) fn scratch(&self) -> (usize, usize) {
        let before = self.before.as_ref().map_or((0, 0), |(steps, _)| steps.scratch());
        let shared = self.members.iter().map(|m| m.at + m.bytes).max().unwrap_or(0);
        let per_thread = self.members.iter().map(|m| m.per_thread).max().unwrap_or(0);
        (shared.max(before.0), self.kept.unwrap_or(per_thread).max(before.1))
    }

    /// Runs all of them.
    ///
    /// # Errors
    /// What only the data can tell.
    pub(crate) fn run(&self, exec: &Exec<'_>) -> Result<()> {
        self.members.iter().try_for_each(|m| m.job.check(exec))?;
        let (all, block) = self.members.first().map_or((0, 1), |m| (m.job.rows(), m.job.block()));
        for first in (0..all).step_by(block) {
            let rows = first..(first + block).min(all);
            match &self.before {
                Some((steps, together)) => self.compute_and_pack(exec, steps, *together)?,
                None => self.phase(exec, |m| if m.packs { m.job.pack_tasks(&rows) } else { 0 }, &|m, task, thread| {
                    // SAFETY: the pool gave this thread, and each task once; the plan checked the operands.
                    unsafe { m.job.pack(&m.seen(exec), &rows, task, thread) }
                }),
            }
            let multiply = |m: &Member, task, thread| {
                // SAFETY: as above.
                unsafe { m.job.multiply(&m.seen(exec), &rows, task, thread) }
            };
            if self.kept.is_some() {
                exec.run(self.members[0].job.tasks(), &|task, thread| {
                    self.members.iter().for_each(|m| multiply(m, task, thread));
                });
            } else {
                self.phase(exec, |m| m.job.tasks(), &multiply);
            }
        }
        Ok(())
    }

    /// Computes the activations, all of them in one block, and packs them.
    fn compute_and_pack(&self, exec: &Exec<'_>, steps: &ByRows, together: usize) -> Result<()> {
        // Checks are done with their scratch when it is packed into.
        steps.check(exec)?;
        let count = steps.units();
        exec.rows_together(together, count, steps.work(), &|first, last, thread| {
            steps.take(exec, first..last, thread);
            for member in self.members.iter().filter(|m| m.packs) {
                let tile = member.job.tile();
                debug_assert!(first.is_multiple_of(tile), "tasks take whole tiles");
                for tile in first / tile..last.div_ceil(tile) {
                    // SAFETY: the pool gave this thread; tasks take whole tiles, each of them once, and the rows of these are
                    // computed.
                    unsafe { member.job.pack_tile(&member.seen(exec), &(0..count), tile, thread) };
                }
            }
        });
        Ok(())
    }

    /// Runs the tasks of all members, of each as many as `tasks` says, as one job.
    fn phase(
        &self,
        exec: &Exec<'_>,
        tasks: impl Fn(&Member) -> usize + Sync,
        run: &(dyn Fn(&Member, usize, usize) + Sync),
    ) {
        let count = self.members.iter().map(&tasks).sum();
        exec.run(count, &|mut task, thread| {
            for member in &self.members {
                let own = tasks(member);
                if task < own {
                    return run(member, task, thread);
                }
                task -= own;
            }
        });
    }
}

/// The least common multiple of two numbers of rows.
fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x.max(1) * b
}
