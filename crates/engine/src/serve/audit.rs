//! The books gone over from the start.

use crate::serve::sequence::{Place, Saved, Seat};
use crate::serve::state::State;

impl State {
    /// Compares samples, requests, places and the cache with each other.
    pub(super) fn audit(&self) -> Result<(), String> {
        self.cache.audit()?;
        let sequences = self.cache.usage().sequences;
        check(sequences == self.running.len(), || format!("{sequences} sequences, {} run", self.running.len()))?;
        check(self.running.len() <= self.places(), || format!("{} run side by side", self.running.len()))?;
        let waiting = self.jobs.values().filter(|job| job.admitted.is_none()).count();
        check(waiting == self.waiting, || format!("{waiting} requests wait, {} were counted", self.waiting))?;
        let samples: usize = self.jobs.values().map(|job| job.seats.len()).sum();
        check(samples == self.seats.len(), || format!("{samples} samples of requests, {} in all", self.seats.len()))?;
        let saved = self.seats.values().filter_map(|seat| match &seat.place {
            Place::Away(Some(saved)) => Some(saved.bytes()),
            _ => None,
        });
        let bytes: u64 = saved.sum();
        check(bytes == self.host_bytes, || format!("{bytes} bytes on the host, {} were counted", self.host_bytes))?;
        self.seats.iter().try_for_each(|(number, seat)| {
            self.audit_seat(*number, seat).map_err(|what| format!("sample {number}: {what}"))
        })
    }

    fn audit_seat(&self, number: u64, seat: &Seat) -> Result<(), String> {
        let job = self.jobs.get(&seat.request).ok_or("its request is over")?;
        check(job.seats.contains(&number), || "its request does not know it".to_string())?;
        let listed = (self.running.contains(&number), self.away.contains(&number));
        match &seat.place {
            Place::Behind => check(listed == (false, false) && !job.split, || format!("it stands behind, {listed:?}")),
            Place::Away(saved) => {
                let tokens = saved.as_ref().map_or(0, |saved: &Saved| saved.tokens);
                check(listed == (false, true), || format!("it is away, {listed:?}"))?;
                check(tokens < seat.tokens.len(), || format!("{tokens} tokens saved of {}", seat.tokens.len()))
            }
            Place::Running(sequence) => {
                let held = self.cache.tokens(*sequence);
                check(listed == (true, false), || format!("it runs, {listed:?}"))?;
                check(held.len() < seat.tokens.len() && seat.tokens.starts_with(held), || {
                    format!("the cache holds {} tokens that are not those of its {}", held.len(), seat.tokens.len())
                })
            }
        }
    }
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
