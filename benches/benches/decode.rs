//! One token of a small random model in memory, per format of its weights: at the start of a sequence and deep in one, and
//! a prompt of 64 tokens.
//!
//!     cargo bench -p qiao-benches --bench decode
//!
//! Throughput is in tokens; the number of weights is 16 million. `read` is what the same weights take to be read on one thread.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qiao_benches::model::{VOCAB, load};
use qiao_benches::timing::short;
use qiao_core::DType;
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_engine::session::Session;
use qiao_kernels_cpu::limits;

const FORMATS: [DType; 7] = [DType::BF16, DType::F16, DType::F32, DType::Q8_0, DType::Q4_0, DType::Q4K, DType::Q6K];

/// Tokens before a deep one.
const DEPTH: usize = 2048;

fn ids(count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * 37 % VOCAB) as u32).collect()
}

fn decode(c: &mut Criterion) {
    for threads in [1, 2] {
        let mut group = c.benchmark_group(format!("decode, {threads} threads"));
        for format in FORMATS {
            let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
            let device = Arc::new(CpuDevice::with(&options).expect("every machine has a CPU"));
            let model = load(device, format).expect("the model runs on the CPU");
            let mut session = Session::new(model.clone(), DEPTH + 128).expect("there is room for the cache");
            for depth in [0, DEPTH] {
                if depth > 0 {
                    session.truncate(0);
                    session.prefill(&ids(depth), &|| false).expect("the CPU runs the prompt");
                }
                group.throughput(Throughput::Elements(1));
                group.bench_function(format!("{format}, a token at {depth}"), |b| {
                    b.iter(|| {
                        session.truncate(depth);
                        black_box(session.step(7).expect("the CPU runs a step")[0])
                    });
                });
            }
            group.throughput(Throughput::Elements(64));
            group.bench_function(format!("{format}, a prompt of 64"), |b| {
                let prompt = ids(64);
                b.iter(|| {
                    session.truncate(0);
                    session.prefill(&prompt, &|| false).expect("the CPU runs the prompt");
                });
            });
            let words = vec![1u64; model.step_weight_bytes() as usize / 8];
            group.throughput(Throughput::Elements(1));
            group.bench_function(format!("{format}, read"), |b| b.iter(|| limits::read(black_box(&words))));
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = short();
    targets = decode
}
criterion_main!(benches);
