//! Matrix products of a 0.5B model's shapes: Qiao on the CPU beside candle, or beside the limits of the machine.
//!
//!     cargo bench -p qiao-benches --bench matmul
//!     cargo bench -p qiao-benches --bench matmul -- limits [bf16] [f16] [f32] [prefill | rows]
//!
//! Without words, `prefill` multiplies 512 rows of activations, `decode` one; throughput is in operations and in bytes of
//! weights. With `limits`, every product is measured in turn with two limits: what the threads read from memory, and
//! what they multiply from registers with the instruction of the tier (`QIAO_ISA`). No product is faster than the slower
//! of the two; the last column is how much of that it reaches. Weights come from memory: more of them than the caches
//! hold are multiplied one after the other. There are 1, 8 and 512 rows; `rows` walks from 1 to 512, `prefill` has 512 alone.

#![forbid(unsafe_code)]

use std::sync::{Arc, Barrier};
use std::time::Instant;

use candle_core::Tensor;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use memmap2::MmapMut;
use qiao_benches::timing::short;
use qiao_core::{Binding, DType, Device, Graph, MatmulAttrs, Op, Plan, Stream, Support, TensorDesc};
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_kernels_cpu::{detect, kernels, limits};

/// Rounds of which a median is taken.
const ROUNDS: usize = 5;

/// Bytes of weights that no cache holds.
const BEYOND: usize = 160 << 20;

/// A matmul on the CPU device, ready to execute, with one or more copies of its weights.
struct Product {
    plan: Arc<dyn Plan>,
    stream: Box<dyn Stream>,
    bindings: Vec<Vec<Binding>>,
    workspace: Binding,
}

impl Product {
    fn new(device: &CpuDevice, dtype: DType, [m, n, k]: [usize; 3], copies: usize) -> qiao_core::Result<Self> {
        let mut g = Graph::new();
        let a = g.bind("a", TensorDesc::new(dtype, &[m, k])?);
        let w = g.bind("w", TensorDesc::new(dtype, &[n, k])?.as_constant());
        let y = g.bind("y", TensorDesc::new(dtype, &[m, n])?);
        let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
        g.add_into(op, &[Some(a), Some(w)], &[y])?;
        let mut stream = device.stream()?;
        let alloc = |bytes| device.alloc(0, bytes).map(Binding::whole);
        let mut made = Vec::new();
        for id in [a, w, y] {
            let bytes = g.desc(id).bytes()?;
            let binding = alloc(bytes)?;
            stream.upload(&binding, &numbers(dtype, bytes / dtype.block_bytes()))?;
            made.push(binding);
        }
        let mut bindings = vec![made; copies];
        if let Support::Relayout { layout, .. } = device.support(&g)[0].answer {
            let desc = g.desc(w).clone();
            for set in &mut bindings {
                let packed = alloc(device.prepack_bytes(&desc, layout)?)?;
                device.prepack(&mut *stream, &desc, &set[1], layout, &packed)?;
                set[1] = packed;
            }
            g.set_layout(w, layout)?;
        }
        let plan = device.plan(&g)?;
        let workspace = alloc(plan.info().workspace_bytes)?;
        Ok(Product { plan, stream, bindings, workspace })
    }

    /// Multiplies once with every copy of the weights.
    fn run(&mut self) {
        for set in &self.bindings {
            self.plan.execute(&mut *self.stream, set, &self.workspace).expect("the bindings fit the plan");
        }
    }

    /// Seconds of one multiplication.
    fn seconds(&mut self) -> f64 {
        let start = Instant::now();
        self.run();
        start.elapsed().as_secs_f64() / self.bindings.len() as f64
    }
}

/// Small numbers of a dtype, as bytes.
fn numbers(dtype: DType, count: usize) -> Vec<u8> {
    let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 64.0;
    match dtype {
        DType::F32 => (0..count).flat_map(|i| value(i).to_le_bytes()).collect(),
        DType::F16 => (0..count).flat_map(|i| half::f16::from_f32(value(i)).to_le_bytes()).collect(),
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
        for (n, k) in shapes {
            let at = format!("{m}x{n}x{k}");
            for dtype in [DType::BF16, DType::F32] {
                let mut product = Product::new(&device, dtype, [m, n, k], 1).expect("the CPU multiplies");
                let bytes = (n * k * dtype.block_bytes()) as u64;
                group.throughput(Throughput::ElementsAndBytes { elements: 2 * (m * n * k) as u64, bytes });
                group.bench_function(BenchmarkId::new(format!("qiao {dtype}"), &at), |b| b.iter(|| product.run()));
            }
            let (a, w) = candle(m, n, k).expect("candle makes tensors");
            group.bench_function(BenchmarkId::new("candle f32", &at), |b| {
                b.iter(|| a.matmul(&w).expect("candle multiplies"))
            });
        }
        group.finish();
    }
}

/// What the machine allows some threads.
struct Limits {
    threads: usize,
    /// Memory beyond the caches for every thread, on huge pages as weights are.
    memory: Vec<MmapMut>,
    rate: limits::Rate,
}

impl Limits {
    /// `instruction` is what the tier multiplies with.
    fn new(threads: usize, instruction: &str) -> Option<Self> {
        let rate = limits::rates().find(|rate| rate.name == instruction)?;
        let memory = (0..threads).map(|_| memory(BEYOND / threads)).collect::<std::io::Result<_>>().ok()?;
        Some(Limits { threads, memory, rate })
    }

    /// Seconds from a common start to the last end.
    fn together(&self, work: impl Fn(usize) + Sync) -> f64 {
        let barrier = Barrier::new(self.threads);
        let (barrier, work) = (&barrier, &work);
        let timed = move |at| {
            barrier.wait();
            let start = Instant::now();
            work(at);
            start.elapsed().as_secs_f64()
        };
        std::thread::scope(|s| {
            let all: Vec<_> = (0..self.threads).map(|at| s.spawn(move || timed(at))).collect();
            all.into_iter().map(|t| t.join().expect("the loops do not panic")).fold(0.0, f64::max)
        })
    }

    /// Bytes per second: the better of one stream and eight.
    fn read(&self) -> f64 {
        let words = |at: usize| bytemuck::cast_slice::<u8, u64>(&self.memory[at]);
        let one = |at| words(at).iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
        let seconds = self.together(|at| {
            std::hint::black_box(one(at));
        });
        let eight = self.together(|at| {
            std::hint::black_box(limits::read(words(at)));
        });
        self.memory.iter().map(|m| m.len()).sum::<usize>() as f64 / seconds.min(eight)
    }

    /// Operations per second.
    fn multiply(&self) -> f64 {
        let rounds = 400_000;
        let seconds = self.together(|_| (self.rate.run)(rounds));
        (self.threads as u64 * rounds * self.rate.ops) as f64 / seconds
    }
}

/// Memory of ones.
fn memory(bytes: usize) -> std::io::Result<MmapMut> {
    let mut memory = MmapMut::map_anon(bytes / 64 * 64)?;
    #[cfg(target_os = "linux")]
    memory.advise(memmap2::Advice::HugePage)?;
    memory.fill(1);
    Ok(memory)
}

/// The instruction that a tier multiplies these weights with.
fn instruction(tier: &str, dots: bool, dtype: DType) -> &'static str {
    match (tier, dtype) {
        ("amx", DType::BF16) => "bf16 amx, 2x2 tiles from L1",
        ("scalar" | "avx2", _) => "f32 fma avx2",
        (_, DType::BF16) if dots => "bf16 vdpbf16ps avx512",
        _ => "f32 fma avx512",
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints one line for each product.
fn beside_limits(dtypes: &[DType], rows: &[usize]) -> Result<(), Box<dyn std::error::Error>> {
    let options = CpuOptions::from_env()?;
    let features = detect();
    let table = kernels(options.isa.unwrap_or(features.isa), &features)?;
    let most = std::thread::available_parallelism()?.get();
    println!("threads dtype     M     N     K    GB/s  of limit  GFLOP/s  of limit   reached");
    for threads in if most > 1 { vec![1, most] } else { vec![1] } {
        let device = CpuDevice::with(&CpuOptions { threads: Some(threads), ..options })?;
        for &dtype in dtypes {
            let name = instruction(table.isa.name(), table.gemm_bf16_dot.is_some(), dtype);
            let limits = Limits::new(threads, name).ok_or_else(|| format!("this machine has no {name}"))?;
            for (n, k) in [(896, 896), (4864, 896), (896, 4864)] {
                for &m in rows {
                    println!("{threads:7} {dtype:>5} {m:5} {n:5} {k:5} {}", line(&device, &limits, dtype, [m, n, k])?);
                }
            }
        }
    }
    Ok(())
}

/// The figures of one product: medians of rounds in each of which it and both limits are measured.
fn line(device: &CpuDevice, limits: &Limits, dtype: DType, [m, n, k]: [usize; 3]) -> qiao_core::Result<String> {
    let bytes = n * k * dtype.block_bytes();
    let ops = 2 * m * n * k;
    let copies = if m > 64 { 4 } else { BEYOND.div_ceil(bytes) };
    let mut product = Product::new(device, dtype, [m, n, k], copies)?;
    product.run();
    let mut figures: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let (read, multiply, seconds) = (limits.read(), limits.multiply(), product.seconds());
        let limit = (bytes as f64 / read).max(ops as f64 / multiply);
        let round =
            [bytes as f64 / seconds / 1e9, read / 1e9, ops as f64 / seconds / 1e9, multiply / 1e9, limit / seconds];
        figures.iter_mut().zip(round).for_each(|(all, figure)| all.push(figure));
    }
    let [at_bytes, read, at_ops, multiply, reached] = figures.map(median);
    Ok(format!("{at_bytes:7.1} {read:9.1} {at_ops:8.0} {multiply:9.0} {:8.0}%", 100.0 * reached))
}

criterion_group! {
    name = benches;
    config = short();
    targets = products
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|w| w == word);
    if !has("limits") {
        benches();
        Criterion::default().configure_from_args().final_summary();
        return Ok(());
    }
    let all = [("bf16", DType::BF16), ("f16", DType::F16), ("f32", DType::F32)];
    let mut dtypes: Vec<DType> = all.iter().filter(|(name, _)| has(name)).map(|(_, dtype)| *dtype).collect();
    if dtypes.is_empty() {
        dtypes = all.map(|(_, dtype)| dtype).to_vec();
    }
    let rows: &[usize] = match (has("prefill"), has("rows")) {
        (true, _) => &[512],
        (_, true) => &[1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 512],
        _ => &[1, 8, 512],
    };
    beside_limits(&dtypes, rows)
}
