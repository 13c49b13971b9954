//! The scheduler's own cost: steps per second with an executor that computes nothing, for 1 to 64 sequences, and with a small
//! random model.
//!
//!     cargo bench -p qiao-benches --bench scheduler
//!
//! Throughput is in tokens: a step generates one for each sequence.

#![forbid(unsafe_code)]

use std::sync::Arc;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use qiao_benches::model::load;
use qiao_benches::timing::short;
use qiao_core::DType;
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_engine::Result;
use qiao_engine::generation::SamplingParams;
use qiao_engine::serve::{
    CacheOptions, Entry, Executor, HostBlocks, Limits, PagedExecutor, Policy, Request, Scheduler,
};
use qiao_engine::voice::Speech;

const SEQUENCES: [usize; 4] = [1, 4, 16, 64];
const VOCAB: usize = 512;

/// Answers every batch with the same logits.
struct Nothing {
    logits: Vec<f32>,
}

impl Executor for Nothing {
    fn limits(&self) -> Limits {
        Limits {
            vocab: VOCAB,
            block_size: 32,
            blocks: 1 << 16,
            block_bytes: 1,
            context: 1 << 20,
            window: None,
            batch_tokens: 1024,
            batch_sequences: 64,
        }
    }

    fn run(&mut self, entries: &[Entry<'_>]) -> Result<&[f32]> {
        let rows: usize = entries.iter().map(|entry| entry.rows).sum();
        Ok(&self.logits[..rows * VOCAB])
    }

    fn copy(&mut self, _: &[(u32, u32)]) -> Result<()> {
        Ok(())
    }

    fn save(&mut self, _: &[u32]) -> Result<HostBlocks> {
        Ok(HostBlocks::default())
    }

    fn restore(&mut self, _: &HostBlocks, _: usize, _: &[u32]) -> Result<()> {
        Ok(())
    }

    fn recover(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A scheduler in whose steps so many sequences generate.
fn running(executor: Box<dyn Executor>, sequences: usize) -> Scheduler {
    let limits = executor.limits();
    let mut scheduler = Scheduler::new(executor, Speech::none(), Policy::default()).expect("the limits are sound");
    for tenant in 0..sequences {
        let room = limits.blocks / sequences.max(1) * limits.block_size;
        let most = room.min(limits.context) - 64;
        let params = SamplingParams { max_tokens: most, temperature: 0.0, ignore_eos: true, ..Default::default() };
        let mut request = Request::new(vec![tenant as u32; 16], params);
        request.tenant = tenant.to_string();
        scheduler.submit(request).expect("the scheduler has room");
    }
    scheduler
}

/// Steps of schedulers that are made anew where one is done.
fn steps(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, sequences: usize, make: &dyn Fn() -> Box<dyn Executor>) {
    group.throughput(Throughput::Elements(sequences as u64));
    group.bench_function(format!("{name}, {sequences} sequences"), |b| {
        let mut scheduler = running(make(), sequences);
        let mut events = Vec::new();
        b.iter(|| {
            events.clear();
            scheduler.step(&mut events).expect("nothing fails");
            if scheduler.is_idle() {
                scheduler = running(make(), sequences);
            }
        });
    });
}

fn scheduler(c: &mut Criterion) {
    let mut group = c.benchmark_group("scheduler");
    let nothing = || -> Box<dyn Executor> { Box::new(Nothing { logits: vec![0.5; 64 * VOCAB] }) };
    for sequences in SEQUENCES {
        steps(&mut group, "nothing", sequences, &nothing);
    }
    let device = Arc::new(CpuDevice::with(&CpuOptions::default()).expect("every machine has a CPU"));
    let model = load(device, DType::Q8_0).expect("the model runs on the CPU");
    let options = CacheOptions { bytes: Some(256 << 20), batch_sequences: 64, ..CacheOptions::default() };
    let small = || -> Box<dyn Executor> {
        Box::new(PagedExecutor::new(model.clone(), options).expect("there is room for the pool"))
    };
    for sequences in SEQUENCES {
        steps(&mut group, "q8_0 model", sequences, &small);
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = short();
    targets = scheduler
}
criterion_main!(benches);
