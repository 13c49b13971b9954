//! Limits of latency that a service promises, and the share of requests that keeps them.

use std::time::Duration;

use serde::Serialize;

use super::timing::RequestTimes;
use crate::Result;

const RULES: &str = "MLPerf Inference rules v5.0 and v5.1 (mlcommons/inference_policies, inference_rules.adoc): datacenter \
                     suite, p99 limits of TTFT and TPOT";

/// Name, limit of TTFT and limit of TPOT in milliseconds.
const PRESETS: &[(&str, u64, u64)] = &[
    ("llama2-70b-server", 2000, 200),
    ("llama2-70b-interactive", 450, 40),
    ("llama3.1-8b-server", 2000, 100),
    ("llama3.1-8b-interactive", 500, 30),
    ("llama3.1-405b-server", 6000, 175),
    ("llama3.1-405b-interactive", 4500, 80),
    ("mixtral-8x7b-server", 2000, 200),
    ("deepseek-r1-server", 2000, 80),
];

/// A service level objective: limits of time to first token and of time per output token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slo {
    /// Its name.
    pub name: String,
    /// The longest time to first token, in seconds.
    pub ttft_s: f64,
    /// The longest time per output token, in seconds.
    pub tpot_s: f64,
    /// Where the limits come from.
    pub source: String,
}

impl Slo {
    /// The presets: the latency limits of MLPerf Inference's datacenter benchmarks of language models.
    pub fn presets() -> Vec<Slo> {
        let preset = |&(name, ttft, tpot): &(&str, u64, u64)| Slo {
            name: name.into(),
            ttft_s: ttft as f64 / 1e3,
            tpot_s: tpot as f64 / 1e3,
            source: RULES.into(),
        };
        PRESETS.iter().map(preset).collect()
    }

    /// A preset by its name, or limits of one's own in milliseconds, as `500/30`: TTFT, then TPOT.
    ///
    /// # Errors
    /// A name that is no preset, with those that are; limits that are no numbers above 0.
    pub fn parse(text: &str) -> Result<Slo> {
        if let Some(preset) = Slo::presets().into_iter().find(|preset| preset.name == text) {
            return Ok(preset);
        }
        let limit = |text: &str| text.trim().parse::<f64>().ok().filter(|ms| *ms > 0.0 && ms.is_finite());
        let own = text.split_once('/').and_then(|(ttft, tpot)| Some((limit(ttft)?, limit(tpot)?)));
        let Some((ttft, tpot)) = own else {
            let names: Vec<_> = PRESETS.iter().map(|preset| preset.0).collect();
            let mend = format!("use TTFT/TPOT in milliseconds, as 500/30, or one of {}", names.join(", "));
            return Err(qiao_core::Error::invalid("service level", format!("'{text}'"), mend).into());
        };
        Ok(Slo { name: text.into(), ttft_s: ttft / 1e3, tpot_s: tpot / 1e3, source: "given by the caller".into() })
    }

    /// Whether a request kept both limits. One without a second token has a TPOT of 0 here, as serving benchmarks count it.
    pub fn is_met(&self, request: &RequestTimes) -> bool {
        let ttft = request.ttft().is_some_and(|ttft| ttft.as_secs_f64() <= self.ttft_s);
        ttft && request.tpot().unwrap_or_default().as_secs_f64() <= self.tpot_s
    }
}

/// How requests fared against a service level objective.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SloOutcome {
    /// The limits.
    pub slo: Slo,
    /// Requests that kept both limits.
    pub met: u64,
    /// Requests in all.
    pub requests: u64,
    /// Goodput as a share: met / requests.
    pub share: f64,
    /// Goodput as a rate: requests that kept both limits, per second of the rounds (Zhong et al., "DistServe", 2024).
    pub goodput_requests_per_s: f64,
    /// Whether at least 99 of 100 requests kept the limit of TTFT, and as many that of TPOT: what MLPerf asks of a run.
    pub p99_within: bool,
}

/// Counts requests against limits.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    slo: Slo,
    requests: u64,
    met: u64,
    ttft_met: u64,
    tpot_met: u64,
}

impl Judge {
    pub(crate) fn new(slo: Slo) -> Judge {
        Judge { slo, requests: 0, met: 0, ttft_met: 0, tpot_met: 0 }
    }

    pub(crate) fn add(&mut self, request: &RequestTimes) {
        self.add_times(request.ttft(), request.tpot().unwrap_or_default().as_secs_f64());
    }

    /// Adds a request by its two times; one without a first token has kept neither limit.
    pub(crate) fn add_times(&mut self, ttft: Option<Duration>, tpot_s: f64) {
        let ttft_met = ttft.is_some_and(|ttft| ttft.as_secs_f64() <= self.slo.ttft_s);
        let tpot_met = ttft.is_some() && tpot_s <= self.slo.tpot_s;
        self.requests += 1;
        self.met += u64::from(ttft_met && tpot_met);
        self.ttft_met += u64::from(ttft_met);
        self.tpot_met += u64::from(tpot_met);
    }

    /// The outcome of requests that took this long together.
    pub(crate) fn outcome(&self, wall: Duration) -> SloOutcome {
        let most = |met: u64| self.requests > 0 && met as f64 >= 0.99 * self.requests as f64;
        let per = |of: f64| if of > 0.0 { self.met as f64 / of } else { 0.0 };
        SloOutcome {
            slo: self.slo.clone(),
            met: self.met,
            requests: self.requests,
            share: per(self.requests as f64),
            goodput_requests_per_s: per(wall.as_secs_f64()),
            p99_within: most(self.ttft_met) && most(self.tpot_met),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(millis: &[u64]) -> RequestTimes {
        RequestTimes { tokens: millis.iter().map(|&ms| Duration::from_millis(ms)).collect() }
    }

    #[test]
    fn a_request_must_keep_both_limits() {
        let slo = Slo::parse("450/40").unwrap();
        assert!(slo.is_met(&request(&[450, 490, 530])));
        assert!(!slo.is_met(&request(&[451, 460])));
        assert!(!slo.is_met(&request(&[100, 141])));
        assert!(slo.is_met(&request(&[100])));
        assert!(!slo.is_met(&request(&[])));
    }

    #[test]
    fn goodput_counts_the_requests_that_kept_their_limits() {
        let mut judge = Judge::new(Slo::parse("100/10").unwrap());
        for times in [[90, 95], [90, 120], [120, 125], [100, 110]] {
            judge.add(&request(&times));
        }
        let outcome = judge.outcome(Duration::from_secs(4));
        assert_eq!((outcome.met, outcome.requests, outcome.share), (2, 4, 0.5));
        assert_eq!((outcome.goodput_requests_per_s, outcome.p99_within), (0.5, false));
        let none = Judge::new(Slo::parse("100/10").unwrap()).outcome(Duration::ZERO);
        assert_eq!((none.share, none.goodput_requests_per_s, none.p99_within), (0.0, 0.0, false));
    }

    #[test]
    fn one_slow_request_in_a_hundred_is_allowed_at_p99() {
        let mut judge = Judge::new(Slo::parse("100/10").unwrap());
        (0..99).for_each(|_| judge.add(&request(&[90, 95])));
        judge.add(&request(&[900, 905]));
        assert!(judge.outcome(Duration::from_secs(1)).p99_within);
        judge.add(&request(&[900, 905]));
        assert!(!judge.outcome(Duration::from_secs(1)).p99_within);
    }

    #[test]
    fn presets_are_found_by_name_and_what_is_neither_is_refused_with_them() {
        let interactive = Slo::parse("llama2-70b-interactive").unwrap();
        assert_eq!((interactive.ttft_s, interactive.tpot_s), (0.45, 0.04));
        assert!(interactive.source.contains("MLPerf"));
        for text in ["", "fast", "0/10", "10/-1", "10/inf", "10", "nan/3"] {
            let message = Slo::parse(text).unwrap_err().to_string();
            assert!(message.contains("llama3.1-8b-server"), "{text}: {message}");
        }
    }
}
