//! A float checkpoint as a smaller one: GGUF files and compressed-tensors folders.
//!
//! ```no_run
//! let found = qiao::Quantize::new("q4_k_m".parse()?).run("./Qwen2.5-0.5B", "./Qwen2.5-0.5B-q4_k_m.gguf")?;
//! println!("{}", found.expect("nobody ended it"));
//! # Ok::<(), qiao::Error>(())
//! ```
//!
//! Tensors go through one at a time: what is held is the largest of them in its encoded form. The output appears whole or not at
//! all.
//!
//! Modules, from ground to roof: `format`, `plan`, `source`, `names`, `recipe`, `encode`, `output`, `safetensors`, `importance`,
//! `report`, `compensation`, `work`, `vocabulary`, `metadata`, `gguf`, `folder`.

use std::path::Path;
use std::thread;
use std::time::Instant;

use qiao_quant::error::Comparison;

use crate::{Canceller, Error, Model, Result};

mod format;

mod plan;
mod source;

mod names;

mod recipe;

mod encode;
mod output;
mod safetensors;

mod importance;
mod report;

mod compensation;
mod work;

mod vocabulary;

mod metadata;

mod folder;
mod gguf;

pub use format::{Encoding, Format};
pub use importance::Importance;
pub use plan::Rules;
pub use report::{Line, Report};

use compensation::{Compensation, passes_on};
use output::Pending;
use recipe::Recipe;
use source::Source;
use work::{Job, Work};

/// What stands in the way of a quantised model, and how to mend it.
fn fault(found: impl Into<String>, mend: impl Into<String>) -> Error {
    Error::Quantize { found: found.into(), mend: mend.into() }
}

/// How a checkpoint is quantised.
pub struct Quantize {
    format: Format,
    rules: Rules,
    importance: Option<Importance>,
    compensation: Option<Compensation>,
    threads: usize,
    force: bool,
    canceller: Canceller,
    progress: Box<dyn FnMut(u64, u64)>,
}

impl Quantize {
    /// To a format, with as many threads as the machine has.
    pub fn new(format: Format) -> Quantize {
        Quantize {
            format,
            rules: Rules::default(),
            importance: None,
            compensation: None,
            threads: thread::available_parallelism().map_or(1, usize::from),
            force: false,
            canceller: Canceller::default(),
            progress: Box::new(|_, _| {}),
        }
    }

    /// Formats for single tensors.
    pub fn rules(mut self, rules: Rules) -> Quantize {
        self.rules = rules;
        self
    }

    /// What weighs the errors of input channels. Weights that it does not name weigh theirs alike.
    pub fn importance(mut self, importance: Importance) -> Quantize {
        self.importance = Some(importance);
        self
    }

    /// Passes the errors of each input channel on to those that come in correlated with it (GPTQ), as the float model reads these
    /// token ids, in chunks of `context` tokens. Holds for projections in block formats and integer groups.
    pub fn compensate(mut self, model: &Model, ids: impl Into<Vec<u32>>, context: usize) -> Quantize {
        self.compensation = Some(Compensation::new(model, ids.into(), context));
        self
    }

    /// Threads that encode; the output does not depend on them.
    pub fn threads(mut self, threads: usize) -> Quantize {
        self.threads = threads.max(1);
        self
    }

    /// Replaces an output that is there already.
    pub fn force(mut self, force: bool) -> Quantize {
        self.force = force;
        self
    }

    /// What ends the run from another thread; nothing is left behind.
    pub fn canceller(mut self, canceller: &Canceller) -> Quantize {
        self.canceller = canceller.clone();
        self
    }

    /// Is told how many of how many bytes of the source are done.
    pub fn on_progress(mut self, tell: impl FnMut(u64, u64) + 'static) -> Quantize {
        self.progress = Box::new(tell);
        self
    }

    /// Quantises a checkpoint into a GGUF file, if the output ends so, else into a folder; `None` when it was ended.
    ///
    /// # Errors
    /// A checkpoint that can't be read or is not of floats; a format that the output does not hold; rules that match nothing; an
    /// output that is there already; values beyond a format; a disk that is full.
    pub fn run(mut self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Option<Report>> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let start = Instant::now();
        let gguf = to.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("gguf"));
        let recipe = Recipe { format: self.format, rules: &self.rules, gguf };
        recipe.check()?;
        let source = Source::open(from)?;
        if !gguf && source.config_json()?.is_none() {
            let found = format!("{} has no config.json to take over", from.display());
            return Err(fault(found, "write a .gguf, or start from a folder of safetensors"));
        }
        if matches!((from.canonicalize(), to.canonicalize()), (Ok(a), Ok(b)) if a == b) {
            return Err(fault("input and output are one", "choose another name for the output"));
        }
        let jobs = jobs(&source, &recipe)?;
        self.check_importance(&source)?;
        let compensated = self.compensation.is_some();
        if compensated && !jobs.iter().any(|job| passes_on(job.choice.encoding)) {
            let found = format!("{} passes no errors on", self.format);
            return Err(fault(found, "choose a block format or integer groups, or leave --gptq out"));
        }
        let pending = Pending::new(to, !gguf, self.force)?;
        let canceller = self.canceller.clone();
        let cancelled = move || canceller.is_cancelled();
        let mut work = Work {
            source: &source,
            format: self.format,
            total: source.tensors.iter().map(|tensor| source.stored_bytes(tensor)).sum(),
            jobs,
            importance: self.importance.as_ref(),
            compensation: self.compensation.take(),
            threads: self.threads,
            cancelled: &cancelled,
            progress: &mut *self.progress,
            read: 0,
            lines: Vec::new(),
            error: Comparison::new(),
            notes: Vec::new(),
        };
        let written = if gguf { gguf::write(&mut work, pending)? } else { folder::write(&mut work, pending)? };
        let Some(pending) = written else { return Ok(None) };
        pending.finish()?;
        let mut report = Report::new(self.format.to_string(), work.lines, &work.error, work.total);
        report.importance = self.importance.is_some();
        report.compensated = compensated;
        report.notes = work.notes;
        report.seconds = start.elapsed().as_secs_f64();
        Ok(Some(report))
    }

    /// Refuses importances of another model.
    fn check_importance(&self, source: &Source) -> Result<()> {
        let Some(importance) = &self.importance else { return Ok(()) };
        let mut met = false;
        for tensor in &source.tensors {
            let Some(channels) = importance.of(&tensor.name) else { continue };
            met = true;
            let k = tensor.shape.last().copied().unwrap_or(0);
            if channels.len() != k {
                let found =
                    format!("{} importances for {:?}, which has {k} input channels", channels.len(), tensor.name);
                return Err(fault(found, "gather importances from this checkpoint"));
            }
        }
        match met {
            true => Ok(()),
            false => Err(fault("the importances name no tensor of the checkpoint", "gather importances from it")),
        }
    }
}

/// Every tensor with its name in the output and what it becomes.
fn jobs<'a>(source: &'a Source, recipe: &Recipe<'_>) -> Result<Vec<Job<'a>>> {
    let from_folder = source.config_json()?.is_some();
    let target = |name: &str| match recipe.gguf {
        true => names::gguf_name(name).unwrap_or_else(|| name.to_string()),
        false => name.to_string(),
    };
    let choices = recipe.choose(source, target)?;
    let mut jobs = Vec::with_capacity(choices.len());
    for (tensor, choice) in source.tensors.iter().zip(choices) {
        if recipe.gguf && from_folder && names::gguf_name(&tensor.name).is_none() {
            let found = format!("tensor {:?} has no name in GGUF", tensor.name);
            return Err(fault(found, "write a folder of safetensors"));
        }
        jobs.push(Job { tensor, target: target(&tensor.name), choice });
    }
    Ok(jobs)
}
