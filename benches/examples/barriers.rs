//! What a job costs beside its work: measured on two threads of this machine, and modelled for more.
//!
//!     cargo run --release -p qiao-benches --example barriers
//!
//! The first part measures a plan of operators that are just large enough to share, on one thread and on two. The second
//! measures how long a cache line takes from one core to another. The third is a MODEL, not a measurement: it counts the
//! transfers of lines that stand one behind the other in a job of `docs/threads.md`, and in one whose threads all count
//! on one line, for as many threads as this machine may not have.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use qiao_core::{Binding, DType, Device, Graph, NoAttrs, Op, Result, SiluMulAttrs, TensorDesc};
use qiao_cpu::{CpuDevice, CpuOptions};

/// A word on cache lines of its own.
#[repr(align(128))]
struct Line(AtomicU64);

const ROUNDS: usize = 9;

fn median(mut of: [f64; ROUNDS]) -> f64 {
    of.sort_by(f64::total_cmp);
    of[ROUNDS / 2]
}

/// Nanoseconds of one operator of a chain of silu_mul on so many elements.
fn operator(threads: usize, elements: usize) -> Result<f64> {
    const STEPS: usize = 200;
    let device = CpuDevice::with(&CpuOptions { isa: None, threads: Some(threads), ..Default::default() })?;
    let (mut g, mut stream) = (Graph::new(), device.stream()?);
    let desc = TensorDesc::new(DType::F32, &[1, elements])?;
    let mut bindings = Vec::new();
    let [x, other, out] = ["x", "other", "out"].map(|name| g.bind(name, desc.clone()));
    for _ in 0..3 {
        bindings.push(Binding::whole(device.alloc(0, desc.bytes()?)?));
    }
    let mut last = x;
    for _ in 1..STEPS {
        last = g.op1(Op::SiluMul(SiluMulAttrs::default()), &[last, other])?;
    }
    g.add_into(Op::Add(NoAttrs {}), &[Some(last), Some(other)], &[out])?;
    let plan = device.plan(&g)?;
    let workspace = Binding::whole(device.alloc(0, plan.info().workspace_bytes)?);
    let mut times = [0.0; ROUNDS];
    for time in &mut times {
        let start = Instant::now();
        for _ in 0..20 {
            plan.execute(&mut *stream, &bindings, &workspace)?;
        }
        *time = start.elapsed().as_nanos() as f64 / (20 * STEPS) as f64;
    }
    Ok(median(times))
}

/// Nanoseconds that a line takes from one core to another: half of a word's way there and back.
fn transfer() -> f64 {
    const TRIPS: u64 = 200_000;
    let (there, back) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let wait = |line: &Line, word: u64| {
        let mut turns = 0u32;
        while line.0.load(Ordering::Acquire) != word {
            turns += 1;
            if turns.is_multiple_of(1 << 14) {
                std::thread::yield_now();
            }
        }
    };
    let mut times = [0.0; ROUNDS];
    for (round, time) in (0..).zip(&mut times) {
        let trips = round * TRIPS + 1..=(round + 1) * TRIPS;
        std::thread::scope(|s| {
            s.spawn(|| {
                for trip in trips.clone() {
                    wait(&there, trip);
                    back.0.store(trip, Ordering::Release);
                }
            });
            let start = Instant::now();
            for trip in trips.clone() {
                there.0.store(trip, Ordering::Release);
                wait(&back, trip);
            }
            *time = start.elapsed().as_nanos() as f64 / (2 * TRIPS) as f64;
        });
    }
    median(times)
}

/// Nanoseconds of jobs of four tasks a thread, without the tasks: [one counter, a line for each thread, a tree of such].
fn model(threads: f64, transfer: f64, remote: f64) -> [f64; 3] {
    /// Reads of one line that its owner answers one behind the other.
    const ANSWER: f64 = 5.0;
    /// Lines that a core fetches at once.
    const AT_ONCE: f64 = 10.0;
    /// Children of a node of the tree.
    const FAN: f64 = 8.0;
    // Half of the threads sit behind the link, where there is one.
    let mean = f64::midpoint(transfer, transfer * remote);
    let far = transfer * remote;
    let post = far + ANSWER * (threads - 1.0);
    let counter = post + (4.0 * threads + 2.0 * (threads - 1.0)) * mean;
    let flags = post + ((threads - 1.0) / AT_ONCE).ceil() * mean;
    let levels = (threads.ln() / FAN.ln()).ceil().max(1.0);
    let tree = levels * (transfer + ANSWER * FAN) + levels * transfer + 2.0 * (far - transfer);
    [counter, flags, tree]
}

fn main() -> Result<()> {
    println!("measured: nanoseconds of one silu_mul in a chain");
    println!("{:>9} {:>10} {:>10} {:>22}", "elements", "1 thread", "2 threads", "beside half the work");
    for elements in [512, 2048, 4864, 16384] {
        let (one, two) = (operator(1, elements)?, operator(2, elements)?);
        println!("{elements:>9} {one:>10.0} {two:>10.0} {:>22.0}", two - one / 2.0);
    }
    let line = transfer();
    println!("\nmeasured: {line:.0} ns for a cache line from one core to the other");
    println!("\nMODEL, not measured: nanoseconds of a job of four tasks a thread, without its tasks");
    println!("{:>8} {:>12} {:>12} {:>14} {:>10}", "threads", "nodes", "one counter", "line a thread", "tree of 8");
    for (threads, remote) in [(2, 1.0), (8, 1.0), (16, 1.0), (32, 1.0), (64, 1.0), (64, 3.0), (128, 3.0)] {
        let [counter, flags, tree] = model(f64::from(threads), line, remote);
        let nodes = if remote > 1.0 { "2, far x3" } else { "1" };
        println!("{threads:>8} {nodes:>12} {counter:>12.0} {flags:>14.0} {tree:>10.0}");
    }
    Ok(())
}
