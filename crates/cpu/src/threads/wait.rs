//! How a thread waits: it spins while it has a core of its own, and gives way where cores are shared.
//!
//! A thread that spins and finds that much more time went by than a few turns take has lost its core to another in between.
//! Then, for a while, every thread of the pool waits politely: a few turns, a few yields, then sleep; and sleepers are woken
//! seldom, since whoever is awake gets the work done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Nanoseconds.
const MICROSECOND: u64 = 1000;

/// Turns between two looks at the clock.
const TURNS: u32 = 64;

/// Time between two looks at the clock that says that another thread had the core.
const LOST: u64 = 100 * MICROSECOND;

/// For how long cores count as shared after one was.
const MEMORY: u64 = 10_000 * MICROSECOND;

/// How long a worker waits for the leader's next job, and how long for somebody to lead, before it sleeps.
const IN_REGION: u64 = 2000 * MICROSECOND;
const OUTSIDE: u64 = 300 * MICROSECOND;

/// How long anybody spins before it asks with a yield whether others want the core.
const ASK: u64 = 50 * MICROSECOND;

/// How long anybody spins where cores are shared.
const POLITE: u64 = 20 * MICROSECOND;

/// Yields of a worker before it sleeps where cores are shared.
const YIELDS: u32 = 3;

/// Time between two wake-ups where cores are shared.
const SELDOM: u64 = 200 * MICROSECOND;

/// What a pool knows about the threads of others on its cores.
pub(super) struct Crowd {
    start: Instant,
    /// Until when cores count as shared, in nanoseconds from the start.
    until: AtomicU64,
    woken: AtomicU64,
    /// Yields and sleeps so far.
    #[cfg(test)]
    pub(super) gave_way: AtomicU64,
}

impl Crowd {
    /// `always` where the pool alone has more threads than there are cores.
    pub(super) fn new(always: bool) -> Self {
        Crowd {
            start: Instant::now(),
            until: AtomicU64::new(if always { u64::MAX } else { 0 }),
            woken: AtomicU64::new(0),
            #[cfg(test)]
            gave_way: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Whether cores are shared at this time.
    fn is_shared(&self, now: u64) -> bool {
        now < self.until.load(Ordering::Relaxed)
    }

    /// A thread lost its core and has it back at this time.
    fn lost_core(&self, now: u64) {
        self.until.fetch_max(now.saturating_add(MEMORY), Ordering::Relaxed);
    }

    /// Whether the leader may wake a sleeper now.
    pub(super) fn may_wake(&self) -> bool {
        let now = self.now();
        let may = !self.is_shared(now) || now >= self.woken.load(Ordering::Relaxed).saturating_add(SELDOM);
        if may {
            self.woken.store(now, Ordering::Relaxed);
        }
        may
    }
}

/// What a thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Spin,
    Yield,
    Park,
}

/// One wait.
pub(super) struct Patience<'a> {
    crowd: &'a Crowd,
    turns: u32,
    yields: u32,
    /// When it began, last looked at the clock and last yielded; 0 before the first look.
    began: u64,
    looked: u64,
    asked: u64,
}

impl<'a> Patience<'a> {
    pub(super) fn new(crowd: &'a Crowd) -> Self {
        Patience { crowd, turns: 0, yields: 0, began: 0, looked: 0, asked: 0 }
    }

    /// Waits a turn for a job; says when it is time to sleep.
    pub(super) fn wait_for_work(&mut self, in_region: bool) -> Next {
        self.wait(|patience, now| patience.worker(now, in_region))
    }

    /// Waits a turn for tasks that others have begun.
    pub(super) fn wait_for_others(&mut self) {
        self.wait(Patience::leader);
    }

    fn wait(&mut self, look: impl FnOnce(&mut Self, u64) -> Next) -> Next {
        self.turns += 1;
        if !self.turns.is_multiple_of(TURNS) {
            std::hint::spin_loop();
            return Next::Spin;
        }
        let next = look(self, self.crowd.now());
        #[cfg(test)]
        self.crowd.gave_way.fetch_add(u64::from(next != Next::Spin), Ordering::Relaxed);
        if next == Next::Yield {
            std::thread::yield_now();
            // The next turn is a look at the clock: a yield that takes long means that others want the core.
            self.turns = self.turns.wrapping_sub(1);
        }
        next
    }

    /// Notes the time and how long it waits already.
    fn look(&mut self, now: u64) -> u64 {
        if self.looked == 0 {
            (self.began, self.asked) = (now, now);
        } else if now.saturating_sub(self.looked) > LOST {
            self.crowd.lost_core(now);
        }
        self.looked = now;
        now.saturating_sub(self.began)
    }

    /// What a worker does at this time.
    fn worker(&mut self, now: u64, in_region: bool) -> Next {
        let waited = self.look(now);
        if !self.crowd.is_shared(now) {
            let long = if in_region { IN_REGION } else { OUTSIDE };
            return if waited < long { self.ask(now) } else { Next::Park };
        }
        match waited {
            waited if waited < POLITE => Next::Spin,
            _ if self.yields < YIELDS => {
                self.yields += 1;
                Next::Yield
            }
            _ => Next::Park,
        }
    }

    /// What the leader does at this time; it never sleeps, since nobody would wake it.
    fn leader(&mut self, now: u64) -> Next {
        let waited = self.look(now);
        let long = if self.crowd.is_shared(now) { POLITE } else { ASK };
        if waited < long { Next::Spin } else { Next::Yield }
    }

    /// Yields now and then: it costs little where nobody wants the core, and shows by the time it takes where somebody does.
    fn ask(&mut self, now: u64) -> Next {
        if now.saturating_sub(self.asked) < ASK {
            return Next::Spin;
        }
        self.asked = now;
        Next::Yield
    }
}

#[cfg(test)]
mod tests {
    use super::Next::{Park, Spin, Yield};
    use super::*;

    /// What a worker does at these times in turn.
    fn worker(crowd: &Crowd, times: &[u64]) -> Vec<Next> {
        let mut patience = Patience::new(crowd);
        times.iter().map(|&now| patience.worker(now * MICROSECOND, true)).collect()
    }

    #[test]
    fn a_worker_with_a_core_of_its_own_spins_for_a_while_then_sleeps() {
        let crowd = Crowd::new(false);
        let times: Vec<u64> = (0..40).map(|i| 1 + 60 * i).collect();
        let did = worker(&crowd, &times);
        let (waited, slept) = did.split_at(did.iter().position(|&next| next == Park).unwrap());
        assert_eq!(waited.len(), 34);
        assert!(waited[0] == Spin && waited[1..].iter().all(|&next| next == Yield), "it asks every 50 microseconds");
        assert!(slept.iter().all(|&next| next == Park));
        assert!(worker(&crowd, &[1, 11, 21, 31, 41, 50]).iter().all(|&next| next == Spin));
    }

    #[test]
    fn a_worker_that_lost_its_core_gives_way_at_once() {
        let crowd = Crowd::new(false);
        assert_eq!(worker(&crowd, &[1, 2, 3000, 3001]), [Spin, Spin, Yield, Yield]);
        // And so does every other thread of the pool, for the time that the pool remembers.
        assert_eq!(worker(&crowd, &[3002, 3021, 3023, 3024, 3025, 3026]), [Spin, Spin, Yield, Yield, Yield, Park]);
        assert_eq!(worker(&crowd, &[14_000, 14_030]), [Spin, Spin]);
    }

    #[test]
    fn a_pool_with_more_threads_than_cores_is_always_polite() {
        let crowd = Crowd::new(true);
        assert_eq!(worker(&crowd, &[1, 22, 23, 24, 25]), [Spin, Yield, Yield, Yield, Park]);
    }

    #[test]
    fn a_leader_yields_to_tasks_that_take_long_and_never_sleeps() {
        let crowd = Crowd::new(false);
        let mut patience = Patience::new(&crowd);
        let did: Vec<Next> = (0..50).map(|i| patience.leader((1 + 10 * i) * MICROSECOND)).collect();
        assert!(did[..5].iter().all(|&next| next == Spin));
        assert!(did[5..].iter().all(|&next| next == Yield));
    }
}
