//! What tests on the simulated card share: the card, makers of operands, and trials that must be within their limits.

#![allow(dead_code, reason = "each test file uses a part")]

use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use qiao_core::*;
use qiao_cuda::Family;
use qiao_reference::Trial;
use qiao_reference::data::{Fill, Rng, to_bytes, values};
use qiao_simcuda::Card;

/// An operand: its description and its bytes.
pub(crate) type Data = (TensorDesc, Vec<u8>);

/// The dtypes of activations.
pub(crate) const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The simulated card of this process. What is compiled is kept in a folder of its own.
pub(crate) fn card() -> &'static Card {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder for images");
        // SAFETY: done once, before the first device is opened; nothing else of this process reads the environment yet.
        unsafe { std::env::set_var("QIAO_CACHE_DIR", folder.path()) };
        folder
    });
    let card = qiao_simcuda::install();
    if let Some(compiler) = card.compiler() {
        // SAFETY: as above; the vendor without a run-time compiler has one named.
        unsafe { std::env::set_var("QIAO_COREX_COMPILER", compiler) };
    }
    card
}

/// The vendor whose names the simulated card answers to: `QIAO_SIMCUDA_FAMILY`, NVIDIA without it.
pub(crate) fn family() -> Family {
    let name = qiao_simcuda::Family::of_environment().name();
    Family::ALL.into_iter().find(|family| family.name() == name).expect("every name has its backend")
}

/// Runs the other tests of this program once more for every other vendor, each in a process of its own; `this` is the name of
/// the test that asks for it.
pub(crate) fn run_for_other_vendors(this: &str) {
    const VARIABLE: &str = "QIAO_SIMCUDA_FAMILY";
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let program = std::env::current_exe().expect("this program has a path");
    for family in Family::ALL.into_iter().skip(1) {
        let mut command = Command::new(&program);
        let output =
            command.args(["--skip", this]).env(VARIABLE, family.name()).env_remove("QIAO_SIMCUDA_WARP").output();
        let output = output.expect("this program starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("test result: ok"), "for {}:\n{said}", family.name());
    }
}

/// The first card, opened.
pub(crate) fn device() -> Arc<dyn Device> {
    card();
    family().open(0).expect("the simulated card opens")
}

/// Operands from one seed.
pub(crate) struct Maker {
    pub(crate) rng: Rng,
}

impl Maker {
    pub(crate) fn new(seed: u64) -> Self {
        Maker { rng: Rng::new(seed) }
    }

    fn fill(&mut self, fill: Fill, desc: TensorDesc) -> Data {
        let held = desc.bytes().unwrap() / desc.dtype.block_bytes();
        let data = values(&mut self.rng, fill, desc.dtype, held);
        (desc.clone(), to_bytes(desc.dtype, &data))
    }

    /// Contiguous.
    pub(crate) fn of(&mut self, dtype: DType, shape: &[usize]) -> Data {
        self.fill(Fill::Normal, TensorDesc::new(dtype, shape).unwrap())
    }

    /// Contiguous, NaN and both infinities among the elements.
    pub(crate) fn special(&mut self, dtype: DType, shape: &[usize]) -> Data {
        self.fill(Fill::Special, TensorDesc::new(dtype, shape).unwrap())
    }

    /// Contiguous, magnitudes far apart.
    pub(crate) fn wide(&mut self, dtype: DType, shape: &[usize]) -> Data {
        self.fill(Fill::WideRange, TensorDesc::new(dtype, shape).unwrap())
    }

    /// Strided.
    pub(crate) fn strided(&mut self, dtype: DType, shape: &[usize], strides: &[usize]) -> Data {
        self.fill(Fill::Normal, TensorDesc::strided(dtype, shape, strides).unwrap())
    }

    /// Random bits, contiguous or with a gap of `gap` elements behind each innermost row.
    pub(crate) fn bits(&mut self, dtype: DType, shape: &[usize], gap: usize) -> Data {
        let mut strides = TensorDesc::new(dtype, shape).unwrap().strides.to_vec();
        if let [rest @ .., last] = &mut strides[..] {
            let _ = last;
            let columns = shape[shape.len() - 1];
            rest.iter_mut().for_each(|s| *s = *s / columns.max(1) * (columns + gap));
        }
        let desc = TensorDesc::strided(dtype, shape, &strides).unwrap();
        let bytes = (0..desc.bytes().unwrap()).map(|_| self.rng.bits() as u8).collect();
        (desc, bytes)
    }

    /// Indices below `count`.
    pub(crate) fn ids(&mut self, dtype: DType, shape: &[usize], count: usize) -> Data {
        let desc = TensorDesc::new(dtype, shape).unwrap();
        let data: Vec<f64> = (0..desc.elements()).map(|_| self.rng.below(count) as f64).collect();
        (desc, to_bytes(dtype, &data))
    }
}

/// Adds an operand.
pub(crate) fn with(trial: Trial, (desc, bytes): Data) -> Trial {
    trial.input(desc, bytes)
}

/// Every trial is within its limits on the first card.
pub(crate) fn check_all(trials: &[Trial]) {
    let device = device();
    let mut failures = Vec::new();
    for (i, trial) in trials.iter().enumerate() {
        let at = format!("trial {i}: {}", trial.graph().map_or_else(|e| e.to_string(), |g| g.to_string()));
        match trial.check(&*device) {
            Err(e) => failures.push(format!("{at}: {e}")),
            Ok(all) => failures.extend(all.iter().filter(|c| !c.passes()).map(|c| format!("{at}: {c:?}"))),
        }
    }
    let said = card().fault().unwrap_or_default();
    let shown = failures[..failures.len().min(12)].join("\n");
    assert!(failures.is_empty(), "{} of {} failed:\n{shown}\n{said}", failures.len(), trials.len());
}

/// A plan with buffers of its own on one stream.
pub(crate) struct Run {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) bindings: Vec<Binding>,
    pub(crate) workspace: Binding,
}

impl Run {
    /// Uploads what every bound tensor holds.
    pub(crate) fn new(device: &dyn Device, plan: &dyn Plan, bytes: &[Vec<u8>]) -> Result<Run> {
        let mut stream = device.stream()?;
        let bindings =
            bytes.iter().map(|b| device.alloc(0, b.len()).map(Binding::whole)).collect::<Result<Vec<_>>>()?;
        for (binding, bytes) in bindings.iter().zip(bytes) {
            stream.upload(binding, bytes)?;
        }
        let workspace = Binding::whole(device.alloc(0, plan.info().workspace_bytes)?);
        Ok(Run { stream, bindings, workspace })
    }

    pub(crate) fn execute(&mut self, plan: &dyn Plan) -> Result<()> {
        plan.execute(&mut *self.stream, &self.bindings, &self.workspace)
    }

    /// What a bound tensor holds.
    pub(crate) fn read(&mut self, position: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; self.bindings[position].bytes];
        self.stream.download(&mut out, &self.bindings[position])?;
        self.stream.sync(Duration::from_secs(60))?;
        Ok(out)
    }
}
