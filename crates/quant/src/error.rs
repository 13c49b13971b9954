//! How far a decoded tensor is from its source: SQNR, cosine, largest difference.

/// Sums over pairs of source and decoded elements, in f64, gathered over any number of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    count: u64,
    noise: f64,
    source: f64,
    decoded: f64,
    product: f64,
    largest: f64,
}

impl Comparison {
    /// Nothing compared yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the pairs of two slices. A NaN in either makes every figure NaN.
    ///
    /// # Panics
    /// Slices of different lengths.
    pub fn add(&mut self, source: &[f32], decoded: &[f32]) {
        assert_eq!(source.len(), decoded.len(), "a comparison takes slices of one length");
        for (&s, &d) in source.iter().zip(decoded) {
            let (s, d) = (s as f64, d as f64);
            let e = (s - d).abs();
            self.noise += e * e;
            self.source += s * s;
            self.decoded += d * d;
            self.product += s * d;
            self.largest = larger(self.largest, e);
        }
        self.count += source.len() as u64;
    }

    /// Adds what another comparison has gathered.
    pub fn merge(&mut self, other: &Comparison) {
        self.noise += other.noise;
        self.source += other.source;
        self.decoded += other.decoded;
        self.product += other.product;
        self.largest = larger(self.largest, other.largest);
        self.count += other.count;
    }

    /// Pairs compared.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The signal to quantisation noise ratio in dB, `10·log10(Σs² / Σ(s − d)²)`; ∞ where nothing differs.
    pub fn sqnr_db(&self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.source / self.noise).log10() }
    }

    /// The cosine of source and decoded; 1 where nothing differs, 0 where just one of them is 0.
    pub fn cosine(&self) -> f64 {
        let lengths = self.source.sqrt() * self.decoded.sqrt();
        if self.noise == 0.0 {
            1.0
        } else if lengths == 0.0 {
            0.0
        } else {
            self.product / lengths
        }
    }

    /// The largest difference.
    pub fn max_abs(&self) -> f64 {
        self.largest
    }

    /// The mean squared difference; 0 of nothing.
    pub fn mse(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.noise / self.count as f64 }
    }
}

/// The larger of two magnitudes; NaN where either is.
fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_their_definitions_over_several_calls() {
        let mut c = Comparison::new();
        c.add(&[3.0], &[3.0]);
        assert_eq!((c.sqnr_db(), c.cosine(), c.max_abs()), (f64::INFINITY, 1.0, 0.0));
        c.add(&[4.0], &[4.5]);
        assert!((c.sqnr_db() - 20.0).abs() < 1e-12);
        assert!((c.cosine() - 27.0 / (5.0 * (9f64 + 20.25).sqrt())).abs() < 1e-12);
        assert_eq!((c.max_abs(), c.count(), c.mse()), (0.5, 2, 0.125));
    }

    #[test]
    fn merged_comparisons_equal_one() {
        let (a, b) = ([1.0, -2.0, 3.0, 0.5], [1.25, -2.0, 2.5, 0.5]);
        let (mut whole, mut first, mut second) = (Comparison::new(), Comparison::new(), Comparison::new());
        whole.add(&a, &b);
        first.add(&a[..2], &b[..2]);
        second.add(&a[2..], &b[2..]);
        first.merge(&second);
        assert_eq!(first, whole);
    }

    #[test]
    fn a_nan_is_never_hidden() {
        let mut c = Comparison::new();
        c.add(&[1.0, 1.0, 1.0], &[1.0, f32::NAN, 9.0]);
        assert!(c.sqnr_db().is_nan() && c.cosine().is_nan());
        assert!(c.max_abs().is_nan());
        c.add(&[1.0], &[9.0]);
        assert!(c.max_abs().is_nan());
    }
}
