//! Tensors as values: from bytes with any strides to row-major f64 and back.

use qiao_core::{DType, Error, Result, TensorDesc};
use qiao_quant::{decode_row, minifloat, nibble};

use crate::round;

/// The elements of a tensor in row-major order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Value {
    /// The sizes, outermost first.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Vec<f64>,
}

/// Elements of a tensor's storage, by their offset, and what they become.
pub type Patch = Vec<(usize, f64)>;

/// What a truth gives for one output.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Every element in row-major order, not yet rounded.
    Values(Vec<f64>),
    /// Every element (or block) in row-major order, as bytes.
    Exact(Vec<u8>),
    /// Elements of a tensor written in place, by their offset in storage, not yet rounded; the others stay.
    Patch(Patch),
}

/// The elements of a shape. One zero makes it empty, whatever the other sizes claim.
pub(crate) fn count(shape: &[usize]) -> usize {
    if shape.contains(&0) { 0 } else { shape.iter().product() }
}

/// Offsets of every element of a strided box in row-major order.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    shape: &'a [usize],
    strides: &'a [usize],
    index: [usize; qiao_core::MAX_RANK],
    offset: usize,
    left: usize,
}

impl<'a> Walk<'a> {
    /// A walk over `shape`, moving by `strides`.
    pub fn new(shape: &'a [usize], strides: &'a [usize]) -> Self {
        Walk { shape, strides, index: [0; qiao_core::MAX_RANK], offset: 0, left: count(shape) }
    }
}

impl Iterator for Walk<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let here = self.offset;
        for axis in (0..self.shape.len()).rev() {
            self.index[axis] += 1;
            self.offset += self.strides[axis];
            if self.index[axis] < self.shape[axis] {
                break;
            }
            self.offset -= self.shape[axis] * self.strides[axis];
            self.index[axis] = 0;
        }
        Some(here)
    }
}

/// Offset, in elements, of the first element of every innermost row.
fn row_starts(desc: &TensorDesc) -> Walk<'_> {
    let outer = desc.rank().saturating_sub(1);
    Walk::new(&desc.shape[..outer], &desc.strides[..outer])
}

/// Decodes elements `start + i·stride` of a tensor's storage. Packed dtypes have stride 1.
pub(crate) fn load_row(
    dtype: DType,
    bytes: &[u8],
    start: usize,
    stride: usize,
    out: &mut [f64],
    scratch: &mut Vec<f32>,
) -> Result<()> {
    let first = start / dtype.block_elems() * dtype.block_bytes();
    match dtype {
        d if d.is_block() => {
            scratch.resize(out.len(), 0.0);
            let need = out.len() / d.block_elems() * d.block_bytes();
            decode_row(d, &bytes[first..first + need], scratch)?;
            out.iter_mut().zip(scratch.iter()).for_each(|(o, &x)| *o = x as f64);
        }
        DType::I4 => out.iter_mut().enumerate().for_each(|(j, o)| *o = nibble::i4(&bytes[first..], j) as f64),
        DType::U4 => out.iter_mut().enumerate().for_each(|(j, o)| *o = nibble::u4(&bytes[first..], j) as f64),
        DType::F4E2M1 => {
            let value = |j| minifloat::F4E2M1.decode(nibble::u4(&bytes[first..], j) as u32);
            out.iter_mut().enumerate().for_each(|(j, o)| *o = value(j));
        }
        DType::F32 => plain::<4>(bytes, start, stride, out, |b| f32::from_le_bytes(b) as f64),
        DType::BF16 => plain::<2>(bytes, start, stride, out, |b| round::decode(DType::BF16, &b)),
        d => {
            let size = d.block_bytes();
            for (j, o) in out.iter_mut().enumerate() {
                *o = round::decode(d, &bytes[(start + j * stride) * size..]);
            }
        }
    }
    Ok(())
}

/// Decodes elements of N bytes by one function; the common dtypes of weights take this way.
fn plain<const N: usize>(bytes: &[u8], start: usize, stride: usize, out: &mut [f64], f: impl Fn([u8; N]) -> f64) {
    let elements = bytes.as_chunks::<N>().0;
    if stride == 1 {
        let row = &elements[start..start + out.len()];
        out.iter_mut().zip(row).for_each(|(o, b)| *o = f(*b));
    } else {
        out.iter_mut().enumerate().for_each(|(j, o)| *o = f(elements[start + j * stride]));
    }
}

fn check_bytes(desc: &TensorDesc, found: usize) -> Result<()> {
    let need = desc.bytes()?;
    if desc.layout != 0 || found < need {
        let mend = format!("give {need} bytes in no private layout");
        return Err(Error::invalid(format!("bytes of {desc}"), format!("{found} bytes"), mend));
    }
    Ok(())
}

impl Value {
    /// A value of this shape; panics when the shape does not hold the elements.
    pub fn new(shape: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(count(shape), data.len(), "shape {shape:?} holds the elements");
        Value { shape: shape.to_vec(), data }
    }

    /// Decodes a tensor.
    ///
    /// # Errors
    /// Fewer bytes than the tensor takes, or a private layout.
    pub fn load(desc: &TensorDesc, bytes: &[u8]) -> Result<Value> {
        check_bytes(desc, bytes.len())?;
        let mut data = vec![0.0; desc.elements()];
        let (row, stride) = (desc.shape.last_dim(), desc.strides.last().copied().unwrap_or(1));
        if !data.is_empty() {
            let mut scratch = Vec::new();
            for (out, start) in data.chunks_exact_mut(row).zip(row_starts(desc)) {
                load_row(desc.dtype, bytes, start, stride, out, &mut scratch)?;
            }
        }
        Ok(Value { shape: desc.shape.to_vec(), data })
    }

    /// The size of an innermost row; 1 for rank 0.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The innermost rows, in order. Of an empty tensor there are none.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.data.chunks_exact(self.row_len().max(1))
    }

    /// The same elements repeated to fill `shape`, by the rule of numpy.
    ///
    /// # Panics
    /// The shapes do not broadcast.
    pub fn broadcast(&self, shape: &[usize]) -> Vec<f64> {
        if self.shape == shape {
            return self.data.clone();
        }
        let mut strides = vec![0; shape.len()];
        let mut step = 1;
        for (axis, &dim) in self.shape.iter().enumerate().rev() {
            let at = axis + shape.len() - self.shape.len();
            assert!(dim == shape[at] || dim == 1, "{:?} broadcasts to {shape:?}", self.shape);
            strides[at] = if dim == 1 { 0 } else { step };
            step *= dim;
        }
        Walk::new(shape, &strides).map(|i| self.data[i]).collect()
    }
}

/// The elements (or blocks) of a tensor in row-major order, as bytes; and the shape counted in blocks.
///
/// # Errors
/// As [`Value::load`].
pub fn load_exact(desc: &TensorDesc, bytes: &[u8]) -> Result<(Vec<usize>, Vec<u8>)> {
    check_bytes(desc, bytes.len())?;
    let (shape, strides) = in_blocks(desc);
    let size = desc.dtype.block_bytes();
    let mut out = Vec::with_capacity(count(&shape) * size);
    for start in Walk::new(&shape, &strides) {
        out.extend_from_slice(&bytes[start * size..(start + 1) * size]);
    }
    Ok((shape, out))
}

/// Shape and strides counted in blocks along the innermost axis.
fn in_blocks(desc: &TensorDesc) -> (Vec<usize>, Vec<usize>) {
    let block = desc.dtype.block_elems();
    let (mut shape, mut strides) = (desc.shape.to_vec(), desc.strides.to_vec());
    if block > 1
        && let Some(last) = shape.last_mut()
    {
        *last /= block;
        let outer = strides.len() - 1;
        strides[..outer].iter_mut().for_each(|s| *s /= block);
    }
    (shape, strides)
}

impl Output {
    /// Writes the output into a tensor's storage, rounding each value once; bytes between strided elements stay.
    ///
    /// # Errors
    /// Fewer bytes than the tensor takes.
    ///
    /// # Panics
    /// The output has another number of elements than the tensor.
    pub fn store(&self, desc: &TensorDesc, bytes: &mut [u8]) -> Result<()> {
        check_bytes(desc, bytes.len())?;
        let size = desc.dtype.block_bytes();
        match self {
            Output::Values(data) => {
                assert_eq!(data.len(), desc.elements(), "an output has the elements of {desc}");
                for (&x, at) in data.iter().zip(Walk::new(&desc.shape, &desc.strides)) {
                    round::encode(desc.dtype, x, &mut bytes[at * size..]);
                }
            }
            Output::Exact(data) => {
                let (shape, strides) = in_blocks(desc);
                assert_eq!(data.len(), count(&shape) * size, "an output has the bytes of {desc}");
                for (block, at) in data.chunks_exact(size).zip(Walk::new(&shape, &strides)) {
                    bytes[at * size..][..size].copy_from_slice(block);
                }
            }
            Output::Patch(patch) => {
                for &(at, x) in patch {
                    round::encode(desc.dtype, x, &mut bytes[at * size..]);
                }
            }
        }
        Ok(())
    }

    /// The output as its dtype holds it. A patch is applied to `before`, the tensor's bytes so far.
    ///
    /// # Errors
    /// `before` is shorter than the tensor.
    pub fn rounded(&self, desc: &TensorDesc, before: &[u8]) -> Result<Value> {
        let need = desc.bytes()?;
        let mut bytes = before.to_vec();
        if !matches!(self, Output::Patch(_)) {
            bytes.resize(need.max(bytes.len()), 0);
        }
        self.store(desc, &mut bytes)?;
        Value::load(desc, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(data: &[f32]) -> Vec<u8> {
        data.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn strided_tensors_load_in_row_major_order() {
        let bytes = bytes_of(&[0., 1., 2., 3., 4., 5.]);
        let transposed = TensorDesc::strided(DType::F32, &[3, 2], &[1, 3]).unwrap();
        assert_eq!(Value::load(&transposed, &bytes).unwrap().data, [0., 3., 1., 4., 2., 5.]);
        let repeated = TensorDesc::strided(DType::F32, &[2, 3], &[0, 1]).unwrap();
        assert_eq!(Value::load(&repeated, &bytes).unwrap().data, [0., 1., 2., 0., 1., 2.]);
        let scalar = TensorDesc::new(DType::F32, &[]).unwrap();
        assert_eq!(Value::load(&scalar, &bytes).unwrap().data, [0.]);
        assert!(Value::load(&transposed, &bytes[..20]).is_err());
        let empty = TensorDesc::new(DType::F32, &[3, 0]).unwrap();
        assert_eq!(Value::load(&empty, &[]).unwrap().rows().count(), 0);
    }

    #[test]
    fn packed_rows_load_through_their_decoders() {
        let i4 = TensorDesc::new(DType::I4, &[2, 2]).unwrap();
        assert_eq!(Value::load(&i4, &[0xf8, 0x21]).unwrap().data, [-8., -1., 1., 2.]);
        let fp4 = TensorDesc::new(DType::F4E2M1, &[2]).unwrap();
        assert_eq!(Value::load(&fp4, &[0xf1]).unwrap().data, [0.5, -6.]);
        // A q8_0 block of scale 1 with the codes 0..32, in the second of two rows.
        let mut block = vec![0, 0x3c];
        block.extend(0..32u8);
        let rows = TensorDesc::strided(DType::Q8_0, &[2, 32], &[0, 1]).unwrap();
        let v = Value::load(&rows, &block).unwrap();
        assert_eq!(v.data[32..36], [0., 1., 2., 3.]);
    }

    #[test]
    fn storing_leaves_the_gaps_alone() {
        let desc = TensorDesc::strided(DType::F32, &[2, 2], &[3, 1]).unwrap();
        let mut bytes = bytes_of(&[9.; 5]);
        Output::Values(vec![1., 2., 3., 4.]).store(&desc, &mut bytes).unwrap();
        assert_eq!(bytes, bytes_of(&[1., 2., 9., 3., 4.]));
        Output::Patch(vec![(2, 7.)]).store(&desc, &mut bytes).unwrap();
        assert_eq!(bytes, bytes_of(&[1., 2., 7., 3., 4.]));
    }

    #[test]
    fn a_value_broadcasts_by_the_rule_of_numpy() {
        let column = Value::new(&[2, 1], vec![1., 2.]);
        assert_eq!(column.broadcast(&[2, 2, 3]), [1., 1., 1., 2., 2., 2., 1., 1., 1., 2., 2., 2.]);
        assert_eq!(Value::new(&[], vec![5.]).broadcast(&[2]), [5., 5.]);
    }
}
