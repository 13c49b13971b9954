//! Which of several schedulers has a request, and who gets it when one of them is gone.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender as Inbox;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::Sender;

use super::Request;
use super::reply::{Command, Line, Shared, Submission};
use super::worker::Transfer;
use crate::serve::executor::Limits;

/// How requests are given to several devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// To the device that has the fewest sequences under way for the speed that it is said to have.
    #[default]
    LeastLoaded,
    /// To one device after the other.
    RoundRobin,
}

/// Tokens of a prompt that are looked at together when a device is sought that knows its beginning.
const STRIDE: usize = 32;

/// Most beginnings of one prompt that are remembered.
const BEGINNINGS: usize = 64;

/// Beginnings that are remembered in all; then all are forgotten.
const REMEMBERED: usize = 1 << 16;

/// A device that knows a prompt's beginning is taken though it has so many sequences more under way than the best.
const SLACK: f64 = 4.0;

/// One scheduler's thread, as others see it.
pub(super) struct Slot {
    /// None once the thread takes nothing more.
    inbox: Mutex<Option<Inbox<Command>>>,
    /// Holds one message for every request that waits there.
    pub(super) places: Sender<()>,
    pub(super) shared: Arc<Shared>,
    pub(super) speed: f64,
    limits: Limits,
    /// Most samples of a request that it runs.
    pub(super) side_by_side: usize,
    /// Sequences under way.
    open: AtomicUsize,
    /// Requests that were given to it first.
    pub(super) requests: AtomicU64,
    /// Requests that another slot had before.
    pub(super) moved: AtomicU64,
}

impl Slot {
    pub(super) fn new(
        inbox: Inbox<Command>,
        places: Sender<()>,
        shared: Arc<Shared>,
        speed: f64,
        limits: Limits,
        side_by_side: usize,
    ) -> Slot {
        Slot {
            inbox: Mutex::new(Some(inbox)),
            places,
            shared,
            speed,
            limits,
            side_by_side,
            open: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            moved: AtomicU64::new(0),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Option<Inbox<Command>>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the thread a command, unless it takes none any more.
    pub(super) fn send(&self, command: Command) -> Result<(), Command> {
        match &*self.inbox() {
            // The thread takes this lock before it lets go of its end.
            Some(to) => to.send(command).map_err(|refused| refused.0),
            None => Err(command),
        }
    }

    /// As [`Slot::send`], for a command that brings a request: its line leads here from then on, and it is counted as what it is.
    fn bring(&self, command: Command, line: &Line, count: &AtomicU64) -> Result<(), Command> {
        let inbox = self.inbox();
        let Some(to) = &*inbox else { return Err(command) };
        line.lead_to(to.clone(), self.shared.clone());
        // Before the thread can be done with it.
        count.fetch_add(1, Ordering::Relaxed);
        to.send(command).map_err(|refused| refused.0)
    }

    /// From now on nothing is sent to the thread: what was sent before is all there is.
    pub(super) fn close(&self) {
        self.places.close();
        drop(self.inbox().take());
    }

    pub(super) fn is_open(&self) -> bool {
        self.inbox().is_some()
    }

    /// How long a request for so many sequences waits there, in no unit.
    fn wait(&self, sequences: usize) -> f64 {
        self.open.load(Ordering::Relaxed).saturating_add(sequences) as f64 / self.speed
    }

    /// Whether a sequence with at most so many tokens fits, and so many of them side by side.
    fn holds(&self, tokens: usize, sequences: usize) -> bool {
        let l = &self.limits;
        let blocks = |tokens: usize| tokens.min(l.context).div_ceil(l.block_size);
        let widest = l.window.map_or(usize::MAX, |window| blocks(window) + 1);
        sequences <= self.side_by_side && blocks(tokens).min(widest) < l.blocks
    }
}

/// A request's place in a slot's count, as long as it is under way there.
pub(super) struct Ticket {
    router: Arc<Router>,
    slot: usize,
    sequences: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.router.slots[self.slot].open.fetch_sub(self.sequences, Ordering::Relaxed);
        if self.router.open.fetch_sub(1, Ordering::SeqCst) == 1 && self.router.draining.load(Ordering::SeqCst) {
            for slot in &self.router.slots {
                // Who takes nothing any more waits for nothing either.
                let _ = slot.send(Command::Wake);
            }
        }
    }
}

/// What a slot is sought for.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// Most tokens of a sequence.
    pub(super) tokens: usize,
    pub(super) sequences: usize,
}

impl Wanted {
    pub(super) fn of(request: &Request) -> Wanted {
        let tokens = request.prompt.len().saturating_add(request.params.max_tokens.saturating_sub(1));
        Wanted { tokens, sequences: request.samples }
    }
}

/// All slots of a server.
pub(super) struct Router {
    pub(super) slots: Vec<Slot>,
    balance: Balance,
    /// Which slot had prompts that begin so; none where beginnings do not matter.
    known: Option<Mutex<HashMap<u64, usize>>>,
    turn: AtomicUsize,
    /// Requests under way in all slots.
    open: AtomicUsize,
    draining: AtomicBool,
}

impl Router {
    pub(super) fn new(slots: Vec<Slot>, balance: Balance, affinity: bool) -> Router {
        let known = (affinity && slots.len() > 1).then(Mutex::default);
        let (turn, open, draining) = Default::default();
        Router { slots, balance, known, turn, open, draining }
    }

    /// Whether no request is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.open.load(Ordering::SeqCst) == 0
    }

    /// No more requests come; threads that wait are told when the last one is over.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        for slot in &self.slots {
            slot.places.close();
        }
    }

    /// Counts a request for a slot.
    pub(super) fn ticket(self: &Arc<Self>, slot: usize, sequences: usize) -> Ticket {
        self.slots[slot].open.fetch_add(sequences, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::SeqCst);
        Ticket { router: self.clone(), slot, sequences }
    }

    /// The slots that go on, the best first. Those that could not hold it come last: one of them says why.
    pub(super) fn order(&self, wanted: Wanted) -> Vec<usize> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.slots.len();
        let mut order: Vec<usize> =
            (0..count).map(|i| (turn + i) % count).filter(|&i| self.slots[i].is_open()).collect();
        if self.balance == Balance::LeastLoaded {
            order.sort_by(|&a, &b| {
                self.slots[a].wait(wanted.sequences).total_cmp(&self.slots[b].wait(wanted.sequences))
            });
        }
        order.sort_by_key(|&slot| !self.slots[slot].holds(wanted.tokens, wanted.sequences));
        order
    }

    /// As [`Router::order`], with a slot that knows how the prompt begins before the others, unless it has much more to do.
    pub(super) fn order_for(&self, request: &Request) -> Vec<usize> {
        let wanted = Wanted::of(request);
        let mut order = self.order(wanted);
        let Some(known) = &self.known else { return order };
        let known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = beginnings(request).iter().rev().find_map(|hash| known.get(hash)).copied();
        let (Some(friend), Some(&best)) = (found, order.first()) else { return order };
        let (friend_slot, best) = (&self.slots[friend], &self.slots[best]);
        let near = friend_slot.wait(wanted.sequences) <= best.wait(wanted.sequences) + SLACK / friend_slot.speed;
        if near
            && friend_slot.holds(wanted.tokens, wanted.sequences)
            && let Some(at) = order.iter().position(|&slot| slot == friend)
        {
            order[..=at].rotate_right(1);
        }
        order
    }

    /// Gives a new request, which holds a place there, to one slot; back where it takes none.
    pub(super) fn submit_to(self: &Arc<Self>, slot: usize, submission: Box<Submission>) -> Result<(), Box<Submission>> {
        self.submit(slot, submission, &self.slots[slot].requests)
    }

    /// Gives a request that a slot had not begun with to another one; back where nobody goes on.
    pub(super) fn resubmit(self: &Arc<Self>, mut submission: Box<Submission>) -> Result<(), Box<Submission>> {
        for slot in self.order_for(&submission.request) {
            // It was accepted: where the queue is full it waits beside it.
            submission.holds_place = self.slots[slot].places.try_send(()).is_ok();
            match self.submit(slot, submission, &self.slots[slot].moved) {
                Ok(()) => return Ok(()),
                Err(back) => submission = back,
            }
        }
        Err(submission)
    }

    fn submit(
        self: &Arc<Self>,
        slot: usize,
        mut submission: Box<Submission>,
        count: &AtomicU64,
    ) -> Result<(), Box<Submission>> {
        self.remember(&submission.request, slot);
        submission.ticket = Some(self.ticket(slot, submission.request.samples));
        let line = submission.line.clone();
        match self.slots[slot].bring(Command::Submit(submission), &line, count) {
            Err(Command::Submit(mut submission)) => {
                // It counts nowhere.
                submission.ticket = None;
                Err(submission)
            }
            _ => Ok(()),
        }
    }

    /// Gives a request that a slot had to another one; back where nobody can have it.
    pub(super) fn pass_on(self: &Arc<Self>, mut transfer: Box<Transfer>) -> Result<(), Box<Transfer>> {
        let tokens = transfer.moved.as_ref().map_or(0, |moved| moved.most_tokens());
        let wanted = Wanted { tokens, sequences: transfer.open.sequences() };
        for slot in self.order(wanted) {
            let line = transfer.line().clone();
            let old = transfer.set_ticket(self.ticket(slot, wanted.sequences));
            let sent = self.slots[slot].bring(Command::TakeOver(transfer), &line, &self.slots[slot].moved);
            drop(old);
            match sent {
                Err(Command::TakeOver(back)) => transfer = back,
                _ => return Ok(()),
            }
        }
        Err(transfer)
    }

    /// Notes which slot has a prompt.
    pub(super) fn remember(&self, request: &Request, slot: usize) {
        let Some(known) = &self.known else { return };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.extend(beginnings(request).into_iter().map(|hash| (hash, slot)));
    }
}

/// Hashes of a prompt's beginnings, the shortest first. Two that are the same by chance cost a detour and nothing else.
fn beginnings(request: &Request) -> Vec<u64> {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let first = hasher.hash_one(&request.tenant);
    let hashes = request.prompt.chunks_exact(STRIDE).take(BEGINNINGS).scan(first, |hash, tokens| {
        *hash = hasher.hash_one((*hash, tokens));
        Some(*hash)
    });
    hashes.collect()
}
