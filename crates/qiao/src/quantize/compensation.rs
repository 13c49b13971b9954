//! Errors that are passed on to correlated inputs: what comes into each projection, gathered for some of them at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use qiao_engine::calibrate::{Hessians, input_hessians};
use qiao_quant::compensate::{Factor, Hessian, Options};

use super::fault;
use super::format::Encoding;
use super::source::{Part, Role};
use super::work::Job;
use crate::{Model, Result};

/// Bytes of Hessians that are gathered at once; those of one projection at least.
const BUDGET: u64 = 1 << 30;

/// A float model and the text that it reads.
pub(super) struct Compensation {
    pub(super) model: Model,
    pub(super) ids: Vec<u32>,
    pub(super) context: usize,
    gathered: Hessians,
    /// The factor that was made last, and the weights that it is for.
    last: Option<(Vec<String>, Arc<Factor>)>,
}

/// Whether an encoding passes errors on.
pub(super) fn passes_on(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::Block(_) | Encoding::Packed { .. })
}

fn takes_part(job: &Job<'_>) -> bool {
    passes_on(job.choice.encoding) && matches!(job.tensor.role, Role::Projection { .. } | Role::Head)
}

impl Compensation {
    pub(super) fn new(model: &Model, ids: Vec<u32>, context: usize) -> Compensation {
        Compensation { model: model.clone(), ids, context, gathered: Vec::new(), last: None }
    }

    /// The factor for a job; none for one that passes no errors on, `None` when cancelled.
    pub(super) fn factor(
        &mut self,
        jobs: &[Job<'_>],
        at: usize,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<Option<Arc<Factor>>>> {
        let name = &jobs[at].tensor.name;
        if !takes_part(&jobs[at]) {
            return Ok(Some(None));
        }
        if let Some((names, factor)) = &self.last
            && names.contains(name)
        {
            return Ok(Some(Some(factor.clone())));
        }
        let holds = |(names, _): &(Vec<String>, Hessian)| names.contains(name);
        if !self.gathered.iter().any(holds) {
            // Those before are done with.
            self.gathered.clear();
            let wanted = batch(&jobs[at..]);
            let model = self.model.loaded();
            match input_hessians(model, &self.ids, self.context, &wanted, cancelled, &mut |_, _| {})? {
                Some(gathered) => self.gathered = gathered,
                None => return Ok(None),
            }
        }
        let Some(found) = self.gathered.iter().position(holds) else {
            return Err(fault(format!("nothing comes into {name:?} in the model's graph"), "leave --gptq out"));
        };
        let (names, hessian) = self.gathered.swap_remove(found);
        let factor = Factor::new(&hessian, Options::default())
            .map_err(|e| fault(format!("tensor {name:?}: {e}"), "give a longer text"))?;
        let factor = Arc::new(factor);
        self.last = Some((names, factor.clone()));
        Ok(Some(Some(factor)))
    }
}

/// Weights of the next jobs whose Hessians fit into the budget.
fn batch(jobs: &[Job<'_>]) -> BTreeSet<String> {
    let (mut names, mut bytes) = (BTreeSet::new(), 0);
    for job in jobs.iter().filter(|job| takes_part(job)) {
        let k = job.tensor.shape[1] as u64;
        let shares = matches!(job.tensor.role, Role::Projection { part: Part::Key | Part::Value, .. });
        if !shares && !job.tensor.name.ends_with("up_proj.weight") {
            bytes += 4 * k * (k + 1);
        }
        if bytes > BUDGET && !names.is_empty() {
            break;
        }
        names.insert(job.tensor.name.clone());
    }
    names
}
