//! Who comes in: those that lost their place before new ones of their priority, and nobody before whose turn it is.

use qiao_kvcache::SequenceId;

use crate::error::Result;
use crate::serve::queue::PROMPT_COST;
use crate::serve::sequence::{Admission, Place, Saved};
use crate::serve::state::State;
use crate::serve::works::Works;

/// One block in so many is kept free when somebody comes in.
const WATERMARK: usize = 100;

impl Works {
    /// Lets in whom there is room for.
    ///
    /// # Errors
    /// The device can't go on.
    pub(super) fn admit(&mut self) -> Result<()> {
        while let Some(candidate) = self.state.candidate() {
            if self.state.was_refused(candidate) || !self.enter(candidate)? {
                self.state.refused = Some((candidate, self.state.cache.available(), self.state.running.len()));
                return Ok(());
            }
            self.state.refused = None;
        }
        Ok(())
    }

    /// Gives a sample a place, where need be that of one that is paused or of lower priority; whether the queue moved.
    fn enter(&mut self, number: u64) -> Result<bool> {
        loop {
            if self.state.could_fit(number, 0, 0)
                && let Some(sequence) = self.state.open(number)
            {
                self.place(number, sequence)?;
                return Ok(true);
            }
            match self.state.gives_way(number) {
                Some(victim) => self.preempt(victim)?,
                None => return Ok(false),
            }
        }
    }

    /// Puts a sample onto an open sequence, with what was saved of it.
    fn place(&mut self, number: u64, sequence: SequenceId) -> Result<()> {
        let Some(saved) = self.state.seat(number, sequence) else { return Ok(()) };
        self.state.host_bytes -= saved.bytes();
        if !self.restore(number, sequence, &saved)? {
            self.state.give_up(number);
        }
        Ok(())
    }

    /// Brings blocks back, those apart that the cache still had; whether that went well.
    fn restore(&mut self, number: u64, sequence: SequenceId, saved: &Saved) -> Result<bool> {
        let found = self.state.cache.len(sequence);
        if found >= saved.tokens {
            return Ok(true);
        }
        let Ok(copies) = self.state.cache.reserve(sequence, saved.tokens) else { return Ok(false) };
        if !self.copy(&copies)? {
            return Ok(false);
        }
        let (first, end) = (found / self.state.limits.block_size, self.state.blocks(saved.tokens));
        let blocks: Vec<u32> = self.state.cache.table(sequence)[first..end].iter().map(|block| *block as u32).collect();
        if let Err(error) = self.executor.restore(&saved.contents, first, &blocks) {
            self.mend(&error)?;
            return Ok(false);
        }
        let Some(seat) = self.state.seats.get(&number) else { return Ok(false) };
        Ok(self.state.cache.commit(sequence, &seat.tokens[found..saved.tokens]).is_ok())
    }
}

impl State {
    /// Whose turn it is to come in.
    fn candidate(&self) -> Option<u64> {
        let back = self.away.iter().copied().filter(|number| !self.rests(*number)).min_by_key(|n| self.rank(*n));
        let Some((priority, id)) = self.queue.head() else { return back };
        match back {
            Some(number) if self.rank(number).0.0 >= priority => back,
            _ => self.jobs.get(&id)?.seats.first().copied(),
        }
    }

    /// Whether this one was refused before and nothing became better since.
    fn was_refused(&self, number: u64) -> bool {
        self.refused.is_some_and(|(refused, available, running)| {
            refused == number && self.cache.available() <= available && self.running.len() >= running
        })
    }

    /// Tokens that a sample wants room for when it comes in and has so many: the next chunk, but all it has where it lost its place,
    /// lest it lose it again at once.
    fn first_total(&self, number: u64, found: usize) -> usize {
        let Some(seat) = self.seats.get(&number) else { return 0 };
        match seat.place {
            Place::Away(_) => seat.tokens.len(),
            _ => found.saturating_add(self.policy.chunk).min(seat.tokens.len()),
        }
    }

    /// Whether a sample might fit if so many more blocks and places were there. Who would be alone always fits.
    fn could_fit(&self, number: u64, blocks: usize, places: usize) -> bool {
        if self.running.is_empty() {
            return true;
        }
        let taken: usize = self.running.iter().map(|other| self.weight(*other)).sum();
        if taken + self.weight(number) > self.places() + places {
            return false;
        }
        let found = self.known(number);
        let needed = self.blocks(self.first_total(number, found)).saturating_sub(found / self.limits.block_size);
        needed.min(self.widest()) + self.kept_free() <= self.cache.available() + blocks
    }

    /// Tokens of a sample that the cache knows.
    fn known(&self, number: u64) -> usize {
        let Some(seat) = self.seats.get(&number) else { return 0 };
        self.jobs.get(&seat.request).map_or(0, |job| self.cache.peek(job.tenant.as_bytes(), &seat.tokens))
    }

    /// Blocks that are not for newcomers: those that the running will need for the tokens they have, and a few.
    fn kept_free(&self) -> usize {
        let rest = |number: &u64| {
            let seat = self.seats.get(number)?;
            Some(self.cache.needed(seat.sequence()?, seat.tokens.len()).min(self.widest()))
        };
        let awake = self.running.iter().filter(|number| !self.rests(**number));
        awake.filter_map(rest).sum::<usize>() + (self.limits.blocks - 1) / WATERMARK + 1
    }

    /// Opens a sequence for a sample; none where there is not enough room after all.
    fn open(&mut self, number: u64) -> Option<SequenceId> {
        let seat = self.seats.get(&number)?;
        let tenant = self.jobs.get(&seat.request)?.tenant.as_bytes();
        let sequence = self.cache.open(tenant, &seat.tokens);
        let total = self.first_total(number, self.cache.len(sequence));
        let needed = self.cache.needed(sequence, total).min(self.widest());
        let fits = needed + self.kept_free() <= self.cache.available();
        if fits || self.running.is_empty() {
            return Some(sequence);
        }
        self.cache.close(sequence);
        None
    }

    /// Notes that a sample has a place now; gives what was saved of it.
    fn seat(&mut self, number: u64, sequence: SequenceId) -> Option<Saved> {
        let found = self.cache.len(sequence);
        let seat = self.seats.get_mut(&number)?;
        let job = self.jobs.get_mut(&seat.request)?;
        if job.admitted.is_none() {
            let queued = job.submitted.elapsed();
            job.admitted = Some(Admission { number: self.next_admission, queued, cached: found });
            self.next_admission += 1;
            self.waiting -= 1;
            self.queue.remove(job.priority, &job.tenant, seat.request);
            self.queue.charge(&job.tenant, (job.prompt - found) as u64 * PROMPT_COST);
        }
        let before = std::mem::replace(&mut seat.place, Place::Running(sequence));
        self.away.retain(|other| *other != number);
        self.running.push(number);
        match before {
            Place::Away(saved) => saved,
            _ => None,
        }
    }

    /// Who must make way for a newcomer: one that is paused, else one of lower priority; none where even all of them together
    /// would not be enough.
    fn gives_way(&self, number: u64) -> Option<u64> {
        let priority = self.rank(number).0;
        let candidates: Vec<u64> =
            self.running.iter().copied().filter(|other| self.rests(*other) || self.rank(*other).0 > priority).collect();
        let sequences = candidates.iter().filter_map(|other| self.seats.get(other)?.sequence());
        let blocks = sequences.map(|sequence| self.cache.table(sequence).len()).sum();
        let places = candidates.iter().map(|other| self.weight(*other)).sum();
        let enough = candidates.len() == self.running.len() || self.could_fit(number, blocks, places);
        candidates.into_iter().filter(|_| enough).max_by_key(|other| (self.rests(*other), self.rank(*other)))
    }
}
