//! The plans of a stage: those of a decode step, and the most recently used others.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{CacheShape, Step};
use crate::prepared::{Key, Prepared};
use crate::sides::HostWork;

/// Plans for more than one token that are kept.
const KEPT_PLANS: usize = 48;

/// One token of one sequence.
pub(super) const DECODE: Step = Step::of_one(1, 1);

#[derive(Default)]
pub(super) struct Plans {
    pub(super) decode: HashMap<CacheShape, Arc<Prepared>>,
    /// The most recently used last.
    pub(super) recent: Vec<Arc<Prepared>>,
    /// What the host did in plans that are not kept any more.
    pub(super) gone: HostWork,
}

impl Plans {
    pub(super) fn find(&mut self, key: Key) -> Option<Arc<Prepared>> {
        if key.0 == DECODE {
            return self.decode.get(&key.1).cloned();
        }
        let at = self.recent.iter().position(|p| (p.step, p.cache) == key)?;
        let found = self.recent.remove(at);
        self.recent.push(found.clone());
        Some(found)
    }

    pub(super) fn keep(&mut self, plan: Arc<Prepared>) {
        if plan.step == DECODE {
            self.decode.insert(plan.cache, plan);
            return;
        }
        if self.recent.len() >= KEPT_PLANS {
            let oldest = self.recent.remove(0);
            self.gone = self.gone + oldest.host_work();
        }
        self.recent.push(plan);
    }
}
