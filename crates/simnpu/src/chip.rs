//! One simulated chip: what all handles, streams and plans of a device share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use qiao_core::{Binding, Error, Result};

use crate::fault::{Counters, Faults};
use crate::limits::Limits;
use crate::memory::{Arena, Storage, resolve, resolve_mut};
use crate::ops::Kernels;
use crate::options::Settings;
use crate::schedule::{Referee, Rules};

/// A chip.
pub(crate) struct Chip {
    /// Its number in this process: buffers and events know by it whose they are.
    pub(crate) number: u64,
    pub(crate) kernels: Kernels,
    pub(crate) arena: Arc<Arena>,
    pub(crate) referee: Arc<Referee>,
    pub(crate) faults: Faults,
    pub(crate) counters: Arc<Counters>,
    /// Executors that plans have made.
    pub(crate) executors: AtomicU64,
    handles: AtomicUsize,
}

impl Chip {
    /// A chip as it is after power on. `counters` go on where they were before it was lost.
    pub(crate) fn new(settings: &Settings, counters: Arc<Counters>) -> Arc<Chip> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let limits = settings.limits.clone();
        let rules = Rules {
            seed: settings.seed,
            engines: settings.engines,
            jitter: Duration::from_micros(settings.jitter_us),
            latency: Duration::from_micros(settings.latency_us),
        };
        Arc::new(Chip {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            arena: Arc::new(Arena::new(limits.name, limits.memory, limits.max_alloc)),
            kernels: Kernels::new(limits),
            referee: Referee::new(rules),
            faults: settings.faults.clone(),
            counters,
            executors: AtomicU64::new(0),
            handles: AtomicUsize::new(0),
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.kernels.limits
    }

    /// A handle was opened.
    pub(crate) fn opened(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// A handle was closed. With the last one goes whoever could open the gate.
    pub(crate) fn closed(&self) {
        if self.handles.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.referee.close(false);
        }
    }

    /// An operand of a plan or of a prepack: its storage and where it starts.
    ///
    /// # Errors
    /// It does not fit, starts off the alignment, lacks its padding, or lies where kernels do not reach.
    pub(crate) fn operand(
        &self,
        binding: &Binding,
        name: &str,
        need: usize,
        written: bool,
    ) -> Result<(Arc<Storage>, usize)> {
        let limits = self.limits();
        let what = format!("binding of '{name}'");
        let find = if written { resolve_mut } else { resolve };
        let (storage, range) = find(self.number, binding, name, need)?;
        if storage.memory() != 0 {
            let mend = "copy it to memory 0, which kernels reach";
            return Err(Error::invalid(what, format!("it lies in memory {}", storage.memory()), mend));
        }
        if need == 0 {
            return Ok((storage, range.start));
        }
        if !range.start.is_multiple_of(limits.align) {
            let found = format!("it starts at byte {} of its buffer", range.start);
            return Err(Error::invalid(what, found, format!("start it on a multiple of {}", limits.align)));
        }
        let behind = storage.len() - (range.start + need);
        if behind < limits.tail_pad {
            let mend = format!("allocate {} bytes behind it", limits.tail_pad);
            return Err(Error::invalid(what, format!("{behind} bytes of its buffer lie behind it"), mend));
        }
        Ok((storage, range.start))
    }
}
