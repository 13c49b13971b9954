//! What tests on OpenCL devices share: the devices, makers of operands, and trials that must be within their limits.

#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use qiao_core::*;
use qiao_opencl::OpenClBackend;
use qiao_reference::Trial;
use qiao_reference::data::{Fill, Rng, to_bytes, values};

/// An operand: its description and its bytes.
pub(crate) type Data = (TensorDesc, Vec<u8>);

/// The dtypes of activations.
pub(crate) const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The devices of this machine, after two of PoCL's were asked for; none where the machine has no OpenCL, which is told.
/// Programs are kept in a folder of their own.
///
/// # Panics
/// There is none, and `QIAO_REQUIRE_OPENCL=1`.
pub(crate) fn devices() -> usize {
    static FOUND: OnceLock<(Option<tempfile::TempDir>, usize)> = OnceLock::new();
    let open = || {
        let folder = tempfile::tempdir().expect("a folder for programs");
        // SAFETY: done once, before the first device is opened; nothing else of this process reads the environment yet.
        unsafe {
            if std::env::var_os("POCL_DEVICES").is_none() {
                std::env::set_var("POCL_DEVICES", "pthread pthread");
            }
            if std::env::var_os("QIAO_CACHE_DIR").is_none() {
                std::env::set_var("QIAO_CACHE_DIR", folder.path());
            }
        }
        let found = match OpenClBackend.devices() {
            Ok(found) => found.len(),
            Err(why) if std::env::var("QIAO_REQUIRE_OPENCL").is_ok_and(|v| v == "1") => panic!("{why}"),
            Err(why) => {
                println!("skipped: OpenCL: {why}");
                0
            }
        };
        (Some(folder), found)
    };
    FOUND.get_or_init(open).1
}

/// The first device, opened, where there is one.
pub(crate) fn device() -> Option<Arc<dyn Device>> {
    (devices() > 0).then(|| OpenClBackend.open(0).expect("the device opens"))
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

/// Every trial is within its limits on the first device.
pub(crate) fn check_all(trials: &[Trial]) {
    let Some(device) = device() else { return };
    let mut failures = Vec::new();
    for (i, trial) in trials.iter().enumerate() {
        let at = format!("trial {i}: {}", trial.graph().map_or_else(|e| e.to_string(), |g| g.to_string()));
        match trial.check(&*device) {
            Err(e) => failures.push(format!("{at}: {e}")),
            Ok(all) => failures.extend(all.iter().filter(|c| !c.passes()).map(|c| format!("{at}: {c:?}"))),
        }
    }
    let shown = failures[..failures.len().min(12)].join("\n");
    assert!(failures.is_empty(), "{} of {} failed:\n{shown}", failures.len(), trials.len());
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
