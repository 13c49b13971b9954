//! From scored positions to figures.

use serde::Serialize;

use super::score::Row;

/// How a text was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Chunking {
    /// Tokens of a chunk.
    pub context: usize,
    /// The first position of a chunk whose next token is scored.
    pub first_scored: usize,
    /// Positions of a chunk whose next token is scored: the first and those behind it, without the last of the chunk.
    pub scored_per_chunk: usize,
    /// Chunks that were evaluated.
    pub chunks: usize,
    /// Whole chunks that the text has.
    pub chunks_of_text: usize,
    /// Tokens of the text.
    pub tokens_of_text: usize,
    /// The token that took the place of the first of each chunk; none where the model adds none.
    pub bos: Option<u32>,
}

/// A figure and its standard error; of one value alone the error is not a number, which JSON writes as null.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Uncertain {
    /// The figure.
    pub value: f64,
    /// One standard error.
    pub error: f64,
}

impl Uncertain {
    /// The mean, and `sqrt((⟨x²⟩ − ⟨x⟩²)/(n − 1))`.
    fn mean(values: impl Iterator<Item = f64> + Clone) -> Uncertain {
        let n = values.clone().count() as f64;
        let value = values.clone().sum::<f64>() / n;
        let variance = values.map(|x| (x - value) * (x - value)).sum::<f64>() / n;
        Uncertain { value, error: (variance / (n - 1.0)).sqrt() }
    }
}

/// How well a model expects a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// Mean of `−ln p` of the scored tokens, in nats.
    pub nll: Uncertain,
    /// `exp` of it, its error to first order.
    pub perplexity: Uncertain,
}

impl Perplexity {
    fn of(nll: impl Iterator<Item = f64> + Clone) -> Perplexity {
        let nll = Uncertain::mean(nll);
        let value = nll.value.exp();
        Perplexity { nll, perplexity: Uncertain { value, error: value * nll.error } }
    }
}

/// How values are spread; percentiles interpolate linearly between the sorted values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: Uncertain,
    /// The 50th percentile.
    pub median: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Spread {
        let mut sorted: Vec<f64> = values.clone().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |share| percentile(&sorted, share);
        Spread { mean: Uncertain::mean(values), median: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    // Equal ends stand for themselves, infinite ones too.
    if low == high { low } else { low + (high - low) * place.fract() }
}

/// A model beside its base.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Against {
    /// The base's own perplexity.
    pub base: Perplexity,
    /// `ln(perplexity / perplexity of the base)`; its error takes into account that both read the same text.
    pub ln_ratio: Uncertain,
    /// `KL(base ‖ model)` of a position, in nats, over the whole vocabulary.
    pub kl: Spread,
    /// Share of positions at which both find the same token most likely, with its binomial error.
    pub top1_agreement: Uncertain,
    /// Mean of `p − p_base` of the tokens that came.
    pub mean_delta_p: Uncertain,
    /// Root of the mean square of it.
    pub rms_delta_p: f64,
}

impl Against {
    fn of(rows: &[Row]) -> Against {
        let n = rows.len() as f64;
        let same = rows.iter().filter(|row| row.same_top).count() as f64 / n;
        let delta = rows.iter().map(|row| (-row.nll).exp() - (-row.base_nll).exp());
        Against {
            base: Perplexity::of(rows.iter().map(|row| row.base_nll)),
            ln_ratio: Uncertain::mean(rows.iter().map(|row| row.nll - row.base_nll)),
            kl: Spread::of(rows.iter().map(|row| row.kl)),
            top1_agreement: Uncertain { value: same, error: (same * (1.0 - same) / (n - 1.0)).sqrt() },
            mean_delta_p: Uncertain::mean(delta.clone()),
            rms_delta_p: (delta.map(|d| d * d).sum::<f64>() / n).sqrt(),
        }
    }
}

/// What an evaluation found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// How the text was cut.
    pub chunking: Chunking,
    /// Tokens scored.
    pub tokens_scored: usize,
    /// Seconds that it took, without loading.
    pub seconds: f64,
    /// Tokens of all chunks, over the seconds; each of them went through both models where there are two.
    pub tokens_per_s: f64,
    /// The model's.
    pub model: Perplexity,
    /// Beside the base, where there is one.
    pub against: Option<Against>,
    /// Whether it was ended before the last chunk.
    pub interrupted: bool,
}

impl Evaluation {
    pub(super) fn new(
        chunking: Chunking,
        rows: &[Row],
        with_base: bool,
        seconds: f64,
        interrupted: bool,
    ) -> Evaluation {
        Evaluation {
            chunking,
            tokens_scored: rows.len(),
            seconds,
            tokens_per_s: (chunking.chunks * chunking.context) as f64 / seconds,
            model: Perplexity::of(rows.iter().map(|row| row.nll)),
            against: with_base.then(|| Against::of(rows)),
            interrupted,
        }
    }
}
