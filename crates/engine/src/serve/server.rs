//! Requests from any thread or executor, on one scheduler.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender as Inbox, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender, TrySendError};

use super::reply::{Command, Reply, Shared};
use super::worker::{Worker, fate};
use super::{Load, Request, Scheduler};
use crate::error::{EngineError, Result};

/// How a server treats its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Chunks that a reply buffers; a reader that is so far behind pauses its request until it has read half of them. At least 1.
    pub replies: usize,
}

impl Default for ServerOptions {
    /// 64 chunks.
    fn default() -> ServerOptions {
        ServerOptions { replies: 64 }
    }
}

/// A scheduler on a thread of its own. It sleeps while there is nothing to do.
///
/// Any number of threads and tasks submit requests; every call that does not say so returns at once. No async runtime is needed, and
/// any will do. Dropping the server cancels everything and waits for the batch that runs.
///
/// Whatever ends the thread (a drain, a device that is lost, a panic) ends every open [`Reply`] with
/// [`EngineError::ServerEnded`], which says what it was.
pub struct Server {
    inbox: Inbox<Command>,
    places: Sender<()>,
    shared: Arc<Shared>,
    replies: usize,
    queue: usize,
    next: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts the thread.
    ///
    /// # Errors
    /// No room in replies, or in the queue of the scheduler's policy; no thread can be had.
    pub fn start(scheduler: Scheduler, options: ServerOptions) -> Result<Server> {
        let queue = scheduler.policy().queue;
        for (name, value) in [("replies", options.replies), ("queue", queue)] {
            if value == 0 {
                return Err(EngineError::Parameter { name, expected: "at least 1", found: "0".into() });
            }
        }
        let (inbox, commands) = channel();
        let (places, taken) = async_channel::bounded(queue);
        let shared = Arc::new(Shared {
            load: Mutex::new(scheduler.load()),
            sequences: AtomicU64::new(0),
            fate: OnceLock::new(),
        });
        let mut worker = Worker::new(scheduler, commands, taken, shared.clone());
        let told = shared.clone();
        let body = move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| worker.run()));
            // Before the replies are let go with the worker.
            let _ = told.fate.set(fate(outcome));
            drop(worker);
        };
        let thread = std::thread::Builder::new().name("qiao-serve".into()).spawn(body);
        let thread = thread.map_err(|e| EngineError::ServerEnded { why: format!("it got no thread ({e})") })?;
        Ok(Server {
            inbox,
            places,
            shared,
            replies: options.replies,
            queue,
            next: AtomicU64::new(0),
            thread: Some(thread),
        })
    }

    /// Submits a request. What only the scheduler can find wrong with it, such as a prompt longer than the cache, is the first and
    /// last item of the reply.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`]; [`EngineError::ServerEnded`], as well after [`Server::drain`]; a request that is wrong in itself.
    pub fn submit(&self, request: Request) -> Result<Reply> {
        check(&request)?;
        match self.places.try_send(()) {
            Ok(()) => self.hand_over(request),
            Err(TrySendError::Full(())) => Err(EngineError::QueueFull { most: self.queue }),
            Err(TrySendError::Closed(())) => Err(self.shared.ended()),
        }
    }

    /// Submits a request as soon as there is room in the queue. Dropping the future before submits nothing.
    ///
    /// # Errors
    /// As [`Server::submit`], except for a full queue.
    pub async fn submit_async(&self, request: Request) -> Result<Reply> {
        check(&request)?;
        self.places.send(()).await.map_err(|_| self.shared.ended())?;
        self.hand_over(request)
    }

    /// Submits a request; waits on this thread until there is room in the queue.
    ///
    /// # Errors
    /// As [`Server::submit`], except for a full queue.
    pub fn submit_waiting(&self, request: Request) -> Result<Reply> {
        check(&request)?;
        self.places.send_blocking(()).map_err(|_| self.shared.ended())?;
        self.hand_over(request)
    }

    /// Hands a request that holds a place to the thread.
    fn hand_over(&self, request: Request) -> Result<Reply> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, submission) = Reply::new(key, request, self.replies, self.inbox.clone(), self.shared.clone());
        self.inbox.send(Command::Submit(submission)).map_err(|_| self.shared.ended())?;
        Ok(reply)
    }

    /// What waits, runs and fills the cache, as it was after the last batch.
    pub fn load(&self) -> Load {
        self.shared.load()
    }

    /// Sequences over all batches that ran: divided by [`Load::batches`], how many a batch had in the mean.
    pub fn sequences_run(&self) -> u64 {
        self.shared.sequences.load(Ordering::Relaxed)
    }

    /// Takes no more requests, finishes those that were accepted and ends the thread; after the time-out the rest is cancelled. Says
    /// whether all could be finished; a reply is finished once what is left of it fits into its buffer. Waits on this thread.
    pub fn drain(&self, timeout: Duration) -> bool {
        self.begin_drain(timeout).is_some_and(|done| done.recv_blocking().unwrap_or(false))
    }

    /// As [`Server::drain`], for a task.
    pub async fn drain_async(&self, timeout: Duration) -> bool {
        match self.begin_drain(timeout) {
            Some(done) => done.recv().await.unwrap_or(false),
            None => false,
        }
    }

    /// `None` when the thread is gone already.
    fn begin_drain(&self, timeout: Duration) -> Option<Receiver<bool>> {
        self.places.close();
        let (done, told) = async_channel::bounded(1);
        // A time beyond the clock is no limit.
        let until = Instant::now().checked_add(timeout);
        self.inbox.send(Command::Drain { until, done }).ok().map(|()| told)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.places.close();
        let _ = self.inbox.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // Its panics are caught and told to whoever asks.
            let _ = thread.join();
        }
    }
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
