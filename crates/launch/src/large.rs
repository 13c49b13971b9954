//! Products that a library of the device may run.

use qiao_core::DType;

/// Bytes of scratch that a product of a library may use.
pub const WORKSPACE: usize = 32 << 20;

/// A product `c[M, N] = a[M, K]·b`, plus a residual where one is given, rounded once. Distances are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LargeProduct {
    /// Rows of a and c.
    pub m: usize,
    /// Columns of c.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// The dtype of a and b.
    pub dtype: DType,
    /// The dtype of the result and of the residual.
    pub out: DType,
    /// Whether b is `[N, K]`, else `[K, N]`.
    pub trans_b: bool,
    /// From row to row of a, b, the residual and the result.
    pub rows: [usize; 4],
    /// Whether the residual is added.
    pub residual: bool,
    /// What the address of every operand is a multiple of, in bytes.
    pub align: usize,
}
