//! What a plan costs beside its arithmetic: plans of many small operators, and of operators just large enough to share.
//!
//!     cargo bench -p qiao-benches --bench plan
//!
//! Throughput is in operators, so the time of one is its inverse.

#![forbid(unsafe_code)]

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use qiao_benches::timing::short;
use qiao_core::{Binding, DType, Device, Graph, NoAttrs, NormAttrs, Op, Plan, SiluMulAttrs, Stream, TensorDesc};
use qiao_cpu::{CpuDevice, CpuOptions};

/// Operators of a plan.
const OPERATORS: usize = 400;

/// A chain of operators on the CPU device, ready to execute.
struct Chain {
    plan: Arc<dyn Plan>,
    stream: Box<dyn Stream>,
    bindings: Vec<Binding>,
    workspace: Binding,
}

impl Chain {
    /// `OPERATORS` operators on rows of these lengths in turn, four kinds of operator for each length.
    fn new(threads: usize, dtype: DType, lengths: &[usize]) -> qiao_core::Result<Self> {
        let device = CpuDevice::with(&CpuOptions { isa: None, threads: Some(threads), ..Default::default() })?;
        let (mut g, mut stream) = (Graph::new(), device.stream()?);
        let mut bindings = Vec::new();
        for (i, &n) in lengths.iter().enumerate() {
            let desc = TensorDesc::new(dtype, &[1, n])?;
            let mut bind = |name: &str, desc: &TensorDesc| -> qiao_core::Result<_> {
                let binding = Binding::whole(device.alloc(0, desc.bytes()?)?);
                stream.upload(&binding, &vec![60; desc.bytes()?])?;
                bindings.push(binding);
                Ok(g.bind(format!("{name}.{i}"), desc.clone()))
            };
            let [mut x, other, out] = ["x", "other", "out"].map(|name| bind(name, &desc));
            let weight = bind("weight", &TensorDesc::new(dtype, &[n])?)?;
            for step in 0..OPERATORS / lengths.len() - 1 {
                let (from, other) = (x?, other.clone()?);
                x = Ok(match step % 4 {
                    0 => g.op1(Op::Add(NoAttrs {}), &[from, other])?,
                    1 => g.op1(Op::RmsNorm(NormAttrs { eps: 1e-5, ..Default::default() }), &[from, weight])?,
                    2 => g.op1(Op::Mul(NoAttrs {}), &[from, other])?,
                    _ => g.op1(Op::SiluMul(SiluMulAttrs::default()), &[from, other])?,
                });
            }
            g.add_into(Op::Add(NoAttrs {}), &[Some(x?), Some(other?)], &[out?])?;
        }
        let plan = device.plan(&g)?;
        let workspace = Binding::whole(device.alloc(0, plan.info().workspace_bytes)?);
        Ok(Chain { plan, stream, bindings, workspace })
    }

    fn run(&mut self) {
        self.plan.execute(&mut *self.stream, &self.bindings, &self.workspace).expect("the bindings fit the plan");
    }
}

fn chains(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    group.throughput(Throughput::Elements(OPERATORS as u64));
    for (name, lengths) in [("tiny", &[64, 256, 512, 1024][..]), ("shared", &[16384][..])] {
        for dtype in [DType::F32, DType::BF16] {
            for threads in [1, 2] {
                let mut chain = Chain::new(threads, dtype, lengths).expect("the chain is a sound graph");
                group.bench_function(BenchmarkId::new(format!("{name}_{dtype}"), threads), |b| b.iter(|| chain.run()));
            }
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = short();
    targets = chains
}
criterion_main!(benches);
