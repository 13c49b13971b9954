//! Every operator of the list on the CPU, through the contract, at sizes within and beyond the caches, beside what this
//! machine copies and multiplies at most.
//!
//!     cargo bench -p qiao-benches --bench operators                           # about two minutes
//!     cargo bench -p qiao-benches --bench operators -- --measurement-time 5   # steadier
//!
//! Throughput is in bytes by the op list's model of cost, of products in operations; the lines `limit` of a group are what
//! the same threads copy, read, and multiply in f32 from registers.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use qiao_benches::operators::work;
use qiao_benches::timing::short;
use qiao_core::{Device, OpKind};
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_kernels_cpu::limits;

/// Bytes that operators touch: in a second-level cache, and beyond most third-level ones.
const SIZES: [(&str, usize); 2] = [("256 KiB", 256 << 10), ("96 MiB", 96 << 20)];

/// What one thread copies, reads and multiplies.
fn limits_of(group: &mut BenchmarkGroup<'_, WallTime>, bytes: usize) {
    let from = vec![1u64; bytes / 16];
    let mut to = vec![0u64; bytes / 16];
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("limit: copy", |b| b.iter(|| to.copy_from_slice(black_box(&from))));
    group.bench_function("limit: copy past the caches", |b| b.iter(|| limits::copy(&mut to, black_box(&from))));
    let whole = vec![1u64; bytes / 8];
    group.bench_function("limit: read", |b| b.iter(|| limits::read(black_box(&whole))));
    for rate in limits::rates().filter(|rate| rate.name.starts_with("f32 fma")) {
        const ROUNDS: u64 = 10_000;
        group.throughput(Throughput::Elements(ROUNDS * rate.ops));
        group.bench_function(format!("limit: {}", rate.name), |b| b.iter(|| (rate.run)(ROUNDS)));
    }
}

fn operators(c: &mut Criterion) {
    let options = CpuOptions { threads: Some(1), ..CpuOptions::default() };
    let device: Arc<dyn Device> = Arc::new(CpuDevice::with(&options).expect("every machine has a CPU"));
    for (name, bytes) in SIZES {
        let mut group = c.benchmark_group(format!("operators, {name}, 1 thread"));
        limits_of(&mut group, bytes);
        for &kind in OpKind::ALL {
            // Made when it is asked for, so that a filter makes nothing else.
            let mut node = None;
            let work = || work(kind, bytes);
            let sized = sized(kind, bytes);
            group.throughput(sized);
            group.bench_function(kind.name(), |b| {
                let node = node.get_or_insert_with(|| work().on(&device).expect("the CPU runs every operator"));
                b.iter(|| node.run());
            });
        }
        group.finish();
    }
}

/// What a run of an operator counts as.
fn sized(kind: OpKind, bytes: usize) -> Throughput {
    let work = work(kind, bytes);
    let cost = work.graph().expect("the operands fit the operator").cost();
    match work.product {
        true => Throughput::ElementsAndBytes { elements: cost.flops, bytes: cost.read + cost.written },
        false => Throughput::Bytes(cost.read + cost.written),
    }
}

criterion_group! {
    name = benches;
    config = short();
    targets = operators
}
criterion_main!(benches);
