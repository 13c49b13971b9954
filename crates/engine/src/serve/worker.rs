//! The server's thread: commands in, batches, chunks out.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{Receiver as Inbox, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use async_channel::{Receiver, Sender, TrySendError};

use super::reply::{Chunk, Command, Shared, Submission};
use super::{Event, RequestId, Scheduler, Stepped};
use crate::error::{EngineError, Result};

/// A request whose reply is not complete.
struct Open {
    id: RequestId,
    chunks: Sender<Result<Chunk>>,
    lagging: Arc<AtomicBool>,
    /// What found no room in the reply. While it is not empty the request is paused, so it stays as small as one batch made it.
    backlog: VecDeque<Result<Chunk>>,
    paused: bool,
    /// Which samples go on.
    running: Vec<bool>,
}

impl Open {
    fn is_over(&self) -> bool {
        !self.running.contains(&true)
    }

    /// Moves the backlog into the reply, as far as there is room; `false` when nobody reads it.
    fn flush(&mut self) -> bool {
        while let Some(item) = self.backlog.pop_front() {
            match self.chunks.try_send(item) {
                Ok(()) => {}
                Err(TrySendError::Full(item)) => {
                    self.backlog.push_front(item);
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        true
    }
}

/// Somebody who waits until all is finished.
struct Drain {
    until: Option<Instant>,
    done: Sender<bool>,
}

pub(super) struct Worker {
    scheduler: Scheduler,
    inbox: Inbox<Command>,
    /// One message for every request that waits: whoever submits puts it in, and it is taken out when the request runs.
    places: Receiver<()>,
    /// Messages in `places` whose request the scheduler has.
    held: usize,
    shared: Arc<Shared>,
    open: HashMap<u64, Open>,
    keys: HashMap<RequestId, u64>,
    drains: Vec<Drain>,
    /// Whether a drain ran out of time.
    cut: bool,
    stopping: bool,
}

impl Worker {
    pub(super) fn new(
        scheduler: Scheduler,
        inbox: Inbox<Command>,
        places: Receiver<()>,
        shared: Arc<Shared>,
    ) -> Worker {
        Worker {
            scheduler,
            inbox,
            places,
            held: 0,
            shared,
            open: HashMap::new(),
            keys: HashMap::new(),
            drains: Vec::new(),
            cut: false,
            stopping: false,
        }
    }

    /// Runs until it is told to stop or has drained; says which.
    ///
    /// # Errors
    /// The scheduler can't go on.
    pub(super) fn run(&mut self) -> Result<&'static str> {
        let mut events = Vec::new();
        loop {
            while let Ok(command) = self.inbox.try_recv() {
                self.obey(command);
            }
            if self.stopping || self.drain_is_late() {
                self.cancel_all();
            }
            let stepped = self.scheduler.step(&mut events);
            if let Ok(Stepped::Ran { sequences, .. }) = stepped {
                self.shared.sequences.fetch_add(sequences as u64, Ordering::Relaxed);
            }
            self.publish();
            for event in events.drain(..) {
                self.deliver(event);
            }
            let stepped = stepped?;
            if self.stopping {
                return Ok("it was dropped");
            }
            if !self.drains.is_empty() && (self.open.is_empty() || self.cut) && self.scheduler.is_idle() {
                // Before anybody hears of it: whoever submits after that is told so.
                let _ = self.shared.fate.set("it was drained".into());
                for drain in self.drains.drain(..) {
                    // Whoever has gone away does not want to know.
                    let _ = drain.done.try_send(!self.cut);
                }
                return Ok("it was drained");
            }
            if matches!(stepped, Stepped::Waiting) {
                self.sleep();
            }
        }
    }

    /// Waits for a command, or for the first moment at which a time-out is over.
    fn sleep(&mut self) {
        let wake = self.scheduler.next_deadline().into_iter();
        let wake = wake.chain(self.drains.iter().filter_map(|drain| drain.until)).min();
        let command = match wake {
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wake) => self.inbox.recv_timeout(wake.saturating_duration_since(Instant::now())),
        };
        match command {
            Ok(command) => self.obey(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.stopping = true,
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => self.submit(*submission),
            Command::Cancel { key, gone } => {
                if gone {
                    self.abandon(key);
                } else if let Some(open) = self.open.get(&key) {
                    self.scheduler.cancel(open.id);
                }
            }
            Command::Room(key) => self.settle(key),
            Command::Drain { until, done } => self.drains.push(Drain { until, done }),
            Command::Stop => self.stopping = true,
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { key, mut request, sent, chunks, lagging } = submission;
        let samples = request.samples;
        // A time-out counts from the moment at which the request was sent.
        request.params.timeout = request.params.timeout.map(|timeout| timeout.saturating_sub(sent.elapsed()));
        match self.scheduler.submit(request) {
            Ok(id) => {
                self.held += 1;
                self.keys.insert(id, key);
                let (backlog, running) = (VecDeque::new(), vec![true; samples]);
                self.open.insert(key, Open { id, chunks, lagging, backlog, paused: false, running });
            }
            Err(error) => {
                self.free_place();
                // The reply is new, so there is room in it, unless it is gone.
                let _ = chunks.try_send(Err(error));
            }
        }
    }

    fn free_place(&self) {
        // Every request in the scheduler's queue has put one in.
        let _ = self.places.try_recv();
    }

    /// Shows the load, and gives back the places of requests that wait no longer.
    fn publish(&mut self) {
        let load = self.scheduler.load();
        while self.held > load.queued {
            self.held -= 1;
            self.free_place();
        }
        *self.shared.load.lock().unwrap_or_else(PoisonError::into_inner) = load;
    }

    /// Puts what came into the reply.
    fn deliver(&mut self, event: Event) {
        let Some(&key) = self.keys.get(&event.request) else { return };
        let Some(open) = self.open.get_mut(&key) else { return };
        let Event { request, sample, piece, end } = event;
        let (end, error) = match end {
            Some(Ok(end)) => (Some(end), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        if end.is_some()
            && let Some(running) = open.running.get_mut(sample)
        {
            *running = false;
        }
        if end.is_some() || !piece.text.is_empty() || !piece.token_ids.is_empty() {
            open.backlog.push_back(Ok(Chunk { sample, piece, end }));
        }
        if let Some(error) = error {
            // An error is the last of a reply, for all samples.
            open.backlog.push_back(Err(error));
            open.running.fill(false);
            self.scheduler.cancel(request);
            self.keys.remove(&request);
        }
        self.settle(key);
    }

    /// Gives a reader what there is; pauses its request where that is more than it takes, and lets it go on where it is not.
    fn settle(&mut self, key: u64) {
        let Some(open) = self.open.get_mut(&key) else { return };
        let mut read = open.flush();
        if read && !open.backlog.is_empty() {
            open.lagging.store(true, Ordering::SeqCst);
            // The reader may have made room before it could see the flag.
            fence(Ordering::SeqCst);
            read = open.flush();
        }
        if !read {
            return self.abandon(key);
        }
        let lags = !open.backlog.is_empty();
        if !lags {
            open.lagging.store(false, Ordering::SeqCst);
        }
        if open.paused != lags {
            open.paused = lags;
            let (id, running) = (open.id, open.running.clone());
            for (sample, _) in running.into_iter().enumerate().filter(|(_, running)| *running) {
                self.scheduler.pause(id, sample, lags);
            }
        }
        let Some(open) = self.open.get(&key) else { return };
        if open.is_over() && open.backlog.is_empty() {
            let id = open.id;
            self.keys.remove(&id);
            self.open.remove(&key);
        }
    }

    /// Forgets a request that nobody waits for.
    fn abandon(&mut self, key: u64) {
        if let Some(open) = self.open.remove(&key) {
            self.keys.remove(&open.id);
            self.scheduler.cancel(open.id);
        }
    }

    /// Whether the time of a drain is over, for the first time.
    fn drain_is_late(&mut self) -> bool {
        let now = Instant::now();
        let late = !self.cut && self.drains.iter().any(|drain| drain.until.is_some_and(|until| until <= now));
        self.cut |= late;
        late
    }

    fn cancel_all(&mut self) {
        for open in self.open.values() {
            self.scheduler.cancel(open.id);
        }
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("its thread panicked: {}", text.unwrap_or("without a text"))
}

/// Why the thread is gone, in words.
pub(super) fn fate(outcome: std::thread::Result<Result<&'static str>>) -> String {
    match outcome {
        Ok(Ok(why)) => why.into(),
        Ok(Err(EngineError::ServerEnded { why })) => why,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_text(&*panic),
    }
}
