//! What became of one request, and the figures of many.

use std::time::Duration;

use qiao_layers::Summary;
use serde::Serialize;

use super::super::figures::{one, some};
use super::super::slo::{Judge, Slo, SloOutcome};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With all its tokens.
    Done,
    /// The queue was full.
    Refused,
    /// In an error.
    Failed,
    /// The measurement was interrupted.
    Cancelled,
}

/// One request as its client saw it. Times count from the moment at which it was due.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trace {
    pub(crate) outcome: Outcome,
    /// When it was due, from the beginning of the point.
    pub(crate) due: Duration,
    /// How much later than due it was sent.
    pub(crate) late: Duration,
    pub(crate) prompt: usize,
    /// Of each sample: when a chunk came, and how many tokens were in it.
    pub(crate) samples: Vec<Vec<(Duration, usize)>>,
    pub(crate) cached: usize,
    pub(crate) preemptions: usize,
    pub(crate) drafted: usize,
    pub(crate) accepted: usize,
    /// From submission until it ran.
    pub(crate) queued: Duration,
}

impl Trace {
    /// The first token of any sample.
    pub(crate) fn ttft(&self) -> Option<Duration> {
        self.samples.iter().filter_map(|chunks| Some(chunks.first()?.0)).min()
    }

    /// The last token of all.
    pub(crate) fn whole(&self) -> Option<Duration> {
        self.samples.iter().filter_map(|chunks| Some(chunks.last()?.0)).max()
    }

    /// (last token − first token) / (tokens − 1) of every sample of more than one token, in seconds.
    fn tpots(&self) -> impl Iterator<Item = f64> + '_ {
        self.samples.iter().filter_map(|chunks| {
            let tokens: usize = chunks.iter().map(|chunk| chunk.1).sum();
            let (first, last) = (chunks.first()?.0, chunks.last()?.0);
            (tokens > 1).then(|| last.saturating_sub(first).as_secs_f64() / (tokens - 1) as f64)
        })
    }

    fn gaps(&self) -> impl Iterator<Item = f64> + '_ {
        let pairs = self.samples.iter().flat_map(|chunks| chunks.windows(2));
        pairs.map(|pair| pair[1].0.saturating_sub(pair[0].0).as_secs_f64())
    }

    pub(crate) fn tokens(&self) -> usize {
        self.samples.iter().flatten().map(|chunk| chunk.1).sum()
    }
}

/// How the clients of a point fared. Times in seconds; a request counts from the moment at which it was due, so one that waits to be
/// sent waits as any other. Percentiles are by nearest rank.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Served {
    /// Requests that came to their end; all figures of time are of these.
    pub completed: usize,
    /// Requests that the full queue refused. They have broken every limit.
    pub refused: usize,
    /// Requests that ended in an error. They have broken every limit.
    pub failed: usize,
    /// Requests that were under way when the measurement was interrupted; they count nowhere.
    pub cancelled: usize,
    /// From the first request to the last token.
    pub duration_s: f64,
    /// Requests per second as they were due: (requests − 1) / (last due − first due). Absent for closed loops.
    pub offered_requests_per_s: Option<f64>,
    /// Completed requests / duration.
    pub requests_per_s: f64,
    /// Tokens of their prompts, common prefixes included.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub output_tokens: usize,
    /// Tokens generated / duration.
    pub output_tokens_per_s: f64,
    /// (Tokens of prompts + tokens generated) / duration.
    pub total_tokens_per_s: f64,
    /// Time to first token, one value a request: until the first token of any of its samples.
    #[serde(serialize_with = "some")]
    pub ttft_s: Option<Summary>,
    /// Time per output token, one value a sample: (last token − first token) / (tokens − 1).
    #[serde(serialize_with = "some")]
    pub tpot_s: Option<Summary>,
    /// Inter-token latency: every gap between neighbouring chunks of a sample. With speculation a chunk may carry several tokens.
    #[serde(serialize_with = "some")]
    pub itl_s: Option<Summary>,
    /// End to end, one value a request: until the last token of all its samples.
    #[serde(serialize_with = "some")]
    pub request_s: Option<Summary>,
    /// From submission until the request ran, one value a request.
    #[serde(serialize_with = "some")]
    pub queued_s: Option<Summary>,
    /// How much later than due requests were sent: the load generator's own lag, which is in all times above.
    #[serde(serialize_with = "one")]
    pub late_s: Summary,
    /// Tokens of a prompt, one value a request.
    #[serde(serialize_with = "some")]
    pub prompt_lengths: Option<Summary>,
    /// Tokens of an answer, one value a sample.
    #[serde(serialize_with = "some")]
    pub output_lengths: Option<Summary>,
    /// The share of prompt tokens that were in the cache when the request was admitted.
    pub cache_hit_rate: f64,
    /// How often a sequence lost its place to another.
    pub preemptions: usize,
    /// Guessed tokens that ran.
    pub drafted_tokens: usize,
    /// Those of them that were right.
    pub accepted_tokens: usize,
    /// How the requests fared against each of the limits.
    pub slos: Vec<SloOutcome>,
}

impl Served {
    /// The figures of a point's requests, in any order.
    pub(crate) fn of(traces: &[Trace], offered: bool, slos: &[Slo]) -> Served {
        let count = |outcome| traces.iter().filter(|trace| trace.outcome == outcome).count();
        let done: Vec<&Trace> = traces.iter().filter(|trace| trace.outcome == Outcome::Done).collect();
        let begin = traces.iter().map(|trace| trace.due).min().unwrap_or_default();
        let end = done.iter().filter_map(|trace| Some(trace.due + trace.whole()?)).max().unwrap_or(begin);
        let (duration, seconds) = (end.saturating_sub(begin), end.saturating_sub(begin).as_secs_f64());
        let per_s = |of: usize| if seconds > 0.0 { of as f64 / seconds } else { 0.0 };
        let sum = |of: fn(&Trace) -> usize| done.iter().map(|trace| of(trace)).sum::<usize>();
        let (prompt_tokens, output_tokens) = (sum(|t| t.prompt), sum(Trace::tokens));
        let times = |of: fn(&Trace) -> Option<Duration>| {
            summary(done.iter().filter_map(|trace| of(trace)).map(|time| time.as_secs_f64()))
        };
        Served {
            completed: done.len(),
            refused: count(Outcome::Refused),
            failed: count(Outcome::Failed),
            cancelled: count(Outcome::Cancelled),
            duration_s: seconds,
            offered_requests_per_s: offered.then(|| offered_rate(traces)).flatten(),
            requests_per_s: per_s(done.len()),
            prompt_tokens,
            output_tokens,
            output_tokens_per_s: per_s(output_tokens),
            total_tokens_per_s: per_s(prompt_tokens + output_tokens),
            ttft_s: times(Trace::ttft),
            tpot_s: summary(done.iter().flat_map(|trace| trace.tpots())),
            itl_s: summary(done.iter().flat_map(|trace| trace.gaps())),
            request_s: times(Trace::whole),
            queued_s: times(|trace| Some(trace.queued)),
            late_s: summary(traces.iter().map(|trace| trace.late.as_secs_f64())).unwrap_or_default(),
            prompt_lengths: summary(done.iter().map(|trace| trace.prompt as f64)),
            output_lengths: summary(
                done.iter()
                    .flat_map(|trace| &trace.samples)
                    .map(|chunks| chunks.iter().map(|chunk| chunk.1).sum::<usize>() as f64),
            ),
            cache_hit_rate: if prompt_tokens > 0 { sum(|t| t.cached) as f64 / prompt_tokens as f64 } else { 0.0 },
            preemptions: sum(|t| t.preemptions),
            drafted_tokens: sum(|t| t.drafted),
            accepted_tokens: sum(|t| t.accepted),
            slos: slos.iter().map(|slo| judged(slo, traces, duration)).collect(),
        }
    }
}

fn summary(values: impl Iterator<Item = f64>) -> Option<Summary> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| Summary::of(&values))
}

/// The rate at which requests were due.
fn offered_rate(traces: &[Trace]) -> Option<f64> {
    let (first, last) = (traces.iter().map(|t| t.due).min()?, traces.iter().map(|t| t.due).max()?);
    let span = last.saturating_sub(first).as_secs_f64();
    (span > 0.0).then(|| (traces.len() - 1) as f64 / span)
}

/// A request with several samples keeps the limit of TPOT when all of them do.
fn judged(slo: &Slo, traces: &[Trace], duration: Duration) -> SloOutcome {
    let mut judge = Judge::new(slo.clone());
    for trace in traces.iter().filter(|trace| trace.outcome != Outcome::Cancelled) {
        let ttft = trace.ttft().filter(|_| trace.outcome == Outcome::Done);
        judge.add_times(ttft, trace.tpots().fold(0.0, f64::max));
    }
    judge.outcome(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A request that was due at a moment and whose tokens came at these times after it.
    fn trace(due: u64, samples: &[&[(u64, usize)]]) -> Trace {
        let sample = |chunks: &&[(u64, usize)]| chunks.iter().map(|&(at, tokens)| (ms(at), tokens)).collect();
        Trace {
            outcome: Outcome::Done,
            due: ms(due),
            late: ms(0),
            prompt: 10,
            samples: samples.iter().map(sample).collect(),
            cached: 4,
            preemptions: 1,
            drafted: 3,
            accepted: 2,
            queued: ms(5),
        }
    }

    #[test]
    fn a_request_is_timed_from_the_moment_at_which_it_was_due() {
        let one = trace(1000, &[&[(100, 1), (120, 1), (160, 1)]]);
        assert_eq!((one.ttft(), one.whole(), one.tokens()), (Some(ms(100)), Some(ms(160)), 3));
        let near = |values: Vec<f64>, expected: &[f64]| {
            assert_eq!(values.len(), expected.len());
            values.iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{values:?}"));
        };
        near(one.tpots().collect(), &[0.03]);
        near(one.gaps().collect(), &[0.02, 0.04]);
        // Several tokens of one chunk came at the same moment.
        let guessed = trace(0, &[&[(100, 1), (140, 4)]]);
        near(guessed.tpots().collect(), &[0.01]);
        near(guessed.gaps().collect(), &[0.04]);
        near(trace(0, &[&[(100, 1)]]).tpots().collect(), &[]);
    }

    #[test]
    fn rates_are_over_the_time_from_the_first_request_to_the_last_token() {
        let traces =
            [trace(500, &[&[(100, 1), (200, 1)]]), trace(1500, &[&[(300, 1), (500, 1)], &[(200, 1), (1000, 2)]])];
        let s = Served::of(&traces, true, &[]);
        assert_eq!((s.completed, s.duration_s, s.prompt_tokens, s.output_tokens), (2, 2.0, 20, 7));
        assert_eq!((s.requests_per_s, s.output_tokens_per_s, s.total_tokens_per_s), (1.0, 3.5, 13.5));
        assert_eq!((s.offered_requests_per_s, s.cache_hit_rate, s.preemptions), (Some(1.0), 0.4, 2));
        assert_eq!(s.ttft_s.unwrap().max, 0.2);
        assert_eq!((s.request_s.unwrap().max, s.tpot_s.unwrap().count), (1.0, 3));
        assert_eq!((s.output_lengths.unwrap().max, s.queued_s.unwrap().p50), (3.0, 0.005));
        assert_eq!((s.drafted_tokens, s.accepted_tokens), (6, 4));
    }

    #[test]
    fn refused_and_failed_requests_break_the_limits_and_cancelled_ones_do_not_count() {
        let mut traces =
            vec![trace(0, &[&[(100, 1), (110, 1)]]), trace(0, &[&[(100, 1), (110, 1)], &[(100, 1), (190, 1)]])];
        for outcome in [Outcome::Refused, Outcome::Failed, Outcome::Cancelled] {
            traces.push(Trace { outcome, ..trace(0, &[&[(1, 1)]]) });
        }
        let slo = Slo::parse("100/20").unwrap();
        let s = Served::of(&traces, false, &[slo]);
        assert_eq!((s.completed, s.refused, s.failed, s.cancelled), (2, 1, 1, 1));
        // The second has a sample that is too slow.
        assert_eq!((s.slos[0].met, s.slos[0].requests, s.slos[0].share), (1, 4, 0.25));
        assert!((s.slos[0].goodput_requests_per_s - 1.0 / 0.19).abs() < 1e-9);
        assert_eq!((s.ttft_s.unwrap().count, s.offered_requests_per_s), (2, None));
    }

    #[test]
    fn nothing_measured_is_no_figure() {
        let s = Served::of(&[], true, &[Slo::parse("1/1").unwrap()]);
        assert_eq!((s.completed, s.duration_s, s.output_tokens_per_s, s.cache_hit_rate), (0, 0.0, 0.0, 0.0));
        assert_eq!((s.ttft_s, s.offered_requests_per_s, s.slos[0].share), (None, None, 0.0));
    }
}
