//! From the moments at which tokens came to the figures of latency and throughput.

use std::time::Duration;

use qiao_layers::Summary;
use serde::Serialize;

use super::figures::{Sample, one, some};

/// When the tokens of one request came, counted from the moment it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestTimes {
    /// One entry for each generated token, in order.
    pub tokens: Vec<Duration>,
}

impl RequestTimes {
    /// Time to first token: from sending the request to its first token (MLPerf Inference rules, LLM benchmarks).
    pub fn ttft(&self) -> Option<Duration> {
        self.tokens.first().copied()
    }

    /// The whole request: from sending it to its last token.
    pub fn whole(&self) -> Option<Duration> {
        self.tokens.last().copied()
    }

    /// Time per output token: (last token − first token) / (tokens − 1), the first token left out (MLPerf Inference,
    /// LoadGen). `None` for fewer than two tokens.
    pub fn tpot(&self) -> Option<Duration> {
        let steps = u32::try_from(self.tokens.len().checked_sub(1)?).ok().filter(|&steps| steps > 0)?;
        Some(self.whole()?.saturating_sub(self.ttft()?) / steps)
    }

    /// The gaps between neighbouring tokens: inter-token latencies.
    pub fn gaps(&self) -> impl Iterator<Item = Duration> + '_ {
        self.tokens.windows(2).map(|pair| pair[1].saturating_sub(pair[0]))
    }
}

/// Requests that were sent at the same moment, and where the time went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// The requests.
    pub requests: Vec<RequestTimes>,
    /// Time in the prompts, one after the other: until the logits of each were on the host.
    pub prefill: Duration,
    /// From the end of the last prompt to the last token of all.
    pub decode: Duration,
    /// From sending to the last token of all.
    pub wall: Duration,
}

/// Latency and throughput over all requests of a measurement. Times in seconds. Percentiles are by nearest rank.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Requests that ran to their end.
    pub requests: u64,
    /// Time to first token, one value a request: from sending to the first token, with the making of its cache (where the
    /// sequence is new), the prompt and the choice of the token; token ids are given, so no text is encoded in it. Requests
    /// of one batch are sent together, so the wait for the prompts before counts (MLPerf Inference rules).
    #[serde(serialize_with = "one")]
    pub ttft_s: Summary,
    /// Time per output token, one value a request: (last token − first token) / (tokens − 1) (MLPerf Inference, LoadGen).
    /// Absent where one token was asked for.
    #[serde(serialize_with = "some")]
    pub tpot_s: Option<Summary>,
    /// Inter-token latency: every gap between neighbouring tokens of a request. Its mean is that of TPOT here, where every
    /// request has the same length; its tail is not.
    #[serde(serialize_with = "some")]
    pub itl_s: Option<Summary>,
    /// The 0th, 5th, … 100th percentile of the inter-token latency.
    pub itl_quantiles_s: Vec<f64>,
    /// End to end, one value a request: from sending to the last token.
    #[serde(serialize_with = "one")]
    pub request_s: Summary,
    /// Prompt tokens per second, one value a round: the prompts' tokens / the time in their prefill.
    #[serde(serialize_with = "one")]
    pub prompt_tokens_per_s: Summary,
    /// Decode tokens per second, one value a round: all tokens after each request's first / the time from the end of the
    /// last prompt to the last token. At batch 1 it is 1 / TPOT, apart from the choice of the first token.
    #[serde(serialize_with = "some")]
    pub decode_tokens_per_s: Option<Summary>,
    /// Whether so many values came that percentiles are those of a uniform sample of them.
    pub sampled: bool,
}

/// Gathers rounds into figures.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    prompt: usize,
    requests: u64,
    wall: Duration,
    ttft: Sample,
    tpot: Sample,
    itl: Sample,
    request: Sample,
    prompt_rate: Sample,
    decode_rate: Sample,
}

/// The rate of decode in a round; `None` where no step was taken or the clock saw none.
pub(crate) fn decode_rate(round: &Round) -> Option<f64> {
    let tokens: usize = round.requests.iter().map(|r| r.tokens.len().saturating_sub(1)).sum();
    (tokens > 0 && !round.decode.is_zero()).then(|| tokens as f64 / round.decode.as_secs_f64())
}

impl Collector {
    /// For prompts of this many tokens; keeps at most `most` values of each kind.
    pub(crate) fn new(prompt: usize, most: usize) -> Collector {
        Collector::of(prompt, || Sample::new(most))
    }

    /// The same with all its memory taken from the start.
    pub(crate) fn resident(prompt: usize, most: usize) -> Collector {
        Collector::of(prompt, || Sample::resident(most))
    }

    fn of(prompt: usize, sample: impl Fn() -> Sample) -> Collector {
        Collector {
            prompt,
            requests: 0,
            wall: Duration::ZERO,
            ttft: sample(),
            tpot: sample(),
            itl: sample(),
            request: sample(),
            prompt_rate: sample(),
            decode_rate: sample(),
        }
    }

    /// Adds a round that ran to its end.
    pub(crate) fn add(&mut self, round: &Round) {
        for request in &round.requests {
            self.requests += 1;
            let add = |to: &mut Sample, time: Option<Duration>| time.into_iter().for_each(|t| to.add(t.as_secs_f64()));
            add(&mut self.ttft, request.ttft());
            add(&mut self.tpot, request.tpot());
            add(&mut self.request, request.whole());
            request.gaps().for_each(|gap| self.itl.add(gap.as_secs_f64()));
        }
        self.wall += round.wall;
        if !round.prefill.is_zero() {
            let tokens = self.prompt * round.requests.len();
            self.prompt_rate.add(tokens as f64 / round.prefill.as_secs_f64());
        }
        decode_rate(round).into_iter().for_each(|rate| self.decode_rate.add(rate));
    }

    /// Time of all rounds together, what lies between them left out.
    pub(crate) fn wall(&self) -> Duration {
        self.wall
    }

    /// The figures; `None` before the first round.
    pub(crate) fn latency(&self) -> Option<Latency> {
        let all = [&self.ttft, &self.tpot, &self.itl, &self.request, &self.prompt_rate, &self.decode_rate];
        Some(Latency {
            requests: self.requests,
            ttft_s: self.ttft.summary()?,
            tpot_s: self.tpot.summary(),
            itl_s: self.itl.summary(),
            itl_quantiles_s: self.itl.quantiles(),
            request_s: self.request.summary()?,
            prompt_tokens_per_s: self.prompt_rate.summary().unwrap_or_default(),
            decode_tokens_per_s: self.decode_rate.summary(),
            sampled: all.iter().any(|sample| sample.is_partial()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(millis: &[u64]) -> RequestTimes {
        RequestTimes { tokens: millis.iter().map(|&ms| Duration::from_millis(ms)).collect() }
    }

    #[test]
    fn tpot_leaves_the_first_token_out() {
        let r = request(&[100, 120, 150, 160]);
        assert_eq!(r.ttft(), Some(Duration::from_millis(100)));
        assert_eq!(r.tpot(), Some(Duration::from_millis(20)));
        assert_eq!(r.whole(), Some(Duration::from_millis(160)));
        assert_eq!(r.gaps().map(|g| g.as_millis()).collect::<Vec<_>>(), [20, 30, 10]);
    }

    #[test]
    fn one_token_has_no_time_per_output_token() {
        assert_eq!(request(&[100]).tpot(), None);
        assert_eq!(request(&[]).tpot(), None);
        assert_eq!(request(&[]).ttft(), None);
        assert_eq!(request(&[100]).gaps().count(), 0);
    }

    #[test]
    fn rates_are_tokens_over_the_time_of_their_own_phase() {
        let round = Round {
            requests: vec![request(&[100, 300, 500]), request(&[200, 400, 600])],
            prefill: Duration::from_millis(200),
            decode: Duration::from_millis(400),
            wall: Duration::from_millis(600),
        };
        let mut collector = Collector::new(50, 100);
        collector.add(&round);
        collector.add(&round);
        let figures = collector.latency().unwrap();
        assert_eq!(figures.requests, 4);
        assert_eq!(figures.prompt_tokens_per_s.p50, 500.0);
        assert_eq!(figures.decode_tokens_per_s.unwrap().p50, 10.0);
        assert_eq!((figures.ttft_s.min, figures.ttft_s.max), (0.1, 0.2));
        assert_eq!(figures.tpot_s.unwrap().p99, 0.2);
        assert_eq!(figures.itl_s.unwrap().count, 8);
        assert_eq!(figures.request_s.max, 0.6);
        assert_eq!(collector.wall(), Duration::from_millis(1200));
        assert!(!figures.sampled);
    }

    #[test]
    fn a_single_token_gives_no_figure_of_decode() {
        let mut collector = Collector::new(8, 100);
        assert!(collector.latency().is_none());
        let prefill = Duration::from_millis(90);
        collector.add(&Round { requests: vec![request(&[100])], prefill, ..Round::default() });
        let figures = collector.latency().unwrap();
        assert_eq!((figures.tpot_s, figures.itl_s, figures.decode_tokens_per_s), (None, None, None));
        assert!(figures.itl_quantiles_s.is_empty());
    }

    #[test]
    fn more_values_than_are_kept_are_told() {
        let mut collector = Collector::new(8, 2);
        let round = Round { requests: vec![request(&[1, 2, 3, 4])], ..Round::default() };
        collector.add(&round);
        let figures = collector.latency().unwrap();
        assert!(figures.sampled);
        assert_eq!(figures.itl_s.unwrap().count, 2);
    }
}
