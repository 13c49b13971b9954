//! Requests that leave a scheduler whose device is gone, and come into another one: what they have said stays said, and what their
//! caches held is computed again.

use crate::error::{EngineError, Result};
use crate::serve::request::RequestId;
use crate::serve::scheduler::Scheduler;
use crate::serve::sequence::{Admission, Job, Place, Seat};
use crate::serve::state::State;
use crate::serve::trouble::repeat;

/// A request between two schedulers.
pub(super) struct Moved {
    job: Job,
    seats: Vec<Seat>,
}

impl Scheduler {
    /// From now on a device that is lost ends no request: somebody takes them out and brings them elsewhere.
    pub(super) fn keep_when_lost(&mut self) {
        self.works.state.keeps = true;
    }

    /// Takes a request out, with all that it has said; none where it is over.
    pub(super) fn take_out(&mut self, id: RequestId) -> Option<Moved> {
        self.works.state.take_out(id)
    }

    /// Takes in a request that another scheduler of the same model had. It goes on where it was, after those that have a place here.
    ///
    /// # Errors
    /// A lost device; more samples than run side by side; a sequence that the whole cache could not hold. The request comes back.
    pub(super) fn take_in(&mut self, moved: Moved) -> Result<RequestId, (Box<Moved>, EngineError)> {
        match self.works.state.admits(&moved) {
            Ok(()) => Ok(self.works.state.take_in(moved)),
            Err(error) => Err((Box::new(moved), error)),
        }
    }
}

impl State {
    fn take_out(&mut self, id: RequestId) -> Option<Moved> {
        let mut job = self.jobs.remove(&id)?;
        let mut seats = Vec::with_capacity(job.seats.len());
        for number in std::mem::take(&mut job.seats) {
            let Some(mut seat) = self.seats.remove(&number) else { continue };
            let place = std::mem::replace(&mut seat.place, Place::Behind);
            self.leave(number, place);
            self.gone.push(number);
            seats.push(seat);
        }
        self.forget(id, &job);
        Some(Moved { job, seats })
    }

    fn admits(&self, moved: &Moved) -> Result<()> {
        if let Some(lost) = &self.lost {
            return Err(repeat(lost));
        }
        self.require_places(moved.seats.len())?;
        self.require_room(moved.most_tokens())
    }

    fn take_in(&mut self, moved: Moved) -> RequestId {
        let Moved { mut job, seats } = moved;
        let id = RequestId(self.next_request);
        self.next_request += 1;
        if let Some(admission) = &mut job.admitted {
            *admission = Admission { number: self.next_admission, ..*admission };
            self.next_admission += 1;
        }
        for (i, seat) in seats.into_iter().enumerate() {
            let number = self.next_seat;
            self.next_seat += 1;
            // Until the prompt has run the first stands for all.
            let comes_back = job.admitted.is_some() && (job.split || i == 0);
            let place = if comes_back { Place::Away(None) } else { Place::Behind };
            let preemptions = seat.preemptions + usize::from(comes_back);
            self.seats.insert(number, Seat { request: id, place, preemptions, ran: 0, ..seat });
            self.away.extend(comes_back.then_some(number));
            job.seats.push(number);
        }
        self.due.extend(job.due.map(|due| (due, id)));
        self.queue.arrive(&job.tenant);
        if job.admitted.is_none() {
            self.waiting += 1;
            if !self.all_paused(&job) {
                self.queue.insert(job.priority, &job.tenant, id);
            }
        }
        self.jobs.insert(id, job);
        self.refused = None;
        id
    }
}

impl Moved {
    /// Most tokens that a sample of it may have in a cache. The last token is given out and never runs.
    pub(super) fn most_tokens(&self) -> usize {
        let held = self.seats.iter().map(|seat| seat.tokens.len()).max().unwrap_or(0);
        let left = self.seats.iter().map(|seat| seat.voice.left()).max().unwrap_or(0);
        held.saturating_add(left.saturating_sub(1))
    }
}
