//! Executions captured as graphs, by the addresses that they were captured with.

use std::sync::PoisonError;

use qiao_core::{Error, Result};

use crate::context::{Context, Grave, Queue};
use crate::sys::{CUgraphExec, Graphs, SUCCESS};
use crate::vendors::Meaning;

/// Captured executions of a plan that are kept.
const MOST: usize = 8;

/// Executions of a plan, those used last at the end.
#[derive(Default)]
pub(crate) struct Captured {
    entries: Vec<Entry>,
}

struct Entry {
    addresses: Vec<u64>,
    /// None while these addresses were seen once only, or while the card had no memory for one.
    graph: Option<CUgraphExec>,
    /// Executions that run as they are before a graph is tried.
    wait: u32,
    /// What `wait` becomes when the card has no memory for a graph.
    next_wait: u32,
}

impl Entry {
    /// The longest wait for memory.
    const LONGEST: u32 = 1 << 10;

    fn new(addresses: &[u64]) -> Entry {
        Entry { addresses: addresses.to_vec(), graph: None, wait: 0, next_wait: 1 }
    }
}

/// What became of an execution that was to be a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// It is queued.
    Queued,
    /// Nothing was queued; the card had no memory for a graph, and may have it later.
    NotNow,
    /// Nothing was queued; it can't be captured.
    Never,
}

// SAFETY: handles of the driver, which any thread may use, one at a time.
unsafe impl Send for Captured {}

impl Captured {
    /// Whether an execution with these addresses is a graph, or is to be one now. Those seen for the first time are noted.
    pub(crate) fn is_due(&mut self, context: &Context, addresses: &[u64]) -> bool {
        if let Some(found) = self.entries.iter().position(|e| e.addresses == addresses) {
            let last = self.entries.len() - 1;
            self.entries[found..=last].rotate_left(1);
            let entry = &mut self.entries[last];
            let waits = entry.graph.is_none() && entry.wait > 0;
            entry.wait -= u32::from(waits);
            return !waits;
        }
        if self.entries.len() < MOST {
            self.entries.push(Entry::new(addresses));
            return false;
        }
        // The oldest gives its place and its room for addresses.
        self.entries.rotate_left(1);
        let entry = &mut self.entries[MOST - 1];
        if let Some(graph) = entry.graph.take() {
            context.bury(Grave::Graph(graph));
        }
        entry.addresses.copy_from_slice(addresses);
        (entry.wait, entry.next_wait) = (0, 1);
        false
    }

    /// Runs the execution that was found due last as a graph, which it captures from `run` where it is not one yet. The context
    /// is current.
    ///
    /// # Errors
    /// The driver's; what lost the card.
    pub(crate) fn launch(
        &mut self,
        context: &Context,
        queue: &Queue,
        addresses: &[u64],
        run: impl FnOnce() -> Result<()>,
    ) -> Result<Ran> {
        let Some(entry) = self.entries.last_mut().filter(|e| e.addresses == addresses) else { return Ok(Ran::Never) };
        let Some(graphs) = context.driver.graphs() else { return Ok(Ran::Never) };
        let graph = match entry.graph {
            Some(graph) => graph,
            None => match capture(context, graphs, queue, run)? {
                Ok(graph) => *entry.graph.insert(graph),
                Err(Meaning::OutOfMemory) => {
                    entry.wait = entry.next_wait;
                    entry.next_wait = (2 * entry.next_wait).min(Entry::LONGEST);
                    return Ok(Ran::NotNow);
                }
                Err(_) => return Ok(Ran::Never),
            },
        };
        // SAFETY: graph and stream are of this context; one thread at a time launches it, the one that holds `self`.
        let code = unsafe { (graphs.launch)(graph, queue.raw) };
        context.check("launching a graph", code).map(|()| Ran::Queued)
    }

    /// Gives every graph back.
    pub(crate) fn clear(&mut self, context: &Context) {
        self.entries.drain(..).filter_map(|e| e.graph).for_each(|graph| context.bury(Grave::Graph(graph)));
    }
}

/// Captures what `run` queues, which does not run. The inner error says what kept it from being a graph.
fn capture(
    context: &Context,
    graphs: Graphs,
    queue: &Queue,
    run: impl FnOnce() -> Result<()>,
) -> Result<std::result::Result<CUgraphExec, Meaning>> {
    /// Other threads may do as they please meanwhile.
    const THREAD_LOCAL: i32 = 1;
    let driver = context.driver;
    let _gate = queue.gate.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: a stream of this context, which nobody else uses while the gate is held; a capture that began is ended.
    unsafe {
        let code = (graphs.begin)(queue.raw, THREAD_LOCAL);
        if driver.means(code) == Meaning::Lost {
            return Err(context.fault("capturing a graph", code));
        }
        if code != SUCCESS {
            return Ok(Err(driver.means(code)));
        }
        let queued = run();
        let mut graph = std::ptr::null_mut();
        let ended = (graphs.end)(queue.raw, &mut graph);
        let made = match queued {
            Err(Error::OutOfMemory { .. }) => Err(Meaning::OutOfMemory),
            Err(_) => Err(Meaning::Other),
            Ok(()) if ended != SUCCESS => Err(driver.means(ended)),
            Ok(()) if graph.is_null() => Err(Meaning::Other),
            Ok(()) => driver.instantiate(graph).map_err(|code| driver.means(code)),
        };
        if !graph.is_null() {
            (graphs.destroy)(graph);
        }
        context.alive()?;
        Ok(made)
    }
}
