//! Room for a sequence's next tokens, and who makes it.

use qiao_core::Error;
use qiao_kvcache::{BlockCopy, SequenceId};

use crate::error::Result;
use crate::serve::policy::Preempt;
use crate::serve::sequence::{Place, Rank, Saved};
use crate::serve::state::State;
use crate::serve::works::Works;

impl Works {
    /// Makes room for a sample's next tokens, `want` at most and one at least: none where those who go before it hold the room, or
    /// where it lost its own place.
    ///
    /// Nobody who goes before it is touched, and whoever goes first finds room: all others together give back the whole cache.
    ///
    /// # Errors
    /// The device can't go on.
    pub(super) fn room(&mut self, number: u64, want: usize) -> Result<Option<usize>> {
        loop {
            let Some(sequence) = self.state.seats.get(&number).and_then(|seat| seat.sequence()) else {
                return Ok(None);
            };
            let held = self.state.cache.len(sequence);
            let fits = self.state.fitting(sequence, held, want);
            if fits > 0 {
                return Ok(self.reserve(number, sequence, held + fits)?.then_some(fits));
            }
            match self.state.victim(self.state.rank(number)) {
                Some(victim) => self.preempt(victim)?,
                None if self.state.running.len() == 1 => {
                    let request = self.state.seats.get(&number).map(|seat| seat.request);
                    let why =
                        format!("{held} tokens are held, and there is no room for one more with nobody else there");
                    request.inspect(|id| self.state.end_request(*id, &Error::internal("the KV cache", why).into()));
                    return Ok(None);
                }
                None => return Ok(None),
            }
        }
    }

    /// Takes blocks for a sample and makes the copies that this asks for; whether it has them now.
    fn reserve(&mut self, number: u64, sequence: SequenceId, total: usize) -> Result<bool> {
        let Ok(copies) = self.state.cache.reserve(sequence, total) else { return Ok(false) };
        if self.copy(&copies)? {
            return Ok(true);
        }
        self.state.give_up(number);
        Ok(false)
    }

    /// Copies blocks, again where that fails, as often as the policy allows. They are copied at once, so that no block of them can
    /// change hands before.
    pub(super) fn copy(&mut self, copies: &[BlockCopy]) -> Result<bool> {
        if copies.is_empty() {
            return Ok(true);
        }
        let pairs: Vec<(u32, u32)> = copies.iter().map(|copy| (copy.from, copy.to)).collect();
        for _ in 0..=self.state.policy.retries {
            let Err(error) = self.executor.copy(&pairs) else { return Ok(true) };
            self.mend(&error)?;
        }
        Ok(false)
    }

    /// Takes a sample's place from it.
    ///
    /// # Errors
    /// The device can't go on.
    pub(super) fn preempt(&mut self, number: u64) -> Result<()> {
        if let Some(blocks) = self.state.worth_saving(number) {
            match self.executor.save(&blocks) {
                Ok(contents) => self.state.put_away(number, Some(contents)),
                Err(error) => {
                    self.mend(&error)?;
                    self.state.put_away(number, None);
                }
            }
        } else {
            self.state.put_away(number, None);
        }
        Ok(())
    }
}

impl State {
    /// Who loses its place for a sample of this rank: paused ones first, then who goes last.
    fn victim(&self, rank: Rank) -> Option<u64> {
        let standing = |number: &u64| (self.rests(*number), self.rank(*number));
        let below = self.running.iter().copied().filter(|number| {
            let (rests, own) = standing(number);
            own != rank && (rests || own > rank)
        });
        below.max_by_key(standing)
    }

    /// The blocks of a sample, where they are to be saved and the host has room for them.
    fn worth_saving(&self, number: u64) -> Option<Vec<u32>> {
        let Preempt::Swap { host_bytes } = self.policy.preempt else { return None };
        let sequence = self.seats.get(&number)?.sequence()?;
        let count = self.blocks(self.cache.len(sequence));
        let bytes = self.limits.block_bytes.checked_mul(count as u64)?;
        if self.limits.window.is_some() || count == 0 || bytes > host_bytes.saturating_sub(self.host_bytes) {
            return None;
        }
        Some(self.cache.table(sequence)[..count].iter().map(|block| *block as u32).collect())
    }

    /// Closes a running sample's sequence; it comes back later.
    fn put_away(&mut self, number: u64, contents: Option<crate::serve::executor::HostBlocks>) {
        let Some(seat) = self.seats.get_mut(&number) else { return };
        let Place::Running(sequence) = seat.place else { return };
        let saved = contents.map(|contents| Saved { contents, tokens: self.cache.len(sequence) });
        self.host_bytes += saved.as_ref().map_or(0, Saved::bytes);
        seat.place = Place::Away(saved);
        seat.preemptions += 1;
        self.preemptions += 1;
        self.leave(number, Place::Running(sequence));
        self.away.push(number);
    }

    /// What could not be brought onto the device is computed again.
    pub(super) fn give_up(&mut self, number: u64) {
        self.put_away(number, None);
    }
}
