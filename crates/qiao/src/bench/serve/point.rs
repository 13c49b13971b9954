//! The requests of one point, sent and timed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{Scope, ScopedJoinHandle, park_timeout, sleep};
use std::time::{Duration, Instant};

use qiao_engine::EngineError;
use qiao_engine::generation::SamplingParams;
use qiao_engine::serve::{Reply, Request, Server};

use super::mix::{Arrivals, Drawn, Requests};
use super::settings::{Arriving, Settings, Until};
use super::trace::{Outcome, Trace};
use crate::{Canceller, FinishReason};

/// How often it is looked whether the measurement is to end.
const LOOK: Duration = Duration::from_millis(20);
/// Requests at once in the warm-up of an open loop.
const WARM_OPEN: usize = 8;
/// Requests of warm-up are numbered from here on, so that none of them comes again.
const WARM_NUMBERS: u64 = 1 << 40;

/// What the requests of a point gave.
pub(crate) struct Run {
    pub(crate) traces: Vec<Trace>,
    /// The most blocks of the cache in use, as seen after batches.
    pub(crate) peak_blocks: usize,
    /// When each round ended in which requests were sent together: its first and its last request.
    pub(crate) rounds: Vec<(usize, usize)>,
    /// The first error that a request ended in.
    pub(crate) error: Option<String>,
}

/// A point under way.
pub(crate) struct Point<'a> {
    server: &'a Server,
    settings: &'a Settings,
    requests: Requests<'a>,
    number: usize,
    arriving: Arriving,
    cancel: &'a Canceller,
    /// Is told how many requests have ended.
    tell: &'a (dyn Fn(usize) + Sync),
    start: Instant,
    next: AtomicU64,
    done: AtomicUsize,
    error: Mutex<Option<String>>,
}

impl<'a> Point<'a> {
    pub(crate) fn new(
        server: &'a Server,
        settings: &'a Settings,
        vocab: usize,
        number: usize,
        cancel: &'a Canceller,
        tell: &'a (dyn Fn(usize) + Sync),
    ) -> Point<'a> {
        Point {
            server,
            settings,
            requests: Requests::new(&settings.mix, vocab, settings.seed, number),
            number,
            arriving: settings.arriving[number],
            cancel,
            tell,
            start: Instant::now(),
            next: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            error: Mutex::new(None),
        }
    }

    /// Sends the requests that do not count.
    pub(crate) fn warm_up(&self) {
        let at_once = self.arriving.at_once().unwrap_or(WARM_OPEN) as u64;
        self.watched(|| {
            for round in 0..self.settings.warm_up as u64 {
                std::thread::scope(|scope| {
                    let numbers = (0..at_once).map(|n| WARM_NUMBERS + round * at_once + n);
                    numbers.for_each(|n| drop(scope.spawn(move || self.ask(&self.requests.draw(n), Duration::ZERO))));
                });
            }
        });
    }

    /// Sends the requests that count, and waits for their ends.
    pub(crate) fn run(mut self) -> Run {
        self.server.take_peak_blocks();
        self.start = Instant::now();
        let mut rounds = Vec::new();
        let traces = self.watched(|| match self.arriving {
            Arriving::Closed { clients } => self.closed(clients),
            Arriving::Open { rate } => self.open(rate),
            Arriving::Together { size } => self.together(size, &mut rounds),
        });
        let error = self.error.into_inner().unwrap_or_default();
        Run { traces, peak_blocks: self.server.take_peak_blocks(), rounds, error }
    }

    /// Runs something; when the measurement is interrupted meanwhile, the server cancels what it has.
    fn watched<T>(&self, run: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if self.cancel.is_cancelled() {
                        self.server.drain(Duration::ZERO);
                        return;
                    }
                    park_timeout(LOOK);
                }
            });
            let result = run();
            over.store(true, Ordering::Relaxed);
            watch.thread().unpark();
            result
        })
    }

    /// The number of the next request, where one is to be sent.
    fn number(&self) -> Option<u64> {
        if self.cancel.is_cancelled() {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let more = match self.settings.until {
            Until::Requests(most) => number < most as u64,
            Until::Time(time) => self.start.elapsed() < time,
        };
        more.then_some(number)
    }

    fn closed(&self, clients: usize) -> Vec<Trace> {
        let client = || {
            let mut traces = Vec::new();
            while let Some(number) = self.number() {
                let drawn = self.requests.draw(number);
                traces.push(self.ask(&drawn, self.start.elapsed()));
            }
            traces
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
            clients.into_iter().flat_map(joined).collect()
        })
    }

    fn open(&self, rate: f64) -> Vec<Trace> {
        std::thread::scope(|scope| {
            let mut sent = Vec::new();
            for due in Arrivals::new(rate, self.settings.seed, self.number) {
                if matches!(self.settings.until, Until::Time(time) if due >= time) {
                    break;
                }
                let Some(number) = self.next_due(due) else { break };
                let drawn = self.requests.draw(number);
                self.wait_until(due);
                sent.push(self.send(scope, drawn, due));
            }
            sent.into_iter().map(joined).collect()
        })
    }

    /// As [`Point::number`], where arrivals say when it is over.
    fn next_due(&self, due: Duration) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let more = match self.settings.until {
            Until::Requests(most) => number < most as u64,
            Until::Time(time) => due < time,
        };
        (more && !self.cancel.is_cancelled()).then_some(number)
    }

    fn wait_until(&self, due: Duration) {
        loop {
            let left = due.saturating_sub(self.start.elapsed());
            if left.is_zero() || self.cancel.is_cancelled() {
                return;
            }
            sleep(left.min(LOOK));
        }
    }

    fn send<'s>(&'s self, scope: &'s Scope<'s, '_>, drawn: Drawn, due: Duration) -> ScopedJoinHandle<'s, Trace> {
        scope.spawn(move || self.ask(&drawn, due))
    }

    fn together(&self, size: usize, rounds: &mut Vec<(usize, usize)>) -> Vec<Trace> {
        let mut traces = Vec::new();
        loop {
            let drawn: Vec<Drawn> = match self.number() {
                None => return traces,
                Some(first) => {
                    self.next.fetch_add(size as u64 - 1, Ordering::Relaxed);
                    (first..first + size as u64).map(|n| self.requests.draw(n)).collect()
                }
            };
            let begin = traces.len();
            let due = self.start.elapsed();
            std::thread::scope(|scope| {
                let sent: Vec<_> = drawn.into_iter().map(|drawn| self.send(scope, drawn, due)).collect();
                traces.extend(sent.into_iter().map(joined));
            });
            rounds.push((begin, traces.len()));
        }
    }

    /// Sends one request and reads its answer.
    fn ask(&self, drawn: &Drawn, due: Duration) -> Trace {
        let samples = self.settings.mix.samples;
        let params = SamplingParams {
            max_tokens: drawn.output,
            ignore_eos: true,
            // Samples of one prompt are to differ.
            temperature: if samples > 1 { 1.0 } else { 0.0 },
            ..SamplingParams::default()
        };
        let mut request = Request::new(drawn.prompt.clone(), params);
        (request.samples, request.priority, request.speculate) = (samples, drawn.priority, true);
        let now = || self.start.elapsed().saturating_sub(due);
        let mut trace = Trace {
            outcome: Outcome::Failed,
            due,
            late: now(),
            prompt: drawn.prompt.len(),
            samples: vec![Vec::new(); samples],
            cached: 0,
            preemptions: 0,
            drafted: 0,
            accepted: 0,
            queued: Duration::ZERO,
        };
        trace.outcome = match self.server.submit(request) {
            Ok(mut reply) => self.read(&mut reply, &mut trace, &now),
            Err(EngineError::QueueFull { .. }) => Outcome::Refused,
            Err(error) => self.failed(&error),
        };
        (self.tell)(self.done.fetch_add(1, Ordering::Relaxed) + 1);
        trace
    }

    fn read(&self, reply: &mut Reply, trace: &mut Trace, now: &dyn Fn() -> Duration) -> Outcome {
        for chunk in reply.blocking() {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return self.failed(&error),
            };
            let at = now();
            if let (Some(sample), tokens @ 1..) = (trace.samples.get_mut(chunk.sample), chunk.piece.token_ids.len()) {
                sample.push((at, tokens));
            }
            let Some(end) = chunk.end else { continue };
            let usage = end.usage;
            trace.cached = trace.cached.max(usage.cached_tokens);
            trace.queued = trace.queued.max(usage.queued);
            trace.preemptions += usage.preemptions;
            trace.drafted += usage.drafted_tokens;
            trace.accepted += usage.accepted_tokens;
            if end.reason == FinishReason::Cancelled {
                return Outcome::Cancelled;
            }
        }
        Outcome::Done
    }

    fn failed(&self, error: &EngineError) -> Outcome {
        if self.cancel.is_cancelled() {
            return Outcome::Cancelled;
        }
        let mut first = self.error.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.get_or_insert_with(|| error.to_string());
        Outcome::Failed
    }
}

/// What a thread gave; its panic goes on here.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
