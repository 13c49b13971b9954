//! Operators on rows beyond the caches, beside copies of as many bytes on as many threads in the same run.
//!
//!     cargo bench -p qiao-benches --bench rows [-- [NAME] [WIDTH]]
//!
//! Each line is the median of rounds that alternate with two copies, the standard library's between allocations of its own
//! and the device's between its buffers: bytes read and written once each, a second, and the share of the faster copy's. Operators of names that do not contain NAME are left out;
//! rows have WIDTH columns, which are whole heads of 128 for rope.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use qiao_core::{Binding, DType, Device, Graph, NoAttrs, NormAttrs, Op, Plan, Result, RopeAttrs};
use qiao_core::{SiluMulAttrs, SoftmaxAttrs, Stream, TensorDesc};
use qiao_cpu::{CpuDevice, CpuOptions};

/// Elements of the largest operands.
const ELEMENTS: usize = 32 << 20;
/// Columns where none are asked for.
const WIDTH: usize = 4096;
const ROUNDS: usize = 5;

/// An operator: its name, itself, the shapes of the operands that are as large as the result, and of the small ones.
struct Case {
    name: &'static str,
    op: Op,
    large: usize,
    small: Vec<(DType, Vec<usize>)>,
    results: usize,
    /// dtype of the result, where it is not that of the operands.
    out: Option<DType>,
}

fn cases(dtype: DType, (rows, width): (usize, usize)) -> Vec<Case> {
    let plain = |name, op, large| Case { name, op, large, small: vec![], results: 1, out: None };
    let weight = || (dtype, vec![width]);
    let norm = NormAttrs { eps: 1e-5, ..Default::default() };
    let table = || (DType::F32, vec![rows, 64]);
    let mut all = vec![
        plain("copy", Op::Copy(NoAttrs {}), 1),
        plain("add", Op::Add(NoAttrs {}), 2),
        plain("relu", Op::Relu(NoAttrs {}), 1),
        plain("silu", Op::Silu(NoAttrs {}), 1),
        plain("silu_mul", Op::SiluMul(SiluMulAttrs::default()), 2),
        plain("softmax", Op::Softmax(SoftmaxAttrs::default()), 1),
        Case { small: vec![weight()], ..plain("rms_norm", Op::RmsNorm(norm), 1) },
        Case { small: vec![weight()], results: 2, ..plain("add_rms_norm", Op::AddRmsNorm(norm), 2) },
        Case { small: vec![weight(), weight()], ..plain("layer_norm", Op::LayerNorm(Default::default()), 1) },
        Case { small: vec![(DType::I32, vec![rows])], ..plain("gather_rows", Op::GatherRows(NoAttrs {}), 1) },
        Case {
            small: vec![(DType::I32, vec![rows]), table(), table()],
            ..plain("rope", Op::Rope(RopeAttrs::default()), 1)
        },
    ];
    let other = if dtype == DType::F32 { DType::BF16 } else { DType::F32 };
    all.push(Case { out: Some(other), ..plain("cast", Op::Cast(NoAttrs {}), 1) });
    all
}

/// A case on the CPU device, ready to execute, and the bytes that it reads and writes.
struct Ready {
    plan: Arc<dyn Plan>,
    stream: Box<dyn Stream>,
    bindings: Vec<Binding>,
    workspace: Binding,
    bytes: usize,
}

impl Ready {
    fn run(&mut self) -> Result<()> {
        self.plan.execute(&mut *self.stream, &self.bindings, &self.workspace)
    }
}

fn ready(device: &CpuDevice, case: &Case, dtype: DType, (rows, width): (usize, usize)) -> Result<Ready> {
    let (mut g, mut stream) = (Graph::new(), device.stream()?);
    let (mut bindings, mut operands, mut bytes) = (Vec::new(), Vec::new(), 0);
    let shape: &[usize] = if case.name == "rope" { &[rows, width / 128, 128] } else { &[rows, width] };
    let mut bind = |g: &mut Graph, desc: TensorDesc| -> Result<_> {
        let binding = Binding::whole(device.alloc(0, desc.bytes()?)?);
        let byte = if desc.dtype.is_activation() { 60 } else { 0 };
        stream.fill(&binding, byte)?;
        bindings.push(binding);
        Ok(g.bind(format!("t{}", bindings.len()), desc))
    };
    for _ in 0..case.large {
        let desc = TensorDesc::new(dtype, shape)?;
        bytes += desc.bytes()?;
        operands.push(Some(bind(&mut g, desc)?));
    }
    for (dtype, shape) in &case.small {
        operands.push(Some(bind(&mut g, TensorDesc::new(*dtype, shape)?)?));
    }
    let mut out = Vec::new();
    for _ in 0..case.results {
        let desc = TensorDesc::new(case.out.unwrap_or(dtype), shape)?;
        bytes += desc.bytes()?;
        out.push(bind(&mut g, desc)?);
    }
    g.add_into(case.op, &operands, &out)?;
    if case.name == "gather_rows" {
        let ids: Vec<u8> = (0..rows as i32).map(|i| i * 37 % rows as i32).flat_map(i32::to_le_bytes).collect();
        stream.upload(&bindings[1], &ids)?;
    }
    let plan = device.plan(&g)?;
    let workspace = Binding::whole(device.alloc(0, plan.info().workspace_bytes)?);
    Ok(Ready { plan, stream, bindings, workspace, bytes })
}

/// Copies half of the bytes, which are as many read as written, on so many threads.
fn copy(threads: usize, from: &[u8], to: &mut [u8]) {
    let part = from.len().div_ceil(threads);
    std::thread::scope(|s| {
        for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
            s.spawn(|| to.copy_from_slice(from));
        }
    });
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = words.iter().find(|a| a.parse::<usize>().is_err()).cloned().unwrap_or_default();
    let width = words.iter().find_map(|a| a.parse().ok()).filter(|&w| w > 0).unwrap_or(WIDTH);
    let sizes = (ELEMENTS / width, width);
    let largest = 4 * ELEMENTS * 4;
    let (from, mut to) = (vec![1u8; largest / 2], vec![0u8; largest / 2]);
    println!("{:>14} {:>6} {:>8} {:>10} {:>10} {:>7}", "operator", "dtype", "threads", "GB/s", "copy GB/s", "share");
    for threads in [1, 2] {
        let device = CpuDevice::with(&CpuOptions { isa: None, threads: Some(threads), ..Default::default() })?;
        let mut plain = ready(&device, &cases(DType::F32, sizes)[0], DType::F32, sizes)?;
        for dtype in [DType::F32, DType::BF16] {
            for case in cases(dtype, sizes).iter().filter(|case| case.name.contains(&wanted)) {
                let mut op = ready(&device, case, dtype, sizes)?;
                let half = op.bytes / 2;
                let mut seconds = [(); 3].map(|()| Vec::new());
                for _ in 0..=ROUNDS {
                    let start = Instant::now();
                    op.run()?;
                    seconds[0].push(start.elapsed().as_secs_f64());
                    let start = Instant::now();
                    copy(threads, &from[..half], &mut to[..half]);
                    seconds[1].push(start.elapsed().as_secs_f64());
                    let start = Instant::now();
                    plain.run()?;
                    seconds[2].push(start.elapsed().as_secs_f64() / plain.bytes as f64 * op.bytes as f64);
                }
                // The first round touches fresh pages.
                let [ours, std, own] = seconds.map(|s| op.bytes as f64 / 1e9 / median(s[1..].to_vec()));
                let limit = own.max(std);
                let share = 100.0 * ours / limit;
                println!("{:>14} {dtype:>6} {threads:>8} {ours:>10.1} {limit:>10.1} {share:>6.0}%", case.name);
            }
        }
    }
    Ok(())
}
