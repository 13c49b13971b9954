//! Attention against paged caches beside the memory that it reads: one query token at a context of 32768, a few
//! sequences, and a chunk of a prompt, per cache dtype, group and head size, on one thread and on two.
//!
//!     cargo bench -p qiao-benches --bench attention
//!
//! The throughput of a decode line is in bytes of keys, values and scales, so that beside `read`, which only adds up a
//! buffer larger than the caches in four streams a thread, it is a share of the bandwidth.

#![forbid(unsafe_code)]

use std::sync::Arc;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use qiao_benches::timing::short;
use qiao_core::{AttentionAttrs, Binding, DType, Device, Graph, KvLayout, Op, Plan, Stream, TensorDesc};
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_reference::data::Rng;

/// Tokens of a block: those of a server's.
const BLOCK: usize = qiao_engine::serve::BLOCK_SIZE;

/// What is attended: queries of the last tokens of `batch` sequences, against `context` keys each.
#[derive(Clone, Copy)]
struct Shape {
    dtype: DType,
    group: usize,
    kv_heads: usize,
    d: usize,
    context: usize,
    batch: usize,
    /// Query tokens of a sequence; one is a decode step.
    queries: usize,
}

/// A node on the CPU device, ready to execute.
struct Attention {
    plan: Arc<dyn Plan>,
    stream: Box<dyn Stream>,
    bindings: Vec<Binding>,
    workspace: Binding,
}

impl Shape {
    /// The dtype of queries and results: that of a model's activations, which its cache has unless it is quantised.
    fn queries_in(&self) -> DType {
        if self.dtype.is_activation() { self.dtype } else { DType::BF16 }
    }

    /// Bytes of keys, values and scales.
    fn cached(&self) -> usize {
        let scale = if self.dtype.is_activation() { 0 } else { 4 };
        2 * self.batch * self.context * self.kv_heads * (self.d * self.dtype.block_bytes() + scale)
    }
}

fn desc(dtype: DType, shape: &[usize]) -> TensorDesc {
    TensorDesc::new(dtype, shape).expect("the shapes are small")
}

fn ints(shape: &[usize], data: impl Iterator<Item = usize>) -> (TensorDesc, Vec<u8>) {
    (desc(DType::I32, shape), data.flat_map(|x| (x as i32).to_le_bytes()).collect())
}

/// Small numbers of a dtype, as bytes.
fn numbers(dtype: DType, shape: &[usize]) -> (TensorDesc, Vec<u8>) {
    let desc = desc(dtype, shape);
    let pattern: &[u8] = match dtype {
        DType::F32 => &[0, 0, 0, 63, 0, 0, 128, 190, 0, 0, 64, 62],
        DType::F16 => &[0, 56, 0, 52, 0, 184, 0, 48],
        DType::BF16 => &[0, 63, 128, 190, 64, 62, 0, 190],
        _ => &[0x35, 0x9c, 0x71, 0x21, 0xa8],
    };
    let bytes = pattern.iter().copied().cycle().take(desc.bytes().expect("the shapes are small")).collect();
    (desc, bytes)
}

impl Attention {
    fn new(device: &CpuDevice, s: Shape) -> qiao_core::Result<Self> {
        let blocks = s.context.div_ceil(BLOCK);
        let heads = s.group * s.kv_heads;
        let tokens = s.batch * s.queries;
        let pages = [blocks * s.batch, s.kv_heads, BLOCK, s.d];
        let order = Rng::new(1).permutation(blocks * s.batch);
        let cache = || Some(numbers(s.dtype, &pages));
        let mut inputs = vec![Some(numbers(s.queries_in(), &[tokens, heads, s.d])), cache(), cache()];
        if s.queries > 1 {
            inputs.push(Some(ints(&[s.batch + 1], (0..=s.batch).map(|b| b * s.queries))));
        }
        inputs.push(Some(ints(&[s.batch], std::iter::repeat_n(s.context, s.batch))));
        inputs.push(Some(ints(&[s.batch, blocks], order.into_iter())));
        inputs.push(None);
        let scaled = !s.dtype.is_activation();
        for _ in 0..2 {
            inputs.push(scaled.then(|| numbers(DType::F32, &pages[..3])));
        }
        let (mut g, mut data) = (Graph::new(), Vec::new());
        let ids: Vec<_> = inputs
            .into_iter()
            .map(|input| {
                let (desc, bytes) = input?;
                data.push(bytes);
                Some(g.bind(format!("x{}", data.len()), desc))
            })
            .collect();
        let y = desc(s.queries_in(), &[tokens, heads, s.d]);
        data.push(vec![0; y.bytes()?]);
        let y = g.bind("y", y);
        let attrs = AttentionAttrs { causal: true, kv_layout: KvLayout::BlockHeadToken, ..Default::default() };
        g.add_into(if s.queries > 1 { Op::AttentionPrefill(attrs) } else { Op::AttentionDecode(attrs) }, &ids, &[y])?;
        let mut stream = device.stream()?;
        let mut bindings = Vec::new();
        for bytes in &data {
            let binding = Binding::whole(device.alloc(0, bytes.len())?);
            stream.upload(&binding, bytes)?;
            bindings.push(binding);
        }
        let plan = device.plan(&g)?;
        let workspace = Binding::whole(device.alloc(0, plan.info().workspace_bytes)?);
        Ok(Attention { plan, stream, bindings, workspace })
    }

    fn run(&mut self) {
        self.plan.execute(&mut *self.stream, &self.bindings, &self.workspace).expect("the bindings fit the plan");
    }
}

/// Adds up a part of a buffer in four streams.
fn sum(part: &[u64]) -> u64 {
    let quarter = part.len() / 4;
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| part[i * quarter..(i + 1) * quarter].chunks_exact(16));
    let mut sums = [0u64; 16];
    for ((a, b), (c, d)) in a.zip(b).zip(c.zip(d)) {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = sum.wrapping_add(a[i] ^ b[i]).wrapping_add(c[i] ^ d[i]);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// What memory gives, on as many threads.
fn read(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, buffer: &[u64], threads: usize) {
    group.throughput(Throughput::Bytes(8 * buffer.len() as u64));
    group.bench_function(format!("read, beside {name}"), |b| {
        b.iter(|| {
            std::thread::scope(|s| {
                for part in buffer.chunks(buffer.len().div_ceil(threads)) {
                    s.spawn(|| std::hint::black_box(sum(part)));
                }
            });
        });
    });
}

fn attention(c: &mut Criterion) {
    let buffer = vec![1u64; 32 << 20];
    let dtypes = [DType::BF16, DType::F16, DType::F32, DType::I8, DType::F8E4M3, DType::F8E5M2];
    for threads in [1, 2] {
        let device = CpuDevice::with(&CpuOptions { isa: None, threads: Some(threads), ..Default::default() })
            .expect("every machine has a CPU");
        let mut group = c.benchmark_group(format!("attention, {threads} threads"));
        let mut line = |name: &str, s: Shape| {
            let mut attention = None;
            let pairs = s.batch * s.group * s.kv_heads * s.queries * (2 * s.context - s.queries + 1) / 2;
            let bytes = s.cached() as u64;
            group.throughput(match s.queries {
                1 => Throughput::Bytes(bytes),
                _ => Throughput::Elements(4 * (pairs * s.d) as u64),
            });
            let name = format!("{name} {} {}x{} d={}", s.dtype, s.kv_heads, s.group, s.d);
            group.bench_function(&name, |b| {
                let attention = attention.get_or_insert_with(|| Attention::new(&device, s).expect("the CPU attends"));
                b.iter(|| attention.run());
            });
            read(&mut group, &name, &buffer, threads);
        };
        let decode = |dtype, group, d| Shape { dtype, group, kv_heads: 8, d, context: 32768, batch: 1, queries: 1 };
        for dtype in dtypes {
            for (group, d) in [(1, 128), (4, 128), (7, 64), (8, 64), (7, 128), (8, 128)] {
                line("decode at 32768", decode(dtype, group, d));
            }
        }
        // From the caches: what the arithmetic takes.
        for dtype in [DType::BF16, DType::F32, DType::F16, DType::I8] {
            for (group, d) in [(1, 128), (4, 128), (7, 64), (7, 128)] {
                line("decode at 512", Shape { kv_heads: 1, context: 512, ..decode(dtype, group, d) });
            }
        }
        line("8 sequences at 4096", Shape { batch: 8, context: 4096, ..decode(DType::BF16, 4, 128) });
        for (group, d) in [(7, 64), (4, 128)] {
            let prompt = Shape { context: 2048, queries: 512, ..decode(DType::BF16, group, d) };
            line("512 tokens at 2048, operations", prompt);
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = short();
    targets = attention
}
criterion_main!(benches);
