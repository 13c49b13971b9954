//! A pool of threads that spin for a while, then park.
//!
//! One job runs at a time: tasks `0..n`, claimed one by one by the caller and the workers. A worker that comes late
//! finds the job closed and goes back to waiting, so a job never waits for a thread that sleeps.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

/// Turns that a worker spins before it parks: some hundred microseconds.
const SPINS: usize = 20_000;

thread_local! {
    /// The pool whose task this thread runs, by its address, and the thread's number there.
    static RUNNING: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// A job: the function, borrowed from the caller of [`Pool::run`] for the length of the call, and its tasks.
struct Job<'a> {
    run: &'a (dyn Fn(usize, usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job<'_> {
    /// Claims and runs tasks until none is left, for the pool at this address.
    fn work(&self, pool: usize, thread: usize) {
        let outer = RUNNING.replace((pool, thread));
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                RUNNING.set(outer);
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.run)(task, thread))) {
                self.next.store(self.tasks, Ordering::Relaxed);
                self.panicked.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            }
        }
    }

    /// Passes on the first panic of a task, when all have ended.
    fn finish(&self) {
        let panicked = self.panicked.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panicked {
            std::panic::resume_unwind(panic);
        }
    }
}

/// What the caller and the workers share.
struct Shared {
    /// The open job, or null. Points at a `Job` on the stack of the caller of `run`.
    job: AtomicPtr<Job<'static>>,
    /// Rises with every job.
    generation: AtomicUsize,
    /// Workers that hold, or are about to look at, the job pointer.
    inside: AtomicUsize,
    /// Workers that sleep or are about to.
    parked: AtomicUsize,
    closing: AtomicBool,
    spins: usize,
}

/// A fixed set of threads; the caller of [`Pool::run`] is the first of them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    threads: Vec<Thread>,
    turn: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` threads, the caller included.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            job: AtomicPtr::new(std::ptr::null_mut()),
            generation: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            // With more threads than cores a spinning thread takes the core of one that works.
            spins: if threads > cores { 0 } else { SPINS },
        });
        let mut pool = Pool { shared, workers: Vec::new(), threads: Vec::new(), turn: Mutex::new(()) };
        for index in 1..threads.max(1) {
            let shared = pool.shared.clone();
            let worker =
                std::thread::Builder::new().name(format!("qiao-cpu-{index}")).spawn(move || serve(&shared, index))?;
            pool.threads.push(worker.thread().clone());
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// How many threads work, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `run(task, thread)` for every task in `0..tasks`, each once, on some thread in `0..threads()`. Returns
    /// when all are done. Callers take turns; a task that calls runs the inner tasks itself, one after the other.
    ///
    /// # Panics
    /// With the first panic of a task.
    pub(crate) fn run(&self, tasks: usize, run: &(dyn Fn(usize, usize) + Sync)) {
        let pool = Arc::as_ptr(&self.shared) as usize;
        let (running, thread) = RUNNING.get();
        if running == pool {
            return (0..tasks).for_each(|task| run(task, thread));
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let job = Job { run, tasks, next: AtomicUsize::new(0), panicked: Mutex::new(None) };
        let shared = &self.shared;
        if tasks <= 1 || self.workers.is_empty() {
            job.work(pool, 0);
            return job.finish();
        }
        shared.job.store((&raw const job).cast_mut().cast(), Ordering::SeqCst);
        shared.generation.fetch_add(1, Ordering::SeqCst);
        if shared.parked.load(Ordering::SeqCst) > 0 {
            self.threads.iter().for_each(Thread::unpark);
        }
        job.work(pool, 0);
        // Close the job, then wait for the workers that saw it open: a worker counts itself in before it looks.
        shared.job.store(std::ptr::null_mut(), Ordering::SeqCst);
        let mut turns = 0u32;
        while shared.inside.load(Ordering::SeqCst) > 0 {
            turns += 1;
            if turns.is_multiple_of(4096) || shared.spins == 0 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        job.finish();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        self.threads.iter().for_each(Thread::unpark);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so it ends in order.
            let _ = worker.join();
        }
    }
}

/// What a worker does for its whole life.
fn serve(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = wait(shared, seen);
        if shared.closing.load(Ordering::SeqCst) {
            return;
        }
        shared.inside.fetch_add(1, Ordering::SeqCst);
        let job = shared.job.load(Ordering::SeqCst);
        if !job.is_null() {
            // SAFETY: the job was open after this worker counted itself in, and its owner waits until every such
            // worker has counted itself out, so the pointer is valid until the line after next.
            unsafe { &*job }.work(std::ptr::from_ref(shared) as usize, index);
        }
        shared.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits for a generation other than `seen`: first spinning, then parked.
fn wait(shared: &Shared, seen: usize) -> usize {
    for _ in 0..shared.spins {
        let now = shared.generation.load(Ordering::Acquire);
        if now != seen {
            return now;
        }
        std::hint::spin_loop();
    }
    shared.parked.fetch_add(1, Ordering::SeqCst);
    let now = loop {
        let now = shared.generation.load(Ordering::SeqCst);
        if now != seen {
            break now;
        }
        std::thread::park();
    };
    shared.parked.fetch_sub(1, Ordering::SeqCst);
    now
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<_> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                pool.run(tasks, &|task, thread| {
                    assert!(thread < pool.threads());
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn jobs_follow_each_other_without_mixing() {
        let pool = Pool::new(4).unwrap();
        for round in 0..20_000u32 {
            let sum = AtomicU32::new(0);
            pool.run(5, &|task, _| {
                sum.fetch_add(round.wrapping_mul(task as u32), Ordering::Relaxed);
            });
            assert_eq!(sum.load(Ordering::Relaxed), round.wrapping_mul(10));
        }
    }

    #[test]
    fn parked_workers_wake_up_for_a_job() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(30));
            let slow = AtomicU32::new(0);
            pool.run(2, &|_, thread| {
                std::thread::sleep(Duration::from_millis(20));
                slow.fetch_or(1 << thread, Ordering::Relaxed);
            });
            assert_eq!(slow.load(Ordering::Relaxed), 3, "both threads took a task");
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(10, &|task, _| assert_ne!(task, 4, "task four"));
        }));
        assert!(result.is_err());
        let done = AtomicU32::new(0);
        pool.run(10, &|_, _| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn a_task_may_run_tasks_of_its_own() {
        for threads in [1, 3] {
            let (pool, other) = (Pool::new(threads).unwrap(), Pool::new(2).unwrap());
            let done = AtomicU32::new(0);
            let count = |_: usize, _: usize| {
                done.fetch_add(1, Ordering::Relaxed);
            };
            pool.run(4, &|_, thread| {
                pool.run(5, &|_, inner| assert_eq!(inner, thread));
                pool.run(5, &count);
                other.run(3, &count);
            });
            assert_eq!(done.load(Ordering::Relaxed), 32);
        }
    }

    #[test]
    fn workers_that_sleep_end_with_their_pool() {
        for _ in 0..20 {
            let pool = Pool::new(4).unwrap();
            pool.run(4, &|_, _| {});
            std::thread::sleep(Duration::from_millis(2));
            drop(pool);
        }
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = Pool::new(2).unwrap();
        let total = AtomicU32::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..500 {
                        pool.run(3, &|_, _| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 6000);
    }
}
