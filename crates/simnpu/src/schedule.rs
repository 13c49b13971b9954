//! Who runs next: lanes of commands, one for each stream, and a seeded referee between them.
//!
//! - A lane runs its commands in order, on a thread of its own. A command starts when the referee gives its lane the
//!   turn; at most `engines` commands are under way at once, and none starts while the gate is closed.
//! - Of the lanes that could go on, the seed picks one. With one engine the order in which queued commands start is a
//!   function of the seed and of what is queued, and of nothing else.
//! - A failure stops its lane: what comes behind is skipped. A lost device stops every lane at once.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use qiao_core::{Error, Result};

/// What becomes of a command.
pub(crate) enum Outcome {
    /// It ended.
    Done(Result<()>),
    /// It never ends.
    Hangs,
    /// It takes the device with it.
    Loses,
}

/// A command of a lane.
pub(crate) enum Step {
    /// Work.
    Run(Box<dyn FnOnce() -> Outcome + Send>),
    /// Nothing, once another lane has reached a point.
    Wait(Point),
    /// Notes the time.
    Stamp(Arc<OnceLock<Instant>>),
}

/// A place in a lane.
#[derive(Clone)]
pub(crate) struct Point {
    lane: Arc<Lane>,
    at: u64,
}

/// How far a lane has come: what its thread, its stream and events on it look at.
pub(crate) struct Lane {
    id: u64,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// For the lane's thread, with the referee's lock.
    turn: Condvar,
}

#[derive(Default)]
struct Progress {
    submitted: u64,
    done: u64,
    /// The position of the first command that failed, and its error.
    failed: Option<(u64, Error)>,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first failure, if there was one.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.lock().failed.as_ref().map(|(_, error)| error.clone())
    }

    /// The place behind everything that was queued.
    pub(crate) fn end(self: &Arc<Self>) -> Point {
        Point { lane: self.clone(), at: self.lock().submitted }
    }

    fn finish(&self, result: Result<()>) {
        let mut progress = self.lock();
        let at = progress.done + 1;
        if let (Err(error), None) = (result, &progress.failed) {
            progress.failed = Some((at, error));
        }
        progress.done = at.min(progress.submitted);
        drop(progress);
        self.changed.notify_all();
    }

    /// Ends the lane with an error, unless it has one already.
    fn abort(&self, error: &Error) {
        let mut progress = self.lock();
        if progress.failed.is_none() {
            progress.failed = Some((progress.done + 1, error.clone()));
        }
        progress.done = progress.submitted;
        drop(progress);
        self.changed.notify_all();
    }
}

impl Point {
    /// Whether everything before the point is done.
    ///
    /// # Errors
    /// The failure that the lane met before it.
    pub(crate) fn is_reached(&self) -> Result<bool> {
        self.look(&self.lane.lock())
    }

    fn look(&self, progress: &Progress) -> Result<bool> {
        match &progress.failed {
            Some((at, error)) if *at <= self.at => Err(error.clone()),
            _ => Ok(progress.done >= self.at),
        }
    }

    /// Waits for the point.
    ///
    /// # Errors
    /// As [`Point::is_reached`]; [`Error::Timeout`].
    pub(crate) fn wait(&self, timeout: Duration) -> Result<()> {
        self.wait_until(timeout, |progress| self.look(progress))
    }

    /// Waits until nothing before the point is left to do, behind a failure too.
    ///
    /// # Errors
    /// [`Error::Timeout`]; then as [`Point::is_reached`].
    pub(crate) fn drain(&self, timeout: Duration) -> Result<()> {
        self.wait_until(timeout, |progress| Ok(progress.done >= self.at))?;
        self.is_reached().map(drop)
    }

    fn wait_until(&self, timeout: Duration, over: impl Fn(&Progress) -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        let mut progress = self.lane.lock();
        while !over(&progress)? {
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                return Err(Error::Timeout { what: format!("stream {} of the device", self.lane.id), millis });
            }
            // A condition variable takes no more than it can add to the time of day.
            let wait = left.min(Duration::from_secs(3600));
            progress = self.lane.changed.wait_timeout(progress, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

/// How a device orders its work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) seed: u64,
    pub(crate) engines: usize,
    pub(crate) jitter: Duration,
    pub(crate) latency: Duration,
}

/// The referee between the lanes of a device.
pub(crate) struct Referee {
    rules: Rules,
    state: Mutex<State>,
    lost: OnceLock<Error>,
}

struct State {
    lanes: BTreeMap<u64, Queue>,
    next: u64,
    running: usize,
    closed: bool,
    random: u64,
    trace: VecDeque<u64>,
}

/// What the referee knows of a lane.
struct Queue {
    lane: Arc<Lane>,
    steps: VecDeque<Step>,
    /// It has the turn, or is running.
    busy: bool,
    hangs: bool,
    /// Its stream is gone.
    dropped: bool,
    /// How long its command is held back, once it has the turn.
    delay: Option<Duration>,
}

/// Starts of commands that are remembered.
const TRACE: usize = 4096;

impl State {
    /// The next number of the seed. splitmix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Gives turns while there are engines and lanes that could go on.
    fn dispatch(&mut self, rules: &Rules) {
        while self.running < rules.engines && !self.closed {
            let ready = |q: &&Queue| {
                let at_once = match q.steps.front() {
                    Some(Step::Wait(point)) => !matches!(point.is_reached(), Ok(false)),
                    Some(_) => true,
                    None => false,
                };
                at_once && !q.busy && !q.hangs
            };
            let ready: Vec<u64> = self.lanes.values().filter(ready).map(|q| q.lane.id).collect();
            if ready.is_empty() {
                return;
            }
            let (pick, chance, share) = (self.random(), self.random(), self.random());
            let id = ready[(pick % ready.len() as u64) as usize];
            let jitter = rules.jitter.mul_f64((share >> 11) as f64 / (1u64 << 53) as f64);
            let delay = rules.latency + if chance % 16 == 0 { jitter } else { Duration::ZERO };
            self.running += 1;
            if self.trace.len() == TRACE {
                self.trace.pop_front();
            }
            self.trace.push_back(id);
            if let Some(queue) = self.lanes.get_mut(&id) {
                (queue.busy, queue.delay) = (true, Some(delay));
                queue.lane.turn.notify_all();
            }
        }
    }
}

impl Referee {
    pub(crate) fn new(rules: Rules) -> Arc<Referee> {
        let state = State {
            lanes: BTreeMap::new(),
            next: 0,
            running: 0,
            closed: false,
            random: rules.seed,
            trace: VecDeque::new(),
        };
        Arc::new(Referee { rules, state: Mutex::new(state), lost: OnceLock::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new lane, unless `most` (0 = any) exist.
    ///
    /// # Errors
    /// There are as many as there may be; the system gives no thread; the device is lost.
    pub(crate) fn lane(self: &Arc<Self>, most: usize) -> Result<Arc<Lane>> {
        self.alive()?;
        let mut state = self.lock();
        let exist = state.lanes.values().filter(|q| !q.dropped).count();
        if most > 0 && exist >= most {
            return Err(Error::invalid(
                "stream",
                format!("{exist} exist, and the device has no more"),
                "drop one first",
            ));
        }
        let id = state.next;
        let lane = Arc::new(Lane { id, progress: Mutex::default(), changed: Condvar::new(), turn: Condvar::new() });
        let (referee, own) = (self.clone(), lane.clone());
        let thread = thread::Builder::new().name(format!("simnpu stream {id}")).spawn(move || referee.work(&own));
        thread.map_err(|e| Error::internal("stream", format!("the system gives no thread: {e}")))?;
        state.next += 1;
        let (steps, delay) = Default::default();
        let queue = Queue { lane: lane.clone(), steps, busy: false, hangs: false, dropped: false, delay };
        state.lanes.insert(id, queue);
        Ok(lane)
    }

    /// Queues a command; the point behind it.
    ///
    /// # Errors
    /// The device is lost.
    pub(crate) fn push(&self, lane: &Arc<Lane>, step: Step) -> Result<Point> {
        let mut state = self.lock();
        self.alive()?;
        let at = {
            let mut progress = lane.lock();
            progress.submitted += 1;
            progress.submitted
        };
        if let Some(queue) = state.lanes.get_mut(&lane.id) {
            queue.steps.push_back(step);
        }
        state.dispatch(&self.rules);
        Ok(Point { lane: lane.clone(), at })
    }

    /// The stream of a lane is gone. What it was given runs all the same, unless it hangs.
    pub(crate) fn release(&self, lane: &Arc<Lane>) {
        let mut state = self.lock();
        let Some(queue) = state.lanes.get_mut(&lane.id) else { return };
        queue.dropped = true;
        let mut left = VecDeque::new();
        if queue.hangs {
            left = std::mem::take(&mut queue.steps);
            lane.abort(&Error::internal("stream", "it was destroyed while a command on it hung"));
        }
        lane.turn.notify_all();
        state.dispatch(&self.rules);
        drop(state);
        // What commands hold is given back without the lock.
        drop(left);
    }

    /// Closes or opens the gate.
    pub(crate) fn close(&self, closed: bool) {
        let mut state = self.lock();
        state.closed = closed;
        state.dispatch(&self.rules);
    }

    /// The lanes of the commands that have started, in order; the last few thousand.
    pub(crate) fn trace(&self) -> Vec<u64> {
        self.lock().trace.iter().copied().collect()
    }

    /// Whether the device is still there.
    ///
    /// # Errors
    /// The error with which it was lost.
    pub(crate) fn alive(&self) -> Result<()> {
        self.lost.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// The device is gone: nothing more starts, and every wait ends.
    pub(crate) fn lose(&self, error: Error) {
        let left: Vec<VecDeque<Step>> = {
            let mut state = self.lock();
            // The first loss is the one that is told.
            let _ = self.lost.set(error.clone());
            let queues = state.lanes.values_mut();
            let emptied = queues.map(|queue| {
                queue.hangs = false;
                queue.lane.abort(&error);
                queue.lane.turn.notify_all();
                std::mem::take(&mut queue.steps)
            });
            emptied.collect()
        };
        drop(left);
    }

    /// The next command of a lane, once it has the turn; nothing when its stream is gone and its work is done.
    fn next(&self, lane: &Arc<Lane>) -> Option<(Step, Duration)> {
        let mut state = self.lock();
        loop {
            let queue = state.lanes.get_mut(&lane.id)?;
            if let Some(delay) = queue.delay.take() {
                if let Some(step) = queue.steps.pop_front() {
                    return Some((step, delay));
                }
                // The device was lost meanwhile.
                queue.busy = false;
                state.running -= 1;
                state.dispatch(&self.rules);
                continue;
            }
            if queue.dropped && (queue.steps.is_empty() || queue.hangs) {
                state.lanes.remove(&lane.id);
                return None;
            }
            state = lane.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What a lane's thread does.
    fn work(self: &Arc<Self>, lane: &Arc<Lane>) {
        while let Some((step, delay)) = self.next(lane) {
            if !delay.is_zero() {
                thread::sleep(delay);
            }
            let outcome = if lane.failure().is_some() { Outcome::Done(Ok(())) } else { run(step) };
            match &outcome {
                Outcome::Done(result) => lane.finish(result.clone()),
                Outcome::Hangs => {}
                Outcome::Loses => self
                    .lose(Error::DeviceLost { device: "the simulated device".into(), why: "sim.fault said so".into() }),
            }
            let mut state = self.lock();
            state.running -= 1;
            if let Some(queue) = state.lanes.get_mut(&lane.id) {
                queue.busy = false;
                queue.hangs |= matches!(outcome, Outcome::Hangs);
                if queue.hangs && queue.dropped {
                    lane.abort(&Error::internal("stream", "it was destroyed while a command on it hung"));
                    queue.steps.clear();
                }
            }
            state.dispatch(&self.rules);
        }
    }
}

/// Runs a command. One that panics has failed.
fn run(step: Step) -> Outcome {
    match step {
        Step::Run(work) => catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default();
            Outcome::Done(Err(Error::internal("a command of the simulated device", format!("it panicked: {text}"))))
        }),
        Step::Wait(point) => Outcome::Done(point.is_reached().map(|_| ())),
        Step::Stamp(at) => {
            // A mark is made once.
            let _ = at.set(Instant::now());
            Outcome::Done(Ok(()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { seed: 7, engines: 1, jitter: Duration::ZERO, latency: Duration::ZERO };

    fn nothing() -> Step {
        Step::Run(Box::new(|| Outcome::Done(Ok(()))))
    }

    /// The order in which four lanes of eight commands start.
    fn order(seed: u64) -> Vec<u64> {
        let referee = Referee::new(Rules { seed, ..RULES });
        let lanes: Vec<_> = (0..4).map(|_| referee.lane(0).unwrap()).collect();
        referee.close(true);
        let mut ends = Vec::new();
        for _ in 0..8 {
            ends = lanes.iter().map(|lane| referee.push(lane, nothing()).unwrap()).collect();
        }
        referee.close(false);
        ends.iter().for_each(|end| end.wait(Duration::from_secs(20)).unwrap());
        lanes.iter().for_each(|lane| referee.release(lane));
        referee.trace()
    }

    #[test]
    fn the_seed_alone_decides_the_order_of_what_is_queued() {
        let first = order(1);
        assert_eq!(first.len(), 32);
        assert!((0..5).all(|_| order(1) == first));
        assert!((2..6).any(|seed| order(seed) != first));
        assert!(first.windows(2).any(|w| w[0] > w[1]), "not one lane after the other");
    }

    #[test]
    fn nothing_starts_behind_a_closed_gate() {
        let referee = Referee::new(RULES);
        let lane = referee.lane(0).unwrap();
        referee.close(true);
        let end = referee.push(&lane, nothing()).unwrap();
        assert!(matches!(end.wait(Duration::from_millis(30)), Err(Error::Timeout { .. })));
        assert!(referee.trace().is_empty());
        referee.close(false);
        end.wait(Duration::from_secs(20)).unwrap();
        referee.release(&lane);
    }

    #[test]
    fn a_failure_is_told_behind_it_and_not_before_it() {
        let referee = Referee::new(RULES);
        let lane = referee.lane(0).unwrap();
        let before = referee.push(&lane, nothing()).unwrap();
        let fails = Step::Run(Box::new(|| Outcome::Done(Err(Error::internal("a", "first")))));
        let behind = referee.push(&lane, fails).unwrap();
        let again = Step::Run(Box::new(|| Outcome::Done(Err(Error::internal("a", "second")))));
        let last = referee.push(&lane, again).unwrap();
        for point in [&behind, &last] {
            assert_eq!(point.wait(Duration::from_secs(20)).unwrap_err().to_string(), "a: first");
        }
        before.wait(Duration::ZERO).unwrap();
        referee.release(&lane);
    }

    #[test]
    fn a_failure_is_told_when_nothing_is_left_to_do() {
        let referee = Referee::new(RULES);
        let lane = referee.lane(0).unwrap();
        let fails = Step::Run(Box::new(|| Outcome::Done(Err(Error::internal("a", "first")))));
        referee.push(&lane, fails).unwrap().drain(Duration::from_secs(20)).unwrap_err();
        referee.close(true);
        let end = referee.push(&lane, nothing()).unwrap();
        assert!(matches!(end.drain(Duration::from_millis(30)), Err(Error::Timeout { .. })));
        referee.close(false);
        assert_eq!(end.drain(Duration::from_secs(20)).unwrap_err().to_string(), "a: first");
        referee.release(&lane);
    }

    #[test]
    fn a_command_that_panics_has_failed() {
        let referee = Referee::new(RULES);
        let lane = referee.lane(0).unwrap();
        let end = referee.push(&lane, Step::Run(Box::new(|| panic!("of all things")))).unwrap();
        assert!(end.wait(Duration::from_secs(20)).unwrap_err().to_string().contains("of all things"));
        referee.release(&lane);
    }

    #[test]
    fn a_lane_that_hangs_holds_nobody_else_and_goes_with_its_stream() {
        let referee = Referee::new(RULES);
        let (lane, other) = (referee.lane(0).unwrap(), referee.lane(0).unwrap());
        let hung = referee.push(&lane, Step::Run(Box::new(|| Outcome::Hangs))).unwrap();
        assert!(matches!(hung.wait(Duration::from_millis(30)), Err(Error::Timeout { .. })));
        referee.push(&other, nothing()).unwrap().wait(Duration::from_secs(20)).unwrap();
        referee.release(&lane);
        assert!(matches!(hung.wait(Duration::from_secs(20)), Err(Error::Internal { .. })));
        referee.release(&other);
        let start = Instant::now();
        while !referee.lock().lanes.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(20), "lanes stay");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
