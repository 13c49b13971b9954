//! From a row of logits to one token: the semantics of the `sample` operator, on the host.
//!
//! Tokens are ordered by value, descending, then by id, ascending. Temperature, top-k, top-p and min-p apply in this order, and each
//! keeps a beginning of that order; so one number, how many are kept, is all they decide. −∞ is never chosen; +∞ takes all the mass,
//! shared equally where there are several; a logit that is not a number is an error, for the computation before it is broken.

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

/// How many tokens the first round sorts; more only when the choice asks for them.
const FIRST_SORTED: usize = 256;
/// Logits whose maximum stands for them when a threshold is sought.
const BLOCK: usize = 64;

/// Chooses tokens; keeps its working memory from row to row.
#[derive(Clone, Debug, Default)]
pub struct Chooser {
    /// Order keys of the first tokens, sorted.
    keys: Vec<u64>,
    /// Whether `keys` holds every token above −∞.
    complete: bool,
    /// `cumulative[i]` is the weight of the first i + 1 tokens.
    cumulative: Vec<f64>,
    maxima: Vec<f32>,
}

impl Chooser {
    /// The token for a uniform `u` in [0, 1): the first whose cumulative probability exceeds `u`.
    ///
    /// # Errors
    /// [`EngineError::Logits`] when a logit is not a number, or none is above −∞.
    pub fn choose(&mut self, logits: &[f32], cutoffs: Cutoffs, u: f32) -> Result<u32> {
        let first = argmax(logits)?;
        if cutoffs.temperature == 0.0 || cutoffs.top_k == 1 {
            return Ok(first);
        }
        let weigh = Weigh { max: logits[first as usize], temperature: f64::from(cutoffs.temperature) };
        self.forget();
        let (limit, mass) = match cutoffs.top_k {
            0 => (logits.len(), weigh.sum(logits)),
            k => {
                let kept = k.min(self.sort_at_least(logits, k));
                (kept, self.keys[..kept].iter().map(|key| weigh.of(value_of(*key))).sum())
            }
        };
        let u = f64::from(u.clamp(0.0, 1.0));
        let total = self.keep(logits, &weigh, cutoffs, limit, mass, u);
        let position = self.cumulative.partition_point(|sum| *sum <= u * total);
        Ok(id_of(self.keys[position.min(self.cumulative.len() - 1)]))
    }

    /// The `n` most likely tokens with their log-probabilities, most likely first.
    ///
    /// # Errors
    /// As [`Chooser::choose`].
    pub fn top_log_probs(&mut self, logits: &[f32], n: usize) -> Result<Vec<(u32, f32)>> {
        let log_sum = LogSum::of(logits)?;
        self.forget();
        let n = n.min(self.sort_at_least(logits, n));
        Ok(self.keys[..n].iter().map(|key| (id_of(*key), log_sum.log_prob(value_of(*key)))).collect())
    }

    fn forget(&mut self) {
        self.keys.clear();
        self.complete = false;
    }

    /// Sorts the first `n` tokens, or all there are; returns how many are sorted now.
    ///
    /// The n-th largest of the maxima of blocks is a threshold that at least n logits reach, so that few keys are made and sorted.
    fn sort_at_least(&mut self, logits: &[f32], n: usize) -> usize {
        if n <= self.keys.len() || self.complete {
            return self.keys.len();
        }
        let wanted = n.max(FIRST_SORTED).max(self.keys.len() * 8);
        let blocks = logits.len().div_ceil(BLOCK);
        let mut threshold = f32::NEG_INFINITY;
        if wanted < blocks / 2 {
            self.maxima.clear();
            let largest = |block: &[f32]| block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            self.maxima.extend(logits.chunks(BLOCK).map(largest));
            threshold = *self.maxima.select_nth_unstable_by(wanted - 1, |a, b| b.total_cmp(a)).1;
        }
        self.complete = threshold == f32::NEG_INFINITY;
        self.keys.clear();
        for (id, logit) in logits.iter().enumerate() {
            if *logit >= threshold && *logit > f32::NEG_INFINITY {
                self.keys.push(key(*logit, id as u32));
            }
        }
        if wanted < self.keys.len() / 2 {
            self.keys.select_nth_unstable(wanted - 1);
            self.keys.truncate(wanted);
            self.complete = false;
        }
        self.keys.sort_unstable();
        self.keys.len()
    }

    /// Fills `cumulative` for the tokens that are kept, `limit` at most, and returns their weight. `mass` is the weight before top-p.
    /// Where nothing is filtered it stops as soon as the choice for `u` is certain.
    fn keep(&mut self, logits: &[f32], weigh: &Weigh, cutoffs: Cutoffs, limit: usize, mass: f64, u: f64) -> f64 {
        let filtered = cutoffs.top_p < 1.0 || cutoffs.min_p > 0.0;
        let nucleus = match cutoffs.top_p < 1.0 {
            true => f64::from(cutoffs.top_p) * mass,
            false => f64::INFINITY,
        };
        let mut sum = 0.0;
        self.cumulative.clear();
        for i in 0..limit {
            if i >= self.sort_at_least(logits, i + 1) {
                break;
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
/// [`EngineError::Logits`] when a logit is not a number, or none is above −∞.
pub fn argmax(logits: &[f32]) -> Result<u32> {
    // The largest first and then where it stands: lanes that know nothing of each other's places.
    let mut largest = [f32::NEG_INFINITY; 16];
    let mut broken = [0u32; 16];
    let (blocks, rest) = logits.as_chunks::<16>();
    for block in blocks {
        for ((largest, broken), logit) in largest.iter_mut().zip(&mut broken).zip(block) {
            *broken |= u32::from(logit.is_nan());
            *largest = if *logit > *largest { *logit } else { *largest };
        }
    }
    let best = largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let broken = broken.iter().any(|&b| b != 0) || rest.iter().any(|logit| logit.is_nan());
    match logits.iter().position(|logit| *logit == best) {
        Some(id) if !broken && best > f32::NEG_INFINITY => Ok(id as u32),
        _ => Err(hopeless(logits)),
    }
}

fn hopeless(logits: &[f32]) -> EngineError {
    let found = match logits.iter().filter(|logit| logit.is_nan()).count() {
        0 => format!("none of {} logits is above minus infinity", logits.len()),
        not_numbers => format!("{not_numbers} of {} logits are not a number", logits.len()),
    };
    EngineError::Logits { found }
}

/// The log-probability of one token: log-softmax in f64, of the logits as they are. Beyond the row it is −∞.
///
/// # Errors
/// [`EngineError::Logits`] when a logit is not a number, or none is above −∞.
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
        if self.max == f32::INFINITY {
            return if logit == self.max { 1.0 } else { 0.0 };
        }
        self.of_finite(logit)
    }

    /// As `of` under a finite maximum, without branches; −∞ weighs next to nothing.
    #[inline(always)]
    fn of_finite(&self, logit: f32) -> f64 {
        exp((f64::from(logit) - f64::from(self.max)) / self.temperature)
    }

    /// The weight of a whole row, in eight interleaved sums.
    fn sum(&self, logits: &[f32]) -> f64 {
        if self.max == f32::INFINITY {
            return logits.iter().filter(|logit| **logit == self.max).count() as f64;
        }
        let (eights, rest) = logits.as_chunks::<8>();
        let mut sums = [0.0; 8];
        for eight in eights {
            for (sum, logit) in sums.iter_mut().zip(eight) {
                *sum += self.of_finite(*logit);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|logit| self.of_finite(*logit)).sum::<f64>()
    }
}

/// e^x for x ≤ 0 to a relative error of 1e-11, without a call into the system's library, so that it is the same everywhere.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, and the Taylor series of e^r to the tenth power.
#[inline(always)]
fn exp(x: f64) -> f64 {
    use std::f64::consts::{LN_2, LOG2_E};
    /// Adding and subtracting it rounds to a whole number, which then stands in the low bits.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    /// Below it the result would be next to nothing anyway.
    const LOWEST: f64 = -700.0;
    const INVERSE_FACTORIALS: [f64; 11] = [
        1.0,
        1.0,
        1.0 / 2.0,
        1.0 / 6.0,
        1.0 / 24.0,
        1.0 / 120.0,
        1.0 / 720.0,
        1.0 / 5040.0,
        1.0 / 40_320.0,
        1.0 / 362_880.0,
        1.0 / 3_628_800.0,
    ];
    let x = if x > LOWEST { x } else { LOWEST };
    let shifted = x * LOG2_E + ROUNDER;
    let r = x - (shifted - ROUNDER) * LN_2;
    let power = INVERSE_FACTORIALS.iter().rev().fold(0.0, |sum, factor| sum * r + factor);
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    power * scale
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
        let log = weigh.sum(logits).ln();
        Ok(LogSum { max, log })
    }

    fn log_prob(&self, logit: f32) -> f32 {
        if logit == self.max {
            return -self.log as f32;
        }
        if self.max == f32::INFINITY {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_close_to_the_library_one() {
        for i in 0..=70_000 {
            let x = -f64::from(i) / 100.0;
            let error = (exp(x) / x.exp() - 1.0).abs();
            assert!(error < 2e-11, "{x}: {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f64::NEG_INFINITY) < 1e-300);
    }

    #[test]
    fn keys_order_by_value_then_id_and_give_both_back() {
        let values = [f32::INFINITY, 3.5, 1e-40, 0.0, -1e-40, -3.5, f32::MIN];
        let keys: Vec<u64> = values.iter().enumerate().map(|(id, value)| key(*value, id as u32)).collect();
        assert!(keys.is_sorted());
        for (id, value) in values.iter().enumerate() {
            assert_eq!((id_of(keys[id]), value_of(keys[id])), (id as u32, *value));
        }
        assert!(key(-0.0, 1) < key(0.0, 2) && key(0.0, 1) < key(-0.0, 2));
    }
}
