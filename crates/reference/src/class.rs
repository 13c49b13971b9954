//! How results are judged, by kind of operator.

/// How an operator's results are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Bit for bit.
    Exact,
    /// Within a few units in the last place.
    Rounding,
    /// A sum along a row: norms, softmax, reductions, rotations.
    Reduce,
    /// Dot products: `c·u·√K·Σ|a||b|`.
    Contract,
    /// Integer part exact, conversions within one step, the rest as a product.
    Quantised,
    /// Choices: compared where the scores are further apart than their tolerance.
    Discrete,
}
