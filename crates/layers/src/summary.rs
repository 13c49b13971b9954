//! Many measurements in a few figures.

use std::time::Duration;

/// A set of measurements of one kind, all in one unit.
///
/// A percentile is the nearest-rank one: p90 of ten values is the ninth smallest, so that every figure is a value that was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// How many measurements.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// Nine tenths are no larger.
    pub p90: f64,
    /// 99 of 100 are no larger.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The coefficient of variation: sample standard deviation / mean; 0 for fewer than two values or a mean of 0.
    pub cv: f64,
}

impl Summary {
    /// The figures of some measurements; all 0 for none.
    pub fn of(values: &[f64]) -> Summary {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else { return Summary::default() };
        let n = sorted.len();
        let mean = sorted.iter().sum::<f64>() / n as f64;
        let squares: f64 = sorted.iter().map(|x| (x - mean).powi(2)).sum();
        let cv = if n < 2 || mean == 0.0 { 0.0 } else { (squares / (n - 1) as f64).sqrt() / mean };
        let rank = |percent: usize| sorted[(percent * n).div_ceil(100).max(1) - 1];
        Summary { count: n, min, p50: rank(50), p90: rank(90), p99: rank(99), max, mean, cv }
    }

    /// The figures of some durations, in seconds.
    pub fn of_durations(durations: &[Duration]) -> Summary {
        let seconds: Vec<f64> = durations.iter().map(Duration::as_secs_f64).collect();
        Summary::of(&seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let s = Summary::of(&[10.0, 1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0, 5.0]);
        assert_eq!((s.count, s.min, s.p50, s.p90, s.p99, s.max, s.mean), (10, 1.0, 5.0, 9.0, 10.0, 10.0, 5.5));
        assert!((s.cv - (82.5f64 / 9.0).sqrt() / 5.5).abs() < 1e-15);
    }

    #[test]
    fn few_values_have_no_spread() {
        assert_eq!(Summary::of(&[]), Summary::default());
        let one = Summary::of(&[3.0]);
        assert_eq!((one.min, one.p50, one.p99, one.max, one.cv), (3.0, 3.0, 3.0, 3.0, 0.0));
        assert_eq!(Summary::of(&[0.0, 0.0]).cv, 0.0);
    }

    #[test]
    fn durations_are_in_seconds() {
        assert_eq!(Summary::of_durations(&[Duration::from_millis(1500)]).p50, 1.5);
    }
}
