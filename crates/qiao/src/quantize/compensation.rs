//! Errors that are passed on to correlated inputs: what comes into each projection, gathered for some of them at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use qiao_engine::calibrate::{Hessians, input_hessians};
use qiao_quant::compensate::{Factor, Hessian, Options};

use super::fault;
use super::format::Encoding;
use super::source::Role;
use super::work::Job;
use crate::{Model, Result};

/// Bytes of Hessians that are gathered at once; those of one projection at least.
const BUDGET: u64 = 1 << 30;

/// A float model and the text that it reads.
pub(super) struct Compensation {
    pub(super) model: Model,
    pub(super) ids: Vec<u32>,
    pub(super) context: usize,
    /// Bytes of Hessians that are gathered at once.
    budget: u64,
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
        Compensation { model: model.clone(), ids, context, budget: BUDGET, gathered: Vec::new(), last: None }
    }

    /// The factor for a job; none for one that passes no errors on, `None` when cancelled. The text is read once for as many of the
    /// next jobs as the budget holds, where jobs that read the same activations follow each other.
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
            let wanted = batch(&jobs[at..], self.budget);
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

/// Weights of the next jobs whose Hessians fit into the budget; those of the first at least. Jobs that read the same activations
/// share one, and are not parted.
fn batch(jobs: &[Job<'_>], budget: u64) -> BTreeSet<String> {
    let (mut names, mut bytes, mut last) = (BTreeSet::new(), 0, None);
    for job in jobs.iter().filter(|job| takes_part(job)) {
        let input = match job.tensor.role {
            Role::Projection { layer, part } => Some((layer, part.input())),
            _ => None,
        };
        if input.is_none() || input != last {
            let k = job.tensor.shape[1] as u64;
            bytes += 4 * k * (k + 1);
            if bytes > budget && !names.is_empty() {
                break;
            }
            last = input;
        }
        names.insert(job.tensor.name.clone());
    }
    names
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use super::super::plan::Rules;
    use super::super::recipe::Recipe;
    use super::super::source::Source;
    use super::*;
    use crate::{DType, ModelOptions};

    /// Tokens of a text that the model reads in one piece.
    const TOKENS: usize = 64;

    /// How often the text is read until the demo's weights have their factors.
    fn readings(model: &Model, plan: &str, budget: u64) -> usize {
        let source = Source::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("demo")).unwrap();
        let recipe =
            Recipe { format: "q4_0".parse().unwrap(), rules: &Rules::parse(plan.as_bytes()).unwrap(), gguf: true };
        let jobs = super::super::jobs(&source, &recipe).unwrap();
        let ids = (0..TOKENS as u32).map(|i| i * 7 % 1000).collect();
        let mut compensation = Compensation::new(model, ids, TOKENS);
        compensation.budget = budget;
        // Each piece of the text asks once.
        let read = Cell::new(0);
        let cancelled = || {
            read.set(read.get() + 1);
            false
        };
        for (at, job) in jobs.iter().enumerate() {
            let factor = compensation.factor(&jobs, at, &cancelled).unwrap().unwrap();
            assert_eq!(factor.is_some(), takes_part(job), "{}", job.tensor.name);
        }
        read.get()
    }

    #[test]
    fn the_text_is_read_once_for_what_the_budget_holds() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
        let model = ModelOptions::new().context(TOKENS).dtype(DType::F32).load(demo).unwrap();
        let layers = model.loaded().spec().layers;
        assert_eq!(readings(&model, "{}", BUDGET), 1);
        for kept in ["*o_proj*", "*k_proj*", "*gate_proj*", "*.0.*"] {
            assert_eq!(readings(&model, &format!(r#"{{"{kept}": "keep"}}"#), BUDGET), 1, "without {kept}");
        }
        // q, k and v share one, gate and up another, o and down have their own.
        assert_eq!(readings(&model, "{}", 1), 4 * layers);
    }
}
