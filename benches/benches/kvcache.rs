//! The books of the paged cache: append, fork, prefix match, eviction. No device, no contents.
//!
//!     cargo bench -p qiao-benches --bench kvcache
//!
//! Throughput is in tokens.

#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use qiao_benches::timing::short;
use qiao_kvcache::{Cache, Config, SequenceId};

const BLOCK: usize = 32;

fn cache(blocks: usize) -> Cache {
    let config = Config { blocks, block_size: BLOCK, block_bytes: 1 << 20, window: None, sharing: true };
    Cache::new(config).expect("the pool has blocks")
}

/// Tokens of a conversation of its own.
fn tokens(salt: u32, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| i.wrapping_mul(2_654_435_761).wrapping_add(salt) % 32_768).collect()
}

/// Appends tokens as a prompt would, `step` at a time.
fn append(cache: &mut Cache, s: SequenceId, ids: &[u32], step: usize) {
    for part in ids.chunks(step) {
        cache.reserve(s, cache.len(s) + part.len()).expect("the pool has room");
        cache.commit(s, part).expect("room was reserved");
    }
}

/// A cache that holds a sequence of these tokens.
fn filled(ids: &[u32]) -> (Cache, SequenceId) {
    let mut cache = cache(4096);
    let s = cache.open(b"", ids);
    append(&mut cache, s, ids, 512);
    (cache, s)
}

fn books(c: &mut Criterion) {
    let mut group = c.benchmark_group("kvcache");
    let prompt = tokens(1, 8192);
    group.throughput(Throughput::Elements(prompt.len() as u64));
    for step in [1, 512] {
        group.bench_function(format!("append 8192 tokens, {step} at a time"), |b| {
            let make = || (cache(4096), ());
            b.iter_batched_ref(
                make,
                |(cache, ())| {
                    let s = cache.open(b"", &[]);
                    append(cache, s, &prompt, step);
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.bench_function("prefix match of 8192 tokens", |b| {
        let (cache, _) = filled(&prompt);
        b.iter(|| black_box(cache.peek(b"", black_box(&prompt))));
    });
    group.bench_function("open and close with a prefix of 8192 tokens", |b| {
        let (mut cache, _) = filled(&prompt);
        b.iter(|| {
            let s = cache.open(b"", black_box(&prompt));
            cache.close(s);
        });
    });
    group.bench_function("fork and close 8192 tokens", |b| {
        let (mut cache, s) = filled(&prompt);
        b.iter(|| {
            let fork = cache.fork(s).expect("the sequence is open");
            cache.close(fork);
        });
    });
    group.bench_function("evict: 8192 tokens into a pool full of others'", |b| {
        // Every block holds what a closed sequence has left behind; each round has tokens of its own, so none is found.
        let mut cache = cache(prompt.len() / BLOCK + 1);
        let mut round = 0;
        b.iter_batched(
            || {
                round += 1;
                tokens(round, prompt.len())
            },
            |ids| {
                let s = cache.open(b"", &ids);
                append(&mut cache, s, &ids, 512);
                cache.close(s);
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = short();
    targets = books
}
criterion_main!(benches);
