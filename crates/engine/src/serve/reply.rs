//! What comes back of a request, and what its reader tells the server's thread.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::mpsc::Sender as Inbox;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_channel::{Receiver, Sender};
use futures_core::Stream;

use super::router::Ticket;
use super::worker::Transfer;
use super::{End, Load, Request};
use crate::error::{EngineError, Result};
use crate::generate::Piece;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Which of the request's parallel samples it belongs to, from 0.
    pub sample: usize,
    /// What came; empty where only the end came.
    pub piece: Piece,
    /// Why this sample ended, in its last chunk.
    pub end: Option<End>,
}

/// What the server's thread is told. It is never waited for.
pub(super) enum Command {
    /// A request that holds a place in the queue.
    Submit(Box<Submission>),
    /// End a request; `gone` where nobody reads its reply any more.
    Cancel { key: u64, gone: bool },
    /// A reader that lagged has made room.
    Room(u64),
    /// Finish what was accepted, until this moment at the latest, and say whether all of it could be finished.
    Drain { until: Option<Instant>, done: Sender<bool> },
    /// End everything now.
    Stop,
    /// A request that another thread had.
    TakeOver(Box<Transfer>),
    /// All threads together have nothing more to do.
    Wake,
}

/// Where a reply's commands go: to the thread that has its request. It leads elsewhere when the request moves.
pub(super) struct Line {
    to: Mutex<Option<(Inbox<Command>, Arc<Shared>)>>,
    /// Whether the request is to end. A command to a thread that is gone is lost; this is not.
    cancelled: AtomicBool,
}

impl Line {
    pub(super) fn new() -> Arc<Line> {
        Arc::new(Line { to: Mutex::new(None), cancelled: AtomicBool::new(false) })
    }

    pub(super) fn lead_to(&self, inbox: Inbox<Command>, shared: Arc<Shared>) {
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = Some((inbox, shared));
    }

    /// The error of a reader whose request is with a thread that is gone.
    fn ended(&self) -> EngineError {
        match &*self.to.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((_, shared)) => shared.ended(),
            None => EngineError::ServerEnded { why: "it takes no more requests".into() },
        }
    }

    fn tell(&self, command: Command) {
        if let Some((to, _)) = &*self.to.lock().unwrap_or_else(PoisonError::into_inner) {
            // A thread that is gone has ended everything, or has given it away: then who has it now looks for itself.
            let _ = to.send(command);
        }
    }

    /// Asked by a thread after the line leads to it.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }
}

/// A request on its way to the thread.
pub(super) struct Submission {
    pub(super) key: u64,
    pub(super) request: Request,
    pub(super) sent: Instant,
    pub(super) chunks: Sender<Result<Chunk>>,
    /// Most chunks that the reply buffers.
    pub(super) most: usize,
    pub(super) lagging: Arc<AtomicBool>,
    pub(super) line: Arc<Line>,
    /// Set by whoever sends it.
    pub(super) ticket: Option<Ticket>,
    /// Whether one of the messages among the slot's places is its own.
    pub(super) holds_place: bool,
}

/// What the thread and everybody else may look at.
pub(super) struct Shared {
    pub(super) load: Mutex<Load>,
    /// Sequences over all batches.
    pub(super) sequences: AtomicU64,
    /// The most blocks of the cache that were used at once since somebody asked.
    pub(super) peak_blocks: AtomicUsize,
    /// Why the thread has ended; set before any reply is let go.
    pub(super) fate: OnceLock<String>,
}

impl Shared {
    pub(super) fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of whoever needs a thread that is gone.
    pub(super) fn ended(&self) -> EngineError {
        let why = self.fate.get().map_or("it takes no more requests", String::as_str);
        EngineError::ServerEnded { why: why.into() }
    }
}

/// The answer to one request, as it comes: a [`Stream`] for any executor, or an iterator for a thread of its own
/// ([`Reply::blocking`]).
///
/// It ends when every sample has ended; an error is the last item. A reader that takes nothing for a while pauses its own request
/// and no other; dropping the reply cancels the request.
pub struct Reply {
    key: u64,
    chunks: Pin<Box<Receiver<Result<Chunk>>>>,
    /// Most chunks that wait in it.
    most: usize,
    line: Arc<Line>,
    lagging: Arc<AtomicBool>,
    /// Samples that have not ended.
    open: usize,
}

impl Reply {
    /// A reply to this request, which buffers so many chunks at most, and the submission that belongs to it.
    pub(super) fn new(key: u64, request: Request, most: usize) -> (Reply, Box<Submission>) {
        // The sender keeps to the limit; a bounded channel would take memory for all of it at once.
        let (sender, receiver) = async_channel::unbounded();
        let lagging = Arc::new(AtomicBool::new(false));
        let (open, line) = (request.samples, Line::new());
        let submission = Submission {
            key,
            request,
            sent: Instant::now(),
            chunks: sender,
            most,
            lagging: lagging.clone(),
            line: line.clone(),
            ticket: None,
            holds_place: true,
        };
        (Reply { key, chunks: Box::pin(receiver), most, line, lagging, open }, Box::new(submission))
    }

    /// Ends the request; what came before, and the end of every sample with
    /// [`FinishReason::Cancelled`](crate::generate::FinishReason::Cancelled), can still be read.
    pub fn cancel(&self) {
        self.line.cancelled.store(true, Ordering::SeqCst);
        self.line.tell(Command::Cancel { key: self.key, gone: false });
    }

    /// The same chunks for a thread that waits for them.
    pub fn blocking(&mut self) -> Blocking<'_> {
        Blocking { reply: self }
    }

    /// Waits for the next chunk; `None` after the end.
    fn next_blocking(&mut self) -> Option<Result<Chunk>> {
        if self.open == 0 {
            return None;
        }
        let item = self.chunks.recv_blocking().ok();
        Some(self.took(item))
    }

    /// Notes what an item means.
    fn took(&mut self, item: Option<Result<Chunk>>) -> Result<Chunk> {
        let Some(item) = item else {
            self.open = 0;
            return Err(self.line.ended());
        };
        self.tell_room();
        match &item {
            Ok(Chunk { end: Some(_), .. }) => self.open -= 1,
            Ok(_) => {}
            Err(_) => self.open = 0,
        }
        item
    }

    /// Tells the thread that there is room again, once half of the buffer is read.
    fn tell_room(&self) {
        // Pairs with the fence of the thread, between raising the flag and looking for room once more: one of both sees the other.
        fence(Ordering::SeqCst);
        if self.lagging.load(Ordering::SeqCst)
            && self.chunks.len() <= self.most / 2
            && self.lagging.swap(false, Ordering::SeqCst)
        {
            self.line.tell(Command::Room(self.key));
        }
    }
}

impl Stream for Reply {
    type Item = Result<Chunk>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Chunk>>> {
        if self.open == 0 {
            return Poll::Ready(None);
        }
        let item = ready!(self.chunks.as_mut().poll_next(context));
        Poll::Ready(Some(self.took(item)))
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.open > 0 {
            self.line.tell(Command::Cancel { key: self.key, gone: true });
        }
    }
}

/// Chunks of a [`Reply`], waited for on this thread.
pub struct Blocking<'a> {
    reply: &'a mut Reply,
}

impl Iterator for Blocking<'_> {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Result<Chunk>> {
        self.reply.next_blocking()
    }
}
