//! How far results are from golden values.

use qiao_core::DType;

use crate::round::{min_normal, ulp};

/// The distance of a result from its golden values. NaN and ∞ are matched by position and sign before any norm is
/// taken; the norms run over the elements where both are finite. An ∞ counts as the number that would come after the
/// dtype's largest where that is within the limit of a finite golden value of its sign.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// How many elements were compared.
    pub elements: usize,
    /// Elements where only one side is NaN, or ∞ out of the limit's reach, or where the signs of ∞ differ.
    pub special_mismatches: usize,
    /// Elements whose error is above its limit, the special mismatches included.
    pub failures: usize,
    /// Elements that are 0 where the golden value is subnormal, or the smallest normal number by rounding: reported, not
    /// failed.
    pub flushed: usize,
    /// The largest |result − golden|.
    pub max_abs: f64,
    /// The same in units in the last place of the golden value.
    pub max_ulp: f64,
    /// Σ error² / Σ golden².
    pub nmse: f64,
    /// The cosine between result and golden; 1 where both are zero.
    pub cosine: f64,
    /// The largest error/limit: above 1 is a failure.
    pub margin: f64,
    /// The smallest r that would have passed as `|error| ≤ r·max(|golden|, rms of golden)`.
    pub smallest_tolerance: f64,
    /// The position of the worst element: the first special mismatch, else the one with the largest margin.
    pub worst: Option<usize>,
}

impl Comparison {
    /// Whether every element is within its limit.
    pub fn passes(&self) -> bool {
        self.failures == 0
    }
}

/// Compares results with golden values of the same dtype. `limits` holds one limit per element, or one for all.
///
/// # Panics
/// The lengths differ.
pub fn compare(dtype: DType, got: &[f64], golden: &[f64], limits: &[f64]) -> Comparison {
    assert_eq!(got.len(), golden.len(), "as many results as golden values");
    assert!(limits.len() == got.len() || limits.len() == 1, "one limit per element, or one for all");
    let mut c = Comparison { elements: got.len(), ..Default::default() };
    let (mut errors, mut dot, mut got2, mut golden2) = (0.0, 0.0, 0.0, 0.0);
    let mut first_special = None;
    for (i, (&x, &y)) in got.iter().zip(golden).enumerate() {
        let limit = limits[if limits.len() == 1 { 0 } else { i }];
        let overflows = x.is_infinite() && x * y > 0.0 && beyond(dtype) - y.abs() <= limit;
        let x = if overflows && y.is_finite() { beyond(dtype).copysign(x) } else { x };
        if !x.is_finite() || !y.is_finite() {
            let same = x.is_nan() && y.is_nan() || x == y;
            if !same {
                c.special_mismatches += 1;
                c.failures += 1;
                first_special = first_special.or(Some(i));
            }
            continue;
        }
        let error = (x - y).abs();
        errors += error * error;
        dot += x * y;
        got2 += x * x;
        golden2 += y * y;
        c.max_abs = c.max_abs.max(error);
        c.max_ulp = c.max_ulp.max(error / ulp(dtype, y));
        // Chips that look for subnormal results before they round flush what would round up to the smallest normal number.
        let tiny = y.abs() < min_normal(dtype) || y.abs() == min_normal(dtype) && limit > 0.0;
        if x == 0.0 && y != 0.0 && tiny {
            c.flushed += 1;
            continue;
        }
        let margin = if error == 0.0 { 0.0 } else { error / limit };
        // A limit that is not a number lets nothing pass.
        if margin.is_nan() || margin > 1.0 {
            c.failures += 1;
        }
        if margin.is_nan() || margin > c.margin || c.worst.is_none() {
            c.margin = if margin.is_nan() { f64::INFINITY } else { margin };
            c.worst = Some(i);
        }
    }
    c.worst = first_special.or(c.worst);
    if first_special.is_some() {
        c.margin = f64::INFINITY;
    }
    c.nmse = if errors == 0.0 { 0.0 } else { errors / golden2 };
    c.cosine = if got2 == 0.0 && golden2 == 0.0 { 1.0 } else { dot / (got2 * golden2).sqrt() };
    c.smallest_tolerance = smallest_tolerance(got, golden);
    c
}

/// The number that would come after the largest of a dtype which has ∞; NaN where it has none.
fn beyond(dtype: DType) -> f64 {
    match dtype {
        DType::F16 | DType::F8E5M2 => 65_536.0,
        DType::BF16 | DType::F32 => 2f64.powi(128),
        DType::F64 => f64::INFINITY,
        _ => f64::NAN,
    }
}

fn smallest_tolerance(got: &[f64], golden: &[f64]) -> f64 {
    let finite = || got.iter().zip(golden).filter(|(x, y)| x.is_finite() && y.is_finite());
    let rms = (finite().map(|(_, y)| y * y).sum::<f64>() / finite().count().max(1) as f64).sqrt();
    let relative = |(x, y): (&f64, &f64)| if x == y { 0.0 } else { (x - y).abs() / y.abs().max(rms) };
    finite().map(relative).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;

    #[test]
    fn equal_values_pass_any_limit() {
        let c = compare(DType::F32, &[1.0, NAN, INF, -INF, 0.0], &[1.0, NAN, INF, -INF, -0.0], &[0.0]);
        assert!(c.passes());
        assert_eq!((c.max_abs, c.margin, c.cosine, c.nmse), (0.0, 0.0, 1.0, 0.0));
    }

    #[test]
    fn special_values_are_matched_by_position_and_sign() {
        for (x, y) in [(NAN, 1.0), (1.0, NAN), (INF, -INF), (INF, NAN), (1.0, INF)] {
            let c = compare(DType::F32, &[0.0, x], &[0.0, y], &[INF]);
            assert_eq!((c.special_mismatches, c.failures, c.worst), (1, 1, Some(1)), "{x} {y}");
            assert!(!c.passes() && c.margin == INF);
        }
    }

    #[test]
    fn an_overflow_within_the_limit_passes() {
        let y = 65_440.0;
        let c = compare(DType::F16, &[INF, -INF], &[y, -y], &[96.0]);
        assert!(c.passes());
        assert_eq!((c.margin, c.max_abs), (1.0, 96.0));
        for (x, y, limit) in
            [(INF, y, 95.0), (-INF, y, 1e9), (NAN, y, 96.0), (INF, y, NAN), (y, INF, 96.0), (INF, 0.0, 1e9)]
        {
            assert_eq!(compare(DType::F16, &[x], &[y], &[limit]).special_mismatches, 1, "{x} for {y} ± {limit}");
        }
        assert!(!compare(DType::F32, &[INF], &[y], &[96.0]).passes());
        assert!(!compare(DType::F64, &[INF], &[y], &[INF]).passes());
    }

    #[test]
    fn the_margin_is_error_over_limit_at_the_worst_element() {
        let c = compare(DType::F32, &[1.0, 2.5, 3.0], &[1.0, 2.0, 2.0], &[1.0, 0.25, 4.0]);
        assert_eq!((c.failures, c.worst, c.margin, c.max_abs), (1, Some(1), 2.0, 1.0));
        assert_eq!(c.max_ulp, 2f64.powi(22));
        assert!((c.nmse - 1.25 / 9.0).abs() < 1e-15);
        assert_eq!(c.smallest_tolerance, 0.5);
    }

    #[test]
    fn a_flushed_subnormal_is_reported_and_not_failed() {
        let c = compare(DType::F16, &[0.0, 1.0], &[3e-6, 1.0], &[0.0]);
        assert!(c.passes());
        assert_eq!(c.flushed, 1);
    }

    #[test]
    fn what_rounds_up_to_a_normal_number_may_be_flushed_before_unless_it_is_exact() {
        let smallest = 2f64.powi(-14);
        assert_eq!(compare(DType::F16, &[0.0], &[smallest], &[1e-9]).flushed, 1);
        assert_eq!(compare(DType::F16, &[0.0], &[smallest], &[0.0]).failures, 1);
        assert_eq!(compare(DType::F16, &[0.0], &[1.5 * smallest], &[1e-9]).failures, 1);
    }

    #[test]
    fn a_limit_that_is_no_number_lets_nothing_pass() {
        assert!(!compare(DType::F32, &[1.5], &[1.0], &[NAN]).passes());
    }
}
