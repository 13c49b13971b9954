//! The limits of this machine as one JSON object: bytes per second of memory, operations per second of each
//! multiply-add instruction, for each number of threads.
//!
//!     cargo run --release -p qiao-benches --example limits -- [--threads 1,2] [--ms 30] [--bytes 268435456]
//!
//! Each figure is the median of five runs of about `--ms` milliseconds; a pass over memory takes as long as it takes.
//! `--bytes` is read by each thread and must be beyond the last cache.

#![forbid(unsafe_code)]

use std::sync::Barrier;
use std::time::{Duration, Instant};

use qiao_kernels_cpu::limits::{self, Rate};
use serde_json::{Map, Value, json};

/// Runs that a median is taken of.
const RUNS: usize = 5;

struct Asked {
    threads: Vec<usize>,
    time: Duration,
    words: usize,
}

fn asked() -> Result<Asked, String> {
    let mut asked = Asked { threads: vec![1, 2], time: Duration::from_millis(30), words: 32 << 20 };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let text = args.next().ok_or_else(|| format!("{name} lacks its value"))?;
        let number = |text: &str| text.parse().map_err(|_| format!("{name} {text}: give a number"));
        match name.as_str() {
            "--threads" => asked.threads = text.split(',').map(number).collect::<Result<_, _>>()?,
            "--ms" => asked.time = Duration::from_millis(number(&text)? as u64),
            "--bytes" => asked.words = number(&text)? / 8,
            _ => return Err(format!("{name} is no option: use --threads, --ms or --bytes")),
        }
    }
    if asked.threads.contains(&0) || asked.words == 0 {
        return Err("give at least one thread and eight bytes".into());
    }
    Ok(asked)
}

/// Seconds that `threads` threads take, from a common start to the last end: the median of some runs.
fn together(threads: usize, work: &(dyn Fn(usize) + Sync)) -> f64 {
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let barrier = Barrier::new(threads);
            let timed = |at| {
                barrier.wait();
                let start = Instant::now();
                work(at);
                (start, Instant::now())
            };
            std::thread::scope(|s| {
                let others: Vec<_> = (1..threads).map(|at| s.spawn(move || timed(at))).collect();
                let mut times = vec![timed(0)];
                times.extend(others.into_iter().map(|t| t.join().expect("the loops do not panic")));
                let first = times.iter().map(|t| t.0).min().expect("there is a thread");
                let last = times.iter().map(|t| t.1).max().expect("there is a thread");
                (last - first).as_secs_f64()
            })
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}

/// Operations per second.
fn rate(rate: &Rate, threads: usize, time: Duration) -> f64 {
    let mut rounds = 1000;
    loop {
        let start = Instant::now();
        (rate.run)(rounds);
        if start.elapsed() * 4 > time {
            break;
        }
        rounds *= 2;
    }
    rounds *= 4;
    (threads as u64 * rounds * rate.ops) as f64 / together(threads, &|_| (rate.run)(rounds))
}

/// Words of each thread's own.
struct Memory {
    from: Vec<Vec<u64>>,
    to: Vec<std::sync::Mutex<Vec<u64>>>,
}

impl Memory {
    fn new(threads: usize, words: usize) -> Memory {
        // A quarter is copied: what is read and what is written are beyond the caches each.
        let to = (0..threads).map(|_| std::sync::Mutex::new(vec![1; words / 4])).collect();
        Memory { from: (0..threads).map(|at| vec![at as u64 + 1; words]).collect(), to }
    }

    /// Bytes per second that threads read, and copy; a copied byte counts once read and once written.
    fn rates(&self, threads: usize) -> (f64, f64) {
        let bytes = |each: usize| (8 * each * threads) as f64;
        let read = together(threads, &|at| {
            std::hint::black_box(limits::read(&self.from[at]));
        });
        let copy = together(threads, &|at| {
            let mut to = self.to[at].lock().expect("no thread panics");
            let len = to.len();
            limits::copy(&mut to, &self.from[at][..len]);
        });
        (bytes(self.from[0].len()) / read, 2.0 * bytes(self.from[0].len() / 4) / copy)
    }
}

fn main() -> Result<(), String> {
    let asked = asked()?;
    let most = asked.threads.iter().copied().max().unwrap_or(1);
    let memory = Memory::new(most, asked.words);
    let mut by_threads = Map::new();
    for &threads in &asked.threads {
        let (read, copy) = memory.rates(threads);
        let ops: Map<String, Value> =
            limits::rates().map(|r| (r.name.to_string(), json!(rate(&r, threads, asked.time)))).collect();
        let found = json!({ "read_bytes_per_s": read, "copy_bytes_per_s": copy, "ops_per_s": ops });
        by_threads.insert(threads.to_string(), found);
    }
    println!("{}", json!({ "threads": by_threads, "bytes_per_thread": 8 * asked.words }));
    Ok(())
}
