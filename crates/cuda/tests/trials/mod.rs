//! What the tests of operators share: the simulated card as a device, a maker of operands from a seed, and trials beside the
//! truth.
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::{Arc, OnceLock};

use qiao_core::*;
use qiao_cuda::Family;
use qiao_reference::Trial;
use qiao_reference::data::{Fill, Rng, to_bytes, values};

/// An operand: its description and its bytes.
pub(crate) type Data = (TensorDesc, Vec<u8>);

/// The simulated card.
pub(crate) fn device() -> Arc<dyn Device> {
    static DEVICE: OnceLock<Arc<dyn Device>> = OnceLock::new();
    let open = || {
        let card = qiao_simcuda::install();
        if let Some(compiler) = card.compiler() {
            // SAFETY: done once, before the device is opened; nothing else of this process reads the environment yet.
            unsafe { std::env::set_var("QIAO_COREX_COMPILER", compiler) };
        }
        let name = qiao_simcuda::Family::of_environment().name();
        Family::ALL.into_iter().find(|family| family.name() == name).unwrap().open(0).unwrap()
    };
    DEVICE.get_or_init(open).clone()
}

/// Operands from one seed.
pub(crate) struct Maker {
    pub(crate) rng: Rng,
}

impl Maker {
    pub(crate) fn new(seed: u64) -> Self {
        Maker { rng: Rng::new(seed) }
    }

    /// Values of a kind under any description that is not packed.
    pub(crate) fn fill(&mut self, fill: Fill, desc: TensorDesc) -> Data {
        let held = desc.bytes().unwrap() / desc.dtype.block_bytes();
        let data = values(&mut self.rng, fill, desc.dtype, held);
        (desc.clone(), to_bytes(desc.dtype, &data))
    }

    /// Contiguous.
    pub(crate) fn of(&mut self, dtype: DType, shape: &[usize]) -> Data {
        self.fill(Fill::Normal, TensorDesc::new(dtype, shape).unwrap())
    }

    /// Contiguous, a NaN and both infinities among the elements.
    pub(crate) fn special(&mut self, dtype: DType, shape: &[usize]) -> Data {
        self.fill(Fill::Special, TensorDesc::new(dtype, shape).unwrap())
    }

    /// Every axis with a gap behind each of its elements, the innermost included.
    pub(crate) fn gapped(&mut self, dtype: DType, shape: &[usize]) -> Data {
        let mut strides = vec![2; shape.len()];
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1] * shape[axis + 1].max(1) + 3;
        }
        self.fill(Fill::Normal, TensorDesc::strided(dtype, shape, &strides).unwrap())
    }

    /// One element, repeated along every axis.
    pub(crate) fn repeated(&mut self, dtype: DType, shape: &[usize]) -> Data {
        self.fill(Fill::Normal, TensorDesc::strided(dtype, shape, &vec![0; shape.len()]).unwrap())
    }

    /// Any bytes: codes of integers, packed or not.
    pub(crate) fn codes(&mut self, dtype: DType, shape: &[usize]) -> Data {
        let desc = TensorDesc::new(dtype, shape).unwrap();
        let bytes = (0..desc.bytes().unwrap()).map(|_| self.rng.bits() as u8).collect();
        (desc, bytes)
    }
}

/// Adds an operand.
pub(crate) fn with(trial: Trial, (desc, bytes): Data) -> Trial {
    trial.input(desc, bytes)
}

/// Every trial runs natively on the card and is within its limits.
pub(crate) fn check_all(trials: &[Trial]) {
    let device = device();
    let mut failures = Vec::new();
    for (i, trial) in trials.iter().enumerate() {
        let graph = trial.graph().map_or_else(|e| e.to_string(), |g| g.to_string());
        match trial.check(&*device) {
            Err(e) => failures.push(format!("trial {i}: {graph}: {e}")),
            Ok(all) => {
                let bad = all.iter().filter(|c| !c.passes());
                failures.extend(bad.map(|c| format!("trial {i}: {graph}: {c:?}")));
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures[..failures.len().min(12)].join("\n"));
}

/// Why the card refuses a trial's node; nothing where it takes it.
pub(crate) fn refusal(trial: &Trial) -> Option<Reason> {
    match device().support(&trial.graph().unwrap()).remove(0).answer {
        Support::No(reason) => Some(reason),
        _ => None,
    }
}

/// Trials of the conformance suite for an operator: those of the smoke walk, and every `nth` of the others that are small.
pub(crate) fn suite(kind: OpKind, nth: usize) -> Vec<Trial> {
    const SMALL: usize = 1 << 17;
    let small = |trial: &Trial| trial.operands().iter().flatten().all(|(_, bytes)| bytes.len() <= SMALL);
    let mut out = Vec::new();
    for family in qiao_conformance::Family::of(kind) {
        let points = family.points(qiao_conformance::Depth::Standard);
        for (i, (depth, point)) in points.iter().enumerate() {
            let dtype = family.dtypes[i % family.dtypes.len()];
            if *depth == qiao_conformance::Depth::Smoke || i % nth == 0 {
                // Not every point is a graph: some ask for what the operator refuses.
                let trial = family.trial(dtype, point, 7 * i as u64);
                out.extend(trial.ok().filter(|t| small(t) && t.build().is_ok()));
            }
        }
    }
    assert!(out.len() > 10, "the suite has cases for {kind}");
    out
}
