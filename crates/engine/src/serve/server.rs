//! Requests from any thread or executor, on one scheduler or on several that share them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_channel::{Receiver, TrySendError};

use super::reply::{Command, Reply, Shared, Submission};
use super::router::{Balance, Router, Slot};
use super::trouble::repeat;
use super::worker::{Worker, fate, panic_text};
use super::{Load, Request, Scheduler};
use crate::error::{EngineError, Result};

/// Most requests that may wait for one scheduler: memory for a mark of each is taken when the server starts.
const MOST_QUEUED: usize = 1 << 20;

/// How a server treats its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Chunks that a reply buffers; a reader that is so far behind pauses its request until it has read half of them. At least 1.
    pub replies: usize,
    /// How requests are given to several schedulers.
    pub balance: Balance,
    /// Whether a request goes where the beginning of its prompt was before, unless there is much more to do.
    pub affinity: bool,
}

impl Default for ServerOptions {
    /// 64 chunks; the least loaded, where the beginning is known before others.
    fn default() -> ServerOptions {
        ServerOptions { replies: 64, balance: Balance::default(), affinity: true }
    }
}

/// One of a server's schedulers, as it was after its last batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// What waits, runs and fills its cache.
    pub load: Load,
    /// How fast it was said to be.
    pub speed: f64,
    /// Requests that were given to it when they came.
    pub requests: u64,
    /// Requests that it took over from others that were lost.
    pub taken_over: u64,
    /// Why its thread has ended, where it has.
    pub ended: Option<String>,
}

/// Schedulers of one model, each on a thread of its own, that share what is asked of them. A thread sleeps while there is nothing to do.
///
/// Any number of threads and tasks submit requests; every call that does not say so returns at once. No async runtime is needed, and
/// any will do. Dropping the server cancels everything and waits for the batches that run.
///
/// Where one scheduler's device is lost, or its thread panics, the others take over its requests: what was said stays said, what the
/// cache held is computed again, and the reader sees nothing of it. Where none is left, every open [`Reply`] ends with the error; what
/// else ends the threads (a drain) ends it with [`EngineError::ServerEnded`], which says what it was.
pub struct Server {
    router: Arc<Router>,
    replies: usize,
    queue: usize,
    next: AtomicU64,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts the thread.
    ///
    /// # Errors
    /// No room in replies, or in the queue of the scheduler's policy; a queue of more than 2²⁰ requests; no thread can be had.
    pub fn start(scheduler: Scheduler, options: ServerOptions) -> Result<Server> {
        Server::over(vec![(scheduler, 1.0)], options)
    }

    /// Starts a thread for each of some schedulers of one model, each with how fast it is, in any unit.
    ///
    /// # Errors
    /// As [`Server::start`]; no scheduler, a speed that is not above 0, or schedulers of different models or contexts.
    pub fn over(mut schedulers: Vec<(Scheduler, f64)>, options: ServerOptions) -> Result<Server> {
        check_schedulers(&schedulers, options)?;
        let several = schedulers.len() > 1;
        let queue = schedulers.iter().map(|(scheduler, _)| scheduler.policy().queue).fold(0, usize::saturating_add);
        let (mut slots, mut ends) = (Vec::new(), Vec::new());
        for (scheduler, speed) in &mut schedulers {
            let (inbox, commands) = channel();
            let (places, taken) = async_channel::bounded(scheduler.policy().queue);
            let load = Mutex::new(scheduler.load());
            let shared = Arc::new(Shared {
                load,
                sequences: AtomicU64::new(0),
                peak_blocks: AtomicUsize::new(0),
                fate: OnceLock::new(),
            });
            slots.push(Slot::new(inbox, places, shared, *speed, scheduler.limits(), scheduler.side_by_side()));
            ends.push((commands, taken));
            if several {
                scheduler.keep_when_lost();
            }
        }
        let router = Arc::new(Router::new(slots, options.balance, options.affinity));
        let mut server =
            Server { router, replies: options.replies, queue, next: AtomicU64::new(0), threads: Vec::new() };
        for (slot, ((scheduler, _), (commands, taken))) in schedulers.into_iter().zip(ends).enumerate() {
            let worker = Worker::new(scheduler, commands, taken, server.router.clone(), slot);
            let router = server.router.clone();
            let body = move || live(worker, &router, slot);
            let thread = std::thread::Builder::new().name("qiao-serve".into()).spawn(body);
            let thread = thread.map_err(|e| EngineError::ServerEnded { why: format!("it got no thread ({e})") })?;
            server.threads.push(thread);
        }
        Ok(server)
    }

    /// Submits a request. What only the scheduler can find wrong with it, such as a prompt longer than the cache, is the first and
    /// last item of the reply.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`]; [`EngineError::ServerEnded`], as well after [`Server::drain`]; a request that is wrong in itself.
    pub fn submit(&self, request: Request) -> Result<Reply> {
        match self.try_submit(self.offer(request)?)? {
            Tried::Took(reply) => Ok(reply),
            Tried::Full(..) => Err(EngineError::QueueFull { most: self.queue }),
        }
    }

    /// Submits a request as soon as there is room in the queue. Dropping the future before submits nothing.
    ///
    /// # Errors
    /// As [`Server::submit`], except for a full queue.
    pub async fn submit_async(&self, request: Request) -> Result<Reply> {
        let mut offer = self.offer(request)?;
        loop {
            let (back, slot) = match self.try_submit(offer)? {
                Tried::Took(reply) => return Ok(reply),
                Tried::Full(back, slot) => (back, slot),
            };
            offer = back;
            // One that is closed meanwhile is seen by the next try.
            if self.router.slots[slot].places.send(()).await.is_ok() {
                match self.hand_over(offer, slot) {
                    Ok(reply) => return Ok(reply),
                    Err(back) => offer = back,
                }
            }
        }
    }

    /// Submits a request; waits on this thread until there is room in the queue.
    ///
    /// # Errors
    /// As [`Server::submit`], except for a full queue.
    pub fn submit_waiting(&self, request: Request) -> Result<Reply> {
        let mut offer = self.offer(request)?;
        loop {
            let (back, slot) = match self.try_submit(offer)? {
                Tried::Took(reply) => return Ok(reply),
                Tried::Full(back, slot) => (back, slot),
            };
            offer = back;
            if self.router.slots[slot].places.send_blocking(()).is_ok() {
                match self.hand_over(offer, slot) {
                    Ok(reply) => return Ok(reply),
                    Err(back) => offer = back,
                }
            }
        }
    }

    /// A request with its reply, which no thread has.
    ///
    /// # Errors
    /// It is wrong in itself, or none of the schedulers could ever run it.
    fn offer(&self, request: Request) -> Result<Offer> {
        check(&request)?;
        let most = self.router.slots.iter().map(|slot| slot.side_by_side).max().unwrap_or(0);
        if request.samples > most {
            let found = format!("{}, and {most} may run side by side", request.samples);
            let expected = "no more than run side by side";
            return Err(EngineError::Parameter { name: "samples", expected, found });
        }
        Ok(Reply::new(self.next.fetch_add(1, Ordering::Relaxed), request, self.replies))
    }

    /// Gives a request to the first scheduler that has room in its queue.
    ///
    /// # Errors
    /// None takes requests any more.
    fn try_submit(&self, mut offer: Offer) -> Result<Tried> {
        let mut full = None;
        for slot in self.router.order_for(&offer.1.request) {
            match self.router.slots[slot].places.try_send(()) {
                Ok(()) => match self.hand_over(offer, slot) {
                    Ok(reply) => return Ok(Tried::Took(reply)),
                    Err(back) => offer = back,
                },
                Err(TrySendError::Full(())) => full = full.or(Some(slot)),
                Err(TrySendError::Closed(())) => {}
            }
        }
        match full {
            Some(slot) => Ok(Tried::Full(offer, slot)),
            None => Err(self.ended()),
        }
    }

    /// The error of whoever comes too late.
    fn ended(&self) -> EngineError {
        // Of several the one that ended last is what ended the server; before that they all say the same.
        let told = self.router.slots.iter().rev().find(|slot| slot.shared.fate.get().is_some());
        told.or(self.router.slots.first())
            .map_or_else(|| EngineError::ServerEnded { why: "it has no devices".into() }, |slot| slot.shared.ended())
    }

    /// Hands a request that holds a place to a thread; it comes back where that takes nothing more.
    fn hand_over(&self, (reply, mut submission): Offer, slot: usize) -> Result<Reply, Offer> {
        submission.sent = Instant::now();
        match self.router.submit_to(slot, submission) {
            Ok(()) => Ok(reply),
            Err(submission) => Err((reply, submission)),
        }
    }

    /// What waits, runs and fills the cache, as it was after the last batch.
    pub fn load(&self) -> Load {
        let mut loads = self.router.slots.iter().map(|slot| slot.shared.load());
        let first = loads.next().expect("a server has at least one scheduler");
        loads.fold(first, |sum, load| sum + load)
    }

    /// The most blocks of the caches that were used at once, each by itself, since this was asked last.
    pub fn take_peak_blocks(&self) -> usize {
        self.router.slots.iter().map(|slot| slot.shared.peak_blocks.swap(0, Ordering::Relaxed)).sum()
    }

    /// Each scheduler by itself, in the order in which they were given.
    pub fn replicas(&self) -> Vec<Replica> {
        let of = |slot: &Slot| Replica {
            load: slot.shared.load(),
            speed: slot.speed,
            requests: slot.requests.load(Ordering::Relaxed),
            taken_over: slot.moved.load(Ordering::Relaxed),
            ended: slot.shared.fate.get().cloned(),
        };
        self.router.slots.iter().map(of).collect()
    }

    /// Sequences over all batches that ran: divided by [`Load::batches`], how many a batch had in the mean.
    pub fn sequences_run(&self) -> u64 {
        self.router.slots.iter().map(|slot| slot.shared.sequences.load(Ordering::Relaxed)).sum()
    }

    /// Takes no more requests, finishes those that were accepted and ends the threads; after the time-out the rest is cancelled. Says
    /// whether all could be finished; a reply is finished once what is left of it fits into its buffer. Waits on this thread.
    pub fn drain(&self, timeout: Duration) -> bool {
        let told = self.begin_drain(timeout);
        let answers: Vec<bool> = std::iter::from_fn(|| told.recv_blocking().ok()).collect();
        finished(&answers)
    }

    /// As [`Server::drain`], for a task.
    pub async fn drain_async(&self, timeout: Duration) -> bool {
        let told = self.begin_drain(timeout);
        let mut answers = Vec::new();
        while let Ok(answer) = told.recv().await {
            answers.push(answer);
        }
        finished(&answers)
    }

    /// Every thread that is not gone answers, and then all is over.
    fn begin_drain(&self, timeout: Duration) -> Receiver<bool> {
        self.router.drain();
        let (done, told) = async_channel::bounded(self.router.slots.len());
        // A time beyond the clock is no limit.
        let until = Instant::now().checked_add(timeout);
        for slot in &self.router.slots {
            // Whoever is gone has nothing to finish.
            let _ = slot.send(Command::Drain { until, done: done.clone() });
        }
        told
    }
}

/// Whether all answers of a drain are yes, and there is one.
fn finished(answers: &[bool]) -> bool {
    !answers.is_empty() && answers.iter().all(|done| *done)
}

/// A request that no thread has, and its reply.
type Offer = (Reply, Box<Submission>);

/// What became of a request that was tried everywhere.
enum Tried {
    Took(Reply),
    /// It waits best at this slot.
    Full(Offer, usize),
}

/// The life of a scheduler's thread.
fn live(mut worker: Worker, router: &Router, slot: usize) {
    let outcome = catch_unwind(AssertUnwindSafe(|| worker.run()));
    let error = match &outcome {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(repeat(error)),
        Err(panic) => Some(EngineError::ServerEnded { why: panic_text(&**panic) }),
    };
    let panicked = outcome.is_err();
    // Before the replies are let go with the worker.
    let _ = router.slots[slot].shared.fate.set(fate(outcome));
    match error {
        Some(error) if router.slots.len() > 1 => {
            // A scheduler that panicked may do so again: then its replies end with it.
            let _ = catch_unwind(AssertUnwindSafe(|| worker.hand_over(&error, panicked)));
        }
        _ => {}
    }
    router.slots[slot].close();
}

impl Drop for Server {
    fn drop(&mut self) {
        for slot in &self.router.slots {
            slot.places.close();
            let _ = slot.send(Command::Stop);
        }
        for thread in self.threads.drain(..) {
            // Its panics are caught and told to whoever asks.
            let _ = thread.join();
        }
    }
}

/// Refuses schedulers that can't share requests, and options under which nothing is taken.
fn check_schedulers(schedulers: &[(Scheduler, f64)], options: ServerOptions) -> Result<()> {
    let refuse = |name, expected, found: String| Err(EngineError::Parameter { name, expected, found });
    let Some((first, _)) = schedulers.first() else {
        return refuse("devices of a server", "at least one", "none".into());
    };
    if options.replies == 0 {
        return refuse("replies", "at least 1", "0".into());
    }
    let sizes = |scheduler: &Scheduler| (scheduler.limits().vocab, scheduler.limits().context);
    for (scheduler, speed) in schedulers {
        let queue = scheduler.policy().queue;
        if !(1..=MOST_QUEUED).contains(&queue) {
            return refuse("queue", "at least 1, and at most 1048576 in a server", queue.to_string());
        }
        if !(*speed > 0.0 && speed.is_finite()) {
            return refuse("speed of a device", "a number above 0", speed.to_string());
        }
        if sizes(scheduler) != sizes(first) {
            let ((vocab, context), (v, c)) = (sizes(first), sizes(scheduler));
            let found = format!("vocabularies of {vocab} and {v} tokens, contexts of {context} and {c}");
            return refuse("models of a server", "the same with one context", found);
        }
    }
    Ok(())
}

/// Refuses what is wrong whatever the scheduler has.
fn check(request: &Request) -> Result<()> {
    request.params.check()?;
    if request.prompt.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    if request.samples == 0 {
        return Err(EngineError::Parameter { name: "samples", expected: "at least 1", found: "0".into() });
    }
    Ok(())
}
