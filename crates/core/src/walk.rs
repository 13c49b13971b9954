//! Elements of strided tensors as kernels walk over them: axes that can be one are one, the result's innermost first.

use crate::graph::NodeView;
use crate::shape::{Dims, TensorDesc};
use crate::support::{Property, Reason, Rule};
use crate::table::Accept;

/// So many elements; N tensors step along the axes, in elements, innermost axis first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk<const N: usize> {
    /// How many elements there are along each axis.
    pub dims: Vec<u64>,
    /// For each tensor its step along each axis.
    pub steps: [Vec<u64>; N],
}

impl<const N: usize> Walk<N> {
    /// A walk over a shape in the order in which the last tensor lies; each tensor has one stride per axis.
    pub fn new(shape: &[usize], strides: [&[usize]; N]) -> Self {
        let mut axes: Vec<usize> = (0..shape.len()).filter(|&axis| shape[axis] != 1).collect();
        // Stable: axes of one stride stay in order.
        axes.sort_by_key(|&axis| std::cmp::Reverse(strides[N - 1][axis]));
        let mut walk = Walk { dims: Vec::new(), steps: std::array::from_fn(|_| Vec::new()) };
        for &axis in axes.iter().rev() {
            let (dim, step) = (shape[axis] as u64, strides.map(|s| s[axis] as u64));
            let last = walk.dims.len().wrapping_sub(1);
            let joins = |inner: u64| (0..N).all(|k| walk.steps[k][last] * inner == step[k]);
            match walk.dims.last().copied() {
                Some(inner) if joins(inner) => walk.dims[last] *= dim,
                _ => {
                    walk.dims.push(dim);
                    (0..N).for_each(|k| walk.steps[k].push(step[k]));
                }
            }
        }
        walk
    }

    /// How many elements there are.
    pub fn count(&self) -> u64 {
        self.dims.iter().product()
    }

    /// The walk as rows along which every tensor steps by 0 or 1: their number, their length, and for each tensor its stride
    /// from row to row and its step.
    pub fn rows(&self) -> Option<(u64, u64, [u64; N], [u64; N])> {
        let at = |k: usize, axis: usize| self.steps[k].get(axis).copied().unwrap_or(0);
        let (rows, cols) = match self.dims[..] {
            [] => (1, 1),
            [cols] => (1, cols),
            [cols, rows] => (rows, cols),
            _ => return None,
        };
        let steps = std::array::from_fn(|k| if self.dims.is_empty() { 1 } else { at(k, 0) });
        let is_row = steps.iter().all(|&s| s <= 1) && steps[N - 1] == 1;
        is_row.then(|| (rows, cols, std::array::from_fn(|k| at(k, 1)), steps))
    }
}

/// Strides of an operand that is broadcast to a shape: 0 along every axis that it repeats.
pub fn broadcast_strides(desc: &TensorDesc, shape: &Dims) -> Vec<usize> {
    let missing = shape.len() - desc.rank();
    let of = |axis: usize| match axis.checked_sub(missing) {
        Some(own) if desc.shape[own] == shape[axis] || shape[axis] == 1 => desc.strides[own],
        _ => 0,
    };
    (0..shape.len()).map(of).collect()
}

/// Accepts anything that is in no private layout.
///
/// # Errors
/// The first operand that is in one.
pub fn no_layouts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    for (i, desc) in node.operands() {
        if desc.layout != 0 {
            let found = format!("{:#x}", desc.layout);
            return Err(Reason::operand(i, Property::Layout, Rule::Equal, found.as_str(), "strided"));
        }
    }
    Ok(Accept::Native)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_lie_behind_each_other_are_one() {
        let walk = Walk::new(&[2, 3, 4], [&[12, 4, 1], &[12, 4, 1]]);
        assert_eq!((walk.dims.clone(), walk.count()), (vec![24], 24));
        assert_eq!(walk.rows(), Some((1, 24, [0, 0], [1, 1])));
    }

    #[test]
    fn a_broadcast_row_is_a_stride_of_nothing() {
        let walk = Walk::new(&[5, 7], [&[7, 1], &[0, 1], &[7, 1]]);
        assert_eq!(walk.rows(), Some((5, 7, [7, 0, 7], [1, 1, 1])));
        let walk = Walk::new(&[5, 7], [&[7, 1], &[0, 0], &[7, 1]]);
        assert_eq!(walk.rows(), Some((1, 35, [0, 0, 0], [1, 0, 1])));
    }

    #[test]
    fn the_order_is_that_of_the_result() {
        let walk = Walk::new(&[4, 6], [&[6, 1], &[1, 4]]);
        assert_eq!(walk.dims, [4, 6]);
        assert_eq!(walk.steps, [vec![6, 1], vec![1, 4]]);
        assert_eq!(walk.rows(), None);
    }

    #[test]
    fn a_number_is_a_row_of_one() {
        assert_eq!(Walk::new(&[], [&[], &[]]).rows(), Some((1, 1, [0, 0], [1, 1])));
        assert_eq!(Walk::new(&[1, 1], [&[3, 1], &[1, 1]]).count(), 1);
    }
}
