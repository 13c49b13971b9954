//! Micro-kernels by ISA tier, one thread, with the pick of the dispatcher marked.
//!
//!     cargo bench -p qiao-benches --bench kernels                 # every tier that the machine has
//!     cargo bench -p qiao-benches --bench kernels -- gemv_bf16    # by a part of the name
//!
//! Kernels of rows are called as they are, on rows in the first-level cache. Products and attention run inside the smallest
//! operator that has them, and are named by the operator and the kernel that answered.

#![forbid(unsafe_code)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qiao_benches::kernels::{Sizes, Timed, device, nodes, rows, tiers};
use qiao_benches::timing::short;
use qiao_kernels_cpu::{detect, kernels, limits};

fn every_tier(c: &mut Criterion) {
    let features = detect();
    for isa in tiers() {
        let table = kernels(isa, &features).expect("the machine has the tier");
        let device = device(isa).expect("the machine has the tier");
        let mut group = c.benchmark_group(format!("kernels, {isa}"));
        let picked = if isa == features.isa { " (picked)" } else { "" };
        let all = rows(&table).into_iter().chain(nodes(&device, Sizes::TIMED).expect("the CPU runs them"));
        for Timed { name, bytes, ops, mut run } in all {
            group.throughput(match ops {
                0 => Throughput::Bytes(bytes),
                ops => Throughput::ElementsAndBytes { elements: ops, bytes },
            });
            group.bench_function(format!("{name}{picked}"), |b| b.iter(&mut run));
        }
        group.finish();
    }
}

/// What each multiply-add instruction of this machine reaches.
fn instructions(c: &mut Criterion) {
    const ROUNDS: u64 = 10_000;
    let mut group = c.benchmark_group("limits, 1 thread");
    for rate in limits::rates() {
        group.throughput(Throughput::Elements(ROUNDS * rate.ops));
        group.bench_function(rate.name, |b| b.iter(|| (rate.run)(ROUNDS)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = short();
    targets = instructions, every_tier
}
criterion_main!(benches);
