//! The server's thread: commands in, batches, chunks out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{Receiver as Inbox, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use async_channel::{Receiver, Sender};

use super::moved::Moved;
use super::reply::{Chunk, Command, Line, Shared, Submission};
use super::router::{Router, Ticket};
use super::trouble::repeat;
use super::{Event, RequestId, Scheduler, Stepped};
use crate::error::{EngineError, Result};

/// A request whose reply is not complete.
pub(super) struct Open {
    /// None where it is over, and its last chunks wait for their reader.
    id: Option<RequestId>,
    line: Arc<Line>,
    ticket: Option<Ticket>,
    chunks: Sender<Result<Chunk>>,
    /// Most chunks that the reply buffers.
    most: usize,
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

    /// Ends a reply with an error, as far as there is room in it.
    fn fail(mut self, error: EngineError) {
        self.backlog.push_back(Err(error));
        // What finds no room is lost, and the reader is told that the server has ended.
        self.flush();
    }

    /// Sequences that go on.
    pub(super) fn sequences(&self) -> usize {
        self.running.iter().filter(|running| **running).count()
    }

    /// Moves the backlog into the reply, as far as there is room; `false` when nobody reads it.
    fn flush(&mut self) -> bool {
        while let Some(item) = self.backlog.pop_front() {
            if self.chunks.len() >= self.most && !self.chunks.is_closed() {
                self.backlog.push_front(item);
                return true;
            }
            // Only a reply that is gone takes nothing.
            if self.chunks.try_send(item).is_err() {
                return false;
            }
        }
        true
    }
}

/// A request that goes from one thread to another, with its reply.
pub(super) struct Transfer {
    pub(super) key: u64,
    pub(super) open: Open,
    /// None where it is over, and its last chunks wait for their reader.
    pub(super) moved: Option<Box<Moved>>,
    /// Whether a thread has panicked that had it.
    pub(super) suspect: bool,
}

impl Transfer {
    pub(super) fn line(&self) -> &Arc<Line> {
        &self.open.line
    }

    /// Counts it elsewhere; gives what counted it before.
    pub(super) fn set_ticket(&mut self, ticket: Ticket) -> Option<Ticket> {
        self.open.ticket.replace(ticket)
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
    router: Arc<Router>,
    /// Its own place among the slots of the router.
    slot: usize,
    open: HashMap<u64, Open>,
    keys: HashMap<RequestId, u64>,
    /// Requests that were with a thread when it panicked.
    suspects: HashSet<u64>,
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
        router: Arc<Router>,
        slot: usize,
    ) -> Worker {
        Worker {
            scheduler,
            inbox,
            places,
            held: 0,
            router,
            slot,
            open: HashMap::new(),
            keys: HashMap::new(),
            suspects: HashSet::new(),
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
                self.shared().sequences.fetch_add(sequences as u64, Ordering::Relaxed);
            }
            self.publish();
            for event in events.drain(..) {
                self.deliver(event);
            }
            let stepped = stepped?;
            if self.stopping {
                return Ok("it was dropped");
            }
            let over = self.cut || self.open.is_empty() && self.router.is_idle();
            if !self.drains.is_empty() && over && self.scheduler.is_idle() {
                // Before anybody hears of it: whoever submits after that is told so.
                let _ = self.shared().fate.set("it was drained".into());
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

    fn shared(&self) -> &Shared {
        &self.router.slots[self.slot].shared
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
                } else if let Some(id) = self.open.get(&key).and_then(|open| open.id) {
                    self.scheduler.cancel(id);
                }
            }
            Command::Room(key) => self.settle(key),
            Command::Drain { until, done } => self.drains.push(Drain { until, done }),
            Command::Stop => self.stopping = true,
            Command::TakeOver(transfer) => self.take_over(*transfer),
            Command::Wake => {}
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { key, request, sent, chunks, most, lagging, line, ticket, holds_place } = submission;
        let samples = request.samples;
        match self.scheduler.submit_since(sent, request) {
            Ok(id) => {
                self.held += usize::from(holds_place);
                self.keys.insert(id, key);
                let (backlog, running) = (VecDeque::new(), vec![true; samples]);
                if line.is_cancelled() {
                    self.scheduler.cancel(id);
                }
                let id = Some(id);
                let open = Open { id, line, ticket, chunks, most, lagging, backlog, paused: false, running };
                self.open.insert(key, open);
            }
            Err(error) => {
                if holds_place {
                    self.free_place();
                }
                // The reply is new, so there is room in it, unless it is gone.
                let _ = chunks.try_send(Err(error));
            }
        }
    }

    /// Takes in a request of a thread that is gone.
    fn take_over(&mut self, transfer: Transfer) {
        let Transfer { key, mut open, moved, suspect } = transfer;
        open.id = match moved.map(|moved| self.scheduler.take_in(*moved)) {
            None => None,
            Some(Ok(id)) => Some(id),
            Some(Err((_, error))) => return open.fail(error),
        };
        if suspect {
            self.suspects.insert(key);
        }
        if let Some(id) = open.id {
            self.keys.insert(id, key);
            // What its reader said to the other thread meanwhile is looked for here.
            if open.line.is_cancelled() {
                self.scheduler.cancel(id);
            }
        }
        let is_read = !open.chunks.is_closed();
        self.open.insert(key, open);
        if is_read { self.settle(key) } else { self.abandon(key) }
    }

    /// Gives everything to other threads: what it had itself, and what was sent to it before it took nothing more. What nobody can
    /// take ends in this error.
    pub(super) fn hand_over(&mut self, error: &EngineError, panicked: bool) {
        self.router.slots[self.slot].close();
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Submit(submission) => {
                    if let Err(submission) = self.router.resubmit(submission) {
                        let _ = submission.chunks.try_send(Err(repeat(error)));
                    }
                }
                Command::TakeOver(transfer) => self.pass_on(transfer, error),
                _ => {}
            }
        }
        for (key, open) in std::mem::take(&mut self.open) {
            let suspect = self.suspects.contains(&key);
            // One that two threads panicked with may be what they panic of.
            let stays = suspect && panicked && !open.is_over();
            let moved = open.id.filter(|_| !stays).and_then(|id| self.scheduler.take_out(id)).map(Box::new);
            if moved.is_some() || open.is_over() {
                self.pass_on(Box::new(Transfer { key, open, moved, suspect: suspect || panicked }), error);
            } else {
                open.id.inspect(|id| self.scheduler.cancel(*id));
                open.fail(repeat(error));
            }
        }
        self.publish();
    }

    fn pass_on(&self, transfer: Box<Transfer>, error: &EngineError) {
        if let Err(transfer) = self.router.pass_on(transfer) {
            transfer.open.fail(repeat(error));
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
        *self.shared().load.lock().unwrap_or_else(PoisonError::into_inner) = load;
        let peak = self.scheduler.take_peak_blocks();
        self.shared().peak_blocks.fetch_max(peak, Ordering::Relaxed);
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
                id.inspect(|id| self.scheduler.pause(*id, sample, lags));
            }
        }
        let Some(open) = self.open.get(&key) else { return };
        if open.is_over() && open.backlog.is_empty() {
            open.id.inspect(|id| {
                self.keys.remove(id);
            });
            self.suspects.remove(&key);
            self.open.remove(&key);
        }
    }

    /// Forgets a request that nobody waits for.
    fn abandon(&mut self, key: u64) {
        if let Some(open) = self.open.remove(&key) {
            self.suspects.remove(&key);
            if let Some(id) = open.id {
                self.keys.remove(&id);
                self.scheduler.cancel(id);
            }
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
        for id in self.open.values().filter_map(|open| open.id) {
            self.scheduler.cancel(id);
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
