//! A pool of threads that share the tasks of a job.
//!
//! A caller [enters](Pool::enter) the pool and leads it until it leaves: between its jobs the workers watch one word, so a
//! job costs no lock, no call to the system and no wake-up. The tasks of a job are cut into a share for each thread, in
//! order. A thread takes its own share, then helps its neighbours; the caller helps everybody. So a job waits only for
//! tasks that somebody has begun, never for a thread that sleeps or that lost its core.
//!
//! A caller that finds the pool led by another runs its tasks alone, on its own thread.

mod wait;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};

use wait::{Crowd, Next, Patience};

/// Bits of a word that count tasks; the others hold the number of the job, which comes round again after half a year of a
/// job every microsecond.
const BITS: u32 = 20;

/// The most tasks of one job.
const MOST: usize = (1 << BITS) - 1;

/// Threads that help each other, but for the caller, who helps all.
const NEIGHBOURS: usize = 8;

/// What a thread is to a pool.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It has entered, and others lead.
    Alone,
    /// It leads.
    Leads,
    /// It runs a task.
    Task,
}

/// Where a thread is: the pool by its address, its number there and its role.
#[derive(Clone, Copy)]
struct Place {
    pool: usize,
    thread: usize,
    role: Role,
}

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place { pool: 0, thread: 0, role: Role::Alone }) };
}

/// Sets this thread's place until it is dropped.
struct Within(Place);

impl Within {
    fn new(place: Place) -> Self {
        Within(PLACE.replace(place))
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        PLACE.set(self.0);
    }
}

type Run<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// Something on cache lines of its own, the line that the processor fetches along with it included.
#[repr(align(128))]
struct Apart<T>(T);

/// The open job.
struct Posted {
    /// Number of the job and how many tasks it has.
    job: AtomicU64,
    /// What runs its tasks, borrowed from the leader's caller until all are done.
    run: UnsafeCell<Run<'static>>,
}

// SAFETY: the leader writes `run` when no job is open; others read it only after they took a task of the open job.
unsafe impl Sync for Posted {}

/// One thread's part in the open job. Each word starts with the number of a job; where it is an older one, the count is 0.
struct Seat {
    /// How many tasks of this thread's share are taken, by whomever.
    taken: Apart<AtomicU64>,
    /// How many tasks this thread has done, of whatever share.
    done: Apart<AtomicU64>,
    /// The thread, but for the caller.
    thread: OnceLock<Thread>,
}

/// What the leader and the workers share.
struct Shared {
    posted: Apart<Posted>,
    seats: Vec<Seat>,
    /// One bit for each thread that sleeps or is about to.
    asleep: Vec<AtomicU64>,
    /// Whether a caller leads.
    led: AtomicBool,
    closing: AtomicBool,
    crowd: Crowd,
    /// Whether a task of the open job panicked, and the first that did.
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A word of this job with a count.
fn word(job: u64, count: usize) -> u64 {
    (job >> BITS << BITS) | count as u64
}

/// The count of a word.
fn count(word: u64) -> usize {
    word as usize & MOST
}

/// How far the job of word `a` is ahead of that of `b`.
fn ahead(a: u64, b: u64) -> i64 {
    ((a >> BITS).wrapping_sub(b >> BITS) << BITS).cast_signed()
}

impl Shared {
    fn new(threads: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let word = || Apart(AtomicU64::new(0));
        let seat = |_| Seat { taken: word(), done: word(), thread: OnceLock::new() };
        Shared {
            posted: Apart(Posted { job: AtomicU64::new(0), run: UnsafeCell::new(&|_, _| {}) }),
            seats: (0..threads).map(seat).collect(),
            asleep: (0..threads.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            led: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            crowd: Crowd::new(threads > cores),
            failed: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    /// The first task of a thread's share, and how many it has.
    fn share(&self, tasks: usize, seat: usize) -> (usize, usize) {
        let (base, more) = (tasks / self.seats.len(), tasks % self.seats.len());
        (seat * base + seat.min(more), base + usize::from(seat < more))
    }

    /// Takes the next task of a share of this job. A job that has ended has no task left to take, so whoever gets one
    /// knows that the job is open until that task is done.
    fn take(&self, job: u64, seat: usize) -> Option<usize> {
        let (first, len) = self.share(count(job), seat);
        let taken = &self.seats[seat].taken.0;
        let mut seen = taken.load(Ordering::Relaxed);
        loop {
            let so_far = match ahead(seen, job) {
                0 => count(seen),
                newer if newer > 0 => return None,
                _ => 0,
            };
            if so_far >= len {
                return None;
            }
            match taken.compare_exchange_weak(seen, word(job, so_far + 1), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(first + so_far),
                Err(now) => seen = now,
            }
        }
    }

    /// Runs what is left of a share, counting on from `done`.
    fn run_share(&self, job: u64, seat: usize, thread: usize, mut done: usize) -> usize {
        let before = done;
        while let Some(task) = self.take(job, seat) {
            // SAFETY: a task was taken, so the job is open and its function lives until the task counts as done.
            let run = unsafe { *self.posted.0.run.get() };
            if !self.failed.load(Ordering::Relaxed)
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(task, thread)))
            {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                self.failed.store(true, Ordering::Relaxed);
            }
            done += 1;
        }
        if done > before {
            self.seats[thread].done.0.store(word(job, done), Ordering::Release);
        }
        done
    }

    /// Runs tasks of a job as thread `thread` until none is left for it.
    fn work(&self, job: u64, thread: usize) {
        let done = self.run_share(job, thread, thread, 0);
        let (first, len) = match thread {
            0 => (0, self.seats.len()),
            _ => {
                (thread / NEIGHBOURS * NEIGHBOURS, NEIGHBOURS.min(self.seats.len() - thread / NEIGHBOURS * NEIGHBOURS))
            }
        };
        (1..len).fold(done, |done, i| self.run_share(job, first + (thread - first + i) % len, thread, done));
    }

    /// Runs a job of more than one task, as thread 0.
    fn lead(&self, tasks: usize, run: Run<'_>) {
        let posted = &self.posted.0;
        let job = (posted.job.load(Ordering::Relaxed) >> BITS).wrapping_add(1) << BITS | tasks as u64;
        // SAFETY: the leader is one, and all tasks of the last job are done, so nobody reads the function. The longer
        // life is never used: it is called only for tasks taken of this job, all of which are done before this returns.
        unsafe { *posted.run.get() = std::mem::transmute::<Run<'_>, Run<'static>>(run) };
        posted.job.store(job, Ordering::Release);
        self.wake_some(0);
        self.work(job, 0);
        let mut patience = Patience::new(&self.crowd);
        // Acquires what the tasks wrote.
        let done = |seat: &Seat| match seat.done.0.load(Ordering::Acquire) {
            done if ahead(done, job) == 0 => count(done),
            _ => 0,
        };
        while self.seats.iter().map(done).sum::<usize>() < tasks {
            patience.wait_for_others();
        }
        if self.failed.load(Ordering::Relaxed) {
            self.failed.store(false, Ordering::Relaxed);
            let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(panic) = panic {
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// Wakes two threads that sleep; each wakes two more. A caller that misses one which is just going to sleep wakes it
    /// with its next job.
    fn wake_some(&self, waker: usize) {
        let mut left = 2;
        for (i, bits) in self.asleep.iter().enumerate() {
            while left > 0 && bits.load(Ordering::Relaxed) != 0 {
                if waker == 0 && !self.crowd.may_wake() {
                    return;
                }
                let lowest = bits.load(Ordering::Relaxed).trailing_zeros().min(63);
                if bits.fetch_and(!(1 << lowest), Ordering::Relaxed) & 1 << lowest == 0 {
                    continue;
                }
                if let Some(thread) = self.seats[i * 64 + lowest as usize].thread.get() {
                    thread.unpark();
                    left -= 1;
                }
            }
        }
    }

    /// What a worker does for its whole life.
    fn serve(&self, thread: usize) {
        let _ = self.seats[thread].thread.set(std::thread::current());
        let pool = std::ptr::from_ref(self) as usize;
        let _within = Within::new(Place { pool, thread, role: Role::Task });
        let mut seen = 0;
        loop {
            seen = self.await_job(seen, thread);
            if self.closing.load(Ordering::Acquire) {
                return;
            }
            self.work(seen, thread);
        }
    }

    /// Waits for a job other than `seen`, or for the end.
    fn await_job(&self, seen: u64, thread: usize) -> u64 {
        let posted = &self.posted.0.job;
        let news = || match posted.load(Ordering::Acquire) {
            job if job != seen || self.closing.load(Ordering::Acquire) => Some(job),
            _ => None,
        };
        let mut patience = Patience::new(&self.crowd);
        loop {
            if let Some(job) = news() {
                return job;
            }
            if patience.wait_for_work(self.led.load(Ordering::Relaxed)) == Next::Park {
                break;
            }
        }
        let (asleep, bit) = (&self.asleep[thread / 64], 1 << (thread % 64));
        let job = loop {
            asleep.fetch_or(bit, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if let Some(job) = news() {
                break job;
            }
            std::thread::park();
        };
        asleep.fetch_and(!bit, Ordering::Relaxed);
        self.wake_some(thread);
        job
    }
}

/// A fixed set of threads; the caller is the first of them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` threads, the caller included.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let mut pool = Pool { shared: Arc::new(Shared::new(threads)), workers: Vec::new() };
        for thread in 1..threads {
            let shared = pool.shared.clone();
            let name = format!("qiao-cpu-{thread}");
            pool.workers.push(std::thread::Builder::new().name(name).spawn(move || shared.serve(thread))?);
        }
        Ok(pool)
    }

    /// How many threads work, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.shared.seats.len()
    }

    fn address(&self) -> usize {
        Arc::as_ptr(&self.shared) as usize
    }

    /// Makes this thread the leader until the region is dropped, so that its jobs follow each other at the least cost.
    /// Where another leads, this thread runs its tasks alone until the other has left.
    pub(crate) fn enter(&self) -> Region<'_> {
        let pool = self.address();
        let outer = PLACE.get();
        if outer.pool != pool {
            PLACE.set(Place { pool, thread: 0, role: Role::Alone });
        }
        Region { pool: self, outer, here: PhantomData }
    }

    /// Whether this thread, which entered alone, leads from now on.
    fn try_to_lead(&self) -> bool {
        let leads = !self.workers.is_empty() && !self.shared.led.swap(true, Ordering::Acquire);
        if leads {
            PLACE.set(Place { pool: self.address(), thread: 0, role: Role::Leads });
        }
        leads
    }

    /// Runs `run(task, thread)` for every task in `0..tasks`, each once, on some thread in `0..threads()`. Returns when
    /// all are done. A task that calls runs the inner tasks itself, one after the other.
    ///
    /// # Panics
    /// With the first panic of a task.
    pub(crate) fn run(&self, tasks: usize, run: Run<'_>) {
        let here = PLACE.get();
        if here.pool != self.address() {
            let _region = self.enter();
            return self.run(tasks, run);
        }
        if here.role == Role::Task {
            return (0..tasks).for_each(|task| run(task, here.thread));
        }
        let led = tasks > 1 && (here.role == Role::Leads || self.try_to_lead());
        let _within = Within::new(Place { role: Role::Task, ..PLACE.get() });
        if !led {
            return (0..tasks).for_each(|task| run(task, 0));
        }
        if tasks <= MOST {
            return self.shared.lead(tasks, run);
        }
        for first in (0..tasks).step_by(MOST) {
            self.shared.lead(MOST.min(tasks - first), &|task, thread| run(first + task, thread));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.workers.iter().for_each(|worker| worker.thread().unpark());
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so it ends in order.
            let _ = worker.join();
        }
    }
}

/// The time in which a thread leads a pool; see [`Pool::enter`].
pub(crate) struct Region<'a> {
    pool: &'a Pool,
    outer: Place,
    /// Where a thread is, is that thread's own.
    here: PhantomData<*const ()>,
}

impl Drop for Region<'_> {
    fn drop(&mut self) {
        if self.outer.pool == self.pool.address() {
            return;
        }
        if PLACE.replace(self.outer).role == Role::Leads {
            self.pool.shared.led.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;
