//! Two devices in lock step, judged by the tolerances of the conformance suite.

use std::path::Path;
use std::sync::Arc;

use qiao_core::{DType, Device};
use qiao_engine::checkpoint::Checkpoint;
use qiao_engine::config::CONFIG_FILE;
use qiao_engine::divergence::{self, Case, Divergence, Judge, Judgement};
use qiao_engine::runner::{LoadOptions, LoadedModel};
use qiao_engine::text::TextModel;
use qiao_reference::value::Output;
use qiao_reference::{ReferenceDevice, Value, compare, tolerance};

use crate::devices::host_fallback;
use crate::{Prompt, Result, demo};

/// A prompt, and how far it is continued, on two devices: where do they part?
///
/// ```
/// let devices = qiao::registry();
/// let run = qiao::LockStep::new("床前明月光").tokens(1);
/// let found = run.demo(&devices.open("cpu")?, &devices.open("reference")?)?;
/// assert!(found.agrees(), "{found}");
/// # Ok::<(), qiao::Error>(())
/// ```
pub struct LockStep {
    prompt: Prompt,
    tokens: usize,
    load: LoadOptions,
    fallback: bool,
    progress: Option<Box<dyn FnMut(usize, usize) + Send>>,
}

impl LockStep {
    /// A prompt, continued by 8 tokens, in the dtype of the weights.
    pub fn new(prompt: impl Into<Prompt>) -> LockStep {
        LockStep { prompt: prompt.into(), tokens: 8, load: LoadOptions::default(), fallback: false, progress: None }
    }

    /// Tokens after the prompt, each the trusted device's most likely one.
    pub fn tokens(mut self, tokens: usize) -> LockStep {
        self.tokens = tokens;
        self
    }

    /// The dtype of activations and cache on both devices; `None` = that of the weights.
    pub fn dtype(mut self, dtype: impl Into<Option<DType>>) -> LockStep {
        self.load.dtype = dtype.into();
        self
    }

    /// The longest sequence in tokens; `None` = 4096 or what the model allows.
    pub fn context(mut self, tokens: impl Into<Option<usize>>) -> LockStep {
        self.load.context = tokens.into();
        self
    }

    /// Where operators run that a device refuses: nowhere, unless this is said. Then they run on the CPU, and are compared as all
    /// others.
    pub fn host_fallback(mut self) -> LockStep {
        self.fallback = true;
        self
    }

    /// Is told how many of how many tokens both devices have run.
    pub fn on_progress(mut self, tell: impl FnMut(usize, usize) + Send + 'static) -> LockStep {
        self.progress = Some(Box::new(tell));
        self
    }

    /// Runs a checkpoint directory on a device, and on the one that is trusted.
    ///
    /// # Errors
    /// As [`crate::ModelOptions::load`] and [`crate::Model::generate`]; the devices' own.
    pub fn run(
        self,
        path: impl AsRef<Path>,
        device: &Arc<dyn Device>,
        against: &Arc<dyn Device>,
    ) -> Result<Divergence> {
        let path = path.as_ref();
        self.of(Checkpoint::open(path)?, Checkpoint::open(path)?, device, against)
    }

    /// Runs the embedded demo model.
    ///
    /// # Errors
    /// As [`LockStep::run`].
    pub fn demo(self, device: &Arc<dyn Device>, against: &Arc<dyn Device>) -> Result<Divergence> {
        let checkpoint = || Checkpoint::embedded(&demo::files());
        self.of(checkpoint()?, checkpoint()?, device, against)
    }

    fn of(
        mut self,
        subject: Checkpoint,
        trusted: Checkpoint,
        device: &Arc<dyn Device>,
        against: &Arc<dyn Device>,
    ) -> Result<Divergence> {
        if self.fallback {
            self.load.policy = host_fallback()?;
        }
        let text = TextModel::load(device.clone(), subject, self.load.clone(), &mut |_| {})?;
        // In the dtype that the subject computes in, if it can't compute in that of the weights.
        self.load.dtype = Some(text.model().compute_dtype());
        let prompt = text.encode(&self.prompt)?;
        let Checkpoint { path, config, weights, .. } = trusted;
        let config_file = path.join(CONFIG_FILE);
        let model = LoadedModel::load(against.clone(), &weights, config, &config_file, self.load, &mut |_| {})?;
        let judge = Tolerances { truth: against.info() == ReferenceDevice::default().info() };
        let mut tell = self.progress.unwrap_or_else(|| Box::new(|_, _| {}));
        let (model, tokens) = (Arc::new(model), self.tokens);
        Ok(divergence::diverge(text.model(), &model, &weights, &prompt, tokens, &judge, &mut *tell)?)
    }
}

/// The tolerances of [`qiao_reference::tolerance`]. They are distances from the truth; two devices that are no truth may be as
/// far apart as both their distances together.
struct Tolerances {
    /// Whether the trusted device is the truth.
    truth: bool,
}

impl Judge for Tolerances {
    fn judge(&self, case: &Case<'_>) -> qiao_core::Result<Vec<Vec<Judgement>>> {
        let outputs = case.node.node.outputs.len();
        let desc = |i: usize| case.node.output(i);
        let values = |bytes: &[&[u8]]| -> qiao_core::Result<Vec<Vec<f64>>> {
            (0..outputs).map(|i| Ok(Value::load(desc(i), bytes[i])?.data)).collect()
        };
        let (trusted, found) = (values(case.trusted)?, values(case.found)?);
        let truth: Vec<Output> = trusted.iter().cloned().map(Output::Values).collect();
        let mut limits = tolerance::limits(case.node, case.inputs, &truth, case.act)?;
        if !self.truth {
            let others = tolerance::limits(case.node, case.inputs, &truth, case.trusted_act)?;
            limits.iter_mut().flatten().zip(others.iter().flatten()).for_each(|(limit, other)| *limit += other);
        }
        let per_token = |i: usize| {
            let width = (found[i].len() / case.tokens.max(1)).max(1);
            let rows = found[i].chunks(width).zip(trusted[i].chunks(width)).zip(limits[i].chunks(width));
            rows.map(|((f, t), l)| judgement(desc(i).dtype, f, t, l)).collect()
        };
        Ok((0..outputs).map(per_token).collect())
    }
}

fn judgement(dtype: DType, found: &[f64], trusted: &[f64], limits: &[f64]) -> Judgement {
    let c = compare(dtype, found, trusted, limits);
    let element = c.worst.unwrap_or(0);
    let at = |values: &[f64]| values.get(element).copied().unwrap_or(0.0);
    Judgement { failures: c.failures, margin: c.margin, element, found: at(found), trusted: at(trusted) }
}
