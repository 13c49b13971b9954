//! Layers in memory: tensors by name, and a linear layer's parts as numbers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use qiao_core::DType;
use qiao_quant::import::{Form, Linear, Part, Tensors};

/// Tensors by suffix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer(pub(crate) BTreeMap<String, (DType, Vec<usize>, Vec<u8>)>);

impl Tensors for Layer {
    fn header(&self, suffix: &str) -> Option<(DType, Vec<usize>)> {
        self.0.get(suffix).map(|(dtype, shape, _)| (*dtype, shape.clone()))
    }

    fn bytes(&self, suffix: &str) -> Option<Cow<'_, [u8]>> {
        self.0.get(suffix).map(|(_, _, bytes)| Cow::Borrowed(&bytes[..]))
    }
}

impl Layer {
    pub(crate) fn put(&mut self, suffix: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> &mut Self {
        self.0.insert(suffix.into(), (dtype, shape.to_vec(), bytes));
        self
    }
}

/// The elements of a tensor as f64; fp8 and nibbles too.
pub(crate) fn numbers(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    fn each<const B: usize>(bytes: &[u8], read: impl Fn([u8; B]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<B>().0.iter().map(|b| read(*b)).collect()
    }
    match dtype {
        DType::I4 => (0..2 * bytes.len()).map(|j| qiao_quant::nibble::i4(bytes, j) as f64).collect(),
        DType::U4 => (0..2 * bytes.len()).map(|j| qiao_quant::nibble::u4(bytes, j) as f64).collect(),
        DType::I8 => each(bytes, |b: [u8; 1]| b[0] as i8 as f64),
        DType::U8 => each(bytes, |b: [u8; 1]| b[0] as f64),
        DType::I32 => each(bytes, |b| i32::from_le_bytes(b) as f64),
        DType::F16 => each(bytes, |b| half::f16::from_le_bytes(b).to_f64()),
        DType::BF16 => each(bytes, |b| half::bf16::from_le_bytes(b).to_f64()),
        DType::F32 => each(bytes, |b| f32::from_le_bytes(b) as f64),
        DType::F64 => each(bytes, f64::from_le_bytes),
        DType::F8E4M3 => each(bytes, |b: [u8; 1]| qiao_quant::minifloat::F8E4M3.decode(b[0] as u32)),
        _ => panic!("no numbers in {dtype}"),
    }
}

/// A part of a layer as numbers; its bytes must be as many as its dtype and shape say.
pub(crate) fn part(linear: &Linear, part: Part, layer: &Layer) -> Option<Vec<f64>> {
    let (dtype, shape) = linear.part(part)?;
    let bytes = linear.unpack(part, layer).unwrap();
    assert_eq!(Some(bytes.len()), dtype.bytes_for(shape.iter().product()), "{part:?}");
    Some(numbers(dtype, &bytes))
}

/// The weights `[n, k]` that a layer stands for, as operators compute them.
pub(crate) fn weights(linear: &Linear, layer: &Layer) -> Vec<f32> {
    let (n, k) = (linear.n, linear.k);
    let codes = part(linear, Part::Codes, layer).unwrap();
    let scales = part(linear, Part::Scales, layer).unwrap();
    let zeros = part(linear, Part::Zeros, layer);
    let index = part(linear, Part::GroupIndex, layer);
    let (group_size, group_rows) = match linear.form {
        Form::Grouped { group_size, group_rows, .. } => (group_size, group_rows),
        Form::Int8 { .. } => (0, 1),
    };
    let groups = if group_size == 0 { 1 } else { k.div_ceil(group_size) };
    let at = |row: usize, column: usize| {
        let group = index.as_ref().map_or_else(|| column.checked_div(group_size).unwrap_or(0), |i| i[column] as usize);
        row / group_rows * groups + group
    };
    (0..n * k)
        .map(|i| {
            let at = at(i / k, i % k);
            ((codes[i] - zeros.as_ref().map_or(0.0, |z| z[at])) * scales[at]) as f32
        })
        .collect()
}
