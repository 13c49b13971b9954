//! Figures of many measurements: how they are kept, summed up and written.

use qiao_layers::Summary;
use serde::{Serialize, Serializer};

/// Values that are kept in full up to a number, and beyond it as a uniform sample (algorithm R of Vitter, "Random Sampling
/// with a Reservoir", 1985), so that a run of any length takes bounded memory.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    kept: Vec<f64>,
    most: usize,
    seen: u64,
    state: u64,
}

impl Sample {
    /// Keeps at most `most` values.
    pub(crate) fn new(most: usize) -> Sample {
        Sample { kept: Vec::new(), most, seen: 0, state: 0 }
    }

    /// The same with all its memory taken and touched from the start, so that it does not show as growth of the process.
    pub(crate) fn resident(most: usize) -> Sample {
        let mut kept = vec![1.0; most];
        std::hint::black_box(&mut kept).clear();
        Sample { kept, ..Sample::new(most) }
    }

    /// Adds a value.
    pub(crate) fn add(&mut self, value: f64) {
        self.seen += 1;
        if self.kept.len() < self.most {
            self.kept.push(value);
            return;
        }
        let place = splitmix(&mut self.state) % self.seen;
        if let Some(kept) = usize::try_from(place).ok().and_then(|place| self.kept.get_mut(place)) {
            *kept = value;
        }
    }

    /// Whether some of the values that were added are not kept.
    pub(crate) fn is_partial(&self) -> bool {
        self.seen > self.kept.len() as u64
    }

    /// The figures of what is kept; `None` before the first value.
    pub(crate) fn summary(&self) -> Option<Summary> {
        (!self.kept.is_empty()).then(|| Summary::of(&self.kept))
    }

    /// The 0th, 5th, … 100th percentile by nearest rank; empty before the first value.
    pub(crate) fn quantiles(&self) -> Vec<f64> {
        let mut sorted = self.kept.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| sorted[(percent * sorted.len()).div_ceil(100).max(1) - 1];
        if sorted.is_empty() { Vec::new() } else { (0..=20).map(|i| rank(5 * i)).collect() }
    }
}

/// The next number of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The fields of a [`Summary`], as they are written.
#[derive(Serialize)]
#[serde(remote = "Summary")]
struct Fields {
    count: usize,
    min: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
    mean: f64,
    cv: f64,
}

#[derive(Serialize)]
struct Shown(#[serde(with = "Fields")] Summary);

/// Writes a summary.
pub(crate) fn one<S: Serializer>(summary: &Summary, to: S) -> Result<S::Ok, S::Error> {
    Shown(*summary).serialize(to)
}

/// Writes a summary, or null where there is none.
pub(crate) fn some<S: Serializer>(summary: &Option<Summary>, to: S) -> Result<S::Ok, S::Error> {
    summary.map(Shown).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_keeps_everything_up_to_its_size() {
        let mut sample = Sample::new(100);
        assert_eq!((sample.summary(), sample.quantiles()), (None, Vec::new()));
        (1..=100).for_each(|i| sample.add(f64::from(i)));
        assert!(!sample.is_partial());
        let all = sample.summary().unwrap();
        assert_eq!((all.count, all.min, all.p50, all.max), (100, 1.0, 50.0, 100.0));
        let quantiles = sample.quantiles();
        assert_eq!((quantiles.len(), quantiles[0], quantiles[1], quantiles[20]), (21, 1.0, 5.0, 100.0));
    }

    #[test]
    fn beyond_its_size_a_sample_is_uniform_over_all_that_was_seen() {
        let mut sample = Sample::new(1000);
        (0..100_000).for_each(|i| sample.add(f64::from(i)));
        assert_eq!((sample.is_partial(), sample.kept.len()), (true, 1000));
        let mean = sample.summary().unwrap().mean;
        // The mean of 1000 of them has a standard deviation of 913; five of them.
        assert!((mean - 50_000.0).abs() < 4_565.0, "{mean}");
        let mut resident = Sample::resident(1000);
        (0..100_000).for_each(|i| resident.add(f64::from(i)));
        assert_eq!((resident.summary(), resident.kept.capacity()), (sample.summary(), 1000));
    }

    #[test]
    fn the_generator_is_the_published_one() {
        assert_eq!(splitmix(&mut 0), 0xE220_A839_7B1D_CDAF);
    }
}
