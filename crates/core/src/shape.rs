//! Shapes, strides and the description of a tensor.

use std::fmt;
use std::ops::Deref;

use crate::attrs::KvLayout;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// The highest rank of a tensor.
pub const MAX_RANK: usize = 8;

/// Up to [`MAX_RANK`] sizes or strides, outermost first, held inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Dims {
    len: u8,
    dims: [usize; MAX_RANK],
}

impl Dims {
    /// The dims of a slice.
    ///
    /// # Errors
    /// More than [`MAX_RANK`] dims.
    pub fn new(dims: &[usize]) -> Result<Self> {
        if dims.len() > MAX_RANK {
            return Err(Error::invalid(
                "tensor rank",
                format!("rank {} of shape {dims:?}", dims.len()),
                format!("use at most {MAX_RANK} dims"),
            ));
        }
        let mut out = Dims { len: dims.len() as u8, dims: [0; MAX_RANK] };
        out.dims[..dims.len()].copy_from_slice(dims);
        Ok(out)
    }

    /// The product of all dims; 1 for rank 0.
    ///
    /// # Errors
    /// The product overflows.
    pub fn elements(&self) -> Result<usize> {
        // A zero anywhere makes the tensor empty, whatever the other dims claim.
        if self.contains(&0) {
            return Ok(0);
        }
        self.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(|| {
            Error::invalid("tensor size", format!("shape {self:?} has more elements than fit"), "use smaller dims")
        })
    }

    /// Row-major strides in elements for a contiguous tensor of these dims.
    pub fn contiguous_strides(&self) -> Dims {
        let mut strides = *self;
        let mut step = 1usize;
        for axis in (0..self.len()).rev() {
            strides.dims[axis] = step;
            step = step.saturating_mul(self[axis].max(1));
        }
        strides
    }

    /// The last dim, or 1 for rank 0.
    pub fn last_dim(&self) -> usize {
        self.last().copied().unwrap_or(1)
    }

    /// The product of all dims but the last: how many rows there are.
    pub fn rows(&self) -> usize {
        self[..self.len().saturating_sub(1)].iter().fold(1usize, |n, &d| n.saturating_mul(d))
    }

    pub(crate) fn set(&mut self, axis: usize, value: usize) {
        self.dims[..self.len as usize][axis] = value;
    }
}

impl Deref for Dims {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.dims[..self.len as usize]
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.iter().enumerate() {
            if i > 0 {
                f.write_str("×")?;
            }
            write!(f, "{d}")?;
        }
        if self.is_empty() {
            f.write_str("scalar")?;
        }
        Ok(())
    }
}

/// What a tensor is, apart from where it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorDesc {
    /// Element type or block format.
    pub dtype: DType,
    /// Logical sizes, outermost first.
    pub shape: Dims,
    /// Distance between neighbours along each axis, in elements; 0 repeats one element along the axis.
    pub strides: Dims,
    /// 0 for a strided tensor, else a device's private layout as named by `Support::Relayout`.
    pub layout: u64,
    /// Whether the bytes never change after the first execution.
    pub constant: bool,
}

impl TensorDesc {
    /// A contiguous row-major tensor.
    ///
    /// # Errors
    /// Rank above [`MAX_RANK`], a size that overflows, or an innermost dim that is no whole number of blocks.
    pub fn new(dtype: DType, shape: &[usize]) -> Result<Self> {
        let shape = Dims::new(shape)?;
        let desc = TensorDesc { dtype, shape, strides: shape.contiguous_strides(), layout: 0, constant: false };
        desc.bytes()?;
        Ok(desc)
    }

    /// A tensor with the given strides in elements.
    ///
    /// # Errors
    /// As [`TensorDesc::new`]; also a stride list of another rank, or strides on a dtype whose elements share bytes
    /// unless rows are contiguous.
    pub fn strided(dtype: DType, shape: &[usize], strides: &[usize]) -> Result<Self> {
        let desc =
            TensorDesc { dtype, shape: Dims::new(shape)?, strides: Dims::new(strides)?, layout: 0, constant: false };
        desc.check()?;
        Ok(desc)
    }

    /// Whether the fields, which anyone may write, stand for a tensor: as many strides as dims, and a size that fits.
    ///
    /// # Errors
    /// As [`TensorDesc::strided`].
    pub fn check(&self) -> Result<()> {
        if self.shape.len() != self.strides.len() {
            return Err(Error::invalid(
                "tensor strides",
                format!("{} strides for shape {:?}", self.strides.len(), self.shape),
                "give one stride per dim",
            ));
        }
        self.bytes().map(|_| ())
    }

    /// The same tensor marked as constant.
    pub fn as_constant(mut self) -> Self {
        self.constant = true;
        self
    }

    /// The rank.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of logical elements.
    pub fn elements(&self) -> usize {
        self.shape.elements().unwrap_or(usize::MAX)
    }

    /// Whether elements lie in row-major order with no gaps.
    pub fn is_contiguous(&self) -> bool {
        self.elements() == 0
            || self
                .shape
                .iter()
                .zip(self.strides.iter())
                .zip(self.shape.contiguous_strides().iter())
                .all(|((&dim, &stride), &want)| dim == 1 || stride == want)
    }

    /// Whether the elements of each innermost row lie side by side.
    pub fn rows_are_contiguous(&self) -> bool {
        self.rank() == 0 || self.shape.last_dim() <= 1 || self.strides.last_dim() == 1
    }

    /// The distance in elements between consecutive innermost rows when all rows are evenly spaced, else `None`.
    pub fn row_stride(&self) -> Option<usize> {
        if !self.rows_are_contiguous() {
            return None;
        }
        let outer = self.rank().saturating_sub(1);
        let mut stride: Option<usize> = None;
        let mut expected = 0usize;
        for axis in (0..outer).rev() {
            if self.shape[axis] == 1 {
                continue;
            }
            match stride {
                None => {
                    stride = Some(self.strides[axis]);
                    expected = self.strides[axis].checked_mul(self.shape[axis])?;
                }
                Some(_) if self.strides[axis] == expected => {
                    expected = expected.checked_mul(self.shape[axis])?;
                }
                Some(_) => return None,
            }
        }
        Some(stride.unwrap_or(self.shape.last_dim()))
    }

    /// Bytes from the first element to the end of the last, as the tensor is stored with layout 0.
    ///
    /// # Errors
    /// The size overflows, or rows of a packed dtype are not contiguous whole blocks.
    pub fn bytes(&self) -> Result<usize> {
        if self.shape.elements()? == 0 {
            return Ok(0);
        }
        let overflow =
            || Error::invalid("tensor size", format!("{self} has more bytes than fit"), "use smaller dims or strides");
        if self.dtype.is_packed() {
            let block = self.dtype.block_elems();
            let whole = self.shape.last_dim().is_multiple_of(block)
                && self.rows_are_contiguous()
                && self.rank() > 0
                && self.strides[..self.rank() - 1].iter().all(|s| s.is_multiple_of(block));
            if !whole {
                return Err(Error::invalid(
                    "packed tensor",
                    format!("{self} with strides {:?}", self.strides),
                    format!("{} needs contiguous rows of a multiple of {block} elements", self.dtype),
                ));
            }
        }
        let mut last = 0usize;
        for (&dim, &stride) in self.shape.iter().zip(self.strides.iter()) {
            last = (dim - 1).checked_mul(stride).and_then(|d| last.checked_add(d)).ok_or_else(overflow)?;
        }
        let elems = last.checked_add(1).ok_or_else(overflow)?;
        self.dtype.bytes_for(elems.div_ceil(self.dtype.block_elems()) * self.dtype.block_elems()).ok_or_else(overflow)
    }
}

impl fmt::Display for TensorDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.dtype, self.shape)?;
        if self.layout != 0 {
            write!(f, "@{:#x}", self.layout)?;
        } else if !self.is_contiguous() {
            write!(f, " strides {:?}", self.strides)?;
        }
        Ok(())
    }
}

/// The dims of a cache of pages, whatever their layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Blocks in the pool.
    pub blocks: usize,
    /// Tokens a block.
    pub block_size: usize,
    /// Key/value heads.
    pub heads: usize,
    /// Elements a head.
    pub head_dim: usize,
}

impl Pages {
    /// Reads the dims of a cache `[blocks, block_size, Hkv, D]` or `[blocks, Hkv, block_size, D]`.
    pub fn of(cache: &TensorDesc, layout: KvLayout) -> Option<Pages> {
        let &[blocks, b, c, head_dim] = &*cache.shape else { return None };
        let (block_size, heads) = match layout {
            KvLayout::BlockTokenHead => (b, c),
            KvLayout::BlockHeadToken => (c, b),
        };
        Some(Pages { blocks, block_size, heads, head_dim })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_sizes_are_an_error_not_an_overflow() {
        assert!(TensorDesc::new(DType::F32, &[usize::MAX, 2]).is_err());
        assert!(TensorDesc::new(DType::F32, &[usize::MAX / 2]).is_err());
        assert!(TensorDesc::strided(DType::F32, &[2, 2], &[usize::MAX, 1]).is_err());
        assert!(TensorDesc::new(DType::F32, &[1; 9]).is_err());
    }

    #[test]
    fn a_zero_dim_makes_an_empty_tensor() {
        let t = TensorDesc::new(DType::F16, &[usize::MAX, 0, usize::MAX]).unwrap();
        assert_eq!(t.bytes().unwrap(), 0);
        assert!(t.is_contiguous());
    }

    #[test]
    fn rows_of_a_sliced_tensor_have_one_stride() {
        let t = TensorDesc::strided(DType::F32, &[5, 2, 4], &[24, 4, 1]).unwrap();
        assert_eq!(t.row_stride(), None);
        let t = TensorDesc::strided(DType::F32, &[5, 1, 4], &[24, 4, 1]).unwrap();
        assert_eq!(t.row_stride(), Some(24));
        assert_eq!(t.bytes().unwrap(), (4 * 24 + 4) * 4);
        assert_eq!(TensorDesc::new(DType::F32, &[3, 4]).unwrap().row_stride(), Some(4));
    }

    #[test]
    fn packed_rows_hold_whole_blocks() {
        assert_eq!(TensorDesc::new(DType::Q4K, &[3, 512]).unwrap().bytes().unwrap(), 3 * 2 * 144);
        assert!(TensorDesc::new(DType::Q4K, &[3, 100]).is_err());
        assert!(TensorDesc::strided(DType::I4, &[4, 2], &[1, 4]).is_err());
    }
}
