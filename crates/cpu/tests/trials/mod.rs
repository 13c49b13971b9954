//! What the tests of odd shapes share: every tier, a maker of operands from a seed, and graphs run on a device.

#![allow(dead_code, reason = "each test file uses a part")]

use std::time::Duration;

use qiao_core::*;
use qiao_cpu::{Activations, CpuDevice, CpuOptions, Isa};
use qiao_reference::Trial;
use qiao_reference::data::{Fill, Rng, to_bytes, values};

/// An operand: its description and its bytes.
pub(crate) type Data = (TensorDesc, Vec<u8>);

/// A device of a tier, where this machine has it; one with emulated tiles where it has but them.
pub(crate) fn open(isa: Isa, threads: usize) -> Option<CpuDevice> {
    open_with(isa, threads, Activations::Bits16)
}

/// As [`open`], with activations in so many bits.
pub(crate) fn open_with(isa: Isa, threads: usize, activations: Activations) -> Option<CpuDevice> {
    let options = CpuOptions { isa: Some(isa), threads: Some(threads), activations };
    if isa == Isa::Amx {
        qiao_simamx::install()?;
        // SAFETY: every thread of this process meets tiles in hardware or in the trap.
        return unsafe { CpuDevice::with_emulated_tiles(&options) }.ok();
    }
    CpuDevice::with(&options).ok()
}

/// One device for each tier of this machine, with three threads.
pub(crate) fn devices() -> Vec<CpuDevice> {
    Isa::ALL.into_iter().filter_map(|isa| open(isa, 3)).collect()
}

/// As [`devices`], with activations in 8 bits.
pub(crate) fn byte_devices() -> Vec<CpuDevice> {
    Isa::ALL.into_iter().filter_map(|isa| open_with(isa, 3, Activations::Bits8)).collect()
}

/// Operands from one seed.
pub(crate) struct Maker {
    pub(crate) rng: Rng,
}

impl Maker {
    pub(crate) fn new(seed: u64) -> Self {
        Maker { rng: Rng::new(seed) }
    }

    fn fill(&mut self, desc: TensorDesc) -> Data {
        let held = desc.bytes().unwrap() / desc.dtype.block_bytes();
        let data = values(&mut self.rng, Fill::Normal, desc.dtype, held);
        (desc.clone(), to_bytes(desc.dtype, &data))
    }

    /// Contiguous.
    pub(crate) fn of(&mut self, dtype: DType, shape: &[usize]) -> Data {
        self.fill(TensorDesc::new(dtype, shape).unwrap())
    }

    /// Contiguous, a NaN and both infinities among the elements.
    pub(crate) fn special(&mut self, dtype: DType, shape: &[usize]) -> Data {
        let desc = TensorDesc::new(dtype, shape).unwrap();
        let data = values(&mut self.rng, Fill::Special, dtype, desc.elements());
        (desc, to_bytes(dtype, &data))
    }

    /// Every axis with a gap behind each of its elements, the innermost included.
    pub(crate) fn gapped(&mut self, dtype: DType, shape: &[usize]) -> Data {
        let mut strides = vec![2; shape.len()];
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1] * shape[axis + 1].max(1) + 3;
        }
        self.fill(TensorDesc::strided(dtype, shape, &strides).unwrap())
    }

    /// One element, repeated along every axis.
    pub(crate) fn repeated(&mut self, dtype: DType, shape: &[usize]) -> Data {
        self.fill(TensorDesc::strided(dtype, shape, &vec![0; shape.len()]).unwrap())
    }

    /// `[a, b, c]` with contiguous rows, of which every b-th is followed by a gap.
    pub(crate) fn uneven(&mut self, dtype: DType, a: usize, b: usize, c: usize) -> Data {
        self.fill(TensorDesc::strided(dtype, &[a, b, c], &[b * c + 7, c, 1]).unwrap())
    }

    /// int8 codes, contiguous.
    pub(crate) fn codes(&mut self, shape: &[usize]) -> Data {
        let desc = TensorDesc::new(DType::I8, shape).unwrap();
        let bytes = (0..desc.elements()).map(|_| self.rng.bits() as u8).collect();
        (desc, bytes)
    }

    /// int8 codes `[n, k]`, stored k by n with a gap.
    pub(crate) fn strided_codes(&mut self, n: usize, k: usize) -> Data {
        let desc = TensorDesc::strided(DType::I8, &[n, k], &[1, n + 5]).unwrap();
        let bytes = (0..desc.bytes().unwrap()).map(|_| self.rng.bits() as u8).collect();
        (desc, bytes)
    }
}

/// Adds an operand.
pub(crate) fn with(trial: Trial, (desc, bytes): Data) -> Trial {
    trial.input(desc, bytes)
}

/// Every trial on every tier is within its limits.
pub(crate) fn check_all(trials: &[Trial]) {
    check_on(&devices(), trials);
}

/// Every trial on each of these is within its limits.
pub(crate) fn check_on(devices: &[CpuDevice], trials: &[Trial]) {
    let mut failures = Vec::new();
    for device in devices {
        for (i, trial) in trials.iter().enumerate() {
            let at = format!(
                "trial {i} on {}: {}",
                device.info().arch,
                trial.graph().map_or_else(|e| e.to_string(), |g| g.to_string())
            );
            match trial.check(device) {
                Err(e) => failures.push(format!("{at}: {e}")),
                Ok(all) => failures.extend(all.iter().filter(|c| !c.passes()).map(|c| format!("{at}: {c:?}"))),
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures[..failures.len().min(12)].join("\n"));
}

/// Plans a graph and runs it once; the bytes of every bound tensor afterwards.
///
/// # Errors
/// The device's.
pub(crate) fn run(device: &dyn Device, graph: &Graph, bytes: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
    let plan = device.plan(graph)?;
    execute(device, &*plan, bytes)
}

/// Runs a plan once on a stream, a workspace and buffers of its own.
///
/// # Errors
/// The device's.
pub(crate) fn execute(device: &dyn Device, plan: &dyn Plan, bytes: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
    let mut stream = device.stream()?;
    let bindings = bytes.iter().map(|b| device.alloc(0, b.len()).map(Binding::whole)).collect::<Result<Vec<_>>>()?;
    for (binding, bytes) in bindings.iter().zip(bytes) {
        stream.upload(binding, bytes)?;
    }
    let workspace = Binding::whole(device.alloc(0, plan.info().workspace_bytes)?);
    plan.execute(&mut *stream, &bindings, &workspace)?;
    stream.sync(Duration::MAX)?;
    let read = |b: &Binding, stream: &mut Box<dyn Stream>| {
        let mut out = vec![0; b.bytes];
        stream.download(&mut out, b).map(|()| out)
    };
    bindings.iter().map(|b| read(b, &mut stream)).collect()
}

/// Has the device pack the constants that it wants packed; their bytes are replaced.
///
/// # Errors
/// The device's.
pub(crate) fn pack(device: &dyn Device, graph: &mut Graph, bytes: &mut [Vec<u8>]) -> Result<()> {
    let mut stream = device.stream()?;
    for node in 0..graph.nodes().len() {
        // A node may want several of its operands packed, one after the other.
        while let Support::Relayout { operand, layout } = device.support(graph)[node].answer {
            let id = graph.nodes()[node].inputs[operand].expect("the operand is given");
            let at = graph.bound().iter().position(|&b| b == id).expect("the weight is bound");
            let desc = graph.desc(id).clone();
            let from = Binding::whole(device.alloc(0, bytes[at].len())?);
            let to = Binding::whole(device.alloc(0, device.prepack_bytes(&desc, layout)?)?);
            stream.upload(&from, &bytes[at])?;
            device.prepack(&mut *stream, &desc, &from, layout, &to)?;
            bytes[at] = vec![0; to.bytes];
            stream.download(&mut bytes[at], &to)?;
            graph.set_layout(id, layout)?;
        }
    }
    Ok(())
}
