//! What requests look like, and when they come: all of it follows from a seed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use qiao_core::Error;
use serde::{Serialize, Serializer};

use super::super::figures::splitmix;
use crate::Result;

/// The longest prompt or answer that is drawn; positions are i32.
const MOST_TOKENS: usize = i32::MAX as usize / 4;
/// A log-normal length is at most so many times its median.
const TAIL: usize = 8;

/// How many tokens a prompt or an answer has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Always as many.
    Fixed(usize),
    /// Each from the least to the most equally often, both included.
    Uniform(usize, usize),
    /// exp(ln median + sigma · z) with z normal, cut to 1 … 8 · median.
    LogNormal {
        /// Half of all are shorter.
        median: usize,
        /// The standard deviation of the logarithm.
        sigma: f64,
    },
}

impl Length {
    /// The longest that can come.
    pub fn most(self) -> usize {
        match self {
            Length::Fixed(tokens) | Length::Uniform(_, tokens) => tokens,
            Length::LogNormal { median, .. } => median.saturating_mul(TAIL),
        }
    }

    fn draw(self, source: &mut Source) -> usize {
        match self {
            Length::Fixed(tokens) => tokens,
            Length::Uniform(least, most) => least + source.below(most - least + 1),
            Length::LogNormal { median, sigma } => {
                let tokens = (median as f64 * (sigma * source.normal()).exp()).round();
                (tokens as usize).clamp(1, self.most())
            }
        }
    }

    fn check(self, what: &str) -> Result<()> {
        let holds = match self {
            Length::Fixed(tokens) => tokens >= 1,
            Length::Uniform(least, most) => (1..=most).contains(&least),
            Length::LogNormal { median, sigma } => median >= 1 && (0.0..=4.0).contains(&sigma),
        };
        if holds && self.most() <= MOST_TOKENS {
            return Ok(());
        }
        let mend = "give at least 1 token, a least that is not above the most, a sigma from 0 to 4";
        Err(Error::invalid(what, self.to_string(), mend).into())
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Length::Fixed(tokens) => write!(f, "{tokens}"),
            Length::Uniform(least, most) => write!(f, "{least}..{most}"),
            Length::LogNormal { median, sigma } => write!(f, "lognormal:{median}:{sigma}"),
        }
    }
}

impl Serialize for Length {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl FromStr for Length {
    type Err = crate::Error;

    /// `128`, `64..256` or `lognormal:MEDIAN:SIGMA`.
    fn from_str(text: &str) -> Result<Length> {
        let refuse = || {
            let mend = "write a number of tokens as 128, a range as 64..256, or lognormal:MEDIAN:SIGMA";
            crate::Error::from(Error::invalid("length", format!("'{text}'"), mend))
        };
        let length = if let Some(rest) = text.strip_prefix("lognormal:") {
            let (median, sigma) = rest.split_once(':').ok_or_else(refuse)?;
            let (median, sigma) = (median.parse().map_err(|_| refuse())?, sigma.parse().map_err(|_| refuse())?);
            Length::LogNormal { median, sigma }
        } else if let Some((least, most)) = text.split_once("..") {
            Length::Uniform(least.parse().map_err(|_| refuse())?, most.parse().map_err(|_| refuse())?)
        } else {
            Length::Fixed(text.parse().map_err(|_| refuse())?)
        };
        length.check("length")?;
        Ok(length)
    }
}

/// What the requests of a measurement are. Prompts are random token ids.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mix {
    /// Tokens of a prompt, a common prefix not counted.
    pub prompt: Length,
    /// Tokens to generate; no token ends an answer before.
    pub output: Length,
    /// Tokens of a prefix that some of the requests have in common, before their prompt. It is in the cache when a point begins.
    pub prefix: usize,
    /// The share of requests that have it, from 0 to 1.
    pub shared: f64,
    /// Parallel samples of every request.
    pub samples: usize,
    /// Priorities; each request has one of these, all equally often.
    pub priorities: Vec<i32>,
}

impl Default for Mix {
    /// 128 tokens in, 32 out, nothing in common, one sample.
    fn default() -> Mix {
        let (prompt, output) = (Length::Fixed(128), Length::Fixed(32));
        Mix { prompt, output, prefix: 0, shared: 1.0, samples: 1, priorities: vec![0] }
    }
}

impl Mix {
    /// The longest sequence that can come.
    pub fn longest(&self) -> usize {
        self.prefix.saturating_add(self.prompt.most()).saturating_add(self.output.most())
    }

    /// # Errors
    /// Names the first value that makes no sense.
    pub(crate) fn check(&self) -> Result<()> {
        self.prompt.check("prompt length")?;
        self.output.check("output length")?;
        let refuse = |what: &str, found: String, mend: &str| Err(Error::invalid(what, found, mend).into());
        if self.prefix > MOST_TOKENS {
            return refuse("prefix", self.prefix.to_string(), "give fewer tokens");
        }
        if !(0.0..=1.0).contains(&self.shared) {
            return refuse("share of requests with the prefix", self.shared.to_string(), "give a number from 0 to 1");
        }
        if !(1..=1024).contains(&self.samples) {
            return refuse("samples", self.samples.to_string(), "give a number from 1 to 1024");
        }
        if self.priorities.is_empty() {
            return refuse("priorities", "no value".into(), "give at least one");
        }
        Ok(())
    }
}

/// One request of a mix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drawn {
    pub(crate) prompt: Vec<u32>,
    pub(crate) output: usize,
    pub(crate) priority: i32,
}

/// The requests of one point: the n-th is the same whenever it is asked for.
pub(crate) struct Requests<'a> {
    mix: &'a Mix,
    vocab: usize,
    seed: u64,
    prefix: Vec<u32>,
}

impl<'a> Requests<'a> {
    /// Requests of the point with this number.
    pub(crate) fn new(mix: &'a Mix, vocab: usize, seed: u64, point: usize) -> Requests<'a> {
        let seed = Source::of(&[seed, point as u64]).state;
        let mut source = Source::of(&[seed, u64::MAX]);
        let prefix = (0..mix.prefix).map(|_| source.below(vocab.max(1)) as u32).collect();
        Requests { mix, vocab: vocab.max(1), seed, prefix }
    }

    /// Request number n.
    pub(crate) fn draw(&self, n: u64) -> Drawn {
        let mut source = Source::of(&[self.seed, n]);
        let shared = source.unit() < self.mix.shared;
        let (own, output) = (self.mix.prompt.draw(&mut source), self.mix.output.draw(&mut source));
        let priority = self.mix.priorities[source.below(self.mix.priorities.len())];
        let mut prompt = if shared { self.prefix.clone() } else { Vec::new() };
        prompt.extend((0..own).map(|_| source.below(self.vocab) as u32));
        Drawn { prompt, output, priority }
    }
}

/// Moments of a Poisson process of a rate, from its beginning on: gaps are exponential (−ln(1 − u) / rate).
pub(crate) struct Arrivals {
    source: Source,
    rate: f64,
    at: f64,
}

impl Arrivals {
    pub(crate) fn new(rate: f64, seed: u64, point: usize) -> Arrivals {
        Arrivals { source: Source::of(&[seed, point as u64, 0xA221]), rate, at: 0.0 }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at -= (1.0 - self.source.unit()).ln() / self.rate;
        Duration::try_from_secs_f64(self.at).ok()
    }
}

/// A stream of random numbers.
struct Source {
    state: u64,
}

impl Source {
    /// The stream of these numbers; other numbers have another.
    fn of(numbers: &[u64]) -> Source {
        let mut state = 0;
        for number in numbers {
            state ^= number;
            state = splitmix(&mut state);
        }
        Source { state }
    }

    /// From 0 to below 1, by the upper 53 bits.
    fn unit(&mut self) -> f64 {
        (splitmix(&mut self.state) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From 0 to below n, for n far below 2^64.
    fn below(&mut self, n: usize) -> usize {
        (splitmix(&mut self.state) % n as u64) as usize
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller, 1958).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64;
        (mean, variance)
    }

    #[test]
    fn gaps_between_arrivals_have_the_mean_and_variance_of_their_rate() {
        let (rate, n) = (4.0, 100_000);
        let times: Vec<f64> = Arrivals::new(rate, 7, 0).take(n).map(|t| t.as_secs_f64()).collect();
        assert!(times.is_sorted());
        let gaps: Vec<f64> = std::iter::once(times[0]).chain(times.windows(2).map(|w| w[1] - w[0])).collect();
        let (mean, variance) = moments(&gaps);
        // Five standard errors: of the mean 1/(rate·√n), of the variance √8/(rate²·√n).
        let root = (n as f64).sqrt();
        assert!((mean - 1.0 / rate).abs() < 5.0 / (rate * root), "{mean}");
        assert!((variance - 1.0 / rate.powi(2)).abs() < 5.0 * 8f64.sqrt() / (rate.powi(2) * root), "{variance}");
    }

    #[test]
    fn arrivals_in_a_second_have_the_mean_and_variance_of_a_poisson_count() {
        let (rate, seconds) = (6.0, 20_000);
        let mut counts = vec![0.0; seconds];
        for time in Arrivals::new(rate, 3, 1) {
            match counts.get_mut(time.as_secs() as usize) {
                Some(count) => *count += 1.0,
                None => break,
            }
        }
        let (mean, variance) = moments(&counts);
        let root = (seconds as f64).sqrt();
        assert!((mean - rate).abs() < 5.0 * rate.sqrt() / root, "{mean}");
        assert!((variance - rate).abs() < 5.0 * (rate + 2.0 * rate.powi(2)).sqrt() / root, "{variance}");
    }

    #[test]
    fn the_same_seed_gives_the_same_requests_in_any_order() {
        let mix = Mix { prompt: Length::Uniform(4, 40), priorities: vec![0, 5], ..Mix::default() };
        let requests = Requests::new(&mix, 1000, 11, 2);
        let forward: Vec<_> = (0..20).map(|n| requests.draw(n)).collect();
        let again = Requests::new(&mix, 1000, 11, 2);
        (0..20).rev().for_each(|n| assert_eq!(again.draw(n), forward[n as usize]));
        assert_ne!(Requests::new(&mix, 1000, 12, 2).draw(0), forward[0]);
        assert_ne!(Requests::new(&mix, 1000, 11, 3).draw(0), forward[0]);
        let arrivals = |seed| Arrivals::new(1.0, seed, 0).take(5).collect::<Vec<_>>();
        assert_eq!(arrivals(1), arrivals(1));
        assert_ne!(arrivals(1), arrivals(2));
        assert!(forward.iter().any(|r| r.priority == 5) && forward.iter().any(|r| r.priority == 0));
    }

    #[test]
    fn lengths_follow_their_distribution() {
        let mut source = Source::of(&[5]);
        let mut draw = |length: Length| (0..20_000).map(|_| length.draw(&mut source) as f64).collect::<Vec<_>>();
        assert!(draw(Length::Fixed(9)).iter().all(|&n| n == 9.0));
        let uniform = draw(Length::Uniform(10, 20));
        let (mean, variance) = moments(&uniform);
        assert!((mean - 15.0).abs() < 5.0 * (10.0f64 / 20_000.0).sqrt() && (variance - 10.0).abs() < 0.5);
        assert!(uniform.contains(&10.0) && uniform.contains(&20.0));
        let lognormal = draw(Length::LogNormal { median: 200, sigma: 0.5 });
        let logs: Vec<f64> = lognormal.iter().map(|n| n.ln()).collect();
        let (mean, variance) = moments(&logs);
        assert!((mean - 200f64.ln()).abs() < 0.02 && (variance - 0.25).abs() < 0.02, "{mean} {variance}");
        assert!(draw(Length::LogNormal { median: 3, sigma: 4.0 }).iter().all(|&n| (1.0..=24.0).contains(&n)));
    }

    #[test]
    fn as_many_requests_share_the_prefix_as_were_asked_for() {
        let mix = Mix { prefix: 16, shared: 0.25, prompt: Length::Fixed(4), ..Mix::default() };
        let requests = Requests::new(&mix, 500, 1, 0);
        let shared = (0..4000).filter(|&n| requests.draw(n).prompt.starts_with(&requests.prefix)).count() as f64;
        // Five standard deviations of a binomial count.
        assert!((shared - 1000.0).abs() < 5.0 * (4000.0 * 0.25 * 0.75f64).sqrt(), "{shared}");
        assert_eq!(mix.longest(), 52);
    }

    #[test]
    fn lengths_are_written_as_they_are_read() {
        for text in ["1", "128", "64..256", "lognormal:200:0.5"] {
            assert_eq!(text.parse::<Length>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "0",
            "-1",
            "9..3",
            "0..4",
            "..",
            "lognormal:9",
            "lognormal:0:1",
            "lognormal:9:nan",
            "1e3",
            "99999999999",
        ] {
            let message = text.parse::<Length>().unwrap_err().to_string();
            assert!(message.contains("length"), "{text}: {message}");
        }
    }
}
