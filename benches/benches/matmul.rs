//! Matrix products of a 0.5B model's shapes: Qiao on the CPU beside candle, and beside a plain read of as many
//! bytes on one thread.
//!
//!     cargo bench -p qiao-benches --bench matmul
//!
//! `prefill` multiplies 512 rows of activations, `decode` one; throughput is in operations and in bytes of weights.

#![forbid(unsafe_code)]

use std::sync::Arc;

use candle_core::Tensor;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use qiao_core::{Binding, DType, Device, Graph, MatmulAttrs, Op, Plan, Stream, Support, TensorDesc};
use qiao_cpu::{CpuDevice, CpuOptions};

/// A matmul on the CPU device, ready to execute.
struct Product {
    plan: Arc<dyn Plan>,
    stream: Box<dyn Stream>,
    bindings: Vec<Binding>,
    workspace: Binding,
}

impl Product {
    fn new(device: &CpuDevice, dtype: DType, m: usize, n: usize, k: usize) -> qiao_core::Result<Self> {
        let mut g = Graph::new();
        let a = g.bind("a", TensorDesc::new(dtype, &[m, k])?);
        let w = g.bind("w", TensorDesc::new(dtype, &[n, k])?.as_constant());
        let y = g.bind("y", TensorDesc::new(dtype, &[m, n])?);
        let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
        g.add_into(op, &[Some(a), Some(w)], &[y])?;
        let mut stream = device.stream()?;
        let alloc = |bytes| device.alloc(0, bytes).map(Binding::whole);
        let mut bindings = Vec::new();
        for id in [a, w, y] {
            let bytes = g.desc(id).bytes()?;
            let binding = alloc(bytes)?;
            stream.upload(&binding, &numbers(dtype, bytes / dtype.block_bytes()))?;
            bindings.push(binding);
        }
        if let Support::Relayout { layout, .. } = device.support(&g)[0].answer {
            let desc = g.desc(w).clone();
            let packed = alloc(device.prepack_bytes(&desc, layout)?)?;
            device.prepack(&mut *stream, &desc, &bindings[1], layout, &packed)?;
            bindings[1] = packed;
            g.set_layout(w, layout)?;
        }
        let plan = device.plan(&g)?;
        let workspace = alloc(plan.info().workspace_bytes)?;
        Ok(Product { plan, stream, bindings, workspace })
    }

    fn run(&mut self) {
        self.plan.execute(&mut *self.stream, &self.bindings, &self.workspace).expect("the bindings fit the plan");
    }
}

/// Small numbers of a dtype, as bytes.
fn numbers(dtype: DType, count: usize) -> Vec<u8> {
    let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 64.0;
    match dtype {
        DType::F32 => (0..count).flat_map(|i| value(i).to_le_bytes()).collect(),
        _ => (0..count).flat_map(|i| half::bf16::from_f32(value(i)).to_le_bytes()).collect(),
    }
}

fn candle(m: usize, n: usize, k: usize) -> candle_core::Result<(Tensor, Tensor)> {
    let make = |rows: usize| Tensor::rand(-1f32, 1f32, (rows, k), &candle_core::Device::Cpu);
    Ok((make(m)?, make(n)?.t()?))
}

fn products(c: &mut Criterion) {
    let device = CpuDevice::with(&CpuOptions::default()).expect("the CPU opens");
    for (name, m, shapes) in [
        ("prefill", 512, [(896, 896), (4864, 896), (896, 4864)]),
        ("decode", 1, [(4864, 896), (896, 4864), (32768, 896)]),
    ] {
        let mut group = c.benchmark_group(name);
        group.sample_size(10);
        for (n, k) in shapes {
            let at = format!("{m}x{n}x{k}");
            for dtype in [DType::BF16, DType::F32] {
                let mut product = Product::new(&device, dtype, m, n, k).expect("the CPU multiplies");
                let bytes = (n * k * dtype.block_bytes()) as u64;
                group.throughput(Throughput::ElementsAndBytes { elements: 2 * (m * n * k) as u64, bytes });
                group.bench_function(BenchmarkId::new(format!("qiao {dtype}"), &at), |b| b.iter(|| product.run()));
            }
            let (a, w) = candle(m, n, k).expect("candle makes tensors");
            group.bench_function(BenchmarkId::new("candle f32", &at), |b| {
                b.iter(|| a.matmul(&w).expect("candle multiplies"))
            });
            let data = vec![1u64; n * k / 2];
            group.bench_function(BenchmarkId::new("one thread reads the f32 weights", &at), |b| {
                b.iter(|| data.iter().fold(0u64, |sum, v| sum.wrapping_add(*v)));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
