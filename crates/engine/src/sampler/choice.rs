//! From a row of logits to one token: the semantics of the `sample` operator, on the host.
//!
//! Tokens are ordered by value, descending, then by id, ascending. Temperature, top-k, top-p and min-p apply in this order, and each
//! keeps a beginning of that order; so one number, how many are kept, is all they decide. Not a number counts as −∞, −∞ is never
//! chosen; +∞ takes all the mass, shared equally where there are several.

use crate::error::{EngineError, Result};

/// The filters of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cutoffs {
    /// Divides the logits; 0 is argmax.
    pub temperature: f32,
    /// Keeps the first k; 0 is off. A tie at the k-th place keeps the lower id.
    pub top_k: usize,
    /// Keeps the shortest beginning with at least this mass; 1 is off.
    pub top_p: f32,
    /// Keeps tokens with at least this share of the first one's probability; 0 is off.
    pub min_p: f32,
}

/// How many tokens the first round sorts; what lies beyond is sorted only when the choice asks for it.
const FIRST_SORTED: usize = 256;

/// Chooses tokens; keeps its working memory from row to row.
#[derive(Clone, Debug, Default)]
pub struct Chooser {
    /// Order keys, the first `sorted` of them in order and before all others.
    keys: Vec<u64>,
    sorted: usize,
    /// `cumulative[i]` is the weight of the first i + 1 tokens.
    cumulative: Vec<f64>,
}

impl Chooser {
    /// The token for a uniform `u` in [0, 1): the first whose cumulative probability exceeds `u`.
    ///
    /// # Errors
    /// [`EngineError::Logits`] when no logit is above −∞.
    pub fn choose(&mut self, logits: &[f32], cutoffs: Cutoffs, u: f32) -> Result<u32> {
        let first = argmax(logits)?;
        if cutoffs.temperature == 0.0 || cutoffs.top_k == 1 {
            return Ok(first);
        }
        let weigh = Weigh { max: logits[first as usize], temperature: f64::from(cutoffs.temperature) };
        self.load(logits);
        let limit = match cutoffs.top_k {
            0 => self.keys.len(),
            k => k.min(self.keys.len()),
        };
        let mass = match limit < self.keys.len() {
            true => {
                self.sort_to(limit);
                self.keys[..limit].iter().map(|key| weigh.of(value_of(*key))).sum()
            }
            false => logits.iter().map(|logit| weigh.of(*logit)).sum::<f64>(),
        };
        let u = f64::from(u.clamp(0.0, 1.0));
        let total = self.keep(&weigh, cutoffs, limit, mass, u);
        let position = self.cumulative.partition_point(|sum| *sum <= u * total);
        Ok(id_of(self.keys[position.min(self.cumulative.len() - 1)]))
    }

    /// The `n` most likely tokens with their log-probabilities, most likely first.
    ///
    /// # Errors
    /// As [`Chooser::choose`].
    pub fn top_log_probs(&mut self, logits: &[f32], n: usize) -> Result<Vec<(u32, f32)>> {
        let log_sum = LogSum::of(logits)?;
        self.load(logits);
        let n = n.min(self.keys.len());
        self.sort_to(n);
        Ok(self.keys[..n].iter().map(|key| (id_of(*key), log_sum.log_prob(value_of(*key)))).collect())
    }

    fn load(&mut self, logits: &[f32]) {
        self.keys.clear();
        let candidates = logits.iter().enumerate().filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        self.keys.extend(candidates.map(|(id, logit)| key(*logit, id as u32)));
        self.sorted = 0;
    }

    /// Puts the first `n` keys into order.
    fn sort_to(&mut self, n: usize) {
        if n <= self.sorted {
            return;
        }
        let rest = &mut self.keys[self.sorted..];
        let wanted = n - self.sorted;
        if wanted < rest.len() {
            rest.select_nth_unstable(wanted - 1);
        }
        rest[..wanted].sort_unstable();
        self.sorted = n;
    }

    /// Fills `cumulative` for the tokens that are kept and returns their weight. Where nothing is filtered it stops as soon as the
    /// choice for `u` is certain.
    fn keep(&mut self, weigh: &Weigh, cutoffs: Cutoffs, limit: usize, mass: f64, u: f64) -> f64 {
        let filtered = cutoffs.top_p < 1.0 || cutoffs.min_p > 0.0;
        let nucleus = match cutoffs.top_p < 1.0 {
            true => f64::from(cutoffs.top_p) * mass,
            false => f64::INFINITY,
        };
        let mut sum = 0.0;
        self.cumulative.clear();
        for i in 0..limit {
            if i == self.sorted {
                self.sort_to((self.sorted * 8).max(FIRST_SORTED).min(limit));
            }
            let weight = weigh.of(value_of(self.keys[i]));
            if i > 0 && (sum >= nucleus || weight < f64::from(cutoffs.min_p)) {
                break;
            }
            sum += weight;
            self.cumulative.push(sum);
            if !filtered && sum > u * mass {
                return mass;
            }
        }
        sum
    }
}

/// The most likely token; of equals the lowest id.
///
/// # Errors
/// [`EngineError::Logits`] when no logit is above −∞.
pub fn argmax(logits: &[f32]) -> Result<u32> {
    let mut best = (f32::NEG_INFINITY, None);
    for (id, logit) in logits.iter().enumerate() {
        if *logit > best.0 {
            best = (*logit, Some(id as u32));
        }
    }
    best.1.ok_or_else(|| {
        let not_numbers = logits.iter().filter(|logit| logit.is_nan()).count();
        let found = format!("{} logits, {not_numbers} of them not a number, the others minus infinity", logits.len());
        EngineError::Logits { found }
    })
}

/// The log-probability of one token: log-softmax in f64, of the logits as they are. Beyond the row it is −∞.
///
/// # Errors
/// [`EngineError::Logits`] when no logit is above −∞.
pub fn log_prob(logits: &[f32], id: u32) -> Result<f32> {
    let log_sum = LogSum::of(logits)?;
    Ok(log_sum.log_prob(logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY)))
}

/// `exp((logit − max) / temperature)`, 1 for the most likely token.
struct Weigh {
    max: f32,
    temperature: f64,
}

impl Weigh {
    fn of(&self, logit: f32) -> f64 {
        if logit == self.max {
            return 1.0;
        }
        if self.max == f32::INFINITY || logit.is_nan() {
            return 0.0;
        }
        ((f64::from(logit) - f64::from(self.max)) / self.temperature).exp()
    }
}

/// The normaliser of a row: `max + ln Σ exp(logit − max)`.
struct LogSum {
    max: f32,
    log: f64,
}

impl LogSum {
    fn of(logits: &[f32]) -> Result<LogSum> {
        let max = logits[argmax(logits)? as usize];
        let weigh = Weigh { max, temperature: 1.0 };
        let log = logits.iter().map(|logit| weigh.of(*logit)).sum::<f64>().ln();
        Ok(LogSum { max, log })
    }

    fn log_prob(&self, logit: f32) -> f32 {
        if logit == self.max {
            return -self.log as f32;
        }
        if self.max == f32::INFINITY || logit.is_nan() {
            return f32::NEG_INFINITY;
        }
        (f64::from(logit) - f64::from(self.max) - self.log) as f32
    }
}

/// A key whose ascending order is (value descending, id ascending). Zeros of both signs are equal.
fn key(value: f32, id: u32) -> u64 {
    let bits = (value + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 };
    u64::from(!ascending) << 32 | u64::from(id)
}

fn id_of(key: u64) -> u32 {
    key as u32
}

fn value_of(key: u64) -> f32 {
    let ascending = !((key >> 32) as u32);
    f32::from_bits(if ascending >> 31 == 1 { ascending & 0x7FFF_FFFF } else { !ascending })
}
