//! The Hessian of a layer's inputs, and the triangular factor by which errors are passed on.

use qiao_core::{Error, Result};

/// Rows of the factor that are finished together.
const BLOCK: usize = 32;
/// Rows of inputs that are gathered together.
const GATHER: usize = 8;
/// How often damping is raised tenfold before a Hessian is given up.
const RAISES: usize = 4;

/// Where row i of a packed lower triangle begins.
fn at(i: usize) -> usize {
    i * (i + 1) / 2
}

/// `H = Σ xᵀx` over the inputs x `[K]` of a linear layer: what an error of its weights costs at its output,
/// `‖X·(W − Wq)ᵀ‖² = Σ_n e_n·H·e_nᵀ`. Held as a packed lower triangle in f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Hessian {
    k: usize,
    lower: Vec<f64>,
}

impl Hessian {
    /// Of no inputs yet.
    pub fn new(k: usize) -> Self {
        Hessian { k, lower: vec![0.0; at(k)] }
    }

    /// Of a full matrix `[K, K]`; its lower triangle is read.
    ///
    /// # Errors
    /// A slice of another length.
    pub fn from_matrix(k: usize, h: &[f64]) -> Result<Self> {
        if k.checked_mul(k) != Some(h.len()) {
            let found = format!("{} elements for K = {k}", h.len());
            return Err(Error::invalid("a Hessian", found, "give K·K elements"));
        }
        Ok(Hessian { k, lower: (0..k).flat_map(|i| h[i * k..][..=i].iter().copied()).collect() })
    }

    /// Input channels.
    pub fn k(&self) -> usize {
        self.k
    }

    /// `H_ij`.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.lower[at(i.max(j)) + i.min(j)]
    }

    /// Adds inputs `[T, K]`.
    ///
    /// # Errors
    /// A slice that is no whole number of rows, or an input that is not finite.
    pub fn add(&mut self, x: &[f32]) -> Result<()> {
        let what = "gathering a Hessian";
        if x.is_empty() {
            return Ok(());
        }
        if self.k == 0 || !x.len().is_multiple_of(self.k) {
            let found = format!("{} inputs for K = {}", x.len(), self.k);
            return Err(Error::invalid(what, found, "give whole rows of K"));
        }
        if let Some(i) = x.iter().position(|v| !v.is_finite()) {
            let found = format!("input {} of row {} is {}", i % self.k, i / self.k, x[i]);
            return Err(Error::invalid(what, found, "give finite inputs"));
        }
        for rows in x.chunks(GATHER * self.k) {
            for i in 0..self.k {
                let sums = &mut self.lower[at(i)..][..=i];
                for row in rows.chunks_exact(self.k) {
                    let xi = row[i] as f64;
                    for (sum, x) in sums.iter_mut().zip(row) {
                        *sum += xi * *x as f64;
                    }
                }
            }
        }
        Ok(())
    }
}

/// How errors are passed on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// What is added to the Hessian's diagonal, as a share of the diagonal's mean; 0.01 as a rule.
    pub damping: f64,
    /// Channels are quantised in the order of falling `H_kk`; scales then follow from weights before any error was
    /// passed on.
    pub act_order: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { damping: 0.01, act_order: false }
    }
}

/// `H + damping = Mᵀ·M` with M lower triangular, channels in the order in which they are quantised. An error of weights
/// costs `‖M·e‖²`, so that channel i, once those before it are fixed, is best at `w_i + Σ_{j<i} M_ij·e_j / M_ii`.
#[derive(Clone, Debug)]
pub struct Factor {
    pub(super) k: usize,
    /// Rows `M_ij / M_ii`, j < i, one after the other.
    rows: Vec<f32>,
    /// `M_ii²`: what a squared error costs once it can no longer be passed back.
    pub(super) costs: Vec<f32>,
    /// The channel at each place, where that is not the place itself.
    pub(super) order: Option<Vec<usize>>,
    damping: f64,
}

impl Factor {
    /// Factorises a Hessian. Channels without any input (`H_kk = 0`) neither pass errors on nor take any. Where the
    /// damped Hessian is not positive definite, damping is raised tenfold, four times at most.
    ///
    /// # Errors
    /// Damping that is negative or not finite, a Hessian with elements that are not finite or negative on its diagonal,
    /// or one that no damping makes positive definite.
    pub fn new(hessian: &Hessian, options: Options) -> Result<Self> {
        let what = "factorising a Hessian";
        let k = hessian.k;
        if !options.damping.is_finite() || options.damping < 0.0 {
            let found = format!("damping of {}", options.damping);
            return Err(Error::invalid(what, found, "give a share of at least 0, such as 0.01"));
        }
        let diagonal: Vec<f64> = (0..k).map(|i| hessian.get(i, i)).collect();
        let bad = diagonal.iter().position(|d| *d < 0.0);
        if let Some(i) = bad.or_else(|| hessian.lower.iter().any(|h| !h.is_finite()).then_some(0)) {
            let found = match bad {
                Some(_) => format!("element {i} of its diagonal is {}", diagonal[i]),
                None => "it has elements that are not finite".into(),
            };
            return Err(Error::invalid(what, found, "gather it from finite inputs"));
        }
        let live = diagonal.iter().filter(|d| **d > 0.0).count().max(1) as f64;
        let mean = diagonal.iter().sum::<f64>() / live;
        let order = options.act_order.then(|| {
            let mut order: Vec<usize> = (0..k).collect();
            order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]));
            order
        });
        let mut damping = options.damping;
        for _ in 0..=RAISES {
            let mut lower = damped(hessian, &diagonal, order.as_deref(), damping * mean, mean);
            if factorise(&mut lower, k, 1e-10 * mean) {
                return Ok(Factor::of(&lower, k, order, damping));
            }
            damping = if damping == 0.0 { 1e-4 } else { 10.0 * damping };
        }
        let found = format!("it is not positive definite with damping of {} of its diagonal's mean", damping / 10.0);
        Err(Error::invalid(what, found, "gather it from inputs, as a sum of xᵀx"))
    }

    fn of(lower: &[f64], k: usize, order: Option<Vec<usize>>, damping: f64) -> Self {
        let pivot = |i: usize| lower[at(i) + i];
        let rows = (0..k).flat_map(|i| lower[at(i)..][..i].iter().map(move |m| (m / pivot(i)) as f32)).collect();
        Factor { k, rows, costs: (0..k).map(|i| (pivot(i) * pivot(i)) as f32).collect(), order, damping }
    }

    /// Input channels.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The damping that it took, as a share of the diagonal's mean.
    pub fn damping(&self) -> f64 {
        self.damping
    }

    /// `M_ij / M_ii` for j in 0..i.
    pub(super) fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * i.saturating_sub(1) / 2..][..i]
    }
}

/// The lower triangle in the order of channels, with damping on its diagonal; a channel without input stands alone.
fn damped(hessian: &Hessian, diagonal: &[f64], order: Option<&[usize]>, damping: f64, mean: f64) -> Vec<f64> {
    let k = hessian.k;
    let channel = |i: usize| order.map_or(i, |o| o[i]);
    let alone = if mean > 0.0 { mean } else { 1.0 };
    let mut lower = Vec::with_capacity(at(k));
    for i in 0..k {
        let a = channel(i);
        for j in 0..=i {
            let b = channel(j);
            let dead = diagonal[a] == 0.0 || diagonal[b] == 0.0;
            lower.push(match (i == j, dead) {
                (true, true) => alone,
                (true, false) => diagonal[a] + damping,
                (false, true) => 0.0,
                (false, false) => hessian.get(a, b),
            });
        }
    }
    lower
}

/// Turns the packed lower triangle of H into that of M, `H = Mᵀ·M`, from the last row to the first; false where a pivot is
/// not above `least`.
fn factorise(a: &mut [f64], k: usize, least: f64) -> bool {
    let mut end = k;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        for i in (start..end).rev() {
            let (head, tail) = a.split_at_mut(at(i));
            let row = &mut tail[..=i];
            if !(row[i] > least && row[i].is_finite()) {
                return false;
            }
            let pivot = row[i].sqrt();
            row.iter_mut().for_each(|m| *m /= pivot);
            for j in start..i {
                subtract(&mut head[at(j)..][..=j], row, row[j]);
            }
        }
        let (head, tail) = a.split_at_mut(at(start));
        for j in 0..start {
            let row = &mut head[at(j)..][..=j];
            for i in start..end {
                let done = &tail[at(i) - at(start)..][..=i];
                subtract(row, done, done[j]);
            }
        }
        end = start;
    }
    true
}

/// `row −= factor·other`, as far as `row` reaches.
fn subtract(row: &mut [f64], other: &[f64], factor: f64) {
    for (r, o) in row.iter_mut().zip(other) {
        *r -= factor * o;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `H_ij` of 2·`k` pseudo-random inputs.
    pub(super) fn hessian(k: usize) -> Hessian {
        let x: Vec<f32> = (0..2 * k * k).map(|i| ((i * i * 31 + i * 7) % 101) as f32 / 50.0 - 1.0).collect();
        let mut h = Hessian::new(k);
        h.add(&x).unwrap();
        h
    }

    #[test]
    fn the_factor_gives_the_hessian_again() {
        for (k, act_order) in [(1, false), (7, false), (70, false), (70, true)] {
            let h = hessian(k);
            let f = Factor::new(&h, Options { damping: 0.0, act_order }).unwrap();
            assert_eq!(f.damping(), 0.0);
            let m = |i: usize, j: usize| {
                let pivot = (f.costs[i] as f64).sqrt();
                if j < i {
                    f.row(i)[j] as f64 * pivot
                } else if i == j {
                    pivot
                } else {
                    0.0
                }
            };
            let channel = |i: usize| f.order.as_ref().map_or(i, |o| o[i]);
            for i in 0..k {
                for j in 0..=i {
                    let got: f64 = (0..k).map(|r| m(r, i) * m(r, j)).sum();
                    let want = h.get(channel(i), channel(j));
                    assert!((got - want).abs() <= 1e-4 * h.get(0, 0), "{k} {i} {j}: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn inputs_in_parts_and_a_whole_matrix_give_one_hessian() {
        let x: Vec<f32> = (0..60).map(|i| (i % 7) as f32 - 3.0).collect();
        let (mut parts, mut whole) = (Hessian::new(4), Hessian::new(4));
        x.chunks(8).for_each(|x| parts.add(x).unwrap());
        whole.add(&x).unwrap();
        assert_eq!(parts, whole);
        let matrix: Vec<f64> = (0..16).map(|i| whole.get(i / 4, i % 4)).collect();
        assert_eq!(Hessian::from_matrix(4, &matrix).unwrap(), whole);
    }

    #[test]
    fn damping_is_raised_until_it_is_enough_and_then_refused() {
        // Eigenvalues 1.05 and −0.05.
        let bent = Hessian::from_matrix(2, &[0.5, 0.55, 0.55, 0.5]).unwrap();
        let f = Factor::new(&bent, Options { damping: 0.02, act_order: false }).unwrap();
        assert!((f.damping() - 0.2).abs() < 1e-12);
        let hopeless = Hessian::from_matrix(2, &[1.0, 1e6, 1e6, 1.0]).unwrap();
        let e = Factor::new(&hopeless, Options::default()).unwrap_err().to_string();
        assert!(e.contains("not positive definite"), "{e}");
    }

    #[test]
    fn what_is_no_hessian_is_refused() {
        let of = |h: &[f64]| Factor::new(&Hessian::from_matrix(2, h).unwrap(), Options::default());
        assert!(of(&[1.0, 0.0, 0.0, -1.0]).unwrap_err().to_string().contains("element 1 of its diagonal"));
        assert!(of(&[1.0, 0.0, f64::NAN, 1.0]).unwrap_err().to_string().contains("not finite"));
        assert!(Hessian::from_matrix(2, &[1.0; 3]).is_err());
        assert!(Hessian::new(3).add(&[1.0; 4]).is_err() && Hessian::new(1).add(&[f32::NAN]).is_err());
        let options = Options { damping: -1.0, ..Options::default() };
        assert!(Factor::new(&Hessian::new(2), options).is_err());
    }
}
