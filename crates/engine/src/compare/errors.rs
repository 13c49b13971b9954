//! Rows of numbers against golden rows.

/// The worst of the rows that were added.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowErrors {
    /// Largest `|x − golden|`.
    pub max_abs: f64,
    /// Largest `max |x − golden| / max |golden|` of a row. A golden row of zeros allows no error.
    pub max_rel: f64,
    /// Largest `1 − cosine` of a row.
    pub max_sine: f64,
    /// Largest `KL(golden ‖ x)` of a row of logits, in nats.
    pub max_kl: f64,
    /// Elements that are not finite.
    pub not_finite: usize,
}

impl RowErrors {
    /// The smallest cosine of a row.
    pub fn cosine(&self) -> f64 {
        1.0 - self.max_sine
    }

    /// Adds a row. Golden rows are finite.
    pub fn add(&mut self, row: &[f32], golden: &[f32]) {
        let not_finite = row.iter().filter(|x| !x.is_finite()).count();
        if not_finite > 0 {
            self.not_finite += not_finite;
            (self.max_abs, self.max_rel, self.max_sine) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
            return;
        }
        let (mut abs, mut size, mut xx, mut gg, mut xg) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
        for (&x, &g) in row.iter().zip(golden) {
            let (x, g) = (f64::from(x), f64::from(g));
            abs = abs.max((x - g).abs());
            size = size.max(g.abs());
            (xx, gg, xg) = (xx + x * x, gg + g * g, xg + x * g);
        }
        self.max_abs = self.max_abs.max(abs);
        self.max_rel = self.max_rel.max(if abs == 0.0 { 0.0 } else { abs / size });
        let cosine = if xx == 0.0 && gg == 0.0 { 1.0 } else { xg / (xx.sqrt() * gg.sqrt()) };
        self.max_sine = self.max_sine.max(if cosine.is_nan() { 1.0 } else { 1.0 - cosine });
    }

    /// Adds a row of logits, for which the divergence of the distributions is measured as well.
    pub fn add_logits(&mut self, row: &[f32], golden: &[f32]) {
        self.add(row, golden);
        let kl = if row.iter().all(|x| x.is_finite()) { divergence(golden, row) } else { f64::INFINITY };
        self.max_kl = self.max_kl.max(kl);
    }
}

/// `Σ p·(ln p − ln q)` of the softmax p of `golden` and q of `row`, in f64; never below 0.
pub(crate) fn divergence(golden: &[f32], row: &[f32]) -> f64 {
    let (p0, q0) = (log_normaliser(golden), log_normaliser(row));
    let terms = golden.iter().zip(row).map(|(&g, &x)| {
        let (log_p, log_q) = (f64::from(g) - p0, f64::from(x) - q0);
        log_p.exp() * (log_p - log_q)
    });
    terms.sum::<f64>().max(0.0)
}

fn log_normaliser(row: &[f32]) -> f64 {
    let max = row.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
    f64::from(max) + row.iter().map(|&x| f64::from(x - max).exp()).sum::<f64>().ln()
}
